"""Distillation: a quantized network learns from its float original, by its outputs or block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.modules.attached import attached, quantizer_of
from qat.modules.upkeep import parameter_groups
from qat.training.data import draws
from qat.training.loop import Schedule, Steps, Tick, fit, silent
from workloads.errors import InputError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # their parts are blocks, and not they
QUANTIZER_SHARE = 10  # of the rate, for what quantization added
PAUSE_EVERY = 5  # steps of published networks take seconds each


class Lessons(NamedTuple):
    """How many steps of distillation, on how many of the samples each, drawn anew."""

    num_samples: int
    batch: int
    steps: int
    lr: float
    seed: int
    after_every: int  # steps, until the quantizers do what lies outside the gradient


def distill(
    model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor], lessons: Lessons, *,
    checkpoint: Path | None = None, tick: Tick = silent,
) -> float:  # fmt: skip
    """Adam towards a float network's outputs, norms and dropout as in evaluation; returns seconds per step.

    `loss` is of the samples with these indices. A killed run goes on from `checkpoint`.
    """
    model.eval()
    for one in attached(model):
        one.quantizer.train()
    optimizer = torch.optim.Adam(parameter_groups(model, lessons.lr, quantizer_lr=lessons.lr / QUANTIZER_SHARE))
    for group in optimizer.param_groups:
        group["rate_factor"] = group["lr"]
    steps = Steps("distillation", optimizer, lambda step, index: loss(model, index))
    order, start_s = draws(lessons.num_samples, lessons.batch, lessons.steps, lessons.seed), monotonic()
    schedule = Schedule(lessons.steps, lambda step: 1 - step / lessons.steps, PAUSE_EVERY, lessons.after_every)
    found = fit(model, order, steps, schedule, checkpoint=checkpoint, tick=tick)
    return (monotonic() - start_s) / max(1, found.steps)


def soft_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch; logits [N, classes].

    Hinton, Vinyals and Dean (2015); the factor keeps the gradient's size. LSQ (Esser et al., ICLR 2020) adds it
    to the task loss with T = 1 and weight 1.
    """
    student, teacher = F.log_softmax(logits / temperature, 1), F.log_softmax(teacher_logits / temperature, 1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def soft_targets(labels: Tensor, teacher_logits: Tensor, factor: float) -> Tensor:
    """Targets [N, classes] whose cross entropy is that of the labels plus `factor` times the soft loss at T = 1.

    But for a constant, factor times the entropy of the teacher, which has no gradient: so any loop that takes
    cross entropy with targets distills.
    """
    return F.one_hot(labels, teacher_logits.shape[1]) + factor * teacher_logits.detach().softmax(1)


def quantized_blocks(model: nn.Module, prefix: str = "") -> list[str]:
    """Names of the blocks that have quantized layers, in the model's order: its children, or what containers hold."""
    if quantizer_of(model) is not None:
        return [prefix.rstrip(".")]
    names: list[str] = []
    for name, child in model.named_children():
        if type(child) in CONTAINERS:
            names += quantized_blocks(child, f"{prefix}{name}.")
        elif any(quantizer_of(part) is not None for part in child.modules()):
            names.append(prefix + name)
    return names


@contextmanager
def block_outputs(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Meanwhile, each forward of the model leaves the outputs of the named modules here, by name.

    Of a module that runs several times it is the last output, of one that returns several tensors the first.
    Raises InputError for names that are no modules of the model.
    """
    modules = dict(model.named_modules())
    if unknown := [name for name in names if name not in modules]:
        raise InputError("blocks", [f"{name}: must be a module of {type(model).__name__}" for name in unknown])
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs[name] = output[0] if isinstance(output, tuple | list) else output

        return hook

    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def block_loss(outputs: Mapping[str, Tensor], teacher_outputs: Mapping[str, Tensor]) -> Tensor:
    """Sum over blocks of the mean squared error between the outputs of student and teacher."""
    return torch.stack([F.mse_loss(outputs[name], teacher_outputs[name]) for name in teacher_outputs]).sum()
