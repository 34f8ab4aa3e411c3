"""A run directory: rows written whole or not at all, so that a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from workloads.errors import InputError
from workloads.results import Refused, Row, plain_row, read_row, results_csv
from workloads.store import PART, write_atomically
from workloads.yamlfile import read_mapping

ROWS = "rows"
FOLDERS = (ROWS, "plans", "weights", "costs", "timeline", "table", "figures", "checkpoints")
REMEDY = "delete it, then run the same command again"
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

    def read_json(self, name: str) -> dict[str, Any]:
        """The stored object. Raises InputError when it is missing or broken; deleting it helps."""
        try:
            value = json.loads((self.path / name).read_text())
            if not isinstance(value, dict):
                raise ValueError("must be a JSON object")
        except (OSError, ValueError) as error:
            raise InputError(str(self.path), [f"{name}: cannot be used ({error}): {REMEDY}"]) from None
        return value

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write_row(self, row: Row | Refused) -> None:
        self.write_json(row_file(row.key), plain_row(row))

    def rows(self) -> list[Row | Refused]:
        """Every finished row, sorted by key. Raises InputError that names every broken one."""
        rows, problems = [], []
        for path in sorted((self.path / ROWS).glob("*.json")):
            try:
                rows.append(self._row(f"{ROWS}/{path.name}"))
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(str(self.path), problems)
        return rows

    def _row(self, name: str) -> Row | Refused:
        plain = self.read_json(name)
        try:
            return read_row(plain)
        except InputError as error:
            raise InputError(str(self.path), [f"{name}: {item}: {REMEDY}" for item in error.problems]) from None

    def results(self) -> list[Row]:
        """Rows with a cost: what a chip refused has none."""
        return [row for row in self.rows() if isinstance(row, Row)]

    def render_results(self) -> Path:
        """`results.csv`: the rows in a fixed order, without times."""
        target = self.path / "results.csv"
        write_atomically(target, results_csv(self.results()).encode())
        return target


def row_file(key: str) -> str:
    """Where a run keeps a row; it is written last, after all files that it names."""
    return f"{ROWS}/{key}.json"


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, for another user
    return True
