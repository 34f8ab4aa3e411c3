"""What each action costs on one chip."""

from __future__ import annotations

from collections import defaultdict

from cimsim.chip.model import Chip
from cimsim.chip.parts import Part
from cimsim.components import COMPONENTS
from cimsim.components.base import Activity
from cimsim.records import Actions, EnergyPj


class Prices:
    """What each action costs on one chip, looked up once."""

    def __init__(self, chip: Chip):
        self.chip = chip
        self._known: dict[tuple[str, str, str], tuple[str, float]] = {}

    def unit(self, kind: str, role: str, action: str) -> tuple[str, float]:
        """Name of the part that acts and its pJ per action; ("", 0) for a part the chip does not have.

        Raises KeyError for a kind, role or action that no part can have.
        """
        key = (kind, role, action)
        if key not in self._known:
            _require(kind, role, action)
            part = self._part(kind, role)
            price_pj = part.component.energy_pj(action, self.chip.technology) if part else 0.0
            if part is not None and kind == "block":  # works for all arrays under it: each pays its share
                price_pj *= part.instances / self.chip.num_arrays
            self._known[key] = (part.name if part else "", price_pj)
        return self._known[key]

    def _part(self, kind: str, role: str) -> Part | None:
        if kind == "block":  # the only kind of which each part is its own
            return next(part for part in self.chip.placed if part.name == role)
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
                part = self._part(kind, role)
                if activity is not None and part is not None:
                    spent_pj *= part.component.data_factor(action, self.chip.technology, activity)
                energy[name][action] = energy[name].get(action, 0.0) + spent_pj
        return dict(energy)


def _require(kind: str, role: str, action: str) -> None:
    component = COMPONENTS[kind]
    if kind != "block" and role not in ("", *component.ROLES):
        raise KeyError(f"{kind} has no role {role!r}; known: {', '.join(component.ROLES)}")
    if action not in component.ACTIONS:
        raise KeyError(f"{kind} has no action {action!r}; known: {', '.join(component.ACTIONS)}")


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
