"""Post-training quantization from a few batches of inputs, as a start for training or without any.

H = sum x x^T, x the inputs of a layer in im2col order. `nearest`: what `qat.quantize` makes of the weights.
`hessian`: codebooks are fitted, scales searched and codes chosen with the diagonal of H.
`clip`: scales are searched with H, codes are the nearest; of a linear format this is where weights are clipped.
`gptq`: what rounding does to the first inputs is made up for by the weights of the later ones (Frantar et al.,
ICLR 2023), d inputs at once where d weights share a code, with codebooks as with `hessian` (GPTVQ, van Baalen et al.,
2024) and the scales of `clip`.

Last, each scale is fitted to its codes by least squares. What they decode to becomes the latent weight, and keeps
that scale until `release`. Where codes can be tried all, the choice is of least e^T H' e, H' the Hessian of an input
once later ones make up for its error; else it is the scheme's. Embeddings stay nearest: of one-hot inputs H is
diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qat.activations.inputs import inputs_of
from qat.kernels.geometry import MIN_SCALE, from_vectors, per_channel, root_mean_square, rotated, unrotated, vectors
from qat.modules.attach import quantize, unquantize
from qat.modules.attached import Attached, attached
from qat.modules.layers import turn_of
from qat.post_training.hessians import collect, module_of
from qat.post_training.rounding import candidates, choices, compensated, fitted_scale, hold_best_scale, turned_hessian
from qat.quantizer import Quantizer
from qat.recipe import DEFAULT, Recipe
from qat.schemes.common.codebook import Codebook
from qat.schemes.common.levels import LevelQuantizer
from qat.schemes.lattice import LatticeQuantizer
from qat.schemes.pool import PoolQuantizer
from qat.schemes.vector import VectorQuantizer
from workloads.errors import InputError
from workloads.format import WeightFormat
from workloads.plan import Plan

Method = Literal["nearest", "hessian", "clip", "gptq"]
METHODS: tuple[Method, ...] = ("nearest", "hessian", "clip", "gptq")

_SCHEMES = ("lsq", "top1", "lattice", "pool")  # whose choices are hard, and of which a decoded weight is a fixed point


def ptq(
    model: nn.Module, plan: Plan, batches: Tensor | Iterable[Any], method: Method = "gptq", *,
    recipe: Recipe = DEFAULT, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """Quantizes the weights of every layer of the plan, in place; the same model is returned, ready for training.

    `batches` are inputs, or tuples that start with them (a tensor or a tuple); a tensor is one batch. With `clip` and
    `gptq` layers are done one after the other, in the order of the forward pass, each with the inputs that it gets
    from the quantized ones before it: one pass over the batches per layer, and one H [g, I, I] in memory. Call
    `release` before training. Raises InputError, and leaves the model as it was, for a format, scheme or layer that the
    method does not serve; and for a layer whose inputs are missing or not finite.
    """
    inputs = list(inputs_of(batches))
    if problems := _problems(model, plan, method, recipe) + ([] if inputs else ["batches: must hold at least one"]):
        raise InputError("ptq", problems)
    quantize(model, plan, recipe=recipe, seed=seed)
    if method == "nearest":
        return model
    layers = {id(one.quantizer): one for one in attached(model) if not isinstance(module_of(model, one), nn.Embedding)}
    diagonals = collect(model, set(layers), inputs, lambda x: x.square().sum(2))
    if problems := _bad_sums({key: one.name for key, one in layers.items()}, diagonals):
        unquantize(model)
        raise InputError("ptq", problems)
    if method != "clip":
        _fit_books(model, diagonals)
    for key in diagonals:
        _, quantizer, latent = layers[key]
        if method == "hessian":
            hessian = diagonals[key].diag_embed()
        else:
            hessian = collect(model, {key}, inputs, lambda x: x @ x.mT)[key]
        with torch.no_grad():
            latent.copy_(ptq_weight(quantizer, latent, hessian, method))
        _settle(quantizer)
    return model


@torch.no_grad()
def ptq_weight(quantizer: Quantizer, weight: Tensor, hessian: Tensor, method: Method = "gptq") -> Tensor:
    """The latent weight [O, ...] that `method` wants; the given one for `nearest`.

    `hessian` [g, I, I] is H of each group of outputs, in im2col order. The quantizer holds its scale afterwards, and
    its value of the returned weight is, bit for bit, what was chosen: the weight itself, but in vectors that would
    encode to others (padded ones, sums of many entries), which stay as they were when they were chosen.
    Raises ValueError for a format that the method does not serve.
    """
    if problem := _problem(quantizer.fmt, method, quantizer.recipe):
        raise ValueError(problem)
    if method == "nearest":
        return weight
    fmt = quantizer.fmt
    w, hessian = rotated(weight.detach().float(), fmt.rotation), turned_hessian(hessian, weight.shape, fmt)
    if method == "hessian":
        hessian = hessian.diagonal(dim1=-2, dim2=-1).diag_embed()
    hold_best_scale(quantizer, w, hessian)
    if method == "clip":
        integers, before = choices(quantizer, w), w
    else:
        integers, before = compensated(quantizer, w, hessian)
    assert quantizer.held is not None
    before = before / per_channel(quantizer.held, w)
    quantizer.hold(fitted_scale(quantizer, integers, w, hessian))
    scale = per_channel(quantizer.held, w)
    again = quantizer.project(integers * scale).integers
    is_other = vectors((again != integers).float(), fmt.vector_length, fmt.axis)
    is_other = from_vectors(is_other.amax(2, keepdim=True).expand_as(is_other), w.shape, fmt.axis) > 0
    return unrotated(torch.where(is_other, before, integers), fmt.rotation) * scale


def _settle(quantizer: Quantizer) -> None:
    """A step that is a parameter becomes the held scale, which then need not be held."""
    step = getattr(quantizer, "step", None)
    if step is not None and quantizer.held is not None:
        step.data.copy_(quantizer.held_step() if isinstance(quantizer, LevelQuantizer) else quantizer.held)
        quantizer.hold(None)


def release(model: nn.Module) -> None:
    """Scales follow the latent weights again, as training wants it. Call it after `ptq`, before the first step.

    Scales stay as they are to rounding, and nearly so where vectors stayed as they were (see `ptq_weight`). So do the
    codes, but for `assignment: euclid`, which then chooses in units of the root mean square of the latent weight:
    that of the decoded one is a little smaller.
    """
    for _, quantizer, latent in attached(model):
        if quantizer.held is not None and isinstance(quantizer, LatticeQuantizer | PoolQuantizer):
            turned = rotated(latent.detach().float(), quantizer.fmt.rotation)
            quantizer.factor.copy_(quantizer.held / root_mean_square(turned, quantizer.fmt))
        quantizer.hold(None)


def _problems(model: nn.Module, plan: Plan, method: Method, recipe: Recipe) -> list[str]:
    if method not in METHODS:
        return [f"method = {method!r}: must be one of {', '.join(METHODS)}"]
    modules = dict(model.named_modules(remove_duplicate=False))
    problems = []
    for name in plan.layers:
        module = modules.get(name)
        if module is not None and turn_of(module) is not None and method != "nearest":
            problems.append(f"layers.{name}: is a {type(module).__name__}: {method} serves Linear and Conv layers")
        elif not isinstance(module, nn.Embedding) and (problem := _problem(plan.format_of(name), method, recipe)):
            problems.append(f"layers.{name}: {problem}")
    return problems


def _bad_sums(names: Mapping[int, str], diagonals: Mapping[int, Tensor]) -> list[str]:
    """What is wrong with the inputs of layers (by id of their quantizers)."""
    unseen = [f"layers.{name}: no batch reaches it: leave it out of the plan" for key, name in names.items()
              if key not in diagonals]  # fmt: skip
    return unseen + [f"layers.{names[key]}: its inputs must be finite" for key, diagonal in diagonals.items()
                     if not bool(diagonal.isfinite().all())]  # fmt: skip


def _problem(fmt: WeightFormat, method: Method, recipe: Recipe) -> str:
    """Why the method does not serve a format under a recipe; empty if it does."""
    if method == "nearest":
        return ""
    if recipe.scheme(fmt) not in _SCHEMES:
        return f"{fmt.name}: {method} does not serve the scheme {recipe.scheme(fmt)}: must be {', '.join(_SCHEMES)}"
    if fmt.axis == "flat" and method != "clip":
        return f"{fmt.name}: {method} needs vectors that end with their output: must be a format without -flat"
    return ""


def _fit_books(model: nn.Module, diagonals: Mapping[int, Tensor]) -> None:
    """Fits anew the codebooks whose choice heeds H: its diagonal weighs, with mean 1 in each layer; 1 in embeddings."""
    users: dict[Codebook, dict[int, Attached]] = {}
    for one in attached(model):
        if isinstance(one.quantizer, VectorQuantizer) and candidates(one.quantizer) is not None:
            users.setdefault(one.quantizer.book, {})[id(one.quantizer)] = one
    for book, layers in users.items():
        weights = [one.weight.detach().cpu() for one in layers.values()]
        importance = [
            _importance(diagonals[key].cpu(), weight) if key in diagonals else torch.ones_like(weight)
            for key, weight in zip(layers, weights, strict=True)
        ]
        fitted = Codebook.fit(book.fmt, weights, book.seed, book.recipe, importance)
        book.load_state_dict(fitted.state_dict())


def _importance(diagonal: Tensor, weight: Tensor) -> Tensor:
    """Diagonals [g, I] -> [O, ...], float32."""
    share = diagonal / diagonal.mean().clamp_min(MIN_SCALE)
    rows = share.float().repeat_interleave(len(weight) // len(share), 0)
    return from_vectors(rows[..., None], weight.shape)
