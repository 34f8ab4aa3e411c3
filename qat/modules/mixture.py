"""The supernet's weight: a mixture of candidate formats of one latent weight, evaluated once per step.

w = sum_f p_f Q_f(w), p = softmax(alpha / temperature) over the allowed candidates. Gradients, with g that of
w: the latent weight gets g (every candidate is straight through and sum p = 1); alpha_f gets
p_f (<g, Q_f> - sum_j p_j <g, Q_j>) / temperature; a candidate's own parameters get theirs times p_f.
A hard mixture puts one sampled candidate forward and keeps alpha's gradient, as ProxylessNAS's binary gates
(Cai et al., ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from qat.kernels.geometry import channels_last, require_finite
from qat.kernels.linear import dot
from qat.quantizer import Quantizer
from qat.schemes import Codebook, make_quantizer
from workloads.format import parse_format


class Projection(NamedTuple):
    """One candidate's value and what its gradients need."""

    value: Tensor
    saved: Any


class Mixture(nn.Module):
    """Parametrization over `candidates` (format name -> quantizer); `alpha` [F] is learned.

    `refresh_every` > 1 keeps the candidates' values for that many training steps: cheaper and stale, for
    the supernet only, never for fine-tuning.
    """

    is_allowed: Tensor

    def __init__(self, candidates: Mapping[str, Quantizer], *, refresh_every: int = 1, seed: int = 0):
        super().__init__()
        self.names = tuple(candidates)
        self.candidates = nn.ModuleList(candidates.values())
        self.alpha = nn.Parameter(torch.zeros(len(self.names)))
        self.register_buffer("is_allowed", torch.ones(len(self.names), dtype=torch.bool))
        self.temperature, self.refresh_every, self.seed = 1.0, refresh_every, seed
        self.chosen: int | None = None
        self._kept: dict[int, Projection] = {}
        self._age = 0

    def mask(self, allowed: Sequence[str]) -> None:
        """Leaves only these candidates in the mixture. Raises ValueError if none is left or one is unknown."""
        unknown = sorted(set(allowed) - set(self.names))
        if unknown or not allowed:
            raise ValueError(f"allowed formats {list(allowed)}: must be some of {list(self.names)}")
        self.is_allowed.copy_(torch.tensor([name in allowed for name in self.names]))
        self._kept.clear()

    def probabilities(self) -> Tensor:
        """p [F], differentiable in alpha; exactly 0 for candidates that are not allowed."""
        return (self.alpha / self.temperature).masked_fill(~self.is_allowed, -torch.inf).softmax(0)

    def best(self) -> str:
        """Name of the most probable candidate."""
        return self.names[int(self.probabilities().argmax())]

    def sample(self, step: int) -> str:
        """Makes the mixture hard: one candidate drawn from p, always the same for (seed, step)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        self.chosen = int(torch.multinomial(self.probabilities().detach(), 1, generator=generator))
        return self.names[self.chosen]

    def soften(self) -> None:
        """Makes the mixture soft again."""
        self.chosen = None

    def weights(self) -> Tensor:
        """Share of each candidate in the forward value, [F]: p, or one-hot when hard."""
        return torch.tensor(self.shares(self.probabilities().detach()))

    def shares(self, probabilities: Tensor) -> list[float]:
        """`weights` as plain numbers, for these p."""
        if self.chosen is None:
            return probabilities.tolist()
        return [float(f == self.chosen) for f in range(len(self.names))]

    def quantizers(self) -> list[Quantizer]:
        """The candidates, in the order of their names."""
        return [candidate for candidate in self.candidates if isinstance(candidate, Quantizer)]

    def forward(self, w: Tensor) -> Tensor:
        require_finite(w)
        parameters = [parameter for candidate in self.quantizers() for parameter in candidate.trained()]
        return _Mix.apply(w, self.alpha, self, *parameters)  # pyright: ignore[reportReturnType]

    def project(self, w: Tensor, needed: Sequence[int]) -> dict[int, Projection]:
        """The values of the needed candidates, at most `refresh_every` - 1 steps old."""
        if self._age % self.refresh_every == 0 or not self.training:
            self._kept.clear()
        self._age += self.training
        quantizers = self.quantizers()
        for f in needed:
            if f not in self._kept:
                value, saved = quantizers[f].value(w)
                self._kept[f] = Projection(channels_last(value), saved)
        kept = {f: self._kept[f] for f in needed}
        if self.refresh_every == 1:
            self._kept.clear()
        return kept


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, alpha: Tensor, mixture: Mixture, *parameters: Tensor) -> Tensor:
        ctx.mixture, ctx.probabilities = mixture, mixture.probabilities().detach()
        ctx.shares = mixture.shares(ctx.probabilities)
        is_needed = mixture.is_allowed.tolist() if ctx.needs_input_grad[1] else [share > 0 for share in ctx.shares]
        ctx.projections = mixture.project(w, [f for f, needed in enumerate(is_needed) if needed])
        mixed = channels_last(torch.zeros_like(w))
        for f, projection in ctx.projections.items():
            if ctx.shares[f] > 0:
                mixed.add_(projection.value, alpha=ctx.shares[f])
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), mixture = grads, ctx.mixture
        grad_alpha = _alpha_gradient(ctx, grad) if ctx.needs_input_grad[1] else None
        own: list[Tensor | None] = []
        for candidate, share, f in zip(mixture.quantizers(), ctx.shares, range(len(ctx.shares)), strict=True):
            if not (parameters := candidate.trained()):
                continue
            if share > 0:
                gradients = candidate.gradients(grad, ctx.projections[f].saved)[1:]
                own += [gradient * share for gradient in gradients]
            else:
                own += [None] * len(parameters)
        return grad, grad_alpha, None, *own


def _alpha_gradient(ctx: Any, grad: Tensor) -> Tensor:
    """p_f (<g, Q_f> - sum_j p_j <g, Q_j>) / temperature."""
    upstream, products = channels_last(grad), [0.0] * len(ctx.shares)
    for f, projection in ctx.projections.items():
        products[f] = dot(upstream, projection.value)
    along = ctx.probabilities.new_tensor(products)
    centred = along - torch.dot(ctx.probabilities, along)
    return ctx.probabilities * centred / ctx.mixture.temperature


def relax(
    model: nn.Module, formats: Mapping[str, Sequence[str]], *, refresh_every: int = 1, seed: int = 0
) -> dict[str, Mixture]:
    """Puts a mixture on each named layer's weight, in place: layer name -> its candidate formats.

    Layers with the same codebook format share one book, fitted to all of them. `unquantize` undoes it.
    """
    books = _shared_books(model, formats, seed)
    mixtures: dict[str, Mixture] = {}
    for number, (layer, names) in enumerate(formats.items()):
        module = model.get_submodule(layer)
        weight = module.get_parameter("weight")
        candidates = {name: make_quantizer(parse_format(name), weight, books.get(name)) for name in names}
        mixture = Mixture(candidates, refresh_every=refresh_every, seed=seed + number)
        parametrize.register_parametrization(module, "weight", mixture, unsafe=True)
        mixtures[layer] = mixture
    return mixtures


def _shared_books(model: nn.Module, formats: Mapping[str, Sequence[str]], seed: int) -> dict[str, Codebook]:
    users: dict[str, list[Tensor]] = {}
    for layer, names in formats.items():
        for name in names:
            if parse_format(name).has_codebook:
                users.setdefault(name, []).append(model.get_submodule(layer).get_parameter("weight").detach())
    return {name: Codebook.fit(parse_format(name), weights, seed) for name, weights in users.items()}


def soften(mixtures: Mapping[str, Mixture]) -> None:
    """All layers are mixtures again."""
    for mixture in mixtures.values():
        mixture.soften()
