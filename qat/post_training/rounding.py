"""How a weight [O, ...] is rounded when its inputs are known: least error of a layer's outputs.

Of s z - w, one output's row of it e, the error is e H e^T, H [g, I, I] the sums of x x^T over the inputs of its group
of outputs. Weights are rotated already, where the format says so, and H with them. Rows lie in the order of the
format's vectors: im2col (kernel, then channel), or memory order for `-kernel` and `-flat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from qat.kernels.geometry import MIN_SCALE, channel_sums, from_vectors, is_padding, per_channel, rotated, vectors
from qat.quantizer import Quantizer
from qat.schemes.common.choose import is_repeated
from qat.schemes.common.codebook import nearest
from qat.schemes.common.levels import LARGEST, LevelQuantizer
from qat.schemes.lattice import LatticeQuantizer
from qat.schemes.pool import PoolQuantizer
from qat.schemes.vector import VectorQuantizer
from workloads.format import WeightFormat

_DAMPING = 0.01  # of the mean of H's diagonal, added to it (GPTQ, section 3.3)
_BLOCK = 128  # inputs whose errors reach the rest of the weight together (likewise)
_FACTORS = (1.0, *(2 ** (k / 8) for k in range(4, -9, -1) if k))  # of a scale, in eighths of an octave
_MORE = tuple(2 ** (k / 8) for k in range(-9, -21, -1))  # of a linear step: that of LSQ clips next to nothing


def to_rows(w: Tensor, fmt: WeightFormat, groups: int) -> Tensor:
    """A weight [O, ...] as rows [g, O/g, I], float64."""
    return vectors(w, 1, _order(fmt)).reshape(groups, -1, prod(w.shape[1:])).double()


def from_rows(rows: Tensor, shape: torch.Size, fmt: WeightFormat) -> Tensor:
    """Inverse of `to_rows`, float32."""
    return from_vectors(rows.float().flatten(0, 1)[..., None], shape, _order(fmt))


def _order(fmt: WeightFormat) -> str:
    return "kernel" if fmt.axis in ("kernel", "flat") else "in"


def turned_hessian(hessian: Tensor, shape: torch.Size, fmt: WeightFormat) -> Tensor:
    """H [g, I, I] of inputs in im2col order -> that of the format's rows, rotated where their inputs are."""
    hessian = hessian.double()
    if fmt.rotation:
        for _ in range(2):  # R H R^T
            hessian = torch.stack([rotated(own.float(), fmt.rotation).double().T for own in hessian])
    if _order(fmt) == "in":
        return hessian
    memory = torch.arange(prod(shape[1:]), device=hessian.device).view(1, *shape[1:])
    places = vectors(memory, 1).flatten().argsort()  # of each element of memory, in im2col order
    return hessian[:, places][:, :, places]


def output_errors(error: Tensor, hessian: Tensor, fmt: WeightFormat) -> Tensor:
    """e H e^T of a weight's error [O, ...]: of each channel [O], or of the tensor [1]."""
    rows = to_rows(error, fmt, len(hessian))
    return channel_sums(((rows @ hessian) * rows).flatten(0, 1), fmt)


@torch.no_grad()
def hold_best_scale(quantizer: Quantizer, w: Tensor, hessian: Tensor) -> None:
    """Holds the scale of least output error with the nearest codes, among multiples of the scheme's own.

    Of a linear format this is where weights are clipped, searched where OmniQuant (Shao et al., ICLR 2024) trains it.
    """
    quantizer.hold(None)
    own = quantizer.project(w).scale.clone()
    best, least = own, torch.full(own.shape, torch.inf, dtype=torch.float64, device=own.device)
    for factor in _FACTORS + (_MORE if isinstance(quantizer, LevelQuantizer) else ()):
        scale = (own * factor).clamp_min(MIN_SCALE)
        quantizer.hold(scale)
        found = output_errors(choices(quantizer, w) * per_channel(scale, w) - w, hessian, quantizer.fmt)
        best = torch.where(found < least, scale, best)
        least = torch.minimum(found, least)
    quantizer.hold(best)


