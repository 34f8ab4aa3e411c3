"""Which plan a search ends with: the most probable ones against brute force, what breeding finds, and its bounds."""

from __future__ import annotations

from itertools import product
from math import inf, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.studies.table import CostTable
from qat.planning.selection import Room, Tryouts, breed, improved, probable_plans, tried
from tests.helpers.trained_digits import prices

# The most probable plans that fit.


@st.composite
def tables(draw) -> tuple[np.ndarray, CostTable]:
    """Few distinct energies (ties), some masked, and probabilities that are zero where masked."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    cell = st.sampled_from([1.0, 2.0, 3.0, 5.0, 5.0, 0.1, inf])
    energy = np.array(draw(st.lists(cell, min_size=rows * columns, max_size=rows * columns))).reshape(rows, columns)
    energy[np.arange(rows), draw(st.integers(0, columns - 1))] = 2.5  # every layer has a format
    weights = draw(
        st.lists(st.sampled_from([1e-30, 0.01, 0.3, 1, 1, 7]), min_size=rows * columns, max_size=rows * columns)
    )
    p = np.where(np.isfinite(energy), np.array(weights).reshape(rows, columns), 0.0)
    names = [f"f{j}" for j in range(columns)]
    return p / p.sum(axis=1, keepdims=True), prices(energy.tolist(), draw(st.sampled_from([0.0, 0.7])), names)


def by_brute_force(p: np.ndarray, table: CostTable, budget_pj: float) -> list[float]:
    """Log probabilities of all plans within the budget, most probable first."""
    rows = range(len(p))
    found = []
    for plan in product(range(p.shape[1]), repeat=len(p)):
        if sum(table.energy_pj[i, plan[i]] for i in rows) + table.fixed_energy_pj <= budget_pj + 1e-6:
            found.append(sum(log(max(p[i, plan[i]], 1e-12)) for i in rows))
    return sorted(found, reverse=True)


@given(tables(), st.floats(0, 25) | st.sampled_from([2.5, 5.0, 6.0, 1e9]), st.integers(1, 7))
def test_probable_plans_are_those_of_brute_force(problem, budget_pj, count):
    p, table = problem
    plans = probable_plans(p, table, budget_pj, count)
    expected = by_brute_force(p, table, budget_pj)[:count]
    assert len(set(plans)) == len(plans) == len(expected)
    scores = [sum(log(max(p[i, j], 1e-12)) for i, j in enumerate(plan)) for plan in plans]
    assert scores == pytest.approx(expected)
    for plan in plans:
        assert sum(table.energy_pj[i, j] for i, j in enumerate(plan)) + table.fixed_energy_pj <= budget_pj + 1e-6


@given(st.lists(st.lists(st.floats(0.001, 1e6), min_size=3, max_size=3), min_size=1, max_size=6), st.floats(0, 1e5))
def test_the_least_energy_is_a_budget_that_a_plan_keeps(energy, fixed_pj):
    table = prices(energy, fixed_pj)
    p = np.full(table.energy_pj.shape, 1 / 3)
    (plan, *_) = probable_plans(p, table, table.minimum_pj(), 1)
    assert table.energy_pj[np.arange(len(plan)), list(plan)].tolist() == table.energy_pj.min(axis=1).tolist()
    assert not probable_plans(p, table, table.minimum_pj() * 0.999, 1)


# What is bred from plans.

FORMATS = tuple(f"f{j}" for j in range(8))


def problem(seed: int, layers: int = 6) -> tuple[Room, np.ndarray]:
    """Prices, and what each format of each layer adds to the loss: dear ones tend to add less, as in a network."""
    rng = np.random.default_rng(seed)
    energy = rng.uniform(1, 10, (layers, len(FORMATS)))
    worth = rng.uniform(0, 1, (layers, len(FORMATS))) / energy
    table = prices(energy.tolist(), 1.0, list(FORMATS))
    budget_pj = float(np.quantile(energy.sum(axis=1), 0.5)) / len(FORMATS) * layers * 0.8
    return Room(table, budget_pj, lambda plan: True), worth


def loss_of(worth: np.ndarray):
    """Sums over layers, counting how many plans were asked for."""
    asked: dict[tuple[str, ...], float] = {}

    def loss(plan: dict[str, str]) -> float:
        key = tuple(plan.values())
        asked[key] = sum(worth[row, FORMATS.index(fmt)] for row, fmt in enumerate(key))
        return asked[key]

    return loss, asked


def least(room: Room, worth: np.ndarray) -> float:
    """Of all plans within the budget, by brute force (8^6 plans)."""
    energy, loss = np.zeros(1), np.zeros(1)
    for row, cost in zip(worth, room.table.energy_pj, strict=True):
        energy, loss = (energy[:, None] + cost).ravel(), (loss[:, None] + row).ravel()
    return float(loss[energy + room.table.fixed_energy_pj <= room.budget_pj].min())


def cheapest(room: Room) -> dict[str, str]:
    return dict(zip(room.table.layers, (FORMATS[j] for j in room.table.energy_pj.argmin(axis=1)), strict=True))


def test_breeding_comes_near_the_best_plan_of_all():
    """Of the room between the cheapest plan and the best of 262,144, all but a tenth, by some hundred plans."""
    shares = []
    for seed in range(20):
        room, worth = problem(seed)
        loss, asked = loss_of(worth)
        start = cheapest(room)
        best = improved(breed([start], room, loss, seed)[0], room, loss)
        assert room.table.cost_of(best)[0] <= room.budget_pj and len(asked) < 150
        shares.append((loss(start) - loss(best)) / (loss(start) - least(room, worth)))
    assert np.mean(shares) > 0.9 and min(shares) > 0.7, shares


def test_breeding_is_repeatable_and_never_loses_what_it_has():
    room, worth = problem(1)
    loss, _ = loss_of(worth)
    start = [cheapest(room)]
    assert breed(start, room, loss, 3) == breed(start, room, loss, 3)
    best, *others = breed(start, room, loss, 3)
    assert loss(breed([best, *start], room, loss, 4)[0]) <= loss(best) <= min(map(loss, others))


def test_what_the_simulation_refuses_is_never_bred():
    room, worth = problem(2)
    loss, asked = loss_of(worth)
    strict = room._replace(fits=lambda plan: plan[room.table.layers[0]] == "f3")
    start = cheapest(room) | {room.table.layers[0]: "f3"}
    assert {plan[room.table.layers[0]] for plan in breed([start], strict, loss, 0)} == {"f3"}
    assert {key[0] for key in asked} == {"f3"}


def test_a_plan_without_alternatives_stays():
    table = prices([[2.0], [3.0]], 0.0, ["f0"])
    only = dict.fromkeys(table.layers, "f0")
    room = Room(table, 5.0, lambda plan: True)
    assert improved(only, room, lambda plan: 1.0) == only
    assert breed([only], room, lambda plan: 1.0, 0) == [only]
    assert tried([only], room, lambda plan: 1.0, Tryouts(5, lambda plan: 2.0), 0) == only


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_trials_are_as_many_as_asked_for_and_never_the_same_plan_twice(count):
    room, worth = problem(3)
    loss, _ = loss_of(worth)
    seen = []
    start = breed([cheapest(room)], room, loss, 0)
    best = tried(start, room, loss, Tryouts(count, lambda plan: seen.append(plan) or -loss(plan)), 0)
    assert len(seen) == count == len({tuple(plan.values()) for plan in seen})
    assert all(room.allows(plan) for plan in seen)
    assert best == max(seen, key=loss)  # trials have the last word, even against the supernet


def test_trials_correct_a_supernet_that_knows_little():
    """Its loss is the truth and noise of the same size: trials of the truth find better plans than it does."""
    gains = []
    for seed in range(20):
        room, worth = problem(seed)
        truth, _ = loss_of(worth)
        noisy, _ = loss_of(worth + np.random.default_rng(100 + seed).normal(0, worth.std(), worth.shape))
        plans = breed([cheapest(room)], room, noisy, seed)
        gains.append(truth(plans[0]) - truth(tried(plans, room, noisy, Tryouts(12, truth), seed)))
    assert min(gains) >= 0 and np.mean(gains) > 0.05, gains
