"""Fake quantization of an activation tensor: one learned step (LSQ), unsigned or signed by its data.

x_q = s * clip(floor(x / s + 1/2), low, high): half up, as requantization rounds in hardware.
Gradients as in LSQ (Esser et al., ICLR 2020), with N the features of one sample.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qat.elementwise import fake_quantize, fake_quantize_gradient
from workloads.errors import RunError

_MAX_SAMPLES = 65_536
_NUM_STEPS = 48  # tried between 1/20 of the full-range step and the full-range step
_MIN_STEP = 2.0**-30


class ActivationQuantizer(nn.Module):
    """Quantizes to `bits` bits. `calibrate` chooses the sign and, unless `fixed_step` is given, the step.

    Images of bytes divided by 255 are represented exactly by 8 bits and `fixed_step=1/255`.
    """

    is_signed: Tensor
    is_calibrated: Tensor

    def __init__(self, bits: int, fixed_step: float | None = None, source: str = ""):
        super().__init__()
        self.bits, self.source = bits, source  # the node whose tensor it quantizes
        self.step = nn.Parameter(torch.tensor(fixed_step or 1.0), requires_grad=fixed_step is None)
        self.register_buffer("is_signed", torch.tensor(False))
        self.register_buffer("is_calibrated", torch.tensor(False))
        self.observed: list[Tensor] | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """Lowest and highest integer."""
        if self.is_signed:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return 0, 2**self.bits - 1

    def scale(self) -> Tensor:
        """The positive step, a scalar."""
        return self.step.detach().abs().clamp_min(_MIN_STEP)

    def freeze(self, step: float | None = None) -> None:
        """Stops training of the step, at `step` if given."""
        if step is not None:
            self.step.data.fill_(step)
        self.step.requires_grad_(False)

    def calibrate(self, samples: Tensor) -> None:
        """Signed if any sample is negative; the step with the least squared error on the samples.

        Raises ValueError if a sample is not finite.
        """
        values = _thinned(samples)
        if not torch.isfinite(values).all():
            raise ValueError("activation samples: must be finite")
        self.is_signed.fill_(bool(values.min() < 0))
        if self.step.requires_grad:
            self.step.data.copy_(_best_step(values, self.bounds))
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
        return (x / self.scale()).add_(0.5).floor_().clamp_(low, high)

    def forward(self, x: Tensor) -> Tensor:
        if self.observed is not None:
            self.observed.append(_thinned(x))
            return x
        if not self.is_calibrated:
            raise RunError("activation quantizer: has no step: calibrate the model first")
        return _FakeQuantize.apply(x, self.step, self)  # pyright: ignore[reportReturnType]


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, quantizer: ActivationQuantizer) -> Tensor:
        ctx.scale, ctx.bounds, ctx.sign = quantizer.scale(), quantizer.bounds, -1.0 if step < 0 else 1.0
        ctx.save_for_backward(x)
        return fake_quantize(x, float(ctx.scale), *ctx.bounds)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x,), (low, high) = grads, ctx.saved_tensors, ctx.bounds
        grad_x, slope = fake_quantize_gradient(grad, x, float(ctx.scale), low, high)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None
        return grad_x, slope * ctx.sign / sqrt(x[0].numel() * max(high, 1)), None


def _thinned(x: Tensor) -> Tensor:
    """At most 65,536 values of x, evenly spread over it, and its two extremes."""
    flat = x.detach().flatten()
    extremes = torch.stack(torch.aminmax(flat))
    return torch.cat([flat[:: max(1, flat.numel() // _MAX_SAMPLES)], extremes])


def _best_step(values: Tensor, bounds: tuple[int, int]) -> Tensor:
    low, high = bounds
    full = torch.maximum(values.max() / max(high, 1), values.min() / (low or 1)).clamp_min(_MIN_STEP)
    if float(values.abs().max()) == 0:
        return torch.tensor(1.0 / max(high, 1))
    steps = full * torch.logspace(-1.3, 0, _NUM_STEPS)
    errors = [((values / s + 0.5).floor().clamp(low, high) * s - values).square().mean() for s in steps]
    return steps[int(torch.stack(errors).argmin())]
