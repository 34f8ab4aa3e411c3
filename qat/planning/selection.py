"""Which plan a search ends with: the supernet judges many, a little training of their own the best of them.

The supernet's loss says little of plans that are nearly equal: among random plans of a loose budget its rank
correlation with the accuracy after training was 0.2, that of a trial with an eighth of the training 0.5
(LeNet-5, Fashion-MNIST; `docs/decisions/015`).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from cimsim.studies.table import CostTable
from qat.modules.mixture import Mixture, soften
from qat.planning.random_plans import arrivals
from qat.training.data import Split
from qat.training.loop import Score, score
from workloads.errors import RunError

FINALISTS = 8  # probable plans that are compared
STRANGERS = 16  # random plans beside them: probabilities are of each layer alone
ROUNDS, PARENTS, CHILDREN = 3, 8, 24  # of breeding
TRIES = 20  # for each child: most of them miss the budget
TRIAL_ROUNDS = 3  # of trials: the supernet's best, then twice their children
ROUNDING = 1e-9  # of a sum of energies: a budget that is exactly the least energy has a plan

Fits = Callable[[dict[str, str]], bool]  # of formats per layer: does the whole simulation keep the budgets?
Assignment = dict[str, str]  # layer -> format
Judgement = Callable[[Assignment], float]  # the less, the better the plan


class Tryouts(NamedTuple):
    """Plans that are trained a little: how many, and the validation loss that one is left with."""

    count: int
    loss: Judgement


class Room(NamedTuple):
    """The plans that are allowed: `table` prices them, `fits` has the last word."""

    table: CostTable
    budget_pj: float
    fits: Fits

    def allows(self, plan: Assignment) -> bool:
        return self.table.cost_of(plan)[0] <= self.budget_pj * (1 + ROUNDING) and self.fits(plan)


class Judge:
    """Validation loss of plans in the supernet, each measured once."""

    def __init__(self, model: nn.Module, mixtures: Mapping[str, Mixture], part: Split, images: int):
        self.model, self.mixtures, self.part, self.images = model, mixtures, part, images
        self.known: dict[tuple[str, ...], Score] = {}

    def score(self, formats: Assignment) -> Score:
        key = tuple(formats.values())
        if key not in self.known:
            for layer, mixture in self.mixtures.items():
                mixture.chosen = mixture.names.index(formats[layer])
            self.known[key] = score(self.model, self.part, self.images)
            soften(self.mixtures)
        return self.known[key]

    def loss(self, formats: Assignment) -> float:
        return self.score(formats).loss


def select(
    probabilities: np.ndarray, room: Room, judge: Judge, seed: int, tryouts: Tryouts | None = None
) -> Assignment:
    """The best plan that was found. Raises RunError if no probable plan is allowed."""
    table = room.table
    probable = probable_plans(probabilities, table, room.budget_pj, 4 * FINALISTS)
    finalists = [plan for plan in (_formats(table, one) for one in probable) if room.fits(plan)][:FINALISTS]
    if not finalists:
        raise RunError(
            f"{table.chip}: none of the {len(probable)} most probable plans keeps the budgets "
            f"(energy: {room.budget_pj / 1e3:.4g} nJ; latency and area where the study bounds them)"
        )
    strangers = [plan for plan in arrivals(table, room.budget_pj, STRANGERS, [seed, 1]) if room.allows(plan)]
    plans = breed([*finalists, *strangers], room, judge.loss, seed)
    plans = [improved(plans[0], room, judge.loss), *plans]
    return tried(plans, room, judge.loss, tryouts, seed) if tryouts and tryouts.count else plans[0]


def breed(plans: Iterable[Assignment], room: Room, loss: Judgement, seed: int) -> list[Assignment]:
    """These plans and their offspring of some generations, the best first."""
    rng, found = np.random.default_rng(seed), {tuple(plan.values()): plan for plan in plans}
    for _ in range(ROUNDS):
        found |= _offspring(sorted(found.values(), key=loss)[:PARENTS], room, rng, found)
    return sorted(found.values(), key=loss)


def tried(plans: Sequence[Assignment], room: Room, loss: Judgement, tryouts: Tryouts, seed: int) -> Assignment:
    """The plan of least loss after a trial: of the first ones, and of the children of those that did well.

    Of each generation the supernet's `loss` chooses whom a trial is worth.
    """
    rng, worth = np.random.default_rng([seed, 2]), dict[tuple[str, ...], float]()
    known = born = {tuple(plan.values()): plan for plan in plans}
    for left in range(TRIAL_ROUNDS, 0, -1):
        if worth:
            parents = [known[key] for key in sorted(worth, key=worth.__getitem__)[: PARENTS // 2]]
            born = _offspring(parents, room, rng, worth)
            known = known | born
        for key in sorted(born, key=lambda key: loss(born[key]))[: -(-(tryouts.count - len(worth)) // left)]:
            worth[key] = tryouts.loss(born[key])
    return known[min(worth, key=worth.__getitem__)]


def _offspring(
    parents: Sequence[Assignment], room: Room, rng: np.random.Generator, known: Container[tuple[str, ...]]
) -> dict[tuple[str, ...], Assignment]:
    """Some children that are allowed and not known yet, by their formats."""
    born: dict[tuple[str, ...], Assignment] = {}
    for child in _children(parents, room.table, rng):
        key = tuple(child.values())
        if key not in known and key not in born and room.allows(child):
            born[key] = child
        if len(born) == CHILDREN:
            break
    return born


def _children(parents: Sequence[Assignment], table: CostTable, rng: np.random.Generator) -> Iterator[Assignment]:
    """Each layer from one of two parents, and one or two of them drawn anew."""
    candidates = table.candidates()
    for _ in range(TRIES * CHILDREN):
        one, other = (parents[i] for i in rng.integers(len(parents), size=2))
        child = {layer: (one, other)[rng.integers(2)][layer] for layer in candidates}
        for layer in rng.choice(table.layers, size=rng.integers(1, 3)):
            child[str(layer)] = str(rng.choice(candidates[str(layer)]))
        yield child


def improved(plan: Assignment, room: Room, loss: Judgement) -> Assignment:
    """One pass over the layers: each takes the format that lowers the loss most and is still allowed."""
    for layer, formats in room.table.candidates().items():
        changed = [plan | {layer: fmt} for fmt in formats if fmt != plan[layer]]
        plan = min([plan, *filter(room.allows, changed)], key=loss)
    return plan


def _formats(table: CostTable, plan: Sequence[int]) -> Assignment:
    return {layer: table.formats[j] for layer, j in zip(table.layers, plan, strict=True)}


def probable_plans(probabilities: np.ndarray, table: CostTable, budget_pj: float, count: int) -> list[tuple[int, ...]]:
    """The `count` most probable plans whose table energy is within the budget, most probable first.

    Exact: partial plans that are dominated (cheaper and more probable ones exist `count` times) are dropped.
    Empty if no plan fits.
    """
    score = np.log(np.maximum(probabilities, 1e-12))
    rest = np.append(np.cumsum(table.energy_pj.min(axis=1)[::-1])[::-1][1:], 0.0)
    partial: list[tuple[float, float, tuple[int, ...]]] = [(0.0, table.fixed_energy_pj, ())]
    for row, energy in enumerate(table.energy_pj):
        grown = [
            (s + score[row, j], e + energy[j], (*plan, int(j)))
            for s, e, plan in partial
            for j in np.flatnonzero(table.allowed[row])
            if e + energy[j] + rest[row] <= budget_pj * (1 + ROUNDING)
        ]
        partial = _undominated(sorted(grown, key=lambda g: (-g[0], g[1], g[2])), count)
    return [plan for _, _, plan in partial[:count]]


def _undominated(
    ordered: list[tuple[float, float, tuple[int, ...]]], count: int
) -> list[tuple[float, float, tuple[int, ...]]]:
    """Keep an entry unless `count` more probable ones are no dearer."""
    kept: list[tuple[float, float, tuple[int, ...]]] = []
    cheapest: list[float] = []  # the `count` least energies seen so far, ascending
    for entry in ordered:
        if len(cheapest) < count or entry[1] < cheapest[-1]:
            kept.append(entry)
            cheapest = sorted([*cheapest, entry[1]])[:count]
    return kept
