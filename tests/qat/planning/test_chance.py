"""Random plans of a budget: all inside its band, all different, and found where few single changes lead to them."""

import numpy as np
import pytest

from cimsim import load_chip
from cimsim.studies.table import build_table
from qat.planning.random_plans import BAND, random_plans
from workloads.errors import RunError
from workloads.shapes import load_network

FORMATS = ("linear-8", "linear-4", "linear-2", "vq-4x16-e4-s0", "vq-4x256-e4-s0", "vq-8x256-e4-s0", "d4-q4", "e8-q4")


@pytest.fixture(scope="module")
def table():
    return build_table(load_network("lenet5"), load_chip("sram-rom"), FORMATS)


@pytest.mark.parametrize("share", [0.18, 0.27, 0.52])
def test_random_plans_spend_the_budget(table, share):
    budget = share * table.reference_pj()
    plans = random_plans(table, budget, 40, seed=1)
    spent = [table.cost_of(plan)[0] for plan in plans]
    assert len({tuple(plan.values()) for plan in plans}) == 40
    assert BAND * budget <= min(spent) and max(spent) <= budget
    assert plans == random_plans(table, budget, 40, seed=1)


def test_a_budget_with_few_plans_says_how_many():
    table = build_table(load_network("lenet5"), load_chip("isaac"), ("linear-8", "linear-4", "linear-2"))
    energy = np.zeros(1)
    for row in table.energy_pj:
        energy = (energy[:, None] + row).ravel()
    energy, budget = energy + table.fixed_energy_pj, 0.56 * table.reference_pj()
    there = int(((energy <= budget) & (energy >= BAND * budget)).sum())
    assert 0 < there < 20
    with pytest.raises(RunError, match=f"only {there} of 20 random plans"):
        random_plans(table, budget, 20, seed=0)
