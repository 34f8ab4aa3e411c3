"""The training loop: one step after the other down a loss, with pauses to judge or to store, resumable."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cimsim.studies.study import Training
from qat.modules.upkeep import after_step
from qat.training.checkpoint import Stateful, restore_checkpoint, store_checkpoint
from qat.training.data import Split, TrainingData, batches
from workloads.errors import RunError

Tick = Callable[[int], None]  # told how many images were just trained on, or had been before a run was killed
Loss = Callable[[int, Tensor], Tensor]  # of a step on the images of these indices: a scalar


def silent(images: int) -> None:
    """The tick that nobody hears."""


class Steps(NamedTuple):
    """What a kind of training does: `optimizer` follows `loss`, `then` comes after each step.

    The best state is that of the best `accuracy`, asked for at each pause. `beside` are further things with a state
    that the steps change.
    """

    name: str
    optimizer: torch.optim.Optimizer
    loss: Loss
    then: Callable[[int], object] = lambda step: None
    accuracy: Callable[[], float] | None = None
    beside: tuple[Stateful, ...] = ()


class Schedule(NamedTuple):
    """How many steps, the learning rate of each, and how often there is a pause.

    Every `after_every` steps the quantizers do what lies outside the gradient; never with 0.
    """

    total: int
    lr: Callable[[int], float]
    pause_every: int
    after_every: int = 0

    def pauses(self, step: int) -> bool:
        return (step + 1) % self.pause_every == 0 or step + 1 >= self.total


class Trained(NamedTuple):
    """The accuracy of the state that is left, where one is told, and how many steps were done since the last start."""

    best_accuracy: float
    steps: int


def fit(
    model: nn.Module, order: Iterable[Tensor], steps: Steps, schedule: Schedule, *,
    checkpoint: Path | None = None, tick: Tick = silent,
) -> Trained:  # fmt: skip
    """A step for each batch of indices in `order`, in place, to the best state where `steps` tell an accuracy.

    A killed run goes on from `checkpoint`, written at each pause, to the same bytes. Raises RunError when a loss is
    not finite.
    """
    kept = restore_checkpoint(checkpoint, model, steps.optimizer, steps.beside)
    done, best, best_state, num_done = kept.get("done", 0), kept.get("best", -math.inf), kept.get("best_state"), 0
    for step, index in enumerate(order):
        if step < done:
            tick(len(index))
            continue
        set_rate(steps.optimizer, schedule.lr(step))
        step_on(steps.optimizer, partial(steps.loss, step, index), f"{steps.name}, step {step + 1}")
        steps.then(step)
        if schedule.after_every and (step + 1) % schedule.after_every == 0:
            after_step(model, step)
        num_done += 1
        tick(len(index))
        if schedule.pauses(step):
            if steps.accuracy is not None and (found := steps.accuracy()) > best:
                best, best_state = found, copy.deepcopy(model.state_dict())
            progress = {"done": step + 1, "best": best, "best_state": best_state}
            store_checkpoint(checkpoint, model, steps.optimizer, steps.beside, **progress)
    if best_state is not None:
        model.load_state_dict(best_state)
    return Trained(best, num_done)


def step_on(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], where: str) -> float:
    """One step down the gradient; returns the loss. Raises RunError, and moves nothing, when it is not finite."""
    optimizer.zero_grad(set_to_none=True)
    found = loss()
    value = found.item()
    if not math.isfinite(value):
        raise RunError(f"{where}: the loss became {value}: lower the learning rate (train.*_lr) or check the data")
    found.backward()
    optimizer.step()
    return value


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own `rate_factor` (1 unless given)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)


def one_cycle(step: int, total: int, peak: float) -> float:
    """Learning rate: linear rise over the first 20 % of steps, then a cosine down to 0.1 % of the peak."""
    rise = max(1, total // 5)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * max(1e-3, 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise))))


def cycle(total: int, peak: float, *, pause_every: int, after_every: int = 0) -> Schedule:
    """One cycle of the rate over all steps."""
    return Schedule(total, partial(one_cycle, total=total, peak=peak), pause_every, after_every)


def task_loss(model: nn.Module, part: Split, index: Tensor) -> Tensor:
    """Mean cross entropy of these images."""
    return F.cross_entropy(model(part.images(index)), part.y[index])


class Score(NamedTuple):
    """Mean cross entropy and share of images classified correctly."""

    loss: float
    accuracy: float


@torch.no_grad()
def score(model: nn.Module, part: Split, images: int | None = None, batch: int = 1000) -> Score:
    """Of the part's first `images` images (all by default), with the model in eval mode."""
    num, training = min(images or len(part.y), len(part.y)), model.training
    model.eval()
    loss, right = 0.0, 0
    for start in range(0, num, batch):
        index = slice(start, min(start + batch, num))
        logits = model(part.images(index))
        loss += float(F.cross_entropy(logits, part.y[index], reduction="sum"))
        right += int((logits.argmax(1) == part.y[index]).sum())
    model.train(training)
    return Score(loss / num, right / num)


def train_float(
    model: nn.Module, data: TrainingData, settings: Training, seed: int, *,
    checkpoint: Path | None = None, tick: Tick = silent,
) -> nn.Module:  # fmt: skip
    """Float training with a pause after each epoch, as `fit`; the same model is returned."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    per_epoch = len(data.train.y) // settings.batch
    total = settings.float_epochs * per_epoch
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.float_lr, weight_decay=1e-4)
    steps = Steps("float training", optimizer, lambda step, index: task_loss(model, data.train, index))
    order = batches(len(data.train.y), settings.batch, total * settings.batch, seed)
    schedule = cycle(total, settings.float_lr, pause_every=per_epoch)
    fit(model.train(), order, steps, schedule, checkpoint=checkpoint, tick=tick)
    return model
