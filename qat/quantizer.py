"""The one contract of all schemes: a quantizer is a parametrization whose output is decode(encode(weight)).

Shapes: w [O, C/g, kh, kw] or [O, I]; vectors [R, n, d] as `workloads.codec` cuts them (zero-padded rows).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from qat.graphs import outside_graphs, refuse_export
from qat.recipe import DEFAULT, Recipe
from qat.sums import whole_sum
from qat.weight_noise import WeightNoise
from workloads.codec import Codes, decode_integers, decode_weight, pack_all
from workloads.format import WeightFormat
from workloads.rotation import rotate

MAX_WEIGHT = 1e15
MIN_SCALE = 2.0**-30  # a channel of zeros still has a positive scale, so that requantization can divide


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


def without_autocast(values: Tensor) -> AbstractContextManager[object]:
    """Full precision where these values are; costs nothing where nobody asked for less."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


@cache
def _rotation(block: int, inputs: int) -> Tensor:
    """Blocks [I / B, B, B] of the rotation, as a matrix each that multiplies a row of inputs from the right."""
    whole = rotate(np.eye(inputs, dtype=np.float32), block)
    return torch.from_numpy(np.stack([whole[i : i + block, i : i + block] for i in range(0, inputs, block)]))


def rotated(w: Tensor, block: int) -> Tensor:
    """The weight [O, ...] whose rows, in im2col order, went through the rotation of workloads.rotation."""
    return _turned(w, block, _rotation(block, w[0].numel())) if block else w


def unrotated(w: Tensor, block: int) -> Tensor:
    """Inverse of `rotated`; exact for small integers times a power of two."""
    return _turned(w, block, _rotation(block, w[0].numel()).mT / block) if block else w


def _turned(w: Tensor, block: int, matrices: Tensor) -> Tensor:
    rows = vectors(w, block).transpose(0, 1)  # [I / B, O, B]
    return from_vectors(torch.bmm(rows, matrices.to(w.device)).transpose(0, 1), w.shape)


def channels_last(value: Tensor) -> Tensor:
    """A weight [O, C/g, kh, kw] with the strides of channels_last; other ranks as they are.

    With one channel both layouts hold the same memory, `contiguous` leaves the strides alone, and the
    convolution would pick the slow layout from them.
    """
    if value.dim() != 4:
        return value
    _, channels, height, width = value.shape
    strides = (channels * height * width, 1, width * channels, channels)
    return value.contiguous(memory_format=torch.channels_last).as_strided(value.shape, strides)


def per_channel(scale: Tensor, w: Tensor) -> Tensor:
    """Scale [O] or [1] shaped to multiply a weight [O, ...]."""
    return scale.view(-1, *[1] * (w.dim() - 1))


def channel_sums(values: Tensor, fmt: WeightFormat) -> Tensor:
    """Sum over all that shares a float scale: values [O, ...] -> [O], or [1] if the tensor has one scale."""
    rows = values.flatten(1)
    sums = whole_sum(rows)[None] if len(rows) == 1 else rows.sum(1)  # torch cuts a single row over threads
    return sums if fmt.scale_per == "channel" else whole_sum(sums)[None]


def root_mean_square(w: Tensor, fmt: WeightFormat) -> Tensor:
    """Root mean square of all weights that share a float scale, [O] or [1]; positive."""
    count = w.numel() // len(w) if fmt.scale_per == "channel" else w.numel()
    return (channel_sums(w.square(), fmt) / count).sqrt().clamp_min(MIN_SCALE)


def rows_of(w: Tensor, axis: str = "in") -> Tensor:
    """Weight [O, ...] -> the rows [R, L] that are cut into vectors."""
    if axis == "in":
        return w.movedim(1, -1).reshape(len(w), -1)
    if axis == "out":
        return w.movedim(1, -1).reshape(len(w), -1).T
    return w.reshape(len(w) if axis == "kernel" else 1, -1)


def vectors(w: Tensor, d: int, axis: str = "in") -> Tensor:
    """Weight [O, ...] -> vectors [R, n, d]; the torch twin of workloads.codec.to_vectors."""
    rows = rows_of(w, axis)
    padding = -rows.shape[1] % d
    return (functional.pad(rows, (0, padding)) if padding else rows).reshape(len(rows), -1, d)


def from_vectors(v: Tensor, shape: torch.Size, axis: str = "in") -> Tensor:
    """Inverse of `vectors`: [R, n, d], or without the padding [R, L] -> weight of `shape`."""
    outputs, channels, *kernel = shape
    rows = v.reshape(len(v), -1)
    if axis in ("kernel", "flat"):
        return rows[:, : shape.numel() // len(rows)].reshape(shape)
    rows = rows[:, : shape[1:].numel()] if axis == "in" else rows[:, :outputs].T
    return rows.reshape(outputs, *kernel, channels).movedim(-1, 1)


def is_padding(shape: torch.Size, fmt: WeightFormat) -> Tensor | None:
    """Which elements of the vectors [R, n, d] of such a weight are padding; None if there are none."""
    rows, count = fmt.code_shape(tuple(shape))
    if rows * count * fmt.vector_length == prod(shape):
        return None
    return vectors(torch.ones(shape), fmt.vector_length, fmt.axis) == 0


def require_finite(w: Tensor) -> None:
    """Raises ValueError if any weight is NaN, infinite, or so large that its square would be."""
    low, high = w.detach().aminmax()
    if not (low.item() > -MAX_WEIGHT and high.item() < MAX_WEIGHT):  # a NaN compares false
        bad = int((~(w.detach().abs() < MAX_WEIGHT)).sum())
        raise ValueError(f"weight: {bad} of {w.numel()} values: must be finite and below {MAX_WEIGHT:g}")


def utilisation(codes: Tensor, num_codes: int) -> dict[str, float]:
    """How evenly codes [..] below `num_codes` are used: share in use, and perplexity exp(entropy)."""
    counts = torch.bincount(codes.flatten(), minlength=num_codes).double()
    share = counts[counts > 0] / counts.sum()
    return {
        "used_share": float((counts > 0).double().mean()),
        "perplexity": float(torch.exp(-(share * share.log()).sum())),
    }
