"""Lattice codes: d weights become the nearest codeword of a finite code of D4, E8 and others; no table is learned.

The scale of a channel is its root mean square times a factor (`lattice_scale: search`: of least squared error),
a trained step (`learned`), or C_b deviations as first published (`sigma`); see `LatticeQuantizer`. The weight's
gradient passes straight through. A learned step s of values s z gets, as in LSQ, the sum of g (z - w / s) over the
blocks that the code holds and of g z over the overloaded ones, over sqrt(N).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qat.kernels.assign import best_match
from qat.kernels.codewords import scaled_entries
from qat.kernels.e8 import e8_code, encode_e8
from qat.kernels.geometry import (
    MIN_SCALE,
    channel_sums,
    from_vectors,
    per_channel,
    require_finite,
    root_mean_square,
    rotated,
    utilisation,
    vectors,
)
from qat.quantizer import Encoded, Projected, Quantizer
from qat.recipe import DEFAULT, Recipe
from workloads.format import WeightFormat
from workloads.lattices import lattice_code

_MAX_EXHAUSTIVE = 256  # tables up to this size are searched whole
_SEARCH = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)  # times the scale that is best for Gaussian weights
_SAMPLE = 4096  # blocks on which the overload of a step is measured
_GROWTH = 1.05  # of the factor of a layer with too much overload
SIGMA_STEP, SIGMA_WIDTH = 1.5, 5.0  # Delta_0 and C_b of the first lattice QAT (see docs/decisions/009)


class _Saved(NamedTuple):
    ratio: Tensor  # w / scale
    integers: Tensor


class LatticeQuantizer(Quantizer):
    """`factor` [O] or [1] (a buffer) is scale over root mean square; with `learned`, `step` is trained instead."""

    factor: Tensor
    table: Tensor | None  # what the codes of a block decode to, as floats
    points: Tensor | None  # the same in lattice units, where all are tried
    bias: Tensor | None

    def __init__(self, fmt: WeightFormat, weight: Tensor, recipe: Recipe = DEFAULT, book: None = None):
        super().__init__(fmt, recipe)
        require_finite(weight)
        self.code = lattice_code(fmt.code)
        whole = None if self.code.table is None or self.code.num_digits > 1 else self.code.table
        table = None if whole is None else torch.from_numpy(whole.astype(np.float32))
        self.register_buffer("table", table, persistent=False)
        points = None if table is None or len(table) > _MAX_EXHAUSTIVE else table / self.code.grid
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("bias", None if points is None else -points.square().sum(1) / 2, persistent=False)
        self.register_buffer("factor", torch.ones(fmt.num_scales(len(weight))))
        self.step = nn.Parameter(torch.ones_like(self.factor)) if recipe.lattice_scale == "learned" else None
        self.refresh(weight)

    def refresh(self, w: Tensor) -> None:
        """Fits each factor anew: the least squared error over a small grid, or as published."""
        with torch.no_grad():
            w = rotated(w.detach().float(), self.fmt.rotation)
            if self.recipe.lattice_scale == "sigma":
                self.factor.fill_(self._published_factor())
            else:
                wanted = [1 / (self.code.grid * self.code.sigma * times) for times in _SEARCH]
                factors = torch.tensor(wanted, device=w.device)
                errors = torch.stack([self._error(w, factor) for factor in factors])
                self.factor.copy_(factors[errors.argmin(0)])
            if self.step is not None:
                self.step.copy_(root_mean_square(w, self.fmt) * self.factor)

    def _published_factor(self) -> float:
        """Deviations are C_b times smaller than half the span Delta_0 (q^M - 1) of the code, whatever the lattice."""
        levels = self.code.digit_size ** (self.code.num_digits / self.code.dimension)
        return 2 * SIGMA_WIDTH / (SIGMA_STEP * (levels - 1)) / self.code.grid

    def _error(self, w: Tensor, factor: Tensor) -> Tensor:
        """Squared error of each channel [O], or of the tensor [1], with this factor."""
        scale = root_mean_square(w, self.fmt) * factor
        integers = self._integers(self._codes(w, scale), w.shape)
        return channel_sums((integers * per_channel(scale, w) - w).square(), self.fmt)

    def scale(self, w: Tensor) -> Tensor:
        """Scale [O] or [1]: what an integer of the array is worth."""
        if self.held is not None:
            return self.held
        if self.step is not None:
            return self.step.detach().abs().clamp_min(MIN_SCALE)
        return (root_mean_square(w, self.fmt) * self.factor).clamp_min(MIN_SCALE)

    def value(self, w: Tensor) -> tuple[Tensor, Any]:
        fmt = self.fmt
        if self.table is None or self.trained() or fmt.rotation or fmt.axis not in ("in", "kernel"):
            return super().value(w)
        x = w.detach().float()
        scale = self.scale(x)
        codes = self._codes(x, scale)[:, 0].view(fmt.code_shape(tuple(x.shape)))
        return from_vectors(scaled_entries(codes, self.table, scale), x.shape, fmt.axis), None

    def project(self, w: Tensor) -> Projected:
        scale = self.scale(w)
        integers = self._integers(self._codes(w, scale), w.shape)
        return Projected(integers, scale, _Saved(w / per_channel(scale, w), integers) if self.trained() else None)

    def encode_rotated(self, w: Tensor) -> Encoded:
        scale = self.scale(w)
        codes = self._codes(w, scale).view(*self.fmt.code_shape(tuple(w.shape)), -1)
        return Encoded(self.fmt, tuple(w.shape), codes[..., 0] if codes.shape[-1] == 1 else codes, scale.clone())

    def trained(self) -> tuple[nn.Parameter, ...]:
        return () if self.step is None else (self.step,)

    def parameter_gradients(self, grad: Tensor, saved: _Saved) -> tuple[Tensor, ...]:
        if self.step is None:
            return ()
        inside = ~self._overloaded(saved.ratio)
        spread = inside[:, None].expand(-1, self.code.dimension).float()
        is_inside = from_vectors(spread.reshape(*self._code_shape(grad), -1), grad.shape, self.fmt.axis)
        slope = channel_sums(grad * (saved.integers - saved.ratio * is_inside), self.fmt)
        count = grad[0].numel() if self.fmt.scale_per == "channel" else grad.numel()
        return (slope * torch.where(self.step.detach() < 0, -1.0, 1.0) / sqrt(count),)

    def after_step(self, w: Tensor, step: int) -> dict[str, float]:
        """Measures the share of overloaded blocks, and lets scales grow while it is too large."""
        share = self.overload(w)
        if share > self.recipe.max_overload_ratio and self.held is None:
            with torch.no_grad():
                (self.factor if self.step is None else self.step).mul_(_GROWTH)
        return {"overload_share": share}

    def overload(self, w: Tensor) -> float:
        """Share of blocks (of a fixed sample) whose nearest lattice point the code does not hold."""
        w = rotated(w.detach().float(), self.fmt.rotation)
        blocks = self._blocks(w, self.scale(w))
        return float(self._overloaded_blocks(blocks[:: -(-len(blocks) // _SAMPLE)]).float().mean())

    def statistics(self, w: Tensor) -> dict[str, float]:
        """Overload, and how evenly codes are used (of the first digit, where there are several)."""
        codes = self.encode(w).codes.reshape(-1, self.code.num_digits)[:, 0]
        return {"overload_share": self.overload(w)} | utilisation(codes, self.code.digit_size)

    def _code_shape(self, w: Tensor) -> tuple[int, int]:
        return self.fmt.code_shape(tuple(w.shape))

    def _overloaded(self, ratio: Tensor) -> Tensor:
        v = vectors(ratio, self.code.dimension, self.fmt.axis).flatten(0, 1)
        return self._overloaded_blocks(v / self.code.grid)

    def _overloaded_blocks(self, blocks: Tensor) -> Tensor:
        return torch.from_numpy(self.code.encode(blocks.cpu().numpy())[1]).to(blocks.device)

    def _blocks(self, w: Tensor, scale: Tensor) -> Tensor:
        """The weight's blocks [N, d] in lattice units."""
        v = w / (self.code.grid * per_channel(scale, w))
        return vectors(v, self.code.dimension, self.fmt.axis).flatten(0, 1)

    def _codes(self, w: Tensor, scale: Tensor) -> Tensor:
        """Codes [N, M] of the weight's blocks."""
        blocks, code = self._blocks(w, scale), self.code
        if self.recipe.overload == "saturate" and code.table is not None:
            if self.points is not None:
                return best_match(blocks, self.points, self.bias)[:, None]
            if code.name in ("e8-q2", "e8-q3", "e8-q4"):
                radix = int(code.name[-1])
                return torch.from_numpy(encode_e8(blocks.cpu().numpy(), e8_code(radix)))[:, None].to(blocks.device)
        return torch.from_numpy(code.encode(blocks.cpu().numpy(), self.recipe.overload)[0]).to(blocks.device)

    def _integers(self, codes: Tensor, shape: torch.Size) -> Tensor:
        whole = torch.from_numpy(self.code.decode(codes.cpu().numpy()).astype(np.float32)).to(codes.device)
        return from_vectors(whole.view(*self.fmt.code_shape(tuple(shape)), -1), shape, self.fmt.axis)
