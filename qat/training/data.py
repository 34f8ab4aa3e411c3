"""Labelled training images in memory, in the order in which they come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workloads.activation import ActivationFormat
from workloads.data.datasets import load
from workloads.data.parts import parts_of


class Split(NamedTuple):
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

    def input_step(self, fmt: ActivationFormat) -> float | None:
        """8 bits without a sign hold bytes exactly; any other input's step is calibrated."""
        holds_bytes = fmt.bounds(is_signed=False) == (0, 255) and fmt.sign != "signed"
        return 1 / 255 if self.is_bytes and holds_bytes else None


class TrainingData(NamedTuple):
    """Disjoint parts by hashed index. The test set is not here: only `cimsim.studies.measure.read_test` opens it."""

    train: Split
    arch: Split
    validation: Split


def divide(x: Tensor, y: Tensor, parts: Mapping[str, np.ndarray]) -> TrainingData:
    """Images and labels by the index arrays `train`, `arch` and `validation`."""
    index = {name: torch.from_numpy(part) for name, part in parts.items()}
    train, arch, validation = (Split(x[index[name]], y[index[name]]) for name in TrainingData._fields)
    return TrainingData(train, arch, validation)


@lru_cache(maxsize=2)
def training_data(name: str, root: Path | None = None) -> TrainingData:
    """The parts of a data set's training images (50,000 / 5,000 / 5,000 of Fashion-MNIST)."""
    parts = parts_of(load(name, root))
    return TrainingData(*(Split(torch.from_numpy(part.x), torch.from_numpy(part.y)) for part in parts))


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


def draws(num: int, batch: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Index batches for `steps` steps, each drawn anew from all `num` samples."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randperm(num, generator=generator)[:batch] for _ in range(steps))


def generator(*parts: int) -> torch.Generator:
    """A generator that depends on these integers alone."""
    seed = 0
    for part in parts:
        seed = (seed * 1_000_003 + part + 1) % (2**63 - 25)
    return torch.Generator().manual_seed(seed)
