"""Fake quantization of an activation tensor on a grid that a chip can hold: one step, unsigned or signed by its data.

x_q = s * clip(floor(x / s + 1/2), low, high): half up, as requantization rounds in hardware. Here the step is
learned, with the gradients of LSQ (Esser et al., ICLR 2020) and N the features of one sample; other ways are in
`qat.activations.schemes`.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qat.activations.clipping import STEPS
from qat.kernels.elementwise import fake_quantize, fake_quantize_gradient, fake_quantize_gradient_torch
from qat.kernels.geometry import MIN_SCALE
from qat.kernels.sums import whole_sum
from qat.recipe import DEFAULT, Recipe
from workloads.activation import ActivationFormat
from workloads.errors import RunError

_MAX_SAMPLES = 65_536


class Applied(NamedTuple):
    """What a tensor was quantized with: integers low .. high times the step; `sign` is the learned parameter's."""

    step: float
    low: int
    high: int
    sign: int


class ActivationQuantizer(nn.Module):
    """Quantizes to a format. `calibrate` chooses the sign, where the format leaves it to the data, and the step.

    Images of bytes divided by 255 are represented exactly by 8 bits and a step frozen at 1/255. `source` names the
    tensor it quantizes. Floats lie on the integers of their least number that have few significant bits.
    """

    learned = "step"  # the name of the parameter: the step, or in other schemes the bound, `steps` steps large
    learns = True
    is_signed: Tensor
    is_calibrated: Tensor

    def __init__(self, fmt: ActivationFormat, source: str = "", recipe: Recipe = DEFAULT):
        super().__init__()
        self.fmt, self.source, self.recipe = fmt, source, recipe
        self.register_buffer("is_signed", torch.tensor(fmt.sign == "signed"))
        self.register_buffer("is_calibrated", torch.tensor(False))
        self.register_parameter(self.learned, nn.Parameter(torch.tensor(1.0), requires_grad=self.learns))
        self.observed: list[Tensor] | None = None

    @property
    def size(self) -> nn.Parameter:
        """The step or bound, a scalar."""
        return self.get_parameter(self.learned)

    @property
    def steps(self) -> int:
        """How many steps large the parameter is."""
        return 1

    @property
    def bounds(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        return self.fmt.bounds(bool(self.is_signed))

    def scale(self) -> Tensor:
        """The positive step, a scalar."""
        return (self.size.detach().abs() / self.steps).clamp_min(MIN_SCALE)

    def freeze(self, step: float | None = None) -> None:
        """Stops training of the step, at `step` if given."""
        if step is not None:
            self.size.data.fill_(step * self.steps)
        self.size.requires_grad_(False)

    def calibrate(self, samples: Tensor) -> None:
        """Signed if any sample is negative; the step from the samples, by `Recipe.calibration`.

        Raises ValueError if a sample is not finite.
        """
        values = _thinned(samples)
        if not torch.isfinite(values).all():
            raise ValueError("activation samples: must be finite")
        step = self.scale()
        if self.fmt.sign == "data":
            self.is_signed.fill_(bool(values.min() < 0))
        if self.size.requires_grad and self.fmt.is_float:  # relative errors: nothing is gained by clipping
            step = values.abs().max().float() / self.bounds[1]
        elif self.size.requires_grad:
            step = STEPS[self.recipe.calibration](values.float(), self.bounds)
        self.size.data.copy_(step * self.steps)
        self.is_calibrated.fill_(True)

    def observe(self) -> None:
        """From now on tensors pass unchanged and are remembered, until `finish`."""
        self.observed = []

    def finish(self) -> None:
        """Calibrates on what passed since `observe`. Raises RunError if nothing did."""
        samples, self.observed = self.observed, None
        if not samples:
            raise RunError("calibration: an activation quantizer saw no tensor: run the whole model")
        self.calibrate(torch.cat(samples))

    def integers(self, x: Tensor) -> Tensor:
        """The integers (as floats) that the hardware receives for x."""
        low, high = self.bounds
        ratio = wide(x) / self.scale()
        if self.fmt.is_float:
            return significant(ratio.clamp_(low, high), self.fmt.fraction_bits)
        return ratio.add_(0.5).floor_().clamp_(low, high)

    def forward(self, x: Tensor) -> Tensor:
        if self.observed is not None:
            self.observed.append(_thinned(x))
            return x
        if not self.is_calibrated:
            raise RunError("activation quantizer: has no step: calibrate the model first")
        return _FakeQuantize.apply(x, self.size, self)  # pyright: ignore[reportReturnType]

    def gradients(self, grad: Tensor, x: Tensor, used: Applied) -> tuple[Tensor, Tensor]:
        """Of x, and of the learned parameter."""
        if self.fmt.is_float:
            return self._float_gradients(grad, x, used)
        # torch's own operations where a gradient of the gradient is wanted
        gradient = fake_quantize_gradient_torch if torch.is_grad_enabled() else fake_quantize_gradient
        grad_x, slope = gradient(grad, x, used.step, used.low, used.high)
        return grad_x, slope * used.sign / sqrt(x[0].numel() * max(used.high, 1))

    def _float_gradients(self, grad: Tensor, x: Tensor, used: Applied) -> tuple[Tensor, Tensor]:
        """Straight through inside the range, where the step's gradient is that of rounding; the bound's outside."""
        ratio = x / used.step
        is_inside = (ratio >= used.low) & (ratio <= used.high)
        slope = whole_sum(grad * (self.integers(x) - ratio * is_inside))
        return grad * is_inside, slope * used.sign / sqrt(x[0].numel() * used.high)


def significant(integers: Tensor, fraction_bits: int) -> Tensor:
    """The nearest integers with so many bits behind their leading one; ties go to even."""
    exponent = torch.frexp(integers).exponent - 1 - fraction_bits
    return torch.ldexp(torch.ldexp(integers, -exponent.clamp_min(0)).round_(), exponent.clamp_min(0))


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: Tensor, quantizer: ActivationQuantizer) -> Tensor:
        ctx.used = Applied(float(quantizer.scale()), *quantizer.bounds, -1 if size < 0 else 1)
        ctx.quantizer = quantizer
        ctx.save_for_backward(x)
        if quantizer.fmt.is_float:
            return (quantizer.integers(x) * ctx.used.step).to(x.dtype)
        return fake_quantize(wide(x), *ctx.used[:3]).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x,) = grads, ctx.saved_tensors
        grad_x, grad_size = ctx.quantizer.gradients(wide(grad), wide(x.detach()), ctx.used)
        return grad_x.to(x.dtype), grad_size if ctx.needs_input_grad[1] else None, None


def wide(x: Tensor) -> Tensor:
    """At least float32: half as many bits round beside the grid of 8 bits, and their sums overflow."""
    return x.float() if x.element_size() < 4 else x


def _thinned(x: Tensor) -> Tensor:
    """At most 65,536 values of x, evenly spread over it, and its two extremes."""
    flat = x.detach().flatten()
    extremes = torch.stack(torch.aminmax(flat))
    return torch.cat([flat[:: max(1, flat.numel() // _MAX_SAMPLES)], extremes])
