"""The search: a supernet of formats, a loss that asks the simulator's table, and a plan within the budget.

One latent weight per layer is seen through all candidate formats. Weight steps train it through formats
sampled from the current probabilities; every few steps an architecture step on held-out images moves the
probabilities down the gradient of task loss + multipliers x (expected cost / budget - 1). The multipliers
follow by dual ascent. The plan is then chosen on validation images (`qat.planning.selection`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cimsim.studies.table import CostTable
from qat.activations.inputs import attach_inputs, calibrate
from qat.modules.mixture import Mixture, relax, soften
from qat.modules.upkeep import parameter_groups
from qat.planning.selection import Fits, Judge, Room, Trials, select
from qat.training.data import Part, TrainingData, batches
from qat.training.loop import Tick, one_cycle, score, set_rate, step_on

ARCH_EVERY = 3  # weight steps between two architecture steps


class Budgets(NamedTuple):
    """Upper bounds; None leaves a cost free."""

    energy_pj: float
    latency_ns: float | None = None
    area_um2: float | None = None


class SearchSettings(NamedTuple):
    """Images seen, step sizes, and the multipliers at the start (energy, latency, area)."""

    images: int
    batch: int
    lr: float
    arch_lr: float
    multipliers: tuple[float, float, float] = (1.0, 0.0, 0.0)
    seed: int = 0
    selection_images: int = 2_000


class SearchResult(NamedTuple):
    """Formats per layer, probabilities [layers, formats], and two of the three gaps.

    relaxation_gap: expected over chosen table energy, minus 1. discretization_gap: validation accuracy of
    the soft mixture minus that of the chosen plan, both in the supernet. `scored`: plans compared.
    """

    formats: dict[str, str]
    probabilities: list[list[float]]
    expected_energy_pj: float
    table_energy_pj: float
    relaxation_gap: float
    discretization_gap: float
    scored: int
    multipliers: tuple[float, ...]  # of the bounded costs, at the end


def supernet(
    model: nn.Module, candidates: Mapping[str, Sequence[str]], bits: int, part: Part, num_calibration: int, seed: int
) -> dict[str, Mixture]:
    """Put mixtures and activation quantizers on a float model, in place: layer -> its mixture.

    Activation steps come from the first `num_calibration` images of `part`.
    """
    calibration = part.images(slice(0, num_calibration))
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    attach_inputs(model, dict.fromkeys(candidates, bits), calibration[:1])
    calibrate(model, calibration, input_step=part.input_step(bits))
    return relax(model, candidates, seed=seed)


def warm(model: nn.Module, mixtures: Mapping[str, Mixture], data: TrainingData, settings: SearchSettings,
         tick: Tick = lambda images: None) -> None:  # fmt: skip
    """Weight steps only, all formats equally likely: the shared start of every search."""
    optimizer = _weight_optimizer(model, mixtures, settings.lr)
    total = settings.images // settings.batch
    model.train()
    for step, index in enumerate(batches(len(data.train.y), settings.batch, settings.images, settings.seed)):
        set_rate(optimizer, one_cycle(step, total, settings.lr))
        _sample(mixtures, step)
        step_on(model, optimizer, data.train.images(index), data.train.y[index], "supernet warm-up")
        tick(settings.batch)
    soften(mixtures)


class Aim(NamedTuple):
    """What is searched for: `table` prices the mixtures, its rows in their order; `fits` has the last word.

    `trials` compare the best plans by training each a little; without them the supernet decides.
    """

    table: CostTable
    budgets: Budgets
    fits: Fits
    trials: Trials | None = None


def search(model: nn.Module, mixtures: Mapping[str, Mixture], aim: Aim, data: TrainingData,
           settings: SearchSettings, tick: Tick = lambda images: None) -> SearchResult:  # fmt: skip
    """Alternate weight and architecture steps, then choose. Raises RunError if no probable plan fits."""
    table, budgets, fits, trials = aim
    weights = _weight_optimizer(model, mixtures, settings.lr)
    arch = torch.optim.Adam([m.alpha for m in mixtures.values()], lr=settings.arch_lr, betas=(0.0, 0.999))
    costs = _Costs(table, budgets, settings.multipliers)
    total = settings.images // settings.batch
    arch_batches = batches(len(data.arch.y), settings.batch, settings.images, settings.seed + 1)
    model.train()
    for step, index in enumerate(batches(len(data.train.y), settings.batch, settings.images, settings.seed + 2)):
        set_rate(weights, one_cycle(step, total, settings.lr))
        _sample(mixtures, step)
        step_on(model, weights, data.train.images(index), data.train.y[index], "search")
        if step % ARCH_EVERY == 0:
            _arch_step(model, mixtures, arch, costs, data.arch, next(arch_batches))
        tick(settings.batch)
    soften(mixtures)
    judge = Judge(model, mixtures, data.validation, settings.selection_images)
    probabilities = spread(mixtures, table.formats).detach().numpy()
    best = select(probabilities, Room(table, budgets.energy_pj, fits), judge, settings.seed, trials)
    return _result(model, mixtures, table, best, costs, judge)


def _weight_optimizer(model: nn.Module, mixtures: Mapping[str, Mixture], rate: float) -> torch.optim.Optimizer:
    """Everything but the probabilities, which only architecture steps may move."""
    for mixture in mixtures.values():
        mixture.alpha.requires_grad_(False)
    alphas = {id(mixture.alpha) for mixture in mixtures.values()}
    groups = parameter_groups(model, rate)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in alphas]
    return torch.optim.AdamW(groups)


def _arch_step(model: nn.Module, mixtures: Mapping[str, Mixture], arch: torch.optim.Optimizer, costs: _Costs,
               part: Part, index: Tensor) -> None:  # fmt: skip
    """One step of the probabilities on held-out images, through the formats sampled last.

    At a sampled format the weight gradient holds that format's own error, which a mixture averages away.
    """
    for mixture in mixtures.values():
        mixture.alpha.requires_grad_(True)
    arch.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(part.images(index)), part.y[index]) + costs.penalty(mixtures)
    loss.backward()
    arch.step()
    for mixture in mixtures.values():
        mixture.alpha.requires_grad_(False)


def _sample(mixtures: Mapping[str, Mixture], step: int) -> None:
    for mixture in mixtures.values():
        mixture.sample(step)


class _Costs:
    """Expected cost over budget, with one multiplier each, raised while its budget is missed.

    Within its budget a cost is free: the penalty is multiplier x max(0, expected / budget - 1).
    """

    ASCENT = 0.2

    def __init__(self, table: CostTable, budgets: Budgets, multipliers: tuple[float, float, float]):
        self.formats = table.formats
        fixed = (table.fixed_energy_pj, table.fixed_latency_ns, 0.0)
        arrays = (table.energy_pj, table.latency_ns, table.area_um2)
        self.terms = [
            (torch.tensor(np.where(np.isfinite(a), a, 0.0) / bound), f / bound)
            for a, f, bound in zip(arrays, fixed, budgets, strict=True)
            if bound is not None
        ]
        self.multipliers = [m for m, bound in zip(multipliers, budgets, strict=True) if bound is not None]

    def expected(self, mixtures: Mapping[str, Mixture]) -> list[Tensor]:
        """Expected cost over budget of each bounded cost, differentiable in the probabilities."""
        p = spread(mixtures, self.formats)
        return [(p * array).sum() + fixed for array, fixed in self.terms]

    def penalty(self, mixtures: Mapping[str, Mixture]) -> Tensor:
        ratios = self.expected(mixtures)
        excess = torch.stack([(ratio - 1).clamp_min(0) for ratio in ratios])
        loss = torch.dot(torch.tensor(self.multipliers, dtype=excess.dtype), excess)
        self.multipliers = [
            max(0.0, m + self.ASCENT * (float(ratio.detach()) - 1))
            for m, ratio in zip(self.multipliers, ratios, strict=True)
        ]
        return loss


def spread(mixtures: Mapping[str, Mixture], formats: Sequence[str]) -> Tensor:
    """Probabilities [layers, formats], float64, differentiable; 0 where a layer lacks the format."""
    rows = []
    for mixture in mixtures.values():
        place = torch.tensor([formats.index(name) for name in mixture.names])
        rows.append(torch.zeros(len(formats)).index_copy(0, place, mixture.probabilities()))
    return torch.stack(rows).double()


def _result(model: nn.Module, mixtures: Mapping[str, Mixture], table: CostTable, formats: dict[str, str],
            costs: _Costs, judge: Judge) -> SearchResult:  # fmt: skip
    probabilities = spread(mixtures, table.formats).detach().numpy()
    expected = float((probabilities * np.where(table.allowed, table.energy_pj, 0.0)).sum()) + table.fixed_energy_pj
    chosen = table.cost_of(formats)[0]
    soft = score(model, judge.part, judge.images).accuracy
    return SearchResult(
        formats, probabilities.tolist(), expected, chosen, expected / chosen - 1, soft - judge.score(formats).accuracy,
        len(judge.known), tuple(costs.multipliers),
    )  # fmt: skip
