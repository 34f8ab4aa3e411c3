"""The way between tiles: routers, links and buses, and what a transfer takes."""

from __future__ import annotations

from math import ceil, isqrt

from cimsim.chip.model import Chip
from cimsim.chip.rates import instant_ps


def transfer_ps(chip: Chip, bits: int, hops: int) -> int:
    """Time for `bits` on a reserved mesh path of `hops` links: its head's way, then a flit a cycle."""
    router, wires = chip.parts.router, chip.parts.chip_bus
    if hops == 0:
        return 0
    if wires is not None:
        return instant_ps(ceil(bits / wires.width_bits), chip.clocks_hz["digital"])
    if router is None:
        return 0
    cycles = hops * router.hop_cycles + ceil(bits / router.flit_bits)
    return instant_ps(cycles, chip.clocks_hz[router.clock])


def router_of(chip: Chip, tile: int) -> int:
    router = chip.parts.router
    return tile // router.shared_by if router else 0


def router_columns(chip: Chip) -> int:
    """Routers in a row of the mesh; a router that serves n tiles stands for a square of them."""
    assert chip.mesh is not None and chip.parts.router is not None, "asked of a chip with a mesh only"
    return max(1, chip.mesh.columns // isqrt(chip.parts.router.shared_by))


def hop_action(chip: Chip) -> tuple[str, str, str]:
    """Kind, role and action of what carries a bit between tiles."""
    return ("bus", "chip", "transfer_bit") if chip.parts.chip_bus else ("router", "", "hop_bit")


def mesh_path(chip: Chip, start_tile: int, end_tile: int) -> tuple[str, ...]:
    """Links of the XY route between two tiles' routers, named `from>to`; empty if they share a router. On a chip
    with a bus between its tiles that bus is every path."""
    if chip.parts.chip_bus is not None:
        return () if start_tile == end_tile else ("bus",)
    if chip.mesh is None or chip.parts.router is None:
        return ()
    here, there = router_of(chip, start_tile), router_of(chip, end_tile)
    path, columns = [], router_columns(chip)
    while here != there:
        (x, y), (to_x, to_y) = (here % columns, here // columns), (there % columns, there // columns)
        step = (1 if to_x > x else -1) if x != to_x else columns * (1 if to_y > y else -1)
        path.append(f"{here}>{here + step}")
        here += step
    return tuple(path)
