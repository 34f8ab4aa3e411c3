"""The way between tiles: routers, links and buses, and what a transfer takes."""

from __future__ import annotations

from math import ceil, isqrt

from cimsim.chip.model import Chip
from cimsim.chip.rates import instant_ps
from cimsim.components.bus import Bus


def transfer_ps(chip: Chip, bits: int, hops: int) -> int:
    """Time for `bits` on a reserved mesh path of `hops` links: its head's way, then a flit a cycle."""
    part, wires = chip.part("router"), chip_bus(chip)
    if hops == 0:
        return 0
    if wires is not None:
        return instant_ps(ceil(bits / wires.width_bits), chip.clocks_hz["digital"])
    if part is None:
        return 0
    cycles = hops * part.component.hop_cycles + ceil(bits / part.component.flit_bits)
    return instant_ps(cycles, chip.clocks_hz[part.component.clock])


def router_of(chip: Chip, tile: int) -> int:
    part = chip.part("router")
    return tile // part.component.shared_by if part else 0


def router_columns(chip: Chip) -> int:
    """Routers in a row of the mesh; a router that serves n tiles stands for a square of them."""
    part = chip.part("router")
    assert chip.mesh is not None and part is not None
    return max(1, chip.mesh.columns // isqrt(part.component.shared_by))


def chip_bus(chip: Chip) -> Bus | None:
    """The bus between tiles, on a chip that has one instead of a mesh."""
    part = chip.part("bus", "chip")
    return part.component if part else None


def hop_action(chip: Chip) -> tuple[str, str, str]:
    """Kind, role and action of what carries a bit between tiles."""
    return ("bus", "chip", "transfer_bit") if chip_bus(chip) else ("router", "", "hop_bit")


def mesh_path(chip: Chip, start_tile: int, end_tile: int) -> tuple[str, ...]:
    """Links of the XY route between two tiles' routers, named `from>to`; empty if they share a router. On a chip
    with a bus between its tiles that bus is every path."""
    if chip_bus(chip) is not None:
        return () if start_tile == end_tile else ("bus",)
    if chip.mesh is None or chip.part("router") is None:
        return ()
    here, there = router_of(chip, start_tile), router_of(chip, end_tile)
    path, columns = [], router_columns(chip)
    while here != there:
        (x, y), (to_x, to_y) = (here % columns, here // columns), (there % columns, there // columns)
        step = (1 if to_x > x else -1) if x != to_x else columns * (1 if to_y > y else -1)
        path.append(f"{here}>{here + step}")
        here += step
    return tuple(path)