def fitted_scale(quantizer: Quantizer, integers: Tensor, w: Tensor, hessian: Tensor) -> Tensor:
    """The scale <w, z>_H / <z, z>_H of least output error of these integers; the held one where that has no sense."""
    assert quantizer.held is not None
    z, x = (to_rows(part, quantizer.fmt, len(hessian)) for part in (integers, w))
    weighted = z @ hessian
    along, squares = (channel_sums((weighted * part).flatten(0, 1), quantizer.fmt) for part in (x, z))
    scale = torch.where((along > 0) & (squares > 0), along / squares, quantizer.held.double())
    return scale.float().clamp_min(MIN_SCALE)


def candidates(quantizer: Quantizer) -> Tensor | None:
    """All integer vectors [N, d] that a code can mean, if they are few and each encodes to itself; else None."""
    if isinstance(quantizer, LatticeQuantizer):
        return quantizer.table
    if not isinstance(quantizer, VectorQuantizer) or quantizer.fmt.codes_per_vector > 1 or quantizer.fmt.scale_bits:
        return None
    entries = quantizer.book.stored().integers
    return entries if quantizer.recipe.assignment == "euclid" else entries[~is_repeated(entries, False)]


def choices(quantizer: Quantizer, w: Tensor) -> Tensor:
    """Nearest integers [O, ...] at the held scale; the scheme's own choice where it has another idea of near.

    So have all but the VectorQuantizer, whose cosine knows no size; of a padded vector even an entry is not its own
    choice again, so that only the scheme's serves.
    """
    own, table, fmt = quantizer.project(w).integers, candidates(quantizer), quantizer.fmt
    if table is None or not isinstance(quantizer, VectorQuantizer):
        return own
    assert quantizer.held is not None
    v = vectors(w / per_channel(quantizer.held, w), fmt.vector_length, fmt.axis)
    rows = table[nearest(v.flatten(0, 1), table)].view_as(v)
    if (padding := is_padding(w.shape, fmt)) is not None:
        rows = torch.where(padding.any(2, keepdim=True), vectors(own, fmt.vector_length, fmt.axis), rows)
    return from_vectors(rows, w.shape, fmt.axis)


