"""The training loop, flat: data in memory, a learning-rate curve, one step after the other, resumable."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cimsim.studies.study import Training
from qat.training.checkpoint import restore_checkpoint, store_checkpoint
from qat.training.data import Part, TrainingData, batches
from workloads.errors import RunError

Tick = Callable[[int], None]  # told how many images were just trained on
Penalty = Callable[[], Tensor | float]  # a term of the loss


def one_cycle(step: int, total: int, peak: float) -> float:
    """Learning rate: linear rise over the first 20 % of steps, then a cosine down to 0.1 % of the peak."""
    rise = max(1, total // 5)
    if step < rise:
        return peak * (step + 1) / rise
    return peak * max(1e-3, 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise))))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's own `rate_factor` (1 unless given)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)


def step_on(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, where: str, penalty: Penalty = lambda: 0
) -> float:
    """One gradient step on the task loss, plus a penalty, which is asked for once the model has seen x.

    Raises RunError when the loss is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(x), y) + penalty()
    value = loss.item()
    if not math.isfinite(value):
        raise RunError(f"{where}: the loss became {value}: lower the learning rate (train.*_lr) or check the data")
    loss.backward()
    optimizer.step()
    return value


class Score(NamedTuple):
    """Mean cross entropy and share of images classified correctly."""

    loss: float
    accuracy: float


@torch.no_grad()
def score(model: nn.Module, part: Part, images: int | None = None, batch: int = 1000) -> Score:
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
    model: nn.Module, data: TrainingData, settings: Training, seed: int,
    checkpoint: Path | None = None, tick: Tick = lambda images: None,
) -> nn.Module:  # fmt: skip
    """Float training, one checkpoint per epoch; a killed run goes on after its last whole epoch."""
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    epochs, batch = settings.float_epochs, settings.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.float_lr, weight_decay=1e-4)
    per_epoch = len(data.train.y) // batch
    done = restore_checkpoint(checkpoint, model, optimizer).get("epoch", 0)
    model.train()
    for epoch in range(done, epochs):
        for i, index in enumerate(batches(len(data.train.y), batch, per_epoch * batch, seed, first=epoch)):
            set_rate(optimizer, one_cycle(epoch * per_epoch + i, epochs * per_epoch, settings.float_lr))
            step_on(model, optimizer, data.train.images(index), data.train.y[index], f"float epoch {epoch + 1}")
            tick(batch)
        store_checkpoint(checkpoint, model, optimizer, epoch=epoch + 1)
    return model
