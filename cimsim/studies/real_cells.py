"""Real cells: trained plans of a run on arrays that are not ideal, written anew some times, beside ideal ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cimsim.arrays.encodings import ArrayNumbers
from cimsim.arrays.nonideal import CELLS, Nonidealities, load_cells
from cimsim.chip.cells import cells_of
from cimsim.chip.model import Chip
from cimsim.chip.numbers import array_numbers
from cimsim.chip.reading import load_chip
from cimsim.components.crossbar import Crossbar
from cimsim.integer import artifact as artifacts
from cimsim.integer.forward import accuracy, calibrate_adc
from cimsim.studies.jobs import Job, run_jobs
from cimsim.studies.measure import Test, read_test
from cimsim.studies.meter import Meter
from cimsim.studies.run import RunDir
from cimsim.studies.study import Study, load_study
from workloads.data.parts import calibration
from workloads.errors import InputError
from workloads.results import Row
from workloads.store import content_key

FOLDER = "cells"
OF_CHIP = "chip"  # each chip's own cells
TRAINED = ("search", "uniform", "all_vq", "train")  # kinds of rows


class Asked(NamedTuple):
    """What is drawn: `cells` names them (`chip`, a key of CELLS, a YAML file)."""

    cells: str
    draws: int
    images: int

    @property
    def title(self) -> str:
        return self.cells if self.cells in (OF_CHIP, *CELLS) else Path(self.cells).stem


class Work(NamedTuple):
    """One trained plan on one chip: the run and the file its result goes to."""

    folder: Path
    name: str
    row: Row
    cells: Nonidealities
    asked: Asked


def measure_run(folder: Path, asked: Asked, workers: int) -> list[dict[str, Any]]:
    """A result for each trained plan and chip; what the run holds already is not measured again.

    Raises InputError for a folder that is no run with accuracies, and where no chip has such cells.
    """
    _study(folder)
    run = RunDir(folder)
    rows = [row for row in run.results() if row.kind in TRAINED and row.weights]
    cells = {name: cells_on(load_chip(name), asked.cells) for name in {row.chip for row in rows}}
    rows = [row for row in rows if not cells[row.chip].is_ideal]
    if not rows:
        raise InputError(str(folder), [_nothing(asked, cells)])
    (folder / FOLDER).mkdir(exist_ok=True)
    names = [f"{FOLDER}/{row.key}-{content_key(cells[row.chip].model_dump(), *asked[1:])}.json" for row in rows]
    num_images = (1 + asked.draws) * asked.images
    jobs = [Job(name, (), num_images, _measure, (Work(folder, name, row, cells[row.chip], asked),), (folder / name,))
            for name, row in zip(names, rows, strict=True)]  # fmt: skip
    run_jobs(jobs, workers, folder, title="accuracy")
    return [run.read_json(name) for name in names]


def _study(folder: Path) -> Study:
    if not (folder / "study.yaml").is_file():
        raise InputError(str(folder), ["study.yaml: missing: give a directory that `cimsim codesign` wrote"])
    return load_study(folder / "study.yaml")


def _nothing(asked: Asked, cells: dict[str, Nonidealities]) -> str:
    if not cells:
        return "holds no trained plans: `cimsim codesign` makes them"
    return (
        f"cells = {asked.cells!r}: are ideal on {', '.join(sorted(cells))}: name others ({', '.join(CELLS)}, or a YAML "
        "file; digital arrays have none)"
    )


def cells_on(chip: Chip, name: str) -> Nonidealities:
    """Of the arrays of this chip; a digital array reads what was written."""
    chosen = cells_of(chip) if name == OF_CHIP else load_cells(name)
    return chosen if isinstance(chip.array, Crossbar) else Nonidealities()


def _measure(work: Work, meter: Meter) -> None:
    folder, name, row, cells, asked = work
    study, numbers = _study(folder), array_numbers(load_chip(row.chip))
    artifact = artifacts.load(folder / str(row.weights))
    images = calibration(study.data, study.train.calibration_images)
    artifact = calibrate_adc(artifact, images, numbers)
    test = read_test(study.data, folder / "test_reads.jsonl", name, asked.images)
    ideal = accuracy(artifact, *test, numbers)
    meter(asked.images)
    drawn = draws(artifact, test, numbers, cells, asked=asked, tick=meter)
    kept = row.model_dump(include={"key", "label", "kind", "chip", "seed", "energy_pj"})
    found = {
        "fill": fill(artifact),
        "cells": asked.title,
        "images": len(test[1]),
        "array_accuracy": ideal,
        "drawn": drawn,
    }
    RunDir(folder).write_json(name, kept | found)


def draws(
    artifact: artifacts.Artifact, test: Test, numbers: ArrayNumbers, cells: Nonidealities, *, asked: Asked,
    tick: Callable[[int], None] = lambda images: None,
) -> list[float]:  # fmt: skip
    """Accuracy on the test images through arrays that are written anew each time."""
    found = []
    for seed in range(asked.draws):
        found.append(accuracy(artifact, *test, numbers, cells=cells, seed=seed))
        tick(asked.images)
    return found


def fill(artifact: artifacts.Artifact) -> float:
    """How full the levels of the arrays are: root mean square of the weights' integers over half their range.

    A mean over all weights; 0.58 if every level is as likely as any other.
    """
    squares = num_weights = 0.0
    for name, choice in artifact.plan.layers.items():
        levels = artifact.weights_int(name) / (1 << (choice.weight_format.array_bits - 1))
        squares += float(np.square(levels).sum())
        num_weights += levels.size
    return (squares / num_weights) ** 0.5
