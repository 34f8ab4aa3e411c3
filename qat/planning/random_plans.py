"""Random plans that spend a budget: what a search must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimsim.studies.table import CostTable
from workloads.errors import RunError

BAND = 0.97  # of the budget, at least
PATIENCE = 100  # walks without a new plan: there are hardly more
STEPS = 100  # of a walk, for each layer: one that has not arrived by then is stuck


def random_plans(table: CostTable, budget_pj: float, count: int, seed: int) -> list[dict[str, str]]:
    """`count` different plans whose table energy lies in [0.97, 1] x budget, the same for the same seed.

    Each is where a walk from a random plan arrives. Raises RunError if they are too few.
    """
    found = arrivals(table, budget_pj, count, seed)
    if len(found) < count:
        band = f"within {BAND} to 1 of {budget_pj / 1e3:.4g} nJ"
        raise RunError(f"{table.chip}: only {len(found)} of {count} random plans {band}")
    return found


def arrivals(table: CostTable, budget_pj: float, count: int, seed: int | list[int]) -> list[dict[str, str]]:
    """The same, as many as there are."""
    rng = np.random.default_rng(seed)
    choices = [np.flatnonzero(row) for row in table.allowed]
    found: dict[tuple[int, ...], None] = {}
    in_vain = 0
    while len(found) < count and in_vain < PATIENCE:
        plan = _walk(table, choices, budget_pj, rng)
        is_new = _distance(table, plan, budget_pj) == 0 and tuple(plan) not in found
        in_vain = 0 if is_new else in_vain + 1
        if is_new:
            found[tuple(plan)] = None
    return [dict(zip(table.layers, (table.formats[j] for j in plan), strict=True)) for plan in found]


def _walk(table: CostTable, choices: list[NDArray[np.intp]], budget_pj: float, rng: np.random.Generator) -> list[int]:
    """Single changes from a random plan that never move away from the band, until it is reached."""
    plan = [int(rng.choice(options)) for options in choices]
    for _ in range(STEPS * len(choices)):
        if _distance(table, plan, budget_pj) == 0:
            break
        layer = int(rng.integers(len(choices)))
        other = [*plan[:layer], int(rng.choice(choices[layer])), *plan[layer + 1 :]]
        if _distance(table, other, budget_pj) <= _distance(table, plan, budget_pj):
            plan = other
    return plan


def _distance(table: CostTable, plan: list[int], budget_pj: float) -> float:
    """How far a plan's energy is from the band, in pJ."""
    energy = float(table.energy_pj[range(len(plan)), plan].sum()) + table.fixed_energy_pj
    return max(0.0, energy - budget_pj, BAND * budget_pj - energy)
