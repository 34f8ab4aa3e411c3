"""How training data are divided: train, architecture and validation parts by hashed index, and calibration images."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.data.datasets import Dataset, load, split


class Samples(NamedTuple):
    """Images uint8 [N, C, H, W] or word ids int64 [N, T], and labels int64 [N]."""

    x: NDArray
    y: NDArray[np.int64]


class Division(NamedTuple):
    """Disjoint parts of a data set's training samples (50,000 / 5,000 / 5,000 of Fashion-MNIST); no test sample."""

    train: Samples
    arch: Samples
    validation: Samples


def parts_of(data: Dataset) -> Division:
    """The training samples by hashed index."""
    index = split(len(data.train_y))
    return Division(*(Samples(data.train_x[index[name]], data.train_y[index[name]]) for name in Division._fields))


@lru_cache(maxsize=2)
def loaded(name: str) -> Dataset:
    """The data set of this name, read once within a process."""
    return load(name)


@lru_cache(maxsize=2)
def calibration(name: str, count: int) -> NDArray:
    """The first `count` training samples of a data set, from which converter steps are chosen."""
    return parts_of(loaded(name)).train.x[:count]
