"""What the components' bands leave open: intervals of energy and area, and which assumptions decide between designs.

Times and counts are exact, so a result is a sum of counts times prices: bands move prices only. An assumption is one
unknown of the world: parts of one kind move together, in one chip and across chips. Printed figures do not move with
the model that they replace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimsim.chip.model import Chip
from cimsim.chip.parts import Part
from cimsim.components.base import Assumption
from cimsim.components.crossbar import Crossbar
from cimsim.cost.report import CostReport

LOW_PERCENT, HIGH_PERCENT = 5.0, 95.0
Unknown = tuple[str, str]  # (kind of part, or name of one whose file holds the band; field or name of the assumption)
Values = Mapping[Unknown, float]


class Interval(NamedTuple):
    """5th percentile, median and 95th percentile, and the value without uncertainty."""

    low: float
    median: float
    high: float
    nominal: float


class Sensitivity(NamedTuple):
    """One assumption at its two ends: the designs' figures, in their order, and whether the best design changes."""

    part: str
    assumption: Assumption
    at_low: tuple[float, ...]
    at_high: tuple[float, ...]
    changes_best: bool
    changes_order: bool


def unknowns(chip: Chip) -> dict[Unknown, Assumption]:
    """Every assumption that a price of this chip rests on."""
    found: dict[Unknown, Assumption] = {}
    for part in chip.placed:
        component = part.component
        shared = (*component.ASSUMPTIONS, *(component.cell_bands() if isinstance(component, Crossbar) else ()))
        for item in shared:
            if _current(component, item) == item.nominal:  # a chip that states its own value does not assume
                found[component.kind, item.name] = item
        for item in component.assumptions:
            found[part.name, item.name] = item
    return found


def intervals(report: CostReport, chip: Chip, samples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Energy (pJ), area (um2) and energy of each component, from `samples` draws of all bands.

    Each band is triangular about its nominal value, on a logarithmic axis where it is positive.
    """
    rng = np.random.default_rng(seed)
    bands = unknowns(chip)
    draws = {key: _draws(band, samples, rng) for key, band in bands.items()}
    rows = [_figures(report, chip, {key: draw[i] for key, draw in draws.items()}) for i in range(samples)]
    nominal = _figures(report, chip, {})
    return {name: _interval([row[name] for row in rows], nominal[name]) for name in nominal}


def sensitivity(reports: Sequence[CostReport], chips: Sequence[Chip], figure: str = "energy_pj") -> list[Sensitivity]:
    """Every assumption at both its ends, those first that change the best design, then by how far they move it."""
    bands: dict[Unknown, Assumption] = {}
    for chip in chips:
        bands |= unknowns(chip)
    nominal = [_figures(report, chip, {})[figure] for report, chip in zip(reports, chips, strict=True)]
    found = []
    for key, band in bands.items():
        at_low, at_high = (
            tuple(_figures(report, chip, {key: value})[figure] for report, chip in zip(reports, chips, strict=True))
            for value in (band.low, band.high)
        )
        best = any(np.argmin(end) != np.argmin(nominal) for end in (at_low, at_high))
        order = any(np.argsort(end).tolist() != np.argsort(nominal).tolist() for end in (at_low, at_high))
        found.append(Sensitivity(key[0], band, at_low, at_high, best, order))
    return sorted(found, key=lambda one: (not one.changes_best, not one.changes_order, -_spread(one, nominal)))


def _spread(one: Sensitivity, nominal: Sequence[float]) -> float:
    """The most that one end moves any design, as a logarithm."""
    return max(
        abs(log(value / base)) for end in (one.at_low, one.at_high) for value, base in zip(end, nominal, strict=True)
    )


def _draws(band: Assumption, samples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if band.low == band.high:
        return np.full(samples, band.nominal)
    if band.low <= 0:
        return rng.triangular(band.low, band.nominal, band.high, samples)
    return np.exp(rng.triangular(log(band.low), log(band.nominal), log(band.high), samples))


def _interval(values: Sequence[float], nominal: float) -> Interval:
    low, middle, high = np.percentile(values, [LOW_PERCENT, 50, HIGH_PERCENT])
    return Interval(float(low), float(middle), float(high), nominal)


def _figures(report: CostReport, chip: Chip, values: Values) -> dict[str, float]:
    """Energy, area and each component's energy, with these values for the unknowns."""
    tech = chip.technology
    energies, area_um2, leakage_pj = {}, 0.0, 0.0
    for part in chip.placed:
        now, scales = _with(part, values)
        spent = report.energy_by_component_pj.get(part.name, {})
        energies[part.name] = sum(
            pj * scales.get(action, 1.0) * _ratio(now.energy_pj(action, tech), part.component.energy_pj(action, tech))
            for action, pj in spent.items()
        )
        if not part.component.OFF_CHIP:
            area_um2 += part.instances * now.area_um2(tech)
            leakage_pj += part.instances * now.leakage_uw(tech)
    leakage_pj *= _ratio(report.leakage_pj, chip.leakage_uw()) if report.leakage_pj else 0.0
    whole = sum(energies.values()) + leakage_pj
    return {"energy_pj": whole, "area_um2": area_um2, "leakage_pj": leakage_pj} | {
        name: pj for name, pj in energies.items() if pj
    }


def _ratio(now: float, nominal: float) -> float:
    return now / nominal if nominal else 1.0


def _with(part: Part, values: Values) -> tuple[Any, dict[str, float]]:
    """The part with its fields at these values, and factors on the actions whose printed energy has a band."""
    component = part.component
    fields, scales = {}, {}
    for (owner, name), value in values.items():
        if owner in (component.kind, part.name) and name in type(component).model_fields:
            fields[name] = round(value) if isinstance(getattr(component, name), int) else float(value)
        for band in component.assumptions if owner == part.name else ():
            if band.name == name and name not in fields:
                scales |= dict.fromkeys(_actions_of(component, band), _ratio(value, band.nominal))
    return (component.model_copy(update=fields) if fields else component), scales


def _actions_of(component: Any, band: Assumption) -> tuple[str, ...]:
    """Which actions an energy band speaks of: those that its name begins with, else all; none if it is no energy."""
    if not band.unit.startswith("pJ"):
        return ()
    word = band.name.split("_")[0]
    return tuple(action for action in component.ACTIONS if action.startswith(word)) or component.ACTIONS


def _current(component: Any, item: Assumption) -> float:
    """The value in use: the chip's, or the nominal one where the field is left to the cell."""
    value = getattr(component, item.name)
    return item.nominal if value is None else float(value)
