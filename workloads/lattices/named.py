"""The codes by name: `z4-q4`, `a2-q4`, `d8-q3`, `e8-q4`, `e8-q4m2` (two digits), `e8-r4` (a ball), `e8p`."""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from workloads.lattices.ball import Ball
from workloads.lattices.code import LatticeCode, Members, all_codes, on_grid, signed_bits
from workloads.lattices.e8p import E8P
from workloads.lattices.nested import Nested
from workloads.lattices.points import basis
from workloads.lattices.shells import read_only

A2_GRID = 8  # its rows are sqrt(3)/2 = 6.93/8 apart; as 7/8 they cost under 1 % of the error (tests measure it)
_MAX_TABLE = 1 << 16
_MEASURED = Path(__file__).with_name("measured.csv")


class MeasuredCode(NamedTuple):
    """What a search found for a code on Gaussian blocks (`workloads.lattices.tabulate` repeats it)."""

    shift: tuple[int, ...]  # 4 a; z1's stands for every coordinate
    sigma: float
    error_per_weight: float  # mean squared, for data of deviation 1


@cache
def lattice_code(name: str) -> LatticeCode:
    """The code of this name. Raises ValueError that lists the known ones."""
    known = measured()
    found = known.get(re.sub(r"^z[2-8]-", "z1-", name))  # the coordinates of Z^n do not know of each other
    if found is None:
        raise ValueError(f"unknown lattice code {name!r}: known are {', '.join(known)}; for z1 also z2 to z8")
    if name == "e8p":
        return _code(name, "e8", E8P(), 4, found.sigma)
    if name.startswith("e8-r"):
        return _code(name, "e8", Ball(int(name[4:])), 2, found.sigma)
    shift = found.shift * int(name[1]) if name[0] == "z" else found.shift
    return nested_code(name, shift, found.sigma)


@cache
def measured() -> dict[str, MeasuredCode]:
    """Shift and best scale of each code, by its name; `z1-q4` stands for every dimension."""
    with _MEASURED.open() as lines:
        rows = list(csv.DictReader(lines))
    return {row["code"]: _read(row) for row in rows}


def nested_code(name: str, shift: tuple[int, ...], sigma: float) -> LatticeCode:
    """The nested code of this name, but with a shift 4 a of one's own choice."""
    lattice, radix, digits = split(name)
    members = Nested(lattice, radix, digits, shift)
    if members.digit_size > _MAX_TABLE:
        raise ValueError(f"lattice code {name!r}: {members.digit_size} values of a digit: must be at most {_MAX_TABLE}")
    return _code(name, lattice, members, _grid(members), sigma, num_digits=digits)


def split(name: str) -> tuple[str, int, int]:
    """Lattice, radix and number of digits of a nested code's name."""
    lattice, _, numbers = name.partition("-q")
    radix, _, digits = numbers.partition("m")
    return lattice, int(radix), int(digits or 1)


def _read(row: dict[str, str]) -> MeasuredCode:
    shift = tuple(int(text) for text in row["shift"].split())
    return MeasuredCode(shift, float(row["sigma"]), float(row["error_per_weight"]))


def _grid(nested: Nested) -> int:
    """Coarsest grid that holds the lattice and its shift."""
    if nested.lattice == "a2":
        return A2_GRID
    vectors = np.vstack([basis(nested.lattice), nested.offset])
    return next(grid for grid in (1, 2, 4) if not (grid * vectors % 1).any())


def _code(name: str, lattice: str, members: Members, grid: int, sigma: float, *, num_digits: int = 1) -> LatticeCode:
    size, table = members.digit_size, None
    if size**num_digits <= _MAX_TABLE:
        table = read_only(on_grid(members.points(all_codes(size, num_digits)), grid))
    extent = on_grid(np.stack(members.extent()), grid) if table is None else table
    bits = signed_bits(int(extent.min()), int(extent.max()))
    return LatticeCode(name, lattice, members, num_digits, size, grid, bits, sigma, isinstance(members, Nested), table)
