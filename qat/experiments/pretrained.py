"""Networks with published weights: quantized, taught by themselves in float, and judged beside it. Resumable."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor, nn

from cimsim.studies.meter import IMAGES_PER_BYTE
from qat.activations.inputs import attach_inputs, calibrate
from qat.experiments.tasks import SEED, PublishedTask
from qat.experiments.trial import FLOAT, stored_bytes
from qat.modules.attach import quantize, unquantize
from qat.modules.attached import attached, encode_model
from qat.post_training.ptq import Method, ptq, release
from qat.recipe import RECIPES
from qat.schemes.common.universal_book import universal_book
from qat.storage.freeze import freeze
from qat.storage.frozen_file import save_frozen
from qat.training.distill import Lessons, distill
from qat.training.loop import Tick
from workloads.activation import parse_activation
from workloads.format import parse_format
from workloads.networks.pretrained import efficientnet_lite0, minilm
from workloads.plan import Plan

EIGHT_BITS = "linear-8"  # of layers that usually keep more bits


class Choice(NamedTuple):
    """A way to quantize a trained network; `steps` of distillation follow where there are any."""

    format: str
    method: Method = "nearest"
    recipe: str = "untrained"
    activation: str = ""  # empty: float
    steps: int = 0
    seed: int = SEED


class Progress(NamedTuple):
    """Where training goes on after it was killed, and who is told of each step."""

    checkpoint: Path | None = None
    tick: Tick = lambda images: None
    weights: Path | None = None  # where the frozen network goes


ALONE = Progress()


def measured(choice: Choice, task: PublishedTask, progress: Progress = ALONE) -> dict[str, Any]:
    """Bits and error of the low-bit layers, bits of all, and what the task measures."""
    model, start_s = copy.deepcopy(task.model), monotonic()
    eight = _baked(model, Plan.uniform(model, EIGHT_BITS, skip=[*_others(model, task.eight_bit)]))
    found: dict[str, Any] = {"weights": 0, "bytes": 0, "eight_weights": eight[0], "eight_bytes": eight[1]}
    if choice.format != FLOAT:
        plan = Plan.uniform(model, choice.format, skip=task.eight_bit, activation=choice.activation or "int8")
        original = {name: model.get_submodule(name).get_parameter("weight").detach().clone() for name in plan.layers}
        quantize_as(model, plan, choice, task)
        if choice.steps:
            found |= _taught(model, choice, task, progress)
        found |= stored_and_error(model.eval(), original)
        if progress.weights:
            save_frozen(freeze(copy.deepcopy(model)), progress.weights, choice.recipe)
        unquantize(model, keep_values=True)
    if choice.activation:
        layers = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
        attach_inputs(model, dict.fromkeys(layers, parse_activation(choice.activation)), task.calibration[0][:1])
        calibrate(model, task.calibration)
    found |= task.measure(model.eval())
    if task.correct and not choice.steps:
        task.correct(model)
        found["corrected"] = task.measure(model)
    return found | {"seconds": monotonic() - start_s}


def _others(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """The layers that match none of the patterns."""
    return list(Plan.uniform(model, EIGHT_BITS, skip=patterns).layers)


def _baked(model: nn.Module, plan: Plan) -> tuple[int, int]:
    """Gives the plan's layers their quantized values for good; returns their weights and stored bytes."""
    quantize(model, plan, recipe=RECIPES["untrained"], seed=SEED)
    weights, nbytes = sum(one.weight.numel() for one in attached(model)), stored_bytes(model)
    unquantize(model, keep_values=True)
    return weights, nbytes


def quantize_as(model: nn.Module, plan: Plan, choice: Choice, task: PublishedTask) -> None:
    """Quantizers on the layers of the plan, as chosen; a universal book is of the weights of both networks."""
    recipe = RECIPES[choice.recipe]
    if recipe.vector != "universal":
        ptq(model, plan, task.calibration, choice.method, recipe=recipe, seed=choice.seed)
        return
    nets = (efficientnet_lite0(), minilm())
    parts = [part for net in nets for part in net.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    weights = [part.weight.detach() for part in parts if part.weight[0].numel() % 4 == 0]
    quantize(model, plan, recipe=recipe, books={choice.format: universal_book(parse_format(choice.format), weights)})


def _taught(model: nn.Module, choice: Choice, task: PublishedTask, progress: Progress) -> dict[str, Any]:
    """What the network is worth before its training, and how long a step took."""
    if task.correct:
        task.correct(model.eval())
    before, after_every = task.measure(model.eval()), RECIPES[choice.recipe].after_every
    release(model)
    lessons = Lessons(task.num_samples, task.batch, choice.steps, task.lr, choice.seed, after_every)
    how = {"checkpoint": progress.checkpoint, "tick": lambda images: progress.tick(IMAGES_PER_BYTE)}
    return {"untrained": before, "step_seconds": distill(model, task.loss, lessons, **how)}


def stored_and_error(model: nn.Module, original: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights and bytes of quantized layers, as packed, and squared error over squared weights of all together."""
    off = energy = 0.0
    for name, stored in encode_model(model).items():
        off += float((stored.decode() - original[name]).double().square().sum())
        energy += float(original[name].double().square().sum())
    weights = sum(weight.numel() for weight in original.values())
    return {"weights": weights, "bytes": stored_bytes(model), "relative_error": off / energy}


def wilson(same: int, count: int) -> str:
    """A share in per cent with its 95 % Wilson interval (Wilson, 1927)."""
    low, high = stats.binomtest(same, count).proportion_ci(method="wilson")
    return f"{100 * same / count:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def change(accuracies: list[float], of_float: list[float]) -> str:
    """Mean change of accuracy in points over the splits, each against float, with its 95 % t-interval."""
    points = 100 * (np.array(accuracies) - np.array(of_float))
    half = float(stats.t.ppf(0.975, len(points) - 1)) * float(np.std(points, ddof=1)) / len(points) ** 0.5
    return f"{np.mean(points):+.1f} ± {half:.1f}"


def judged(found: dict[str, Any]) -> str:
    """How often the first class is the float network's, or the probe's change of accuracy in points."""
    is_image = "same" in found
    return wilson(found["same"], found["crops"]) if is_image else change(found["accuracies"], found["float_accuracies"])


def distance(found: dict[str, Any]) -> str:
    """How far the outputs are from the float network's."""
    return f"KL {found['kl']:.2f}" if "kl" in found else f"cosine {found['cosine']:.3f}"
