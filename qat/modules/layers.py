"""The layers whose weights can have a format: transposed convolutions have them second."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from qat.kernels.geometry import require_finite
from workloads.plan import LAYER_KINDS

LAYERS: tuple[type[nn.Module], ...] = tuple(getattr(nn, kind) for kind in LAYER_KINDS)


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


FORMAT = "stored_format"  # an attribute of a frozen layer, see qat.freeze


def is_frozen(module: nn.Module) -> bool:
    """Whether `qat.freeze` made this layer's weight a constant."""
    return hasattr(module, FORMAT)


def problems_of(module: nn.Module) -> list[str]:
    """Why a layer's weight cannot be quantized; empty if it can."""
    if is_frozen(module):
        return ["is frozen, its latent weight is gone"]
    if parametrize.is_parametrized(module, "weight"):
        return ["its weight has a parametrization already: unquantize it, or remove the parametrization"]
    weight = module._parameters.get("weight")
    if weight is None:
        return ["its weight is no parameter: remove what computes it (weight_norm, pruning)"]
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.sparse):
        return ["must have max_norm = None and sparse = False"]
    try:
        require_finite(weight)
    except ValueError as error:
        return [str(error)]
    return []
