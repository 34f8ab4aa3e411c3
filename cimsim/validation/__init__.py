"""Published figures against modelled ones: reading references, measuring chips, verdicts, and the joint fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cimsim.validation.component_tables import TABLES
from cimsim.validation.fit import NO_EVIDENCE, PARAMETERS, leave_one_out, mean_factor, parameters
from cimsim.validation.reference import load_reference, read_reference, reference_names
from cimsim.validation.verdict import Verdict, check
from workloads.errors import InputError

FITS = ("literature", "fitted", "left_out")


def names() -> tuple[str, ...]:
    """All references: chips and component tables."""
    return (*reference_names(), *TABLES)


def check_references(name: str | None = None) -> list[Verdict]:
    """One reference, or all. Raises InputError for an unknown name."""
    if name is not None and name not in names():
        raise InputError("validate", [f"--ref {name!r}: no such reference (known: {', '.join(names())})"])
    chosen = names() if name is None else (name,)
    return [row for one in chosen for row in (TABLES[one]() if one in TABLES else check(load_reference(one)))]


def check_own(chip: str, targets: Path) -> list[Verdict]:
    """A chip nobody has seen, in the wider bands. Raises InputError that lists every problem."""
    return check(read_reference(targets, chip), is_unseen=True)


def left_out() -> dict[str, Any]:
    """Leave-one-chip-out, the free parameters, and what fitting the energies too would do."""
    adopted, all_fitted = leave_one_out(), leave_one_out(adopted=False)
    return {
        "rows": [one._asdict() for one in adopted],
        "parameters": [
            {"name": parameter.name, "of": parameter.of, "adopted": parameter.adopted, "low": low, "value": value,
             "high": high, "chips": list(chips)}
            for parameter, (low, value, high), chips in parameters()
        ],
        "typical_factor": {about: _factors(adopted, about) for about in ("energy", "area", "time")},
        "typical_factor_with_energies_fitted": _factors(all_fitted, "energy"),
        "no_evidence": dict(NO_EVIDENCE),
    }  # fmt: skip


def _factors(rows: list[Any], about: str) -> dict[str, float]:
    own = [row for row in rows if row.about == about]
    ratios = {name: mean_factor(getattr(row, f"{name}_ratio") for row in own) for name in FITS}
    return ratios | {"worst_left_out": max(max(row.left_out_ratio, 1 / row.left_out_ratio) for row in own)}


__all__ = ["PARAMETERS", "Verdict", "check_own", "check_references", "left_out", "names"]
