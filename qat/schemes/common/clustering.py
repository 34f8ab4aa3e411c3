"""Soft k-means as DKM has it (Cho et al., ICLR 2022), with its gradient through all rounds, in bounded memory.

Rows x [N, d] attend to entries c [K, d]: A = softmax_j(-|x_i - c_j|^2 / tau), with the squared distance of the
authors' code (coremltools). Entries become means weighted by A; x^ = A C with the last A and the means it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-4  # of an entry between rounds
MIN_MASS = 1e-6  # an entry that receives less attention than this stays where it is
MAX_BYTES = 1 << 28  # attention matrices that are kept for the gradient; beyond, they are computed again in parts
_PART_BYTES = 1 << 20  # attention computed at a time: it stays in the cache

Noise = Callable[[int, int, tuple[int, int]], Tensor]  # of a round, a part of the rows and a shape: added to logits


class Rule(NamedTuple):
    """How vectors attend to entries, and what the entries get besides: sums [K, d] and attention [K, 1] of others."""

    temperature: float
    iterations: int
    noise: Noise | None = None
    others: tuple[Tensor, Tensor] | None = None


class Clustering(NamedTuple):
    """The books [K, d] before and after each round, and what each entry received; all that the gradient needs."""

    rule: Rule
    books: tuple[Tensor, ...]
    masses: tuple[Tensor, ...]  # attention [K, 1] of each round, that of others included
    sums: Tensor  # [K, d] of the last round, likewise
    kept: tuple[Tensor, ...]  # attention [N, K] of each round; empty if it would not fit


def cluster(x: Tensor, share: Tensor, start: Tensor, rule: Rule) -> tuple[Tensor, Clustering]:
    """Soft k-means of rows x [N, d], each counting `share` [N, 1] times, from entries [K, d].

    Returns A C [N, d], and the trace that its gradient needs.
    """
    books, masses, kept, sums = [start], [], [], start
    others = (torch.zeros_like(start), start.new_zeros(len(start), 1)) if rule.others is None else rule.others
    keeps = rule.iterations * len(x) * len(start) * x.element_size() <= MAX_BYTES
    for round_ in range(rule.iterations):
        attention, sums, mass = [], others[0].clone(), others[1].clone()
        for number, part in _parts(x, start):
            a = _attention(x[part], books[-1], rule, (round_, number))
            sums += a.T @ (share[part] * x[part])
            mass += a.T @ share[part]
            attention += [a] if keeps else []
        books.append(torch.where(mass > MIN_MASS, sums / mass.clamp_min(MIN_MASS), books[-1]))
        masses.append(mass)
        kept += [torch.cat(attention)] if keeps else []
        if (books[-1] - books[-2]).abs().max() <= TOLERANCE:
            break
    trace = Clustering(rule, tuple(books), tuple(masses), sums, tuple(kept))
    value = torch.empty_like(x)
    for number, part in _parts(x, start):
        value[part] = _again(x, trace, len(masses) - 1, number, part) @ books[-1]
    return value, trace


def cluster_gradients(grad: Tensor, x: Tensor, share: Tensor, trace: Clustering) -> tuple[Tensor, Tensor]:
    """Of x [N, d] and of the entries it started from [K, d], for the gradient of A C: round after round, backwards."""
    last = len(trace.masses) - 1
    of_x, of_book = torch.zeros_like(x), torch.zeros_like(trace.books[0])
    for number, part in _parts(x, of_book):
        of_book += _again(x, trace, last, number, part).T @ grad[part]
    for round_ in range(last, -1, -1):
        before, after, mass = trace.books[round_], trace.books[round_ + 1], trace.masses[round_]
        has_moved = mass > MIN_MASS
        of_sums = torch.where(has_moved, of_book / mass.clamp_min(MIN_MASS), 0.0)
        of_mass = -(of_sums * after).sum(1)
        of_book = torch.where(has_moved, 0.0, of_book)
        for number, part in _parts(x, before):
            a = _again(x, trace, round_, number, part)
            of_a = share[part] * (x[part] @ of_sums.T + of_mass)
            if round_ == last:
                of_a += grad[part] @ after.T
            slope = a * (of_a - (a * of_a).sum(1, keepdim=True)) * (2 / trace.rule.temperature)
            of_x[part] += share[part] * (a @ of_sums) + slope @ before  # the |x|^2 of the distance cancels in A
            of_book += slope.T @ x[part] - slope.sum(0)[:, None] * before
    return of_x, of_book


def _parts(x: Tensor, book: Tensor) -> Iterator[tuple[int, slice]]:
    num_rows = max(1, _PART_BYTES // (len(book) * x.element_size()))
    return ((number, slice(i, i + num_rows)) for number, i in enumerate(range(0, len(x), num_rows)))


def _again(x: Tensor, trace: Clustering, round_: int, number: int, part: slice) -> Tensor:
    """A round's attention, from memory or computed anew."""
    if trace.kept:
        return trace.kept[round_][part]
    return _attention(x[part], trace.books[round_], trace.rule, (round_, number))


def _attention(x: Tensor, book: Tensor, rule: Rule, place: tuple[int, int]) -> Tensor:
    """softmax [n, K]. The largest logit is subtracted before the division, so that any temperature is safe."""
    logits = torch.addmm(-book.square().sum(1), x, book.T, alpha=2)
    logits -= logits.amax(1, keepdim=True)
    logits /= rule.temperature
    if rule.noise is not None:
        logits += rule.noise(*place, (len(x), len(book)))
    return logits.softmax(1)
