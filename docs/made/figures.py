"""Redraws what the documents show: outputs of commands, and figures, table and verdict of the study with seeds.

A document marks a block by `<!-- NAME -->` and `<!-- end -->`, each on a line of its own. NAME is `output: COMMAND`,
or a part of the study: `made`, `verdict`, `results`, `drawn`; `results: LABEL, LABEL` is of some of its plans. Run as
`python -m docs.made.figures [RUN]` (`make docs` does).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

from docs.made import validation
from reports.frames import Run, read_run
from reports.front import front_figure
from reports.plans import plans_figure
from reports.real_cells import cells_figure, cells_table
from reports.seeds import summarize
from reports.style import ENERGY_UNITS, digits3, duration, percent, unit_of
from reports.verdict import verdicts
from workloads.errors import InputError, RunError

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
DOCUMENTS = (ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
DEFAULT_RUN = "runs/fashion_mnist_seeds"
DEFAULT_RUNS = ("fashion_mnist_seeds", "against_chance")  # of the modules here that draw studies
KINDS = ("output: .+", "made", "results(?:: .+)?", "verdict", "drawn(?:: .+)?", "schemes (?:tasks|networks)",
         "pretrained", "ranking", "end")  # fmt: skip
MARK = re.compile(f"^<!-- ({'|'.join(KINDS)}) -->\\n", re.M)
EXAMPLE_IMAGES = (
    "own_module.png",
    "break_even.png",
    "universal_book.png",
    "error_against_bits.png",
)  # what the example programs draw, in runs/


def redraw_outputs() -> None:
    """What needs no study: outputs of commands, and what the example programs draw."""
    for path in DOCUMENTS:
        refresh(path, {"output": output})
    IMAGES.mkdir(exist_ok=True)
    validation.draw()
    for name in EXAMPLE_IMAGES:
        shutil.copy(ROOT / "runs" / name, IMAGES / name)


def redraw_study(run: Path) -> None:
    """Pictures, table and verdict of a finished run. Raises InputError if it is missing."""
    if not (run / "results.csv").is_file():
        remedy = "`make docs` runs the study, which takes a while, and draws what it found"
        raise InputError(str(run), [f"results.csv: missing: must be there ({remedy})"])
    study = read_run(run)
    first = study.results["seed"] == study.results["seed"].min()
    front_figure(study.results, IMAGES / "pareto.png")
    plans_figure(study._replace(results=study.results[first]), IMAGES / "plans.png")
    cells_figure(study, IMAGES / "cells.png")
    parts = {
        "made": lambda _: made(study),
        "results": lambda labels: results(study, labels),
        "verdict": lambda _: verdict(study),
        "drawn": lambda labels: drawn(study, labels),
    }
    for path in DOCUMENTS:
        refresh(path, parts)


def refresh(path: Path, writers: dict[str, Callable[[str], str]]) -> None:
    """Fill the file's blocks of these kinds anew; a writer gets what follows the kind in the mark."""
    text = path.read_text()
    for mark, start, end in reversed(blocks(text, path.name)):
        kind, _, argument = mark.partition(": ")
        if kind in writers:
            text = text[:start] + writers[kind](argument).strip("\n") + "\n" + text[end:]
    path.write_text(text)


def blocks(text: str, name: str) -> list[tuple[str, int, int]]:
    """(mark, start, end) of each block's content. Raises InputError unless begin and end take turns."""
    marks = list(MARK.finditer(text))
    begins, ends = marks[::2], marks[1::2]
    if len(marks) % 2 or any(m[1] == "end" for m in begins) or any(m[1] != "end" for m in ends):
        raise InputError(name, ["marks: each `<!-- NAME -->` must be followed by its `<!-- end -->`"])
    return [(begin[1], begin.end(), end.start()) for begin, end in zip(begins, ends, strict=True)]


def output(command: str, folder: Path = ROOT) -> str:
    """A command with what it prints when run in `folder`, as a block of text. Raises RunError if it fails, but for
    `validate`, whose exit code 1 tells of a figure outside its band."""
    program, *arguments = shlex.split(command)
    module = ["-m", "cimsim"] if program == "cimsim" else []
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *module, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode > ("validate" in arguments):
        raise RunError(f"{command}: {done.stderr.strip()}")
    lines = [f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines())]
    return "\n".join(["```text", *lines, "```"])


def made(run: Run, module: str = "docs.made.figures") -> str:
    """What made the study's figures: commands, the second this module's, seeds, test images, versions."""
    told, name, images = run.manifest, run.study["name"], run.results["test_images"].max()
    argument = "" if name in DEFAULT_RUNS else f" runs/{name}"
    packages = ", ".join(f"{name} {version}" for name, version in told["packages"].items())
    seeds = ", ".join(str(seed) for seed in told["seeds"])
    commit = told["commit"][:7] + "+" * told["commit"].endswith("+")
    return (
        f"Made by `cimsim codesign examples/{name}.yaml && python -m {module}{argument}`: "
        f"seed{'s' * (len(told['seeds']) > 1)} {seeds}, {images:,.0f} test images, "
        f"cimsim {told['version']} (commit {commit}), Python {told['python']}, {packages}."
    )


def results(run: Run, labels: str = "") -> str:
    """Plans on the base chips, all or those named: means, with 95 % t-intervals where there are several seeds."""
    rows = run.results[(run.results["vary"] == "") & ~run.results["kind"].isin(["random", "variant"])]
    if labels:
        rows = rows[rows["label"].isin(labels.split(", "))]
    table = summarize(rows).sort_values(["chip", "energy_pj"], kind="stable")
    lines = ["| chip | plan | energy per image | latency | stored bits per weight | accuracy through the arrays |",
             "| --- | --- | --: | --: | --: | --: |"]  # fmt: skip
    for _, row in table.iterrows():
        cells = (row["chip"], row["label"], _energy(row), duration(row["latency_ns"]),
                 f"{row['bits_per_weight']:.2f}", _accuracy(row))  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _energy(row: Any) -> str:
    mean, half = row["energy_pj"], row["energy_pj_half"]
    size, unit = unit_of(mean, ENERGY_UNITS)
    return f"{digits3(mean / size)}{'' if isnan(half) else f' ± {digits3(half / size)}'} {unit}"


def _accuracy(row: Any) -> str:
    mean, half = row["array_accuracy"], row["array_accuracy_half"]
    return percent(mean, 2) if isnan(half) else f"{100 * mean:.2f} ± {100 * half:.2f} %"


def drawn(run: Run, labels: str = "") -> str:
    """Plans on arrays that are not ideal, all or those named. Raises InputError if none were drawn."""
    table = cells_table(run)
    if not table.rows:
        reason = f"cells/: missing: must be there (`cimsim accuracy {run.path} --cells reram` draws them)"
        raise InputError(str(run.path), [reason])
    rows = [row for row in table.rows if not labels or row[1] in labels.split(", ")]
    rule = ["---"] * table.num_text + ["--:"] * (len(table.heads) - table.num_text)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.heads, rule, *rows))


def verdict(run: Run) -> str:
    """The report's sentences, chip by chip."""
    lines = []
    for chip in verdicts(run):
        lines += [f"**{chip.chip}**", "", *(f"- {sentence.text}" for sentence in chip.sentences), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        redraw_outputs()
        redraw_study(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / DEFAULT_RUN)
    except InputError as error:
        sys.exit(f"{error}")
