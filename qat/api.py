"""The training front end for anyone's module: search a plan, tune it, keep the module as it was."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from cimsim.chip.model import Chip
from cimsim.studies.study import Training
from cimsim.studies.table import build_table
from qat.planning.aim import Aim, Budgets, Goal, plan_of, tryouts
from qat.planning.nas import SearchSettings, supernet, warm
from qat.planning.nas import search as run_search
from qat.training.data import Split, TrainingData, divide
from qat.training.tune import tune as run_tune
from workloads.capture.trace import capture
from workloads.data.datasets import split
from workloads.errors import InputError
from workloads.format import DEFAULT_FORMATS
from workloads.plan import Plan


class Tuned(NamedTuple):
    """A fine-tuned copy and its accuracy on images held out from training."""

    model: nn.Module
    accuracy: float


def search(  # noqa: PLR0913 (a front door: all but four are named)
    model: nn.Module, x: Tensor, y: Tensor, chip: Chip, *, budget: float,
    formats: Sequence[str] = DEFAULT_FORMATS, images: int = 60_000, trials: int = 8, seed: int = 0,
) -> Plan:  # fmt: skip
    """The plan for a trained module on a chip: formats per layer within an energy budget.

    `x` [N, C, H, W] (bytes, or floats as the module takes them) and `y` [N] are training data; a tenth each
    goes to the architecture and to the choice. `budget` is the energy per image as a share of the dearest plan's.
    The best plans are compared by fine-tuning `trials` of them with an eighth of the `images`.
    Raises InputError for a module or budget that the chip cannot serve, RunError if no plan fits.
    """
    data, network = _training_data(x, y), capture(model, _one(x), "network")
    table = build_table(network, chip, tuple(formats))
    goal = Goal(network, chip, Budgets(budget * table.reference_pj()))
    if problem := table.budget_problem(budget):
        raise InputError("search", [problem])
    net = copy.deepcopy(model)
    settings = SearchSettings(images, min(128, len(data.arch.y)), 1e-3, 0.05, seed=seed)
    mixtures = supernet(net, table.candidates(), data.train, activation="int8", num_calibration=512, seed=seed)
    warm(net, mixtures, data, settings._replace(images=images // 3))
    short = _settings(data, images).model_copy(update={"trials": trials})
    tries = tryouts(partial(copy.deepcopy, model), partial(plan_of, network), data, short, seed)
    found = run_search(net, mixtures, Aim(table, goal.budgets, goal.fits, tries), data, settings)
    return plan_of(network, found.formats)


def tune(  # noqa: PLR0913 (a front door: all but four are named)
    model: nn.Module, plan: Plan, x: Tensor, y: Tensor, *,
    images: int = 150_000, weight_noise_fraction: float = 0.0, seed: int = 0,
) -> Tuned:  # fmt: skip
    """A quantized, fine-tuned copy of a trained module. `x` and `y` as for `search`.

    With `weight_noise_fraction` (of each layer's largest weight) it learns to bear cells that are not as written.
    """
    data, net = _training_data(x, y), copy.deepcopy(model)
    settings = _settings(data, images).model_copy(update={"weight_noise_fraction": weight_noise_fraction})
    found = run_tune(net, plan, data, settings, seed)
    return Tuned(net.eval(), found)


def _training_data(x: Tensor, y: Tensor) -> TrainingData:
    return divide(x, y, split(len(y), {"train": 8, "arch": 1, "validation": 1}))


def _settings(data: TrainingData, images: int) -> Training:
    return Training(tune_images=images, batch=min(128, len(data.train.y)))


def _one(x: Tensor) -> Tensor:
    return Split(x, x).images(slice(0, 1))


__all__ = ["Tuned", "capture", "search", "tune"]
