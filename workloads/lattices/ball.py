"""Ball-shaped codes: all points of E8 up to a squared norm, numbered from the middle outwards.

Permutations of the coordinates and changes of an even number of signs map such a code to itself. So the nearest
codeword to a block is found among the few leaders: codewords whose coordinates fall and whose last one alone may
be negative, as in the block once it is sorted so.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.lattices.code import Codes, Points
from workloads.lattices.points import class_index
from workloads.lattices.shells import points_within, read_only

_RADIX = 8  # points of squared norm up to 8 all lie in different classes modulo 8 E8


class Ball(NamedTuple):
    """The members of a ball code."""

    squared_norm: int

    @property
    def offset(self) -> NDArray[np.float64]:
        return np.zeros(8)

    @property
    def digit_size(self) -> int:
        return len(points_within("e8", self.squared_norm))

    def codes(self, points: Points) -> tuple[Codes, NDArray[np.bool_]]:
        classes, order = _classes(self.squared_norm)
        place = np.searchsorted(classes, class_index("e8", points, _RADIX)).clip(max=len(order) - 1)
        codes = order[place][:, None]
        return codes, (self.points(codes) != points).any(1)

    def points(self, codes: Codes) -> Points:
        return points_within("e8", self.squared_norm)[codes[:, 0]]

    def extent(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        members = points_within("e8", self.squared_norm)
        return members.min(0), members.max(0)

    def saturate(self, x: Points) -> Codes:
        leaders = _leaders(self.squared_norm)
        ordered, order, signs = _sorted(x)
        points = np.empty_like(x)
        best = (ordered @ leaders.T - (leaders**2).sum(1) / 2).argmax(1)
        np.put_along_axis(points, order, leaders[best], 1)
        return self.codes(points * signs)[0]


def _sorted(x: Points) -> tuple[Points, NDArray[np.intp], Points]:
    """Rows times signs of even number, in an order, so that they fall and are >= 0 up to the last; order and signs."""
    order = np.argsort(-np.abs(x), 1, kind="stable")
    signs = np.where(x < 0, -1.0, 1.0)
    signs[np.arange(len(x)), order[:, -1]] *= signs.prod(1)
    return np.take_along_axis(x * signs, order, 1), order, signs


@cache
def _leaders(squared_norm: int) -> Points:
    members = points_within("e8", squared_norm)
    return read_only(members[(_sorted(members)[0] == members).all(1)])


@cache
def _classes(squared_norm: int) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The members' classes in rising order, and the code of each."""
    classes = class_index("e8", points_within("e8", squared_norm), _RADIX)
    order = np.argsort(classes)
    return read_only(classes[order]), read_only(order)
