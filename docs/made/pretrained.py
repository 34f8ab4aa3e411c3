"""Writes docs/pretrained.md: every scheme on two networks with published weights, without training and after a little.

`python -m docs.made.pretrained` measures what `runs/pretrained` does not hold yet and fills the page; with names of
networks (`lite0`, `minilm`) it only measures these. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console

from cimsim import __version__
from docs.made.figures import ROOT, refresh
from qat.experiments.pretrained import Choice, distance, judged, measured
from qat.experiments.tasks import SEED, SETTINGS, TASKS, require
from qat.experiments.trial import FLOAT
from qat.post_training.ptq import Method
from workloads.errors import InputError, RunError
from workloads.store import content_key, write_atomically

PAGE, FOLDER = ROOT / "docs" / "pretrained.md", ROOT / "runs" / "pretrained"
COMMAND = "python -m docs.made.pretrained"


class Row(NamedTuple):
    """A way to quantize a trained network, with a title; `steps` of distillation follow where there are any."""

    title: str
    format: str
    method: Method = "nearest"
    recipe: str = "untrained"
    network: str = ""  # empty: both
    activation: str = ""  # empty: float
    steps: int = 0

    @property
    def key(self) -> str:
        """Names its result: another row or other settings have another."""
        return f"{self.format}-{self.method}-{content_key(self._replace(title='', network=''), SETTINGS)}"

    @property
    def choice(self) -> Choice:
        return Choice(self.format, self.method, self.recipe, self.activation, self.steps)


ROWS = (
    Row("none: only first, last and depthwise layers, 8 bits", FLOAT),
    Row("linear", "linear-4"),
    Row("linear, clipped by output error", "linear-4", "clip"),
    Row("linear, GPTQ", "linear-4", "gptq"),
    Row("linear, GPTQ, activations of 8 bits", "linear-4", "gptq", activation="int8"),
    Row("VQ, pairs", "vq-2x256-e6-s0"),
    Row("D4, q = 16", "d4-q16"),
    Row("E8, q = 4, two digits", "e8-q4m2"),
    Row("linear", "linear-3"),
    Row("linear, GPTQ", "linear-3", "gptq"),
    Row("VQ, pairs", "vq-2x64-e6-s0"),
    Row("D4, q = 8", "d4-q8"),
    Row("linear", "linear-2"),
    Row("linear, GPTQ", "linear-2", "gptq"),
    Row("linear, scale code per 32 inputs", "linear-2-g32"),
    Row("linear, odd levels", "linear-2-odd"),
    Row("EWGS", "linear-2-odd", recipe="ewgs"),
    Row("DoReFa", "linear-2-odd", recipe="dorefa"),
    Row("VQ, Euclidean", "vq-4x256-e4-s0"),
    Row("VQ, Euclidean, entries of 6 bits", "vq-4x256-e6-s0"),
    Row("VQ, cosine, projected scale", "vq-4x256-e4-s0", recipe="cosine"),
    Row("VQ, weighted by inputs", "vq-4x256-e4-s0", "hessian"),
    Row("VQ, GPTVQ", "vq-4x256-e4-s0", "gptq"),
    Row("VQ, one scale bit", "vq-4x128-e4-s1"),
    Row("VQ, signed scale code", "vq-4x128-e4-s0-abs"),
    Row("VQ, two added books", "vq-8x256x2-e6-s0"),
    Row("VQ4ALL, one book for both networks", "vq-4x256-e4-s0", recipe="universal"),
    Row("D4, q = 4", "d4-q4"),
    Row("E8, q = 4", "e8-q4"),
    Row("E8, q = 4, GPTQ", "e8-q4", "gptq"),
    Row("E8, q = 4, published scale", "e8-q4", recipe="sigma"),
    Row("E8, q = 4, rotated", "e8-q4-h8", network="lite0"),
    Row("E8, q = 4, rotated", "e8-q4-h128", network="minilm"),
    Row("E8P", "e8p"),
    Row("E8 ball, norm ≤ 8", "e8-r8"),
    Row("E8, q = 2", "e8-q2"),
    Row("CIMPool, half of the error kept", "pool-128"),
)
TRAINED = (
    Row("linear, GPTQ", "linear-4", "gptq", network="lite0", steps=60),
    Row("VQ, Euclidean", "vq-4x256-e4-s0", recipe="euclid", network="lite0", steps=60),
    Row("linear", "linear-2", recipe="untrained", network="minilm", steps=60),
    Row("VQ, Euclidean", "vq-4x256-e4-s0", recipe="euclid", network="minilm", steps=60),
)


def run(names: Iterable[str], folder: Path = FOLDER) -> None:
    """Measures the rows of these networks that the folder does not hold; each is one file, whole or not there."""
    console = Console(stderr=True)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        todo = [row for row in rows_of(name) if not result_path(folder, name, row).exists()]
        if not todo:
            continue
        task, start_s = TASKS[name](folder), time.monotonic()
        for done, row in enumerate(todo, start=1):
            found = measured(row.choice, task)
            text = json.dumps({**row._asdict(), "network": name, **found}, indent=1, sort_keys=True) + "\n"
            write_atomically(result_path(folder, name, row), text.encode())
            left_s = (time.monotonic() - start_s) / done * (len(todo) - done)
            console.print(f"{name} {done} of {len(todo)}: {row.format} {row.method}, {found['seconds']:.0f} s; "
                          f"about {left_s / 60:.0f} min left", highlight=False)  # fmt: skip


def rows_of(name: str, rows: tuple[Row, ...] = ROWS + TRAINED) -> list[Row]:
    """The rows that a network has."""
    return [row for row in rows if row.network in ("", name)]


def result_path(folder: Path, name: str, row: Row) -> Path:
    """The file of a row's result."""
    return folder / name / f"{row.key}.json"


