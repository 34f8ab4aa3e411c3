"""Modelled against published, row by row: ratio, band, verdict, and whether the chip's own figures were used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cimsim.dataflow.place import Unmappable
from cimsim.validation.quantities import Subject, modelled, rests_on_print
from cimsim.validation.reference import PublishedFigure, Reference
from workloads.errors import InputError

# Relative tolerance for references that come with cimsim, and factor either way for chips nobody has seen; shares
# differ by so much at most, and shapes have at least this rank correlation.
BANDS = {"bill": 0.02, "cycles": 0.001, "time": 0.05, "energy": 0.15, "area": 0.20, "share": 0.08, "shape": 0.98}
UNSEEN = {"bill": 1.03, "cycles": 1.001, "time": 1.10, "energy": 1.5, "area": 1.6, "share": 0.15, "shape": 0.95}
FEWEST_FOR_A_SHAPE = 5


class Verdict(NamedTuple):
    """One figure. `passed` is None where the figure is shown and not judged. `band` is the least and the most ratio
    allowed (of shares: difference; of shapes: least correlation)."""

    ref: str
    quantity: str
    point: str
    unit: str
    published: float
    modelled: float
    ratio: float
    band: tuple[float, float]
    passed: bool | None
    used_as_input: bool
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, `passed` under its usual name."""
        plain = self._asdict() | {"pass": self.passed, "band": list(self.band)}
        del plain["passed"]
        return plain


def check(reference: Reference, is_unseen: bool = False) -> list[Verdict]:
    """All targets of a reference, and the shape of each quantity with enough of them. Raises InputError."""
    subjects = {name: Subject(reference, point) for name, point in reference.points.items()}
    rows, problems = [], []
    for target in reference.targets:
        try:
            rows.append(_row(reference, target, subjects[target.point], is_unseen))
        except InputError as error:
            problems += error.problems
        except Unmappable as refused:
            problems.append(str(refused))
    if problems:
        raise InputError(reference.name, list(dict.fromkeys(problems)))
    return rows + list(_shapes(reference.name, rows, is_unseen))


def _row(reference: Reference, target: PublishedFigure, subject: Subject, is_unseen: bool) -> Verdict:
    found, known = modelled(target.quantity, target.unit, subject)
    ratio, band = found / target.value, _band(known.test, target.band, is_unseen)
    judged = found - target.value if known.test == "share" else ratio
    passed = bool(band[0] <= judged <= band[1]) if target.is_judged else None
    used = rests_on_print(known.evidence, subject)
    return Verdict(reference.name, target.quantity, target.point, target.unit, target.value, found, ratio, band, passed,
               used, target.note)  # fmt: skip


def _band(test: str, own: float | None, is_unseen: bool) -> tuple[float, float]:
    if test == "share":
        most = own or (UNSEEN if is_unseen else BANDS)["share"]
        return -most, most
    if is_unseen and own is None:
        return 1 / UNSEEN[test], UNSEEN[test]
    return 1 - (own or BANDS[test]), 1 + (own or BANDS[test])


def _shapes(name: str, rows: Sequence[Verdict], is_unseen: bool) -> Iterable[Verdict]:
    """Rank correlation of each quantity that was published at several points."""
    judged = [row for row in rows if row.passed is not None and row.unit != "ratio"]
    for quantity, unit in dict.fromkeys((row.quantity, row.unit) for row in judged):
        group = [row for row in judged if (row.quantity, row.unit) == (quantity, unit)]
        if len(group) < FEWEST_FOR_A_SHAPE:
            continue
        found = rank_correlation([row.published for row in group], [row.modelled for row in group])
        least = (UNSEEN if is_unseen else BANDS)["shape"]
        used, note = any(row.used_as_input for row in group), f"rank correlation over {len(group)} points"
        yield Verdict(name, f"shape of {quantity}", "", "", 1.0, found, found, (least, 1.0), found >= least, used, note)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, with mean ranks for equal values."""
    ranks = [_ranks(np.asarray(values, dtype=float)) for values in (first, second)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1) / 2
