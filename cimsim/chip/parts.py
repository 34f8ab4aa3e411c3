"""The parts that a simulation asks for, found once; None where a chip has no such part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from types import MappingProxyType
from typing import Any, NamedTuple

from cimsim.components.adc import Adc
from cimsim.components.base import Component
from cimsim.components.buffer import Buffer
from cimsim.components.bus import Bus
from cimsim.components.codebook_rom import CodebookRom
from cimsim.components.crossbar import Crossbar
from cimsim.components.dac import Dac
from cimsim.components.digital import Digital
from cimsim.components.digital_array import DigitalArray
from cimsim.components.dram import Dram
from cimsim.components.gather import Gather
from cimsim.components.index_buffer import IndexBuffer
from cimsim.components.lattice_decoder import LatticeDecoder
from cimsim.components.laws.memory_array import MemoryArray
from cimsim.components.link import Link
from cimsim.components.multiplier_array import MultiplierArray
from cimsim.components.product_buffer import ProductBuffer
from cimsim.components.router import Router
from cimsim.components.sample_hold import SampleHold
from cimsim.components.shift_add import ShiftAdd

POOL = "pool"  # the role of arrays, drivers, converters of a pool of weights beside the chip's own arrays
POOLED = ("crossbar", "dac", "adc", "sample_hold")
BIT_DRIVER = Dac(bits=1)  # what drives word lines where a chip names no DAC


class Part(NamedTuple):
    """One part: `per_level` in each box of its level (a fraction when shared), `instances` in the chip."""

    name: str
    component: Component
    level_name: str
    per_level: float
    instances: int


class Analog(NamedTuple):
    """Crossbars, and what stands around them."""

    crossbar: Crossbar
    adc: Adc
    adcs_per_unit: int
    dac: Dac
    sample_hold: SampleHold | None


class PoolParts(NamedTuple):
    """A tile's pool of weights that stay: its array and what stands around it."""

    crossbar: Crossbar
    adc: Adc
    dac: Dac


class Parts(NamedTuple):
    """By what they do. `array` is the one part that computes on weights; `lanes` are digital lanes by role, in the
    order of the file. Buffers bear the names of their roles."""

    array: Crossbar | DigitalArray | MultiplierArray
    tile_buffer: Buffer
    lanes: Mapping[str, Digital]
    blocks: tuple[str, ...]  # names of parts that are paid for while arrays work
    crossbars: Analog | None
    pool: PoolParts | None
    global_buffer: Buffer | None
    output_buffer: Buffer | None
    codebook_buffer: Buffer | None
    index_buffer: IndexBuffer | None
    rom: CodebookRom | None
    decoder: LatticeDecoder | None
    gather: Gather | None
    product_buffer: ProductBuffer | None
    dram: Dram | None
    link: Link | None
    router: Router | None
    tile_bus: Bus | None
    chip_bus: Bus | None
    unit_adder: ShiftAdd | None

    @property
    def analog(self) -> Analog:
        """Of a chip with crossbars; dataflows refuse others before."""
        assert self.crossbars is not None, "asked of a chip with a crossbar only"
        return self.crossbars

    @property
    def cells(self) -> MemoryArray:
        """The arrays that hold weights; dataflows refuse a chip without any."""
        assert isinstance(self.array, MemoryArray), "asked of a chip with memory cells only"
        return self.array


def parts_of(placed: Sequence[Part], array: Any) -> Parts:
    """The record of a chip whose parts fit each other. Where several parts play one role, the outermost does."""

    def first(kind: str, role: str = "") -> Any:
        return next((part.component for part in placed if plays(part.component, kind, role)), None)

    lanes: dict[str, Digital] = {}
    for one in (part.component for part in placed):
        if isinstance(one, Digital):
            lanes.setdefault(one.role, one)
    adc, pool = next((p for p in placed if plays(p.component, "adc")), None), first("crossbar", POOL)
    analog = pool_parts = None
    if isinstance(array, Crossbar):
        assert adc is not None and isinstance(adc.component, Adc), "a crossbar has its converter"
        analog = Analog(array, adc.component, ceil(adc.per_level), first("dac") or BIT_DRIVER, first("sample_hold"))
    if pool is not None and (pool_adc := first("adc", POOL)) is not None:
        pool_parts = PoolParts(pool, pool_adc, first("dac", POOL) or BIT_DRIVER)
    buses = [part.component for part in placed if isinstance(part.component, Bus)]
    return Parts(
        array=array, tile_buffer=first("buffer", "tile"), lanes=MappingProxyType(lanes),
        blocks=tuple(part.name for part in placed if part.component.kind == "block"), crossbars=analog, pool=pool_parts,
        global_buffer=first("buffer", "global"), output_buffer=first("buffer", "output"),
        codebook_buffer=first("buffer", "codebook"), index_buffer=first("index_buffer"), rom=first("codebook_rom"),
        decoder=first("lattice_decoder"), gather=first("gather"), product_buffer=first("product_buffer"),
        dram=first("dram"), link=first("link"), router=first("router"),
        tile_bus=next((bus for bus in buses if bus.role != "chip"), None),
        chip_bus=next((bus for bus in buses if bus.role == "chip"), None), unit_adder=first("shift_add", "unit"),
    )  # fmt: skip


def plays(component: Component, kind: str, role: str = "") -> bool:
    """Whether this is a part of that kind and role (any role but the pool's, if none is given)."""
    return component.kind == kind and (component.role == role if role else not in_pool(component))


def in_pool(component: Component) -> bool:
    """Whether this is part of a pool of weights beside the chip's own arrays."""
    return component.role == POOL and component.kind in POOLED