@torch.no_grad()
def compensated(quantizer: Quantizer, w: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Integers [O, ...] at the held scale, and the weight that they are the choice for, errors before made up for.

    Inputs come in the order of H's diagonal, the largest first (`act-order` of GPTQ's code), d at a time: what is
    rounded last has the fewest left to make up for it.
    """
    fmt, d = quantizer.fmt, _step(quantizer.fmt)
    strength = hessian.diagonal(dim1=1, dim2=2)
    whole = strength.shape[1] // d * d
    blocks = strength[:, :whole].unflatten(1, (-1, d)).sum(2).argsort(dim=1, descending=True, stable=True)
    order = torch.arange(strength.shape[1], device=strength.device).repeat(len(strength), 1)
    order[:, :whole] = (blocks[..., None] * d + order[:, None, :d]).flatten(1)  # [g, I]
    along = order[:, None]
    hessian = hessian.take_along_dim(order[..., None], 1).take_along_dim(along, 2)
    rows = to_rows(w, fmt, len(hessian)).take_along_dim(along, 2)
    facts = [to_rows(part, fmt, len(hessian)).float().take_along_dim(along, 2) for part in _facts(quantizer, w)]
    chosen, back = propagate(quantizer, rows, inverse_factor(hessian), facts), along.argsort(2)
    return tuple(from_rows(part.take_along_dim(back, 2), w.shape, fmt) for part in (chosen, rows))  # pyright: ignore


def _step(fmt: WeightFormat) -> int:
    """Inputs that are chosen together: of a pool, whose columns are matched already, each sign for itself."""
    return 1 if fmt.axis == "out" or fmt.kind == "pool" else fmt.vector_length


def _facts(quantizer: Quantizer, w: Tensor) -> tuple[Tensor, ...]:
    """What the choice of a weight depends on besides the weight itself, each [O, ...]."""
    if isinstance(quantizer, PoolQuantizer):
        return quantizer.levels(w)
    shares = quantizer.shares(w.shape) if isinstance(quantizer, LevelQuantizer) else None
    return () if shares is None else (shares,)


def inverse_factor(hessian: Tensor) -> Tensor:
    """Upper U [g, I, I] with U^T U = (H + damping)^-1: from row j on, that of the inputs from j on (GPTQ, step 3)."""
    mean = hessian.diagonal(dim1=-2, dim2=-1).mean(-1)
    damping = torch.where(mean > 0, _DAMPING * mean, 1.0)
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    factor = torch.linalg.cholesky(hessian + damping[:, None, None] * identity)
    return torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)


@torch.no_grad()
def propagate(quantizer: Quantizer, rows: Tensor, upper: Tensor, facts: Sequence[Tensor] = ()) -> Tensor:
    """Integers [g, O/g, I] float32, d inputs at a time; `rows` (float64) end as what they were chosen for.

    The error E of inputs B moves the later ones by -E U_BB^-1 U_B,later. Within a block at once, beyond it together.
    `facts` are `_facts` as rows.
    """
    d, inputs, chosen = _step(quantizer.fmt), rows.shape[-1], torch.empty(rows.shape, device=rows.device)
    width, table = d * max(1, _BLOCK // d), candidates(quantizer)
    assert quantizer.held is not None
    scale = quantizer.held.expand(rows[..., 0].numel()).view(*rows.shape[:2], 1)
    for start in range(0, inputs, width):
        stop = min(start + width, inputs)
        errors = torch.empty_like(rows[..., start:stop])
        for j in range(start, stop, d):
            k = min(j + d, stop)
            part, own = rows[..., j:k], upper[:, j:k, j:k]
            if table is not None and k - j == quantizer.fmt.vector_length:
                chosen[..., j:k] = _least(part, table, own, scale)
            else:
                chosen[..., j:k] = _choose(quantizer, part, [fact[..., j:k] for fact in facts])
            error = torch.linalg.solve_triangular(own, part - chosen[..., j:k] * scale, upper=True, left=False)
            errors[..., j - start : k - start] = error
            rows[..., k:stop] -= error @ upper[:, j:k, k:stop]
        rows[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return chosen


def _least(part: Tensor, table: Tensor, own: Tensor, scale: Tensor) -> Tensor:
    """Of each vector of part [g, O/g, d] the candidate with the least |E U_BB^-1|^2, at its scale [g, O/g, 1]."""
    metrics = torch.linalg.inv(own)
    metrics = (metrics / metrics.norm(dim=(1, 2), keepdim=True)).float()
    wanted = (part / scale).float() @ metrics
    index = [nearest(v.contiguous(), table @ metric) for v, metric in zip(wanted, metrics, strict=True)]
    return table[torch.stack(index)]


def _choose(quantizer: Quantizer, part: Tensor, facts: Sequence[Tensor]) -> Tensor:
    """The nearest integers of inputs [g, O/g, k]."""
    rows, own = part.float().flatten(0, 1).contiguous(), [fact.flatten(0, 1) for fact in facts]
    if isinstance(quantizer, PoolQuantizer):
        assert quantizer.held is not None
        integers = own[0] + torch.where(rows < own[0] * quantizer.held[:, None], -1, 1) * own[1]
    elif isinstance(quantizer, LevelQuantizer) and own:
        integers = quantizer.place(rows / own[0]).integers * (own[0] * LARGEST)
    else:
        integers = choices(quantizer, rows)
    return integers.view(part.shape)
