"""Random plans that spend a budget: what a search must beat."""

from __future__ import annotations

import numpy as np

from cimsim.table import CostTable
from workloads.errors import RunError

BAND = 0.97  # of the budget, at least
STEPS = 20_000


def random_plans(table: CostTable, budget_pj: float, count: int, seed: int) -> list[dict[str, str]]:
    """`count` different plans whose table energy lies in [0.97, 1] x budget, the same for the same seed.

    A walk over single changes that never moves away from the band. Raises RunError if it finds too few.
    """
    rng = np.random.default_rng(seed)
    choices = [np.flatnonzero(row) for row in table.allowed]
    found: dict[tuple[int, ...], None] = {}
    plan = [int(rng.choice(options)) for options in choices]
    for _ in range(STEPS):
        layer = int(rng.integers(len(choices)))
        other = [*plan[:layer], int(rng.choice(choices[layer])), *plan[layer + 1 :]]
        if _distance(table, other, budget_pj) <= _distance(table, plan, budget_pj):
            plan = other
        if _distance(table, plan, budget_pj) == 0:
            found[tuple(plan)] = None
            plan = [int(rng.choice(options)) for options in choices]
        if len(found) == count:
            return [dict(zip(table.layers, (table.formats[j] for j in p), strict=True)) for p in found]
    raise RunError(
        f"{table.chip}: only {len(found)} of {count} random plans within {BAND} to 1 of {budget_pj / 1e3:.4g} nJ"
    )


def _distance(table: CostTable, plan: list[int], budget_pj: float) -> float:
    """How far a plan's energy is from the band, in pJ."""
    energy = float(table.energy_pj[range(len(plan)), plan].sum()) + table.fixed_energy_pj
    return max(0.0, energy - budget_pj, BAND * budget_pj - energy)
