"""One finite code of lattice points: from real blocks to codes, and from codes to the integers an array holds."""

from __future__ import annotations

from math import log2
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from workloads.lattices.points import nearest_point

Points = NDArray[np.float64]  # [N, d] in lattice units
Codes = NDArray[np.int64]  # [N, M], the lowest digit first
Overload = Literal["saturate", "wrap"]

_CHUNK = 1 << 12  # blocks at a time: temporaries stay in the cache


class Members(Protocol):
    """Which points of the shifted lattice L - a a code holds, and under which codes."""

    @property
    def offset(self) -> NDArray[np.float64]:
        """The shift a [d], in lattice units."""
        ...

    @property
    def digit_size(self) -> int:
        """Values of one digit."""
        ...

    def codes(self, points: Points) -> tuple[Codes, NDArray[np.bool_]]:
        """Codes of points of the unshifted lattice L, and which of them the code does not hold."""
        ...

    def points(self, codes: Codes) -> Points:
        """The codewords, shifted."""
        ...

    def extent(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and greatest coordinates of the codewords, [d] each."""
        ...

    def saturate(self, x: Points) -> Codes:
        """For blocks whose nearest point the code does not hold: codes of the nearest codeword, or nearly so."""
        ...


class LatticeCode(NamedTuple):
    """A code of blocks of `dimension` numbers. Real blocks are in lattice units: data over the layer's scale."""

    name: str
    lattice: str  # see workloads.lattices.points
    members: Members
    num_digits: int  # M codes per block
    digit_size: int  # values of one of them
    grid: int  # integers per lattice unit
    array_bits: int  # width of the signed integers after decoding
    sigma: float  # deviation of Gaussian data, in lattice units, that gives the least relative error
    can_wrap: bool  # every lattice point has codes, be they another point's
    table: NDArray[np.int32] | None  # [K, d] (read-only), the lowest digit fastest; None above 2^16 codewords

    @property
    def dimension(self) -> int:
        return int(self.lattice[1:])

    @property
    def num_codewords(self) -> int:
        return self.digit_size**self.num_digits

    @property
    def code_bits(self) -> int:
        """Container bits of one digit."""
        return (self.digit_size - 1).bit_length()

    @property
    def nominal_bits_per_weight(self) -> float:
        """What an ideal container would take; `code_bits * num_digits / dimension` is what is stored."""
        return log2(self.num_codewords) / self.dimension

    def unbounded(self, x: NDArray[np.floating]) -> Points:
        """Nearest points of the whole shifted lattice [N, d]: a bound on any code's error that no file can hold."""
        return nearest_point(self.lattice, x + self.members.offset) - self.members.offset

    def encode(self, x: NDArray[np.floating], overload: Overload = "saturate") -> tuple[Codes, NDArray[np.bool_]]:
        """Blocks x [N, d] -> codes [N, M], and which blocks are overloaded [N].

        A block is overloaded when its nearest lattice point is not a codeword; all others decode to that point.
        Instead, "saturate" takes a codeword near by, "wrap" the codeword of the point's class, far away (a
        baseline). Raises ValueError where x is not finite, and for "wrap" where points have no class.
        """
        if not np.isfinite(x).all():
            raise ValueError(f"{self.name}: blocks to encode hold NaN or infinity: must be finite")
        if overload == "wrap" and not self.can_wrap:
            raise ValueError(f"{self.name}: overload = 'wrap': must be 'saturate' (other points have no code)")
        codes, overloaded = np.empty((len(x), self.num_digits), np.int64), np.empty(len(x), np.bool_)
        for start in range(0, len(x), _CHUNK):
            rows = slice(start, start + _CHUNK)
            codes[rows], overloaded[rows] = self._encode(np.asarray(x[rows], np.float64), overload)
        return codes, overloaded

    def _encode(self, x: Points, overload: Overload) -> tuple[Codes, NDArray[np.bool_]]:
        codes, overloaded = self.members.codes(nearest_point(self.lattice, x + self.members.offset))
        if overload == "saturate" and overloaded.any():
            codes[overloaded] = self.members.saturate(x[overloaded])
        return codes, overloaded

    def decode(self, codes: Codes) -> NDArray[np.int32]:
        """Codes [N, M] -> the integers an array holds [N, d], `grid` of them per lattice unit."""
        if self.table is None:
            return on_grid(self.members.points(codes), self.grid)
        return self.table[codes @ self.digit_size ** np.arange(self.num_digits)]


def on_grid(points: Points, grid: int) -> NDArray[np.int32]:
    """Lattice units to integers: exact, but for A2's heights, which no grid holds."""
    return np.rint(grid * points).astype(np.int32)


def all_codes(digit_size: int, num_digits: int) -> Codes:
    """The codes of all codewords [K, M], in the order of the table's rows."""
    weights = digit_size ** np.arange(num_digits)
    return np.arange(digit_size**num_digits)[:, None] // weights % digit_size


def signed_bits(low: int, high: int) -> int:
    """Least width in two's complement of integers from low <= 0 to high >= 0."""
    return 1 + max(high, -low - 1).bit_length()
