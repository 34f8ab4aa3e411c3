"""The one contract of all schemes: a quantizer is a parametrization whose output is decode(encode(weight)).

Shapes: w [O, C/g, kh, kw] or [O, I]; vectors [R, n, d] as `workloads.codec` cuts them (zero-padded rows).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qat.kernels.compiling import outside_graphs, refuse_export
from qat.kernels.geometry import channels_last, per_channel, require_finite, rotated, unrotated, without_autocast
from qat.kernels.noise import WeightNoise
from qat.recipe import DEFAULT, Recipe
from workloads.codec import Codes, decode_integers, decode_weight, pack_all
from workloads.format import WeightFormat


class Encoded(NamedTuple):
    """A stored weight: its format and shape [O, ...], codes int64 [R, n] or [R, n, M], scale float32 [O] or [1].

    `scale_codes` int64 and `errors` int64 are as in `workloads.codec.Codes`; `table` holds the codebook's integer
    entries, int64 [K, d] or [M, K, d].
    """

    fmt: WeightFormat
    shape: tuple[int, ...]
    codes: Tensor
    scale: Tensor
    scale_codes: Tensor | None = None
    errors: Tensor | None = None
    table: Tensor | None = None

    def integers(self) -> NDArray[np.int32]:
        """What the array holds [O, I], in im2col order."""
        table = None if self.table is None else self.table.cpu().numpy()
        return decode_integers(self.fmt, self.stored(), self.shape, table)

    def decode(self) -> Tensor:
        """The real weight, float32 [O, ...]."""
        value = decode_weight(self.fmt, self.integers(), self.scale.cpu().numpy(), self.shape)
        return torch.from_numpy(value).to(self.scale.device)

    def stored(self) -> Codes:
        parts = (self.codes, self.scale_codes, self.errors)
        codes, scale_codes, errors = (None if part is None else part.cpu().numpy() for part in parts)
        assert codes is not None
        return Codes(codes, scale_codes, errors)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, scale codes, error signs and scales, and of a codebook of its own."""
        packed = pack_all(self.fmt, self.stored())
        return sum(stream.nbytes for stream in packed) + 4 * self.scale.numel() + -(-self.fmt.codebook_bits // 8)


class Projected(NamedTuple):
    """A quantized weight as integers [O, ...] (float32) and their scale [O] or [1], and what its gradients need."""

    integers: Tensor
    scale: Tensor
    saved: Any = None


class Quantizer(nn.Module, ABC):
    """Maps a latent weight to its quantized value; gradients are the formulas of its two methods.

    A scheme gives `project`, `encode_rotated` and, where it trains more than the weight, `trained` and
    `parameter_gradients`. The weight's gradient goes straight through unless overridden. `hold` fixes the scale,
    so that encode(decode(e)) = e.
    """

    is_exact = True  # the forward in training is the decoded encoding, and not a softer mixture
    held: Tensor | None

    def __init__(self, fmt: WeightFormat, recipe: Recipe = DEFAULT):
        super().__init__()
        self.fmt, self.recipe = fmt, recipe
        self.register_buffer("held", None)
        self.noise = WeightNoise(recipe.weight_noise_fraction) if recipe.weight_noise_fraction else None
        self.kept: Tensor | None = None  # the value of this step, while a model's forward runs
        self.keeps = False

    @abstractmethod
    def project(self, w: Tensor) -> Projected:
        """Quantizes a finite weight. Here and in what else a scheme defines, its rotation is already applied."""

    @abstractmethod
    def encode_rotated(self, w: Tensor) -> Encoded:
        """The stored form of a finite float32 weight."""

    def encode(self, w: Tensor) -> Encoded:
        """The stored form of `w` [O, ...]. Raises ValueError unless all weights are finite."""
        require_finite(w)
        with torch.no_grad():
            return self.encode_rotated(rotated(w.detach().float(), self.fmt.rotation))

    def trained(self) -> tuple[nn.Parameter, ...]:
        """The parameters besides the weight, in the order of `parameter_gradients`."""
        return ()

    def weight_gradient(self, grad: Tensor, saved: Any) -> Tensor:
        """Gradient of the latent weight (straight through)."""
        return grad

    def parameter_gradients(self, grad: Tensor, saved: Any) -> tuple[Tensor, ...]:
        """Gradients of `trained()`."""
        return ()

    def refresh(self, w: Tensor) -> None:
        """Fits anew what depends on the weight's distribution but is not trained."""

    def after_step(self, w: Tensor, step: int) -> dict[str, float]:
        """What changes outside the gradient, once per training step; returns what is worth watching."""
        return {}

    def statistics(self, w: Tensor) -> dict[str, float]:
        """How the codes of a weight [O, ...] are used."""
        return {}

    def hold(self, scale: Tensor | None) -> None:
        """Fixes the scale at this one [O] or [1]; None lets it follow the weight again."""
        self.held = None if scale is None else scale.detach().clone()

    def value(self, w: Tensor) -> tuple[Tensor, Any]:
        """The quantized weight, and what `gradients` needs."""
        with without_autocast(w):
            integers, scale, saved = self.project(rotated(w.detach().float(), self.fmt.rotation))
            return unrotated(integers, self.fmt.rotation) * per_channel(scale, integers), saved

    def gradients(self, grad: Tensor, saved: Any) -> tuple[Tensor, ...]:
        """Of the weight, and of `trained()`, for the gradient of the quantized weight."""
        block = self.fmt.rotation
        with without_autocast(grad):
            if not block:
                grad = grad.float()
                return self.weight_gradient(grad, saved), *self.parameter_gradients(grad, saved)
            grad = rotated(grad.float(), block) / block
            weight = self.weight_gradient(grad, saved)
            return unrotated(weight, block) * block, *self.parameter_gradients(grad, saved)

    def forward(self, w: Tensor) -> Tensor:
        refuse_export(f"a weight in training ({self.fmt.name})")
        return self._evaluate(w)

    @outside_graphs
    def _evaluate(self, w: Tensor) -> Tensor:
        if self.keeps and self.kept is not None and not self._lacks_graph(w):
            return self.kept
        require_finite(w)
        value = _Project.apply(w, self, *self.trained())
        if self.noise is not None and (self.training or self.noise.in_eval):
            value = self.noise(value)
        self.kept = value if self.keeps else None
        return value  # pyright: ignore[reportReturnType]

    def _lacks_graph(self, w: Tensor) -> bool:
        """Whether gradients are wanted, and what is kept was computed where they were not."""
        if not torch.is_grad_enabled() or (self.kept is not None and self.kept.requires_grad):
            return False
        return w.requires_grad or any(parameter.requires_grad for parameter in self.trained())

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        """The scale is held if it was where the state comes from; a state without this quantizer leaves it alone."""
        held = state_dict.get(prefix + "held")
        if any(key.startswith(prefix) for key in state_dict):
            self.hold(None if held is None else held.to(next(self.buffers(), held).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:  # a step's value belongs to its own graph: copies start without
        return {**self.__dict__, "kept": None, "keeps": False}


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, quantizer: Quantizer, *parameters: Tensor) -> Tensor:
        value, ctx.saved = quantizer.value(w)
        ctx.quantizer, ctx.dtype = quantizer, w.dtype
        return channels_last(value.to(w.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, *parameters = ctx.quantizer.gradients(grads[0], ctx.saved)
        return weight.to(ctx.dtype), None, *parameters
