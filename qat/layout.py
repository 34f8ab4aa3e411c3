"""Weights that do not begin with their outputs: transposed convolutions, [C_in, C_out / g, k..]."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Turn(NamedTuple):
    """How to bring the outputs first, group by group; its own inverse."""

    groups: int

    def __call__(self, w: Tensor) -> Tensor:
        """[g * A, B, k..] -> [g * B, A, k..]."""
        return w.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)


class Turned(nn.Module):
    """A parametrization that shows the quantizer the weight with its outputs first."""

    def __init__(self, quantizer: nn.Module, turn: Turn):
        super().__init__()
        self.quantizer, self.turn = quantizer, turn

    def forward(self, w: Tensor) -> Tensor:
        return self.turn(self.quantizer(self.turn(w)))


def turn_of(module: nn.Module) -> Turn | None:
    """The turn that this layer's weight needs; None if its outputs come first."""
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return Turn(module.groups)
    return None


def output_first(module: nn.Module, weight: Tensor) -> Tensor:
    """The layer's weight [O, C/g, ...]."""
    turn = turn_of(module)
    return weight if turn is None else turn(weight)
