"""Writes docs/schemes.md: every scheme on the same three tasks, and families of schemes on larger networks.

`python -m docs.made.schemes` trains and times what `runs/schemes` does not hold yet (an hour and three quarters on one
core, a quarter of it DKM and Gumbel softmax) and fills the blocks of the page; with the word `tasks` or `networks`,
one of its two tables. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from cimsim import __version__
from docs.made.figures import ROOT, refresh
from docs.made.schemes_tasks import FOLDER, NETWORKS, ROWS, SEEDS, TASKS, Row, family_trials, trials
from docs.made.schemes_time import known_ratios, step_ratios, timed
from qat.experiments.trial import FLOAT, run_trials
from workloads.errors import InputError, RunError
from workloads.format import parse_format

PAGE = ROOT / "docs" / "schemes.md"
COMMAND = "python -m docs.made.schemes"
Found = list[dict[str, Any]]


def table(found: Found, ratios: dict[str, float]) -> str:
    """Accuracy per task, with bits, error and use of codes of the first task, and the time of a step."""
    head = ["scheme", "format", "stored weight", "gradient of w", "bits stored", "bits in the array",
            *(task.title for task in TASKS), "relative error", "codes used", "perplexity", "step, × float"]  # fmt: skip
    return _markdown(head, 4, [_cells(row, found, ratios) for row in ROWS])


def _cells(row: Row, found: Found, ratios: dict[str, float]) -> list[str]:
    first = row.of(found, TASKS[0])
    used = [100 * r["used_share"] for r in first if "used_share" in r]
    is_float = row.format == FLOAT
    return [
        row.title, f"`{row.format}`", row.formula, row.gradient,
        "32" if is_float else _mean(first, "stored_bits_per_weight"),
        "" if is_float else str(parse_format(row.format).array_bits),
        *(_accuracy(row.of(found, task), is_float) for task in TASKS),
        "0" if is_float else _mean(first, "relative_error"),
        f"{np.mean(used):.0f} %" if used else "", _mean(first, "perplexity"),
        f"{ratios[row.key]:.2f}" if row.key in ratios else "–",
    ]  # fmt: skip


def networks_table(found: Found) -> str:
    """Accuracy, its change and the time of a trial on the larger networks."""
    head = ["scheme", "format"]
    for task in NETWORKS:
        head += [task.title, "change", "time"]
    return _markdown(head, 2, [_network_cells(row, found) for row in ROWS if row.is_family])


def _network_cells(row: Row, found: Found) -> list[str]:
    cells, is_float = [row.title, f"`{row.format}`"], row.format == FLOAT
    for task in NETWORKS:
        results = row.of(found, task)
        reached = [100 * r["float_accuracy" if is_float else "accuracy"] for r in results]
        time_s = np.mean([r["seconds"] for r in results])
        cells += [f"{np.mean(reached):.2f} %", "" if is_float else interval(_changes(results)), f"{time_s:.0f} s"]
    return cells


def _markdown(head: list[str], num_left: int, rows: list[list[str]]) -> str:
    """A table whose first columns are text."""
    rule = ["---"] * num_left + ["--:"] * (len(head) - num_left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _accuracy(results: Found, is_float: bool) -> str:
    """Float rows: mean accuracy; others: mean change in points against the same seed's float network."""
    if not results:
        return "–"
    return (
        interval([100 * r["float_accuracy"] for r in results], "") + " %" if is_float else interval(_changes(results))
    )


def _changes(results: Found) -> list[float]:
    return [100 * (r["accuracy"] - r["float_accuracy"]) for r in results]


def interval(values: list[float], sign: str = "+") -> str:
    """Mean and half width of the 95 % t-interval; one value stands alone."""
    mean = f"{np.mean(values):{sign}.2f}"
    if len(values) == 1:
        return mean
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean} ± {half:.2f}"


def _mean(results: Found, name: str) -> str:
    """Three digits, or nothing where it does not exist."""
    values = [r[name] for r in results if name in r]
    return f"{float(f'{np.mean(values):.3g}'):g}" if values else ""


def made(table: str = "") -> str:
    """What made a table."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "torch"))
    seeds, command = ", ".join(map(str, SEEDS)), f"{COMMAND} {table}".strip()
    return f"Made by `{command}`: seeds {seeds}, cimsim {__version__}, Python {platform.python_version()}, {packages}."


def tasks_block(folder: Path) -> str:
    """Times first: training on other cores would disturb them."""
    ratios = known_ratios(folder, lambda: step_ratios(ROWS))
    return f"{table(run_trials(trials(), folder, workers=2), ratios)}\n\n{made('tasks')}"


def networks_block(folder: Path) -> str:
    found = [timed(trial, folder / "networks") for trial in family_trials()]
    return f"{networks_table(found)}\n\n{made('networks')}"


BLOCKS = {"tasks": tasks_block, "networks": networks_block}


def main(names: Sequence[str] = (), folder: Path = FOLDER) -> None:
    """Fill these blocks of the page, or all."""
    if unknown := sorted(set(names) - set(BLOCKS)):
        raise InputError(COMMAND, [f"no such table {', '.join(unknown)} (known: {', '.join(BLOCKS)})"])
    for name in names or BLOCKS:
        refresh(PAGE, {f"schemes {name}": lambda _, fill=BLOCKS[name]: fill(folder)})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (InputError, RunError) as error:
        sys.exit(f"{error}")
