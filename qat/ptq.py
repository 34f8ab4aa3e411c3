"""Post-training quantization from a few batches of inputs, as a start for training or without any.

H = sum x x^T, x the inputs of a layer in im2col order. `nearest`: what `qat.quantize` makes of the weights.
`hessian`: codebooks are fitted, and codes chosen, with the diagonal of H; linear formats stay nearest.
`gptq`: what rounding does to the first inputs is made up for by the weights of the later ones (Frantar et al.,
ICLR 2023), d inputs at once where d weights share a code, with codebooks as above (GPTVQ, van Baalen et al., 2024).

Codes are chosen at the scale of the nearest weight; what they decode to becomes the latent weight, and keeps that
scale until `release`. Where codes can be tried all, the choice is of least e^T H' e, H' the Hessian of an input once
later ones make up for its error; else it is the scheme's. Embeddings stay nearest: of one-hot inputs H is diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qat.attach import Attached, attached, quantize, unquantize
from qat.choice import is_repeated
from qat.codebook import Codebook, nearest
from qat.hessians import collect, inputs_of, module_of
from qat.layout import turn_of
from qat.quantizer import MIN_SCALE, Quantizer, from_vectors, per_channel, root_mean_square, vectors
from qat.recipe import DEFAULT, Recipe
from qat.schemes.lattice import LatticeQuantizer
from qat.schemes.vector import VectorQuantizer
from workloads.errors import InputError
from workloads.format import WeightFormat
from workloads.plan import Plan

Method = Literal["nearest", "hessian", "gptq"]
METHODS: tuple[Method, ...] = ("nearest", "hessian", "gptq")

_DAMPING = 0.01  # of the mean of H's diagonal, added to it (the paper's section 3.3)
_BLOCK = 128  # inputs whose errors reach the rest of the weight together (likewise)
_SCHEMES = ("lsq", "top1", "lattice")  # whose choices are hard, and of which a decoded weight is a fixed point


def ptq(
    model: nn.Module, plan: Plan, batches: Tensor | Iterable[Any], method: Method = "gptq", *,
    recipe: Recipe = DEFAULT, seed: int = 0,
) -> nn.Module:  # fmt: skip
    """Quantizes the weights of every layer of the plan, in place; the same model is returned, ready for training.

    `batches` are inputs, or tuples that start with them (a tensor or a tuple); a tensor is one batch. With `gptq`
    layers are done one after the other, in the order of the forward pass, each with the inputs that it gets from
    the quantized ones before it: one pass over the batches per layer, and one H [g, I, I] in memory. Call `release`
    before training. Raises InputError, and leaves the model as it was, for a format, scheme or layer that the
    method does not serve; and for a layer whose inputs are missing or not finite.
    """
    inputs = inputs_of(batches)
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
    _fit_books(model, diagonals)
    for key in diagonals:
        _, quantizer, latent = layers[key]
        if method == "gptq":
            hessian = collect(model, {key}, inputs, lambda x: x @ x.mT)[key]
        else:
            hessian = diagonals[key].diag_embed()
        with torch.no_grad():
            latent.copy_(ptq_weight(quantizer, latent, hessian, method))
        if getattr(quantizer, "step", None) is not None:  # a parameter, which a new latent weight does not move
            quantizer.hold(None)
    return model


def ptq_weight(quantizer: Quantizer, weight: Tensor, hessian: Tensor, method: Method = "gptq") -> Tensor:
    """The latent weight [O, ...] that `method` wants; the given one where it changes no choice.

    `hessian` [g, I, I] is H of each group of outputs. If choices change, the quantizer holds its scale afterwards, and
    its value of the returned weight is, bit for bit, what was chosen: the weight itself, but in vectors that would
    encode to others (padded ones, sums of many entries), which stay as they were when they were chosen.
    Raises ValueError for a format that the method does not serve.
    """
    if problem := _problem(quantizer.fmt, method, quantizer.recipe):
        raise ValueError(problem)
    if method == "nearest" or (method == "hessian" and candidates(quantizer) is None):
        return weight
    weight, d = weight.detach().float(), quantizer.fmt.vector_length
    quantizer.hold(quantizer.encode(weight).scale)
    if method == "hessian":
        hessian = hessian.diagonal(dim1=-2, dim2=-1).diag_embed()
    rows = vectors(weight, 1).reshape(len(hessian), -1, hessian.shape[-1]).double()
    chosen = propagate(quantizer, rows, inverse_factor(hessian.double()))
    decoded = from_vectors(chosen.flatten(0, 1)[..., None], weight.shape)
    before = from_vectors(rows.float().flatten(0, 1)[..., None], weight.shape)
    is_other = vectors((quantizer.encode(decoded).decode() != decoded).float(), d).amax(2, keepdim=True) > 0
    return from_vectors(torch.where(is_other, vectors(before, d), vectors(decoded, d)), weight.shape)


def inverse_factor(hessian: Tensor) -> Tensor:
    """Upper U [g, I, I] with U^T U = (H + damping)^-1: from row j on, that of the inputs from j on (paper, step 3)."""
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)
    damping = torch.where(mean > 0, _DAMPING * mean, 1.0)
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    factor = torch.linalg.cholesky(hessian + damping[:, None, None] * identity)
    return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)


@torch.no_grad()
def propagate(quantizer: Quantizer, rows: Tensor, upper: Tensor) -> Tensor:
    """Quantized rows [g, O/g, I] float32, d inputs at a time; `rows` (float64) end as what was quantized.

    The error E of inputs B moves the later ones by -E U_BB^-1 U_B,later. Within a block at once, beyond it together.
    """
    d, inputs, chosen = quantizer.fmt.vector_length, rows.shape[-1], torch.empty(rows.shape, device=rows.device)
    width, table = d * max(1, _BLOCK // d), candidates(quantizer)
    assert quantizer.held is not None
    scale = quantizer.held.expand(rows[..., 0].numel()).view(*rows.shape[:2], 1)
    for start in range(0, inputs, width):
        stop = min(start + width, inputs)
        errors = torch.empty_like(rows[..., start:stop])
        for j in range(start, stop, d):
            k = min(j + d, stop)
            part, own = rows[..., j:k], upper[:, j:k, j:k]
            if table is not None and k - j == d:
                chosen[..., j:k] = _least(part, table, own, scale)
            else:
                chosen[..., j:k] = _value(quantizer, part)
            error = torch.linalg.solve_triangular(own, part - chosen[..., j:k], upper=True, left=False)
            errors[..., j - start : k - start] = error
            rows[..., k:stop] -= error @ upper[:, j:k, k:stop]
        rows[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return chosen


def candidates(quantizer: Quantizer) -> Tensor | None:
    """All integer vectors [N, d] that a code can mean, if they are few and each encodes to itself; else None."""
    if isinstance(quantizer, LatticeQuantizer):
        return quantizer.table
    if not isinstance(quantizer, VectorQuantizer) or quantizer.fmt.codes_per_vector > 1 or quantizer.fmt.scale_bits:
        return None
    entries = quantizer.book.stored().integers
    return entries if quantizer.recipe.assignment == "euclid" else entries[~is_repeated(entries, False)]


def _least(part: Tensor, table: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """Of each vector of part [g, O/g, d] the candidate with the least |E U_BB^-1|^2, at its scale [g, O/g, 1]."""
    metrics = torch.linalg.inv(own)
    metrics = (metrics / metrics.norm(dim=(1, 2), keepdim=True)).float()
    wanted = (part / scale).float() @ metrics
    index = [nearest(v.contiguous(), table @ metric) for v, metric in zip(wanted, metrics, strict=True)]
    return table[torch.stack(index)] * scale


def _value(quantizer: Quantizer, part: Tensor) -> Tensor:
    """The scheme's choice for inputs [g, O/g, d], at the held scale."""
    rows = part.float().flatten(0, 1).contiguous()
    integers, scale, _ = quantizer.project(rows)
    return (integers * per_channel(scale, rows)).view(part.shape)


def release(model: nn.Module) -> None:
    """Scales follow the latent weights again, as training wants it. Call it after `ptq`, before the first step.

    Scales stay as they are to rounding. So do the codes, but for `assignment: euclid`, which then chooses in units
    of the root mean square of the latent weight: that of the decoded one is a little smaller.
    """
    for _, quantizer, latent in attached(model):
        if quantizer.held is not None and isinstance(quantizer, LatticeQuantizer):
            quantizer.factor.copy_(quantizer.held / root_mean_square(latent.detach().float(), quantizer.fmt))
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
    if method == "nearest" or (method == "hessian" and fmt.kind == "linear"):
        return ""
    if recipe.scheme(fmt) not in _SCHEMES:
        return f"{fmt.name}: {method} does not serve the scheme {recipe.scheme(fmt)}: must be {', '.join(_SCHEMES)}"
    if fmt.rotation:
        return f"{fmt.name}: {method} does not serve rotated inputs: must be a format without -h"
    if fmt.axis != "in":
        return f"{fmt.name}: {method} needs vectors along the inputs: must be a format without -{fmt.axis}"
    return f"{fmt.name}: gptq does not serve groups: must be a format without -g" if fmt.group else ""


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
