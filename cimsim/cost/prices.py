"""What each action costs on one chip, and sums of energy by component and action."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from cimsim.chip.model import Chip
from cimsim.components.base import Activity
from cimsim.records import Actions, EnergyPj


class Prices:
    """What each action costs on one chip, looked up once."""

    def __init__(self, chip: Chip):
        self.chip = chip
        self._known: dict[tuple[str, str, str], tuple[str, float]] = {}

    def unit(self, kind: str, role: str, action: str) -> tuple[str, float]:
        """Name of the part that acts and its pJ per action; ("", 0) for a part the chip does not have."""
        key = (kind, role, action)
        if key not in self._known:
            part = self._part(kind, role)
            price_pj = part.component.energy_pj(action, self.chip.technology) if part else 0.0
            if kind == "block":  # works for all arrays under it: each pays its share
                price_pj *= part.instances / self.chip.num_arrays
            self._known[key] = (part.name if part else "", price_pj)
        return self._known[key]

    def _part(self, kind: str, role: str) -> Any:
        if kind == "block":  # the only kind of which each part is its own
            return next(part for part in self.chip.parts() if part.name == role)
        return self.chip.part(kind, role) or self.chip.part(kind)  # a kind's only part plays all its roles

    def price(self, actions: Actions, activity: Activity | None = None) -> EnergyPj:
        """Energy by component and action. Parts a chip does not have cost nothing.

        `activity` scales what depends on data; without it half of all inputs and cells are on.
        """
        energy: EnergyPj = defaultdict(dict)
        for (kind, role, action), count in sorted(actions.items()):
            name, unit_pj = self.unit(kind, role, action)
            if name and count and unit_pj:
                spent_pj = count * unit_pj
                if activity is not None:
                    part = self._part(kind, role).component
                    spent_pj *= part.data_factor(action, self.chip.technology, activity)
                energy[name][action] = energy[name].get(action, 0.0) + spent_pj
        return dict(energy)


def total_pj(energy: EnergyPj) -> float:
    return sum(sum(actions.values()) for actions in energy.values())


def add_energy(parts: list[tuple[EnergyPj, float]]) -> EnergyPj:
    """Weighted sum of energies by component and action."""
    result: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for energy, weight in parts:
        for name, actions in energy.items():
            for action, value in actions.items():
                result[name][action] += value * weight
    return {name: dict(actions) for name, actions in sorted(result.items())}


def leakage_pj(chip: Chip, duration_ps: int) -> float:
    """Whole chip, unused arrays included: uW x ps = 1e-6 pJ."""
    return chip.leakage_uw() * duration_ps * 1e-6


def always_on_pj(chip: Chip, duration_ps: int) -> float:
    """Parts that never sleep: mW x ps = 1e-3 pJ."""
    return chip.always_on_mw() * duration_ps * 1e-3
