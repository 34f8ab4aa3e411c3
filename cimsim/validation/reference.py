"""A published reference: a CSV of what a paper states (inputs) and what it reports (targets), at one or more points.

Columns: quantity, value, unit, kind, and perhaps point, band, source, note. `kind` is
  input    a condition: a field of the operating point, `network`, `plan`, `batch`, or a variation of the chip
           (`part.field`, `supply_v`); of the named point, or of all if `point` is empty
  target   a figure that the model must meet
  context  a figure that is shown beside the model's and not judged (the note says why)
`band` replaces the usual relative tolerance. Units are converted (cimsim/validation/units.py).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from cimsim.validation.macro import OperatingPoint
from workloads.errors import InputError, problems_of

COLUMNS = ("quantity", "value", "unit", "kind")
MORE_COLUMNS = ("point", "band", "source", "note")
KINDS = ("input", "target", "context")
SIMULATED = ("network", "plan", "sharing", "layout", "batch")  # of points at which a whole network runs


class PublishedFigure(NamedTuple):
    """One published figure. `band` is a relative tolerance, or None for the usual one."""

    quantity: str
    value: float
    unit: str
    point: str
    band: float | None
    is_judged: bool
    note: str


class Reading(NamedTuple):
    """Conditions of a measurement: the macro's operating point, variations of the chip, a network to run."""

    operating: OperatingPoint
    vary: Mapping[str, Any]
    run: Mapping[str, Any]


class Reference(NamedTuple):
    """One published chip or tool: points by name ("" where there is one) and targets in the file's order."""

    name: str
    chip: str  # ready, or a file; one that the CSV names stands beside it
    points: Mapping[str, Reading]
    targets: tuple[PublishedFigure, ...]
    folder: Path


def reference_names() -> tuple[str, ...]:
    """References that come with cimsim."""
    return tuple(sorted(path.stem for path in _folder().glob("*.csv")))


def load_reference(name: str) -> Reference:
    """A reference that comes with cimsim. Raises InputError for an unknown name."""
    if name not in reference_names():
        raise InputError(name, [f"no such reference (known: {', '.join(reference_names())})"])
    return read_reference(_folder() / f"{name}.csv")


def read_reference(path: Path, chip: str = "") -> Reference:
    """A reference from a file; `chip` (a ready chip or file) replaces its input `chip`.

    Raises InputError that lists every problem with its line.
    """
    rows, problems = _rows(path)
    inputs = [row for row in rows if row["kind"] == "input"]
    named = [str(row["parsed"]) for row in inputs if row["quantity"] == "chip"]
    if not chip and len(named) != 1:
        problems.append("chip: one row of kind input must name the chip")
    names = dict.fromkeys(row["point"] for row in rows if row["kind"] != "input")
    unused = sorted({row["point"] for row in inputs} - {"", *names})
    problems += [f"point {name!r}: has inputs and no target" for name in unused]
    points: dict[str, Reading] = {}
    for name in names:
        try:
            points[name] = _point([row for row in inputs if row["point"] in ("", name)])
        except ValidationError as error:
            problems += [f"point {name!r}: {problem}" for problem in problems_of(error, OperatingPoint)]
    if not names:
        problems.append("targets: at least one row of kind target is needed")
    if problems:
        raise InputError(path.name, list(dict.fromkeys(problems)))
    targets = tuple(_target(row) for row in rows if row["kind"] != "input")
    beside = not chip and named[0].endswith((".yaml", ".yml"))
    return Reference(
        path.stem, str(path.parent / named[0]) if beside else chip or named[0], points, targets, path.parent
    )


def _folder() -> Path:
    return Path(str(files("cimsim") / "references"))


def _rows(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The file's lines as dictionaries of all columns, and what is wrong with them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(path), [f"(whole file): cannot be read: {error}"]) from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    reader = csv.DictReader(lines)
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise InputError(path.name, [f"column {name}: is required (first line)" for name in missing])
    rows, problems = [], []
    for number, raw in enumerate(reader, start=2):
        row = {name: (raw.get(name) or "").strip() for name in COLUMNS + MORE_COLUMNS}
        found = list(_problems(row))
        problems += [f"row {number}: {problem}" for problem in found]
        if not found:
            rows.append(row | {"parsed": yaml.safe_load(row["value"])})
    return rows, problems


def _problems(row: Mapping[str, str]) -> Iterator[str]:
    if row["kind"] not in KINDS:
        yield f"kind = {row['kind']!r}: must be {', '.join(KINDS)}"
    try:
        value = yaml.safe_load(row["value"])
    except yaml.YAMLError:
        yield f"value = {row['value']!r}: is not a value"
        return
    if row["kind"] in ("target", "context") and (not _is_number(value) or value <= 0):
        yield f"{row['quantity']} = {row['value']!r}: must be a number > 0"
    if row["band"] and not (_is_number(band := yaml.safe_load(row["band"])) and 0 < band < 10):
        yield f"band = {row['band']!r}: must be a relative tolerance > 0, as 0.1"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _point(inputs: list[dict[str, Any]]) -> Reading:
    """Later rows win, so that a point's own value stands before the common one."""
    given = {row["quantity"]: row["parsed"] for row in sorted(inputs, key=lambda row: row["point"] != "")}
    given.pop("chip", None)
    if "weight_sparsity" in given:
        given["weight_density"] = 1 - given.pop("weight_sparsity")
    if "toggle_rate" in given:
        given["input_density"] = given.pop("toggle_rate")
    operating = {key: given.pop(key) for key in OperatingPoint.model_fields if key in given}
    run = {key: given.pop(key) for key in SIMULATED if key in given}
    return Reading(OperatingPoint(**operating), given, run)


def _target(row: Mapping[str, Any]) -> PublishedFigure:
    band = float(row["band"]) if row["band"] else None
    return PublishedFigure(
        row["quantity"], float(row["parsed"]), row["unit"], row["point"], band, row["kind"] == "target", row["note"]
    )
