"""The training loop, flat: data in memory, a learning-rate curve, one step after the other, resumable."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cimsim.rundir import write_atomically
from cimsim.study import Training
from workloads.datasets import load, split
from workloads.errors import InputError, RunError

Tick = Callable[[int], None]  # told how many images were just trained on
Penalty = Callable[[], Tensor | float]  # a term of the loss


class Part(NamedTuple):
    """Images [N, C, H, W], bytes or floats, or word ids int64 [N, T], and labels int64 [N], of one part of the data."""

    x: Tensor
    y: Tensor

    def images(self, index: Tensor | slice) -> Tensor:
        """As the network takes them: bytes become [0, 1]; channels last, which convolutions like; words stay whole."""
        chosen = self.x[index].float().div_(255) if self.is_bytes else self.x[index]
        return chosen.contiguous(memory_format=torch.channels_last) if chosen.dim() == 4 else chosen

    @property
    def is_bytes(self) -> bool:
        return self.x.dtype == torch.uint8

    def input_step(self, bits: int) -> float | None:
        """8 bits hold bytes exactly; any other input's step is calibrated."""
        return 1 / 255 if self.is_bytes and bits == 8 else None


class TrainingData(NamedTuple):
    """Disjoint parts by hashed index. The test set is not here: only `qat.measure.read_test` opens it."""

    train: Part
    arch: Part
    validation: Part


def divide(x: Tensor, y: Tensor, parts: Mapping[str, np.ndarray]) -> TrainingData:
    """Images and labels by the index arrays `train`, `arch` and `validation`."""
    index = {name: torch.from_numpy(part) for name, part in parts.items()}
    train, arch, validation = (Part(x[index[name]], y[index[name]]) for name in TrainingData._fields)
    return TrainingData(train, arch, validation)


@lru_cache(maxsize=2)
def training_data(name: str, root: Path | None = None) -> TrainingData:
    """The parts of a data set's training images (50,000 / 5,000 / 5,000 of Fashion-MNIST)."""
    data = load(name, root)
    return divide(torch.from_numpy(data.train_x), torch.from_numpy(data.train_y), split(len(data.train_y)))


def batches(num: int, batch: int, images: int, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Index batches for `images` images, epoch after epoch, each in an order fixed by (seed, epoch).

    Images that do not fill an epoch's last batch wait for another epoch. Raises ValueError for a batch larger
    than all `num` images.
    """
    if not 1 <= batch <= num:
        raise ValueError(f"batch = {batch}: must be 1 to {num}, the images there are")
    seen, epoch = 0, first
    while seen < images:
        order = torch.randperm(num, generator=generator(seed, epoch))
        for start in range(0, num - batch + 1, batch):
            if seen >= images:
                return
            yield order[start : start + batch]
            seen += batch
        epoch += 1


def generator(*parts: int) -> torch.Generator:
    """A generator that depends on these integers alone."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(seed)


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


def store_checkpoint(path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, **progress: Any) -> None:
    """Writes both and how far they are, whole or not at all; nothing without a path."""
    if path is None:
        return
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **progress}, buffer)
    write_atomically(path, buffer.getvalue())


def restore_checkpoint(path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """How far they were; empty without a file. Raises InputError for one that cannot be read."""
    if path is None or not path.exists():
        return {}
    state = load_checkpoint(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state


def load_checkpoint(path: Path) -> dict:
    """A stored state of tensors and numbers; nothing in the file is executed."""
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        reason = (
            f"is not a readable checkpoint ({type(error).__name__}): delete it and {path.stem}.done, then run again"
        )
        raise InputError(str(path), [reason]) from None
