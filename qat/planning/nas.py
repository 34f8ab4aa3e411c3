"""The search: a supernet of formats, a loss that asks the simulator's table, and a plan within the budget.

One latent weight per layer is seen through all candidate formats. Weight steps train it through formats
sampled from the current probabilities; every few steps an architecture step on held-out images moves the
probabilities down the gradient of task loss + multipliers x (expected cost / budget - 1). The multipliers
follow by dual ascent; from one architecture step to the next the temperature of the probabilities anneals.
The plan is then chosen on validation images (`qat.planning.selection`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cimsim.studies.table import CostTable
from qat.activations.inputs import attach_inputs, calibrate
from qat.modules.mixture import Mixture, relax, soften
from qat.modules.upkeep import parameter_groups
from qat.planning.aim import Aim, Budgets
from qat.planning.selection import Judge, Room, select
from qat.training.data import Split, TrainingData, batches
from qat.training.loop import Schedule, Steps, Tick, cycle, fit, score, silent, step_on, task_loss
from workloads.activation import parse_activation

ARCH_EVERY = 3  # weight steps between two architecture steps
PAUSE_EVERY = 50  # steps: what a killed search has to do again


class SearchSettings(NamedTuple):
    """Images seen, step sizes, the first multipliers (energy, latency, area), the first and the last temperature."""

    images: int
    batch: int
    lr: float
    arch_lr: float
    multipliers: tuple[float, float, float] = (1.0, 0.0, 0.0)
    seed: int = 0
    selection_images: int = 2_000
    temperature: tuple[float, float] = (1.0, 1.0)


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
    model: nn.Module, candidates: Mapping[str, Sequence[str]], part: Split, *,
    activation: str, num_calibration: int, seed: int,
) -> dict[str, Mixture]:  # fmt: skip
    """Put mixtures and activation quantizers on a float model, in place: layer -> its mixture.

    Activation steps come from the first `num_calibration` images of `part`.
    """
    calibration = part.images(slice(0, num_calibration))
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    fmt = parse_activation(activation)
    attach_inputs(model, dict.fromkeys(candidates, fmt), calibration[:1])
    calibrate(model, calibration, input_step=part.input_step(fmt))
    return relax(model, candidates, seed=seed)


def warm(
    model: nn.Module, mixtures: Mapping[str, Mixture], data: TrainingData, settings: SearchSettings, *,
    checkpoint: Path | None = None, tick: Tick = silent,
) -> None:  # fmt: skip
    """Weight steps only, all formats equally likely: the shared start of every search, resumable as `fit`."""

    def loss(step: int, index: Tensor) -> Tensor:
        _sample(mixtures, step)
        return task_loss(model, data.train, index)

    steps = Steps("supernet warm-up", _weight_optimizer(model, mixtures, settings.lr), loss)
    order = batches(len(data.train.y), settings.batch, settings.images, settings.seed)
    fit(model.train(), order, steps, _schedule(settings), checkpoint=checkpoint, tick=tick)
    soften(mixtures)


def search(  # noqa: PLR0913 (all but five are named)
    model: nn.Module, mixtures: Mapping[str, Mixture], aim: Aim, data: TrainingData, settings: SearchSettings, *,
    checkpoint: Path | None = None, tick: Tick = silent,
) -> SearchResult:  # fmt: skip
    """Alternate weight and architecture steps, as `fit`, then choose. Raises RunError if no probable plan fits."""
    arch = torch.optim.Adam([m.alpha for m in mixtures.values()], lr=settings.arch_lr, betas=(0.0, 0.999))
    costs = _Costs(aim.table, aim.budgets, settings.multipliers)
    arch_order = _arch_order(data.arch, settings)

    def loss(step: int, index: Tensor) -> Tensor:
        _heat(mixtures, annealed(settings.temperature, step // ARCH_EVERY, len(arch_order)))
        _sample(mixtures, step)
        return task_loss(model, data.train, index)

    def then(step: int) -> None:
        if step % ARCH_EVERY == 0:
            _arch_step(mixtures, arch, costs, partial(task_loss, model, data.arch, arch_order[step // ARCH_EVERY]))

    weights = _weight_optimizer(model, mixtures, settings.lr)
    order = batches(len(data.train.y), settings.batch, settings.images, settings.seed + 2)
    steps = Steps("search", weights, loss, then, beside=(arch, costs))
    fit(model.train(), order, steps, _schedule(settings), checkpoint=checkpoint, tick=tick)
    _heat(mixtures, settings.temperature[1])
    soften(mixtures)
    judge = Judge(model, mixtures, data.validation, settings.selection_images)
    probabilities = spread(mixtures, aim.table.formats).detach().numpy()
    room = Room(aim.table, aim.budgets.energy_pj, aim.fits)
    best = select(probabilities, room, judge, settings.seed, aim.tryouts)
    return _result(mixtures, aim.table, best, costs, judge)


def _schedule(settings: SearchSettings) -> Schedule:
    return cycle(settings.images // settings.batch, settings.lr, pause_every=PAUSE_EVERY)


def _arch_order(part: Split, settings: SearchSettings) -> list[Tensor]:
    """The batch of each architecture step."""
    num_steps = -(-settings.images // settings.batch)
    order = batches(len(part.y), settings.batch, settings.images, settings.seed + 1)
    return list(islice(order, -(-num_steps // ARCH_EVERY)))


def annealed(temperature: tuple[float, float], step: int, num_steps: int) -> float:
    """The temperature of an architecture step: geometric from the first, at step 0, to the second, at the last."""
    start, end = temperature
    return start * (end / start) ** (step / max(1, num_steps - 1))


def _heat(mixtures: Mapping[str, Mixture], temperature: float) -> None:
    for mixture in mixtures.values():
        mixture.temperature = temperature


def _weight_optimizer(model: nn.Module, mixtures: Mapping[str, Mixture], rate: float) -> torch.optim.Optimizer:
    """Everything but the probabilities, which only architecture steps may move."""
    for mixture in mixtures.values():
        mixture.alpha.requires_grad_(False)
    alphas = {id(mixture.alpha) for mixture in mixtures.values()}
    groups = parameter_groups(model, rate)
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in alphas]
    return torch.optim.AdamW(groups)


def _arch_step(
    mixtures: Mapping[str, Mixture], arch: torch.optim.Optimizer, costs: _Costs, loss: Callable[[], Tensor]
) -> None:
    """One step of the probabilities on held-out images, through the formats sampled last.

    At a sampled format the weight gradient holds that format's own error, which a mixture averages away.
    """
    for mixture in mixtures.values():
        mixture.alpha.requires_grad_(True)
    step_on(arch, lambda: loss() + costs.penalty(mixtures), "architecture step")
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

    def state_dict(self) -> dict[str, list[float]]:
        """What a killed search goes on with."""
        return {"multipliers": self.multipliers}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        self.multipliers = state_dict["multipliers"]

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


def _result(
    mixtures: Mapping[str, Mixture], table: CostTable, formats: dict[str, str], costs: _Costs, judge: Judge
) -> SearchResult:
    probabilities = spread(mixtures, table.formats).detach().numpy()
    expected = float((probabilities * np.where(table.allowed, table.energy_pj, 0.0)).sum()) + table.fixed_energy_pj
    chosen = table.cost_of(formats)[0]
    soft = score(judge.model, judge.part, judge.images).accuracy
    return SearchResult(
        formats, probabilities.tolist(), expected, chosen, expected / chosen - 1, soft - judge.score(formats).accuracy,
        len(judge.known), tuple(costs.multipliers),
    )  # fmt: skip
