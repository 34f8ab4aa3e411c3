"""Which entries of a codebook a vector gets: the hard choices of vector quantization.

Vectors v [N, d] are in units in which an integer of the book is worth `unit`. Ties go to the lowest index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qat.kernels.assign import best_match
from qat.kernels.codewords import angle_book
from qat.schemes.common.codebook import nearest
from workloads.format import WeightFormat

_ROWS = 1 << 22  # products of vectors and entries at a time
_MAX_SUMS = 4096  # sums of entries up to which all are tried
_SWEEPS = 2  # times each of several books is chosen anew
_SCALE_ROUNDS = 3
_TINY = 1e-30


class Chosen(NamedTuple):
    """Entries of each vector in the flat table, int64 [N, M], and its multiple [N, 1] (float) or None."""

    entries: Tensor
    multiples: Tensor | None


def choose(v: Tensor, integers: Tensor, unit: Tensor | float, fmt: WeightFormat, assignment: str) -> Chosen:
    """`assignment`: cosine or euclid, as in qat.schemes.vector. `integers`: the flat table [M * K, d]."""
    if fmt.codes_per_vector > 1:
        return _with_multiples(v, integers, unit, fmt, _choose_sum(v, integers * unit, fmt))
    if assignment == "cosine":
        return _with_multiples(v, integers, unit, fmt, by_angle(v, integers, fmt.signed_scale)[:, None])
    if fmt.scale_bits:  # the nearest entry alone need not be the nearest with its scale code
        return _choose_joint(v, integers, unit, fmt)
    return Chosen(nearest(v, integers * unit)[:, None], None)


def by_angle(v: Tensor, integers: Tensor, is_signed: bool = False) -> Tensor:
    """Entry int64 [N] with the largest cosine, or the largest of either sign; never one parallel to an earlier one."""
    book, bias = angle_book(integers, is_signed)
    if not is_signed:
        return best_match(v, book, bias)
    return best_match(v, torch.cat([book, -book]), torch.cat([bias, bias])) % len(book)


def is_repeated(integers: Tensor, is_signed: bool) -> Tensor:
    """Which entries [K, d] point the same way (or along the same line) as an earlier one: bool [K]."""
    return angle_book(integers, is_signed)[1].isinf()


def _choose_sum(v: Tensor, entries: Tensor, fmt: WeightFormat) -> Tensor:
    """Entries [N, M] whose sum is nearest: all sums are tried if they are few, else one book after the other."""
    num_books, k = fmt.codes_per_vector, fmt.num_entries
    offsets = torch.arange(num_books, device=v.device) * k
    if k**num_books <= _MAX_SUMS:
        places = torch.cartesian_prod(*[torch.arange(k, device=v.device)] * num_books) + offsets
        return places[nearest(v, entries[places].sum(1))]
    chosen = torch.zeros((len(v), num_books), dtype=torch.int64, device=v.device)
    rest = v.clone()
    for sweep in range(1 + _SWEEPS):
        for book in range(num_books):
            if sweep:
                rest += entries[chosen[:, book]]
            chosen[:, book] = offsets[book] + nearest(rest, entries[book * k : (book + 1) * k])
            rest -= entries[chosen[:, book]]
    return chosen


def _with_multiples(v: Tensor, integers: Tensor, unit: Tensor | float, fmt: WeightFormat, entries: Tensor) -> Chosen:
    """Each vector's projection on its integers, rounded to a scale code."""
    if not fmt.scale_bits:
        return Chosen(entries, None)
    z = integers[entries].sum(1) if entries.shape[1] > 1 else integers[entries[:, 0]]
    wanted = (v * z).sum(1) / z.square().sum(1).clamp_min(1.0) / unit
    return Chosen(entries, _rounded(wanted, fmt)[:, None])


def _rounded(wanted: Tensor, fmt: WeightFormat) -> Tensor:
    """The nearest scale code, 1 .. 2^s, with a sign if the format has one."""
    largest = 2 ** (fmt.scale_bits - fmt.signed_scale)
    if not fmt.signed_scale:
        return wanted.round().clamp(1, largest)
    return wanted.abs().round().clamp(1, largest) * torch.where(wanted < 0, -1.0, 1.0)


def _choose_joint(v: Tensor, integers: Tensor, unit: Tensor | float, fmt: WeightFormat) -> Chosen:
    """The entry and scale code with the least |v - unit m e|^2, over all pairs."""
    squares = integers.square().sum(1).clamp_min(1.0)
    entries, multiples = [], []
    for part in v.split(max(1, _ROWS // len(integers))):
        along = part @ integers.T / squares / unit  # best real multiple of each entry
        codes = _rounded(along, fmt)
        gain = squares * codes * (2 * along - codes)
        best = gain.argmax(1)
        entries.append(best)
        multiples.append(codes.gather(1, best[:, None]))
    return Chosen(torch.cat(entries)[:, None], torch.cat(multiples))


def unit_for_multiples(v: Tensor, integers: Tensor, unit: Tensor, fmt: WeightFormat, assignment: str) -> Tensor:
    """What an integer is worth, a scalar, when multiples up to 2^s stand before it: chosen in turns with them."""
    largest = 2 ** (fmt.scale_bits - fmt.signed_scale)
    unit = unit * 2 / (1 + largest)
    for _ in range(_SCALE_ROUNDS):
        entries, multiples = choose(v, integers, unit, fmt, assignment)
        assert multiples is not None
        z = integers[entries].sum(1) * multiples
        along, squares = (v * z).sum(0).sum(), z.square().sum(0).sum()  # a whole sum would depend on the threads
        unit = (along / squares.clamp_min(_TINY)).clamp_min(_TINY)
    return unit
