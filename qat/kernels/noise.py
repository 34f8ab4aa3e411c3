"""Noise that training puts on quantized weights, so that a network bears cells that are not what was written.

V. Joshi et al., Nat. Commun. 11, 2473 (2020): Gaussian, its deviation a fraction of the layer's largest weight, drawn
anew for each step; the gradient passes as if it were not there. In eval mode nothing is added, but `enduring` judges a
network as its training sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from zlib import crc32

import torch
from torch import Tensor, nn

_JUDGED = 2**40  # where the draws of judgements begin: no training takes so many steps
_LARGEST_SEED = 2**63 - 1
_ODD = 0x9E3779B97F4A7C15  # spreads steps over the seeds (the golden ratio's fraction, as in Steele et al., 2014)


class WeightNoise(nn.Module):
    """Adds noise to a weight [O, ...]. Draws depend on the layer's first weight and on how many came before, both of
    which are in the state dict: a run that goes on, and every process of a distributed one, draws the same."""

    state: Tensor

    def __init__(self, fraction: float):
        super().__init__()
        self.fraction, self.in_eval = fraction, False
        self.register_buffer("state", torch.zeros(2, dtype=torch.int64))  # seed, draws so far

    def forward(self, value: Tensor) -> Tensor:
        seed, draws = self.state.tolist()
        plain = value.detach()
        seed = seed if draws else crc32(plain.float().cpu().contiguous().numpy().tobytes())
        generator = torch.Generator().manual_seed((seed + draws * _ODD) & _LARGEST_SEED)
        noise = torch.randn(value.shape, generator=generator).to(value)
        self.state = torch.tensor([seed, draws + 1], device=self.state.device)
        return value + self.fraction * plain.abs().max() * noise


@contextmanager
def enduring(model: nn.Module) -> Iterator[None]:
    """Eval mode has noise, too: the same draws each time, a new one per forward. Those of training go on as before."""
    noises = [part for part in model.modules() if isinstance(part, WeightNoise)]
    before = [noise.state for noise in noises]
    for noise in noises:
        noise.in_eval = True
        noise.state = torch.tensor([int(noise.state[0]), _JUDGED], device=noise.state.device)
    try:
        yield
    finally:
        for noise, state in zip(noises, before, strict=True):
            noise.in_eval, noise.state = False, state
