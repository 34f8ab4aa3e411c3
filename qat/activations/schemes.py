"""Other ways to quantize an activation tensor: a learned clip (PACT), EWGS, a fixed clip (DoReFa), a step per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qat.activations.quantizer import ActivationQuantizer, Applied, wide
from qat.kernels.geometry import MIN_SCALE
from qat.kernels.sums import whole_mean, whole_sum
from qat.recipe import DEFAULT, Recipe
from workloads.activation import ActivationFormat
from workloads.errors import InputError


class PactQuantizer(ActivationQuantizer):
    """PACT (Choi et al., 2018): the clip is learned; `bound` a is `high` steps.

    x_q is x clipped to [0, a] and rounded. x gets g inside; a gets the sum of g where x >= a, and the derivative
    of (c / 2) a^2, c `Recipe.pact_decay_factor`, per call. Signed data are clipped on both sides, at the grid's
    ends low and high: where x <= a low / high, a gets g low / high.
    """

    learned = "bound"

    @property
    def steps(self) -> int:
        return max(self.bounds[1], 1)

    def gradients(self, grad: Tensor, x: Tensor, used: Applied) -> tuple[Tensor, Tensor]:
        bound, ratio = used.step * self.steps, used.low / max(used.high, 1)
        is_above, is_below = x >= bound, x <= bound * ratio if used.low else x < 0
        slope = whole_sum(grad * is_above) + ratio * whole_sum(grad * is_below)
        return grad * ~(is_above | is_below), slope * used.sign + self.recipe.pact_decay_factor * self.size.detach()


class EwgsActivation(ActivationQuantizer):
    """Element-wise gradient scaling (EWGS, Lee, Kim and Ham, CVPR 2021) with a learned upper `bound` u.

    With x_n = clip((x - l) / (u - l), 0, 1) and x_q its rounding, x gets g (1 + d sign(g) (x_n - x_q)) inside.
    A chip's grid has no offset and one step: the lower bound is 0, or -u low / high if signed, and the output is
    of the size of x, where the paper has [0, 1] and leaves the rest to the output scale of the layer. So u gets
    what goes through the rounding and what goes through that size: sum of g x_q / u - g (1 + ...) x / u inside.
    """

    learned = "bound"
    delta: Tensor

    def __init__(self, fmt: ActivationFormat, source: str = "", recipe: Recipe = DEFAULT):
        super().__init__(fmt, source, recipe)
        self.register_buffer("delta", torch.tensor(recipe.ewgs_factor))

    @property
    def steps(self) -> int:
        return max(self.bounds[1], 1)

    def gradients(self, grad: Tensor, x: Tensor, used: Applied) -> tuple[Tensor, Tensor]:
        ratio = x / used.step
        clipped = ratio.clamp(used.low, used.high)
        integers = (ratio + 0.5).floor_().clamp_(used.low, used.high)
        error = (clipped - integers) / (used.high - used.low)
        grad_x = grad * (1 + self.delta * grad.sign() * error) * (ratio == clipped)
        slope = whole_sum(grad * integers - grad_x * ratio) / self.steps
        return grad_x, slope * used.sign

    def set_delta(self, curvature: Tensor, grad: Tensor) -> None:
        """d = max(0, Tr(H) / N / (3 std(g))), of x_q: from the Hessian's diagonal and the gradient of the output."""
        low, high = self.bounds
        width = self.scale() * (high - low)
        self.delta.copy_((whole_mean(curvature) * width / (3 * grad.std()).clamp_min(1e-30)).clamp_min(0))


class UnitQuantizer(ActivationQuantizer):
    """DoReFa-Net (Zhou et al., 2016): x clipped to [0, 1], or to [-1, 1] if signed; nothing is learned.

    As published: for networks whose activations are bounded. x gets g inside.
    """

    learned, learns = "bound", False

    @property
    def steps(self) -> int:
        return max(self.bounds[1], 1)

    def calibrate(self, samples: Tensor) -> None:
        super().calibrate(samples)
        self.size.data.fill_(1.0)


class TokenQuantizer(ActivationQuantizer):
    """One step per token, from its largest size: x [.., C], levels -Q .. Q, Q = 2^(b-1) - 1; for transformers.

    Nothing is clipped or learned; x gets g. The step depends on the data, so that no chip whose requantization
    is static can follow: `scale`, which export asks for, raises InputError.
    """

    def __init__(self, fmt: ActivationFormat, source: str = "", recipe: Recipe = DEFAULT):
        if fmt.bits < 2 or fmt.is_float:
            raise InputError("recipe", [f"activation = token: {fmt.name}: must be an integer of 2 bits or more"])
        super().__init__(fmt._replace(per="token"), source, recipe)
        self.register_parameter(self.learned, None)
        self.is_signed.fill_(True)
        self.is_calibrated.fill_(True)

    def scale(self) -> Tensor:
        reason = "has a step per token, and a chip's requantization is static (train with another Recipe.activation)"
        raise InputError("activations", [f"{self.source or 'quantizer'}: {reason}"])

    def token_scales(self, x: Tensor) -> Tensor:
        """The step of each token, [.., 1]."""
        return (wide(x.detach()).abs().amax(-1, keepdim=True) / self.bounds[1]).clamp_min(MIN_SCALE)

    def freeze(self, step: float | None = None) -> None:
        """Nothing is trained, and no step fits all tokens."""

    def calibrate(self, samples: Tensor) -> None:
        """Nothing depends on samples."""

    def integers(self, x: Tensor) -> Tensor:
        low, high = self.bounds
        return (wide(x) / self.token_scales(x)).add_(0.5).floor_().clamp_(low, high)

    def forward(self, x: Tensor) -> Tensor:
        if self.observed is not None:
            return super().forward(x)
        return _PerToken.apply(x, self)  # pyright: ignore[reportReturnType]


class _PerToken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantizer: TokenQuantizer) -> Tensor:
        return (quantizer.integers(x) * quantizer.token_scales(x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


ACTIVATIONS: dict[str, type[ActivationQuantizer]] = {  # by `Recipe.activation`
    "lsq": ActivationQuantizer,
    "pact": PactQuantizer,
    "ewgs": EwgsActivation,
    "dorefa": UnitQuantizer,
    "token": TokenQuantizer,
}


def has_step_per_token(fmt: ActivationFormat, recipe: Recipe) -> bool:
    return fmt.per == "token" or recipe.activation == "token"


def make_activation(fmt: ActivationFormat, source: str = "", recipe: Recipe = DEFAULT) -> ActivationQuantizer:
    """The activation quantizer of a format and a recipe, not calibrated yet."""
    kind = "token" if has_step_per_token(fmt, recipe) else recipe.activation
    return ACTIVATIONS[kind](fmt, source, recipe)
