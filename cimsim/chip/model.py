"""Chip: levels of parts, counted, priced and summed. `cimsim.chip.reading` reads one from YAML and checks it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property, reduce
from math import ceil, prod
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from cimsim.chip.parts import Part, Parts, in_pool, parts_of, plays
from cimsim.components import COMPONENTS
from cimsim.components.base import Component
from cimsim.components.laws.scaling import Technology
from workloads.layer import Frozen

if TYPE_CHECKING:
    AnyComponent = Component
else:
    AnyComponent = Annotated[reduce(or_, COMPONENTS.values()), Field(discriminator="kind")]


class Pipeline(Frozen):
    """Stages around the array, in cycles of clock `array`."""

    fetch_cycles: int = Field(ge=0)
    shift_add_cycles: int = Field(ge=0)
    digital_cycles: int = Field(ge=0)
    write_cycles: int = Field(ge=0)


class Mesh(Frozen):
    """How the tiles lie."""

    columns: int = Field(ge=1)
    rows: int = Field(ge=1)


class Level(Frozen):
    """`count` equal boxes in each enclosing box, each with `parts` and perhaps a further level inside."""

    name: str
    count: int = Field(default=1, ge=1)
    parts: dict[str, AnyComponent] = {}
    inside: Level | None = None
    border: Literal["tile"] | None = None


class BillRow(NamedTuple):
    """Power and area of a part in ONE box of its level; component `total` sums the box with all inside it."""

    level: str
    component: str
    instances: int
    power_mw: float
    area_mm2: float


class Chip(Frozen):
    """A chip. The level with `border: tile` is the tile; the innermost one, the unit, holds the arrays."""

    name: str
    note: str = ""
    node_nm: float = Field(ge=5, le=130)
    supply_v: float = Field(gt=0.3, le=2.0)
    clocks_hz: dict[str, Annotated[int, Field(gt=0, le=10**12)]]
    schedule: Literal["pipelined", "layer_by_layer"]
    pipeline: Pipeline
    mesh: Mesh | None = None
    root: Level

    @property
    def technology(self) -> Technology:
        return Technology(self.node_nm, self.supply_v)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """From the chip inwards."""
        return tuple(_walk(self.root))

    @property
    def unit(self) -> Level:
        return self.levels[-1]

    @property
    def num_tiles(self) -> int:
        return self._num_levels(self._border)

    @property
    def units_per_tile(self) -> int:
        return prod(level.count for level in self.levels[self._border + 1 :])

    @property
    def arrays_per_unit(self) -> int:
        return self.array.count

    @property
    def num_arrays(self) -> int:
        return self.num_tiles * self.units_per_tile * self.arrays_per_unit

    @cached_property
    def array(self) -> Any:
        """The unit's arrays: a crossbar, or another part that computes on weights."""
        return next(part for part in self.unit.parts.values() if part.IS_ARRAY and not in_pool(part))

    @cached_property
    def parts(self) -> Parts:
        """The parts by what they do. Asked of chips only whose parts fit each other, as `load_chip` gives them."""
        return parts_of(self.placed, self.array)

    @cached_property
    def placed(self) -> tuple[Part, ...]:
        """Every part, outermost level first, in the order of the file."""
        return tuple(
            self._part(depth, name, component)
            for depth, level in enumerate(self.levels)
            for name, component in level.parts.items()
        )

    def part(self, kind: str, role: str = "") -> Part | None:
        """The first part of this kind (and role, if given), outermost first; None if there is none. Parts of a pool
        (role `pool` of arrays and what belongs to them) are found by their role only."""
        return next((part for part in self.placed if plays(part.component, kind, role)), None)

    def name_of(self, component: Component) -> str:
        """The name of the part that is this component."""
        return next(part.name for part in self.placed if part.component is component)

    def bill(self) -> list[BillRow]:
        """Peak power and area: a row per part, then a `total` row per level; off-chip parts are left out."""
        rows: list[BillRow] = []
        below_mw = below_mm2 = 0.0
        for depth, level in reversed(list(enumerate(self.levels))):
            here = [self._bill_row(part) for part in self.placed if part.level_name == level.name]
            here = [row for row in here if row is not None]
            power = below_mw + sum(row.power_mw for row in here)
            area = below_mm2 + sum(row.area_mm2 for row in here)
            rows += [*here, BillRow(level.name, "total", self._num_levels(depth), power, area)]
            below_mw, below_mm2 = power * level.count, area * level.count
        return rows

    def area_um2(self) -> float:
        """Area of the whole chip, shared parts as their share."""
        return self.bill()[-1].area_mm2 * 1e6 * self.root.count

    def leakage_uw(self) -> float:
        """Static power of all parts on the chip, used or not."""
        return sum(p.instances * p.component.leakage_uw(self.technology) for p in self._on_chip())

    def always_on_mw(self) -> float:
        """Power of parts that never switch off, apart from leakage."""
        return sum(p.instances * p.component.always_on_mw(self.technology) for p in self._on_chip())

    def sources(self) -> list[tuple[str, str]]:
        """(part, citation or assumption with its band), for every part."""
        return [(part.name, text) for part in self.placed for text in part.component.evidence()]

    def content_hash(self) -> str:
        """sha256 of the chip's canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def _border(self) -> int:
        return next(depth for depth, level in enumerate(self.levels) if level.border == "tile")

    def _num_levels(self, depth: int) -> int:
        """Boxes of the level at this depth in the whole chip."""
        return prod(level.count for level in self.levels[: depth + 1])

    def _part(self, depth: int, name: str, component: Component) -> Part:
        lines = {"level": 1, "row": self.array.rows, "column": self.array.columns}[component.per]
        each = component.count * (lines if component.per == "level" else lines * self.array.count)
        instances = ceil(each * self._num_levels(depth) / component.shared_by)
        return Part(name, component, self.levels[depth].name, each / component.shared_by, instances)

    def _on_chip(self) -> list[Part]:
        return [part for part in self.placed if not part.component.OFF_CHIP]

    def _bill_row(self, part: Part) -> BillRow | None:
        if part.component.OFF_CHIP:
            return None
        power = part.per_level * part.component.peak_power_mw(self.technology)
        area = part.per_level * part.component.area_um2(self.technology) * 1e-6
        return BillRow(part.level_name, part.name, part.instances, power, area)


def _walk(root: Level) -> Iterator[Level]:
    level: Level | None = root
    while level is not None:
        yield level
        level = level.inside
