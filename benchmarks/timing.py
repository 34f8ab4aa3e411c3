"""Processor time of pieces of work that take turns, so that the machine's moods fall on all of them alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from time import process_time

import torch

GEMM_SIZE = 1024


def interleaved(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run of each work, in the order of the rounds; a first round, with compilation, is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = process_time()
            work()
            if turn:
                seconds[name].append(process_time() - start)
    return seconds


def ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over the rounds of how much longer the first took."""
    return median(a / b for a, b in zip(seconds, reference, strict=True))


def gemm() -> Callable[[], object]:
    """The yardstick: one float32 product of 1024 x 1024 matrices by torch."""
    a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE)
    return lambda: torch.mm(a, b)


def gemm_flops() -> int:
    """Operations of the yardstick."""
    return 2 * GEMM_SIZE**3
