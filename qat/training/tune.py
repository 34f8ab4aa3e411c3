"""Fine-tuning: a float network, a plan, a recipe, and the quantized network with the best validation accuracy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cimsim.studies.study import Training
from qat.activations.inputs import calibrate
from qat.activations.schemes import PactQuantizer
from qat.kernels.noise import enduring
from qat.modules.attach import quantize
from qat.modules.upkeep import parameter_groups
from qat.recipe import DEFAULT, Recipe
from qat.schemes import Codebook
from qat.schemes.universal import UniversalQuantizer, finish, ratio_penalty
from qat.training import ewgs
from qat.training.data import Split, TrainingData, batches
from qat.training.distill import block_loss, block_outputs, quantized_blocks, soft_targets
from qat.training.loop import Score, Steps, Tick, cycle, fit, score, silent
from qat.training.norms import estimate_statistics, needs_statistics
from workloads.plan import Plan

Penalty = Callable[[], Tensor | float]  # a term of the loss, asked for once the model has seen the images
Lesson = Callable[[Tensor, Tensor], tuple[Tensor, Penalty]]
STEP_FACTOR = 0.02  # step sizes are about 1/50 of what they scale, and Adam moves all parameters alike


def tune(  # noqa: PLR0913 (all but five are named)
    model: nn.Module, plan: Plan, data: TrainingData, settings: Training, seed: int, *,
    recipe: Recipe = DEFAULT, checkpoint: Path | None = None, tick: Tick = silent,
) -> float:  # fmt: skip
    """Quantize `model` by `plan` and train it, in place; returns the validation accuracy it is left with.

    After each epoch the validation images decide whether this state is the best so far. With a `distill_factor` of
    the settings or the recipe, or the recipe's `block_distill_factor`, the float model teaches too. A killed run goes
    on from `checkpoint`, written at each of these points, to the same final weights.
    """
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if settings.weight_noise_fraction:
        recipe = recipe.model_copy(update={"weight_noise_fraction": settings.weight_noise_fraction})
    factors = settings.distill_factor or recipe.distill_factor, recipe.block_distill_factor
    teacher = copy.deepcopy(model).eval() if any(factors) else None
    prepare(model, plan, data, settings, seed=seed, recipe=recipe)
    optimizer = torch.optim.AdamW(tuning_groups(model, settings.tune_lr, recipe))
    total, per_epoch = settings.tune_images // settings.batch, len(data.train.y) // settings.batch
    order = batches(len(data.train.y), settings.batch, settings.tune_images, seed + 100)
    schedule = cycle(total, settings.tune_lr, pause_every=per_epoch, after_every=recipe.after_every)
    with _taught(model, teacher, *factors) as teach:

        def loss(step: int, index: Tensor) -> Tensor:
            x, y = data.train.images(index), data.train.y[index]
            if recipe.ewgs_delta == "hessian" and step % per_epoch == 0:
                _follow_hessian(model, x, y, seed + step)
            y, lesson = teach(x, y)
            return F.cross_entropy(model(x), y) + _penalty(model, recipe, step / max(1, total), lesson)

        steps = Steps("fine-tuning", optimizer, loss, accuracy=partial(_accuracy, model, data))
        found = fit(model.train(), order, steps, schedule, checkpoint=checkpoint, tick=tick)
    finish(model)
    return found.best_accuracy


def _accuracy(model: nn.Module, data: TrainingData) -> float:
    """On validation images, with the statistics of the weights that are stored."""
    if needs_statistics(model):
        estimate_statistics(model, data.train)
    return judged(model, data.validation).accuracy


def judged(model: nn.Module, part: Split) -> Score:
    """Of the network as it is stored, or with the noise that it is trained to bear."""
    with enduring(model):
        return score(model, part)


def prepare(model: nn.Module, plan: Plan, data: TrainingData, settings: Training, *, seed: int, recipe: Recipe) -> None:
    """Quantize weights and activations, with steps from the calibration images."""
    calibration = data.train.images(slice(0, settings.calibration_images))
    quantize(model, plan, recipe=recipe, example_input=calibration[:1], seed=seed)
    widest = max((choice.activation_format for choice in plan.layers.values()), key=lambda fmt: fmt.bits)
    calibrate(model, calibration, input_step=data.train.input_step(widest))
    if recipe.linear == "ewgs":
        ewgs.match_outputs(model, calibration)


@contextmanager
def _taught(model: nn.Module, teacher: nn.Module | None, factor: float, block_factor: float) -> Iterator[Lesson]:
    """(x, y) -> targets that hold what the teacher says, and the loss of the blocks once the model has seen x."""
    names = quantized_blocks(model) if block_factor else []
    if teacher is None:
        yield lambda x, y: (y, lambda: 0)
        return
    with block_outputs(model, names) as outputs, block_outputs(teacher, names) as wanted:

        def teach(x: Tensor, y: Tensor) -> tuple[Tensor, Penalty]:
            with torch.no_grad():
                logits = teacher(x)
            targets = soft_targets(y, logits, factor) if factor else y
            return targets, lambda: block_factor * block_loss(outputs, wanted) if names else 0

        yield teach


def _follow_hessian(model: nn.Module, x: Tensor, y: Tensor, seed: int) -> None:
    """New deltas of EWGS from one batch, in eval mode, so that nothing else of the model notices."""
    model.eval()
    ewgs.update_deltas(model, lambda: F.cross_entropy(model(x), y), seed=seed)
    model.train()


def _penalty(model: nn.Module, recipe: Recipe, progress: float, lesson: Penalty) -> Tensor | float:
    """What blocks teach; and of a universal codebook, that its ratios shall decide, ever more."""
    return lesson() + (progress * ratio_penalty(model) if recipe.vector == "universal" else 0)


def tuning_groups(model: nn.Module, rate: float, recipe: Recipe = DEFAULT) -> list[dict[str, Any]]:
    """Weights, codebooks and PACT's bounds at the full rate, step sizes at STEP_FACTOR of it; only weights decay.

    The ratios of a universal codebook are logits and learn `recipe.ratio_lr_factor` times as fast.
    """
    own, added = parameter_groups(model, rate, weight_decay=1e-4)
    ratios = _parameters_of(model, (UniversalQuantizer,))
    whole = _parameters_of(model, (Codebook, PactQuantizer)) - ratios  # of the size of what they serve
    groups = [own]
    for chosen, factor in ((whole, 1.0), (ratios, recipe.ratio_lr_factor)):
        groups.append({**added, "params": [p for p in added["params"] if id(p) in chosen], "rate_factor": factor})
    steps = [p for p in added["params"] if id(p) not in whole | ratios]
    return [*groups, {**added, "params": steps, "rate_factor": STEP_FACTOR}]


def _parameters_of(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[int]:
    return {id(p) for module in model.modules() if isinstance(module, kinds) for p in module.parameters()}
