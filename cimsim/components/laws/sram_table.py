"""What an SRAM of any size costs, from a table of CACTI 7 runs.

Interpolation against runs that are held out (tests/cimsim/components/test_components.py): a size between the others is
missed by 10 % in read energy, 5 % in write energy, 7 % in area and 3 % in leakage in the mean (27, 17, 23 and 7 % at
most); the whole node 32 or 45 nm by 7, 3 and 4 % (24, 14 and 16 %). Leakage does not follow a power of the node: held
out, 45 nm comes 3.3 times too high.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import ClassVar, NamedTuple

from pydantic import Field

from cimsim.components.base import Component
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor, interpolate, supply_factor

CACTI = "R. Balasubramonian et al., CACTI 7, ACM TACO 14(2), 2017 (ITRS-LSTP; by hwcomponents-cacti 1.0.40)"


class SramFigures(NamedTuple):
    """One memory: energy per access of the whole width, area, leakage."""

    read_pj: float
    write_pj: float
    area_um2: float
    leakage_uw: float


class SramPoint(NamedTuple):
    """One CACTI run."""

    node_nm: float
    supply_v: float
    capacity_bits: int
    width_bits: int
    figures: SramFigures


@cache
def cacti_points() -> tuple[SramPoint, ...]:
    """The shipped table, ascending by node, size and width."""
    lines = files("cimsim.components.laws").joinpath("sram_cacti.csv").read_text().splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return tuple(_point(row) for row in rows)


def _point(row: Mapping[str, str]) -> SramPoint:
    figures = SramFigures(*(float(row[name]) for name in SramFigures._fields))
    size, width = int(row["capacity_bits"]), int(row["width_bits"])
    return SramPoint(float(row["node_nm"]), float(row["supply_v"]), size, width, figures)


@lru_cache(maxsize=4096)
def sram_figures(
    capacity_bits: int, width_bits: int, tech: Technology, points: tuple[SramPoint, ...] | None = None
) -> SramFigures:
    """Figures of one SRAM: log-log in size, then width, then node.

    The table reaches from 22 to 65 nm; beyond, Stillmaker and Baas 2017. Energy follows V^2 and leakage V from
    each node's CACTI supply. `points` replaces the shipped table.
    """
    rows = points or cacti_points()
    nodes = sorted({row.node_nm for row in rows})
    nearest = Technology(min(max(tech.node_nm, nodes[0]), nodes[-1]), tech.supply_v)
    by_node = {node: _at_node(node, capacity_bits, width_bits, rows, tech.supply_v) for node in nodes}
    figures = _blend(by_node, nearest.node_nm)
    energy, area = energy_factor(nearest, tech), area_factor(nearest.node_nm, tech.node_nm)
    read, write, um2, leak = figures
    return SramFigures(read * energy, write * energy, um2 * area, leak)


def _at_node(
    node: float, capacity_bits: int, width_bits: int, rows: Iterable[SramPoint], supply_v: float
) -> SramFigures:
    here = [row for row in rows if row.node_nm == node]
    by_width = {
        width: _blend({float(r.capacity_bits): r.figures for r in here if r.width_bits == width}, capacity_bits)
        for width in sorted({float(row.width_bits) for row in here})
    }
    read, write, area, leak = _blend(by_width, width_bits)
    energy, current = supply_factor(here[0].supply_v, supply_v), supply_v / here[0].supply_v
    return SramFigures(read * energy, write * energy, area, leak * current)


def _blend(by_key: Mapping[float, SramFigures], x: float) -> SramFigures:
    """Each figure interpolated to x on its own."""
    return SramFigures(
        *(interpolate({key: f[i] for key, f in by_key.items()}, x) for i in range(len(SramFigures._fields)))
    )


class SramPriced(Component):
    """What every SRAM shares: prices per bit of a memory of `capacity_bits` read `width_bits` at a time."""

    ACTIONS: ClassVar = ("read_bit", "write_bit")

    capacity_bits: int = Field(ge=64)
    width_bits: int = Field(ge=1)

    @property
    def actions_per_access(self) -> int:
        return self.width_bits

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        figures = self.figures(tech)
        return (figures.read_pj if action == "read_bit" else figures.write_pj) / self.width_bits

    def base_area_um2(self, tech: Technology) -> float:
        return self.figures(tech).area_um2

    def base_leakage_uw(self, tech: Technology) -> float:
        return self.figures(tech).leakage_uw

    def figures(self, tech: Technology) -> SramFigures:
        """The SRAM of this size: energies in pJ per access, area in um2, leakage in uW."""
        return sram_figures(self.capacity_bits, self.width_bits, tech)
