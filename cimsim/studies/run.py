"""A run directory: rows written whole or not at all, so that a killed run goes on where it stopped."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from workloads.errors import InputError
from workloads.store import PART, write_atomically
from workloads.yamlfile import read_mapping

COLUMNS = (
    "key", "kind", "label", "chip", "vary", "seed", "budget_fraction", "budget_pj", "met",
    "energy_pj", "dynamic_pj", "leakage_pj", "always_on_pj", "latency_ns", "interval_ns", "area_mm2", "area_used_mm2",
    "bits_per_weight", "float_accuracy", "ideal_accuracy", "array_accuracy", "test_images",
    "relaxation_gap", "discretization_gap", "contention_gap", "contention_gap_latency", "plan",
)  # fmt: skip
ROW_KEYS = ("key", "kind", "label", "chip", "seed", "energy_pj")  # what every row has
FOLDERS = ("rows", "plans", "weights", "costs", "timeline", "table", "figures", "checkpoints")
FREE = "workers"  # the one key of a study that no result depends on


class RunDir:
    """`runs/NAME`: study, rows, plans, weights, costs, figures."""

    def __init__(self, path: Path):
        self.path = path

    def open(self, study_text: str, manifest: Mapping[str, Any]) -> RunDir:
        """Create the folders, or check that what is there belongs to this study and these chips.

        Raises InputError when it does not: remedies are in the message.
        """
        if problems := self._foreign(yaml.safe_load(study_text), manifest):
            raise InputError(str(self.path), problems)
        try:
            for folder in FOLDERS:
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(str(self.path), [f"cannot be created: {error.strerror}; name another --run-dir"]) from None
        self._remove_leftovers()
        if not self.has("study.yaml"):
            write_atomically(self.path / "study.yaml", study_text.encode())
        self.write_json("manifest.json", manifest)
        return self

    def _foreign(self, study: dict[str, Any], manifest: Mapping[str, Any]) -> list[str]:
        """What differs between the run that is there and the one that is asked for."""
        remedy = "remove the directory, or name another --run-dir"
        if not self.has("study.yaml"):
            return []
        stored = read_mapping(self.path / "study.yaml", f"the study of a run ({remedy})")
        changed = [key for key in stored | study if key != FREE and stored.get(key) != study.get(key)]
        if changed:
            return [f"study.yaml: is another study: {', '.join(changed)} changed: {remedy}"]
        before = self.read_json("manifest.json").get("chips", {}) if self.has("manifest.json") else {}
        now = manifest.get("chips", {})
        return [f"manifest.json: chips.{name}: the chip file has changed since: {remedy}"
                for name in before if before[name] != now.get(name)]  # fmt: skip

    def _remove_leftovers(self) -> None:
        """Files that a killed process was still writing."""
        for path in self.path.glob(f"**/.*{PART}"):
            if not _is_running(int(path.suffixes[-2][1:])):
                path.unlink(missing_ok=True)

    def write_json(self, name: str, value: Any) -> None:
        write_atomically(self.path / name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def read_json(self, name: str, culprit: str = "it", keys: Iterable[str] = ()) -> dict[str, Any]:
        """The stored object. Raises InputError when it is missing, broken or lacks `keys`; deleting `culprit` helps."""
        try:
            value = json.loads((self.path / name).read_text())
            if not isinstance(value, dict) or not value.keys() >= set(keys):
                raise ValueError(" ".join(["must be a JSON object with", *keys]))
        except (OSError, ValueError) as error:
            reason = f"{name}: cannot be used ({error}): delete {culprit} and run the same command again"
            raise InputError(str(self.path), [reason]) from None
        return value

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write_row(self, row: Mapping[str, Any]) -> None:
        self.write_json(f"rows/{row['key']}.json", dict(row))

    def rows(self) -> list[dict[str, Any]]:
        """Every finished row, sorted by key. Raises InputError that names every broken one."""
        rows, problems = [], []
        for path in sorted((self.path / "rows").glob("*.json")):
            try:
                rows.append(self.read_json(f"rows/{path.name}", "it and checkpoints/*.done", ROW_KEYS))
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(str(self.path), problems)
        return rows

    def results(self) -> list[dict[str, Any]]:
        """Rows with a cost: what a chip refused has none."""
        return [row for row in self.rows() if row["energy_pj"] is not None]

    def render_results(self) -> Path:
        """`results.csv`: the rows in a fixed order, without times."""
        target = self.path / "results.csv"
        write_atomically(target, results_csv(self.results()).encode())
        return target


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, for another user
    return True


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
