"""Proposals: who says which settings of a chip's knobs to try next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod

import numpy as np

Knobs = Mapping[str, Sequence[int | float]]  # knob -> the values that a study lists
Setting = dict[str, int | float]


def one_by_one(knobs: Knobs) -> list[Setting]:
    """Each value alone, all other knobs at the chip's own."""
    return [{knob: value} for knob, values in knobs.items() for value in values]


def grid(knobs: Knobs, places: Iterable[int] | None = None) -> list[Setting]:
    """Every combination of the values, the last knob's change first; or those at some places of this order."""
    sizes = [len(values) for values in knobs.values()]
    chosen = range(prod(sizes)) if places is None else places
    return [
        {knob: values[int(i)] for i, (knob, values) in zip(np.unravel_index(place, sizes), knobs.items(), strict=True)}
        for place in chosen
    ]


def at_random(knobs: Knobs, samples: int, seed: int) -> list[Setting]:
    """Combinations of the grid, none twice; all of them where there are fewer than asked for."""
    total = prod(len(values) for values in knobs.values())
    return grid(knobs, np.random.default_rng(seed).choice(total, min(samples, total), replace=False))


# Name -> settings of some knobs; of these, `samples` if the sampler does not go through all that there are.
SAMPLERS: dict[str, Callable[[Knobs, int, int], list[Setting]]] = {
    "grid": lambda knobs, samples, seed: grid(knobs),
    "one_by_one": lambda knobs, samples, seed: one_by_one(knobs),
    "random": at_random,
}


def propose(sampler: str, knobs: Knobs, samples: int, seed: int) -> list[Setting]:
    """What to try, in order; nothing where there are no knobs."""
    return SAMPLERS[sampler](knobs, samples, seed) if knobs else []
