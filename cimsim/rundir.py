"""A run directory: rows written whole or not at all, so that a killed run goes on where it stopped."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workloads.errors import InputError, RunError

COLUMNS = (
    "key", "kind", "label", "chip", "vary", "seed", "budget_fraction", "budget_pj", "met",
    "energy_pj", "dynamic_pj", "leakage_pj", "always_on_pj", "latency_ns", "interval_ns", "area_mm2", "area_used_mm2",
    "bits_per_weight", "float_accuracy", "ideal_accuracy", "array_accuracy", "test_images",
    "relaxation_gap", "discretization_gap", "contention_gap", "contention_gap_latency", "plan",
)  # fmt: skip
FOLDERS = ("rows", "plans", "weights", "costs", "timeline", "table", "figures", "checkpoints")


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either the old or the new content. Raises RunError on a full disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written: {error.strerror}; free space or fix permissions, "
                       "then run the same command again") from None  # fmt: skip


def content_key(*parts: Any) -> str:
    """Twelve hex digits that name this content."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class RunDir:
    """`runs/NAME`: study, rows, plans, weights, costs, figures."""

    def __init__(self, path: Path):
        self.path = path

    def open(self, study_text: str, manifest: Mapping[str, Any]) -> RunDir:
        """Create the folders, or check that what is there belongs to this study and code."""
        stored = self.path / "study.yaml"
        if stored.exists() and stored.read_text() != study_text:
            raise InputError(str(self.path), ["holds the run of another study: remove it, or name another --run-dir"])
        try:
            for folder in FOLDERS:
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(str(self.path), [f"cannot be created: {error.strerror}; name another --run-dir"]) from None
        write_atomically(stored, study_text.encode())
        self.write_json("manifest.json", manifest)
        return self

    def write_json(self, name: str, value: Any) -> None:
        write_atomically(self.path / name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """The stored value. Raises InputError when the file is missing or broken."""
        try:
            return json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            reason = f"{name}: cannot be read ({error}): delete it and run the same command again"
            raise InputError(str(self.path), [reason]) from None

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write_row(self, row: Mapping[str, Any]) -> None:
        self.write_json(f"rows/{row['key']}.json", dict(row))

    def rows(self) -> list[dict[str, Any]]:
        """Every finished row, sorted by key."""
        return [self.read_json(f"rows/{path.name}") for path in sorted((self.path / "rows").glob("*.json"))]

    def render_results(self) -> Path:
        """`results.csv`: the rows in a fixed order, without times."""
        target = self.path / "results.csv"
        write_atomically(target, results_csv(self.rows()).encode())
        return target


def results_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """CSV of COLUMNS; floats as their shortest exact text, missing values empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sorted(rows, key=_order):
        writer.writerow(["" if row.get(name) is None else row[name] for name in COLUMNS])
    return text.getvalue()


def _order(row: Mapping[str, Any]) -> tuple:
    return (row["chip"], row.get("vary", ""), row["kind"], row["label"], row["seed"], row["key"])
