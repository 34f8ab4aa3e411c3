"""A run directory as it is read: results in a table, the rest in dictionaries."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd
import yaml

from workloads.errors import InputError
from workloads.results import COLUMNS, KINDS, Row, is_number

REQUIRED = tuple(name for name in COLUMNS if Row.model_fields[name].is_required())

# A pandas DataFrame. pandas' own annotations reject ordinary column arithmetic, so checkers see Any.
Frame: TypeAlias = Any


class Run(NamedTuple):
    """What a run directory holds. `costs` and `plans` are keyed by evaluation, `tables` by chip.

    `cells` has a row for each plan, chip and kind of cells that `cimsim accuracy` measured.
    """

    path: Path
    study_text: str
    study: dict[str, Any]
    manifest: dict[str, Any]
    results: Frame
    costs: dict[str, dict]
    plans: dict[str, dict]
    tables: dict[str, dict]
    cells: Frame

    def plan_of(self, row: Any) -> dict[str, dict]:
        """Layer name -> choices of a results row; empty if its plan is not stored."""
        name = Path(str(row["plan"] or row["key"])).stem if row["plan"] else str(row["key"])
        return self.plans.get(name, {}).get("layers", {})

    def formats_of(self, row: Any) -> dict[str, str]:
        """Layer name -> format name of a results row."""
        return {layer: choice["format"] for layer, choice in self.plan_of(row).items()}


def read_run(path: Path) -> Run:
    """Reads a run directory. Raises InputError that names every file or column it lacks."""
    problems = [
        f"{name}: missing: must be there ({remedy})"
        for name, remedy in (
            ("study.yaml", "give a directory that `cimsim codesign` or `cimsim sweep` wrote"),
            ("manifest.json", "run the study again, it goes on where it stopped"),
            ("results.csv", "run the study until at least one evaluation is finished"),
        )
        if not (path / name).is_file()
    ]
    if problems:
        raise InputError(str(path), problems)
    text = (path / "study.yaml").read_text()
    return Run(
        path=path,
        study_text=text,
        study=yaml.safe_load(text) or {},
        manifest=_json(path / "manifest.json"),
        results=read_results(path / "results.csv"),
        costs=_folder(path / "costs"),
        plans=_folder(path / "plans"),
        tables=_folder(path / "table"),
        cells=pd.DataFrame(list(_folder(path / "cells").values())),
    )


def read_results(path: Path) -> Frame:
    """results.csv with every known column (absent ones empty). Raises InputError on what it cannot read."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise InputError(str(path), ["(whole file): empty: must have a header and rows"]) from None
    missing = [f"{name}: missing column" for name in REQUIRED if name not in table]
    if missing or table.empty:
        raise InputError(str(path), missing or ["(whole file): no rows: must hold a finished evaluation"])
    return tidy(table, str(path))


def tidy(table: Frame, where: str) -> Frame:
    """`table` with every known column in its type. Raises InputError for words where numbers belong."""
    table = table.reset_index(drop=True)
    problems: list[str] = []
    for name in dict.fromkeys([*COLUMNS, *table]):
        if is_number(name):
            problems += _make_numeric(table, name)
        elif name != "met":
            table[name] = table[name].fillna("").astype(str) if name in table else ""
    strange = table.loc[~table["kind"].isin(KINDS), "kind"]
    known = ", ".join(KINDS)
    problems += [f"row {i + 1}.kind = {value}: must be one of {known}" for i, value in strange.items()]
    if problems:
        raise InputError(where, problems)
    told = table["met"].astype(str) if "met" in table else pd.Series("", table.index)
    table["met"] = told.map({"True": True, "False": False}).astype(object)
    return table


def _make_numeric(table: Frame, name: str) -> list[str]:
    """Turns the column to floats in place, empty as NaN; returns what could not be read."""
    if name not in table:
        table[name] = float("nan")
        return []
    values: Any = table[name].replace("", None)
    table[name] = pd.Series(pd.to_numeric(values, errors="coerce"), table.index).astype(float)
    wrong = values[table[name].isna() & values.notna()]
    return [f"row {i + 1}.{name} = {value}: must be a number" for i, value in wrong.items()]


def components_pj(cost: dict) -> dict[str, float]:
    """Energy of one cost report by component; what no component claims is leakage or `not attributed`."""
    parts = Counter({name: sum(actions.values()) for name, actions in cost["energy_by_component_pj"].items()})
    rest = cost["energy_pj"] - sum(parts.values())
    if rest > 1e-6 * cost["energy_pj"]:
        is_leakage = abs(rest - cost.get("leakage_pj", 0.0)) < 1e-3 * cost["energy_pj"]
        parts["leakage" if is_leakage else "not attributed"] += rest
    return dict(parts)


def masked_formats(run: Run, chip: str) -> list[tuple[str, str, str]]:
    """(format, layers, reason) of what the chip's cost table masks; its keys are `format` or `layer/format`."""
    layers: dict[tuple[str, str], list[str]] = {}
    for key, reason in run.tables.get(chip.replace("/", "_"), {}).get("masked", {}).items():
        layer, _, name = key.rpartition("/")
        layers.setdefault((name, reason), []).append(layer or "all")
    return [(name, _few(names), reason) for (name, reason), names in layers.items()]


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more"


def _folder(path: Path) -> dict[str, dict]:
    return {file.stem: _json(file) for file in sorted(path.glob("*.json"))}


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(str(path), [f"line {error.lineno}: {error.msg}: must be JSON"]) from None