def results(name: str, folder: Path, rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """What the folder holds of a network's rows, in their order. Raises InputError if one is missing."""
    paths = [result_path(folder, name, row) for row in rows_of(name, rows)]
    if missing := [path.name for path in paths if not path.exists()]:
        raise InputError(str(folder / name), [f"{missing[0]}: missing: must be there (`{COMMAND}` measures it)"])
    titles = [row.title for row in rows_of(name, rows)]
    return [json.loads(path.read_text()) | {"title": title} for path, title in zip(paths, titles, strict=True)]


def block(folder: Path = FOLDER) -> str:
    """All that the page's marked block holds: three tables, and what made them."""
    lite0, minilm_rows = (results(name, folder, ROWS) for name in TASKS)
    trained = [found for name in TASKS for found in results(name, folder, TRAINED)]
    return "\n\n".join(
        ["### EfficientNet-Lite0, photographs", table(LITE0_COLUMNS, lite0), "### MiniLM-L6, sentiment of film reviews",
         table(MINILM_COLUMNS, minilm_rows), "### After a little training", table(TRAINED_COLUMNS, trained), made()]
    )  # fmt: skip


def table(columns: Mapping[str, Callable[[dict[str, Any]], str]], found: list[dict[str, Any]]) -> str:
    """A Markdown table; all columns but those of words are right-aligned."""
    rules = ["---" if name in ("scheme", "format", "method", "network") else "--:" for name in columns]
    cells = [[write(result) for write in columns.values()] for result in found]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(columns), rules, *cells])


def _bits(found: dict[str, Any]) -> str:
    return f"{8 * found['bytes'] / found['weights']:.2f}" if found["weights"] else "32"


def _network_bits(found: dict[str, Any]) -> str:
    low = (found["bytes"], found["weights"]) if found["weights"] else (0, 0)
    weights = found["eight_weights"] + low[1]
    return f"{8 * (found['eight_bytes'] + low[0]) / weights:.2f}" if low[1] else "–"


def _method(found: dict[str, Any]) -> str:
    recipe = "" if found["recipe"] == "untrained" else f", `{found['recipe']}`"
    return ("–" if found["format"] == FLOAT else found["method"]) + recipe


STORED_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "scheme": lambda r: r["title"],
    "format": lambda r: f"`{r['format']}`",
    "method": _method,
    "bits / weight": _bits,
    "of the network": _network_bits,
    "relative error": lambda r: f"{r.get('relative_error', 0):.3g}",
}
LITE0_COLUMNS = STORED_COLUMNS | {
    "same first class": judged,
    "shared of first five": lambda r: f"{100 * r['top5']:.0f} %",
    "KL (nats)": lambda r: f"{r['kl']:.2f}",
    "norms corrected: same first class": lambda r: judged(r["corrected"]),
    "KL": lambda r: f"{r['corrected']['kl']:.2f}",
}
MINILM_COLUMNS = STORED_COLUMNS | {
    "accuracy of the probe": lambda r: f"{100 * np.mean(r['accuracies']):.1f} %",
    "against float (points)": judged,
    "cosine": lambda r: f"{r['cosine']:.3f}",
}
TRAINED_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "network": lambda r: "EfficientNet-Lite0" if r["network"] == "lite0" else "MiniLM-L6",
    "scheme": lambda r: r["title"],
    "format": lambda r: f"`{r['format']}`",
    "steps": lambda r: str(r["steps"]),
    "seconds / step": lambda r: f"{r['step_seconds']:.1f}",
    "before": lambda r: judged(r["untrained"]),
    "after": judged,
    "distance before": lambda r: distance(r["untrained"]),
    "distance after": distance,
}


def made() -> str:
    """What made the tables."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scikit-learn", "torch"))
    return f"Made by `{COMMAND}`: seed {SEED}, cimsim {__version__}, Python {platform.python_version()}, {packages}."


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in TASKS]:
        raise InputError("networks", [f"{name}: must be one of {', '.join(TASKS)}" for name in unknown])
    require()
    torch.set_num_threads(1)
    run(names or TASKS, FOLDER)
    if not names:
        refresh(PAGE, {"pretrained": lambda _: block()})


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (InputError, RunError) as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
