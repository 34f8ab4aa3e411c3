"""An exported network by itself: its accuracy through a chip's arrays, beside its costs there."""

from __future__ import annotations

from pathlib import Path

from cimsim.chip.numbers import array_numbers
from cimsim.chip.reading import load_chip
from cimsim.integer import artifact as artifacts
from cimsim.studies.measure import measure, read_test
from cimsim.studies.real_cells import Asked, cells_on, draws
from cimsim.studies.study import INPUT_SHAPES, Training
from workloads.data.parts import calibration
from workloads.errors import InputError
from workloads.layer import Frozen


class Exported(Frozen):
    """What one file is worth on one chip; costs are those of one image."""

    network: str
    plan: str
    chip: str
    data: str
    images: int
    bits_per_weight: float
    energy_pj: float
    latency_ns: float
    interval_ns: float
    ideal_accuracy: float  # of integers without arrays
    array_accuracy: float  # through arrays whose cells are ideal
    cells: str
    drawn_accuracy: list[float] = []  # on cells that are real, of each draw


def measure_file(path: Path, chip_name: str, data: str | None, asked: Asked) -> Exported:
    """Converter steps are chosen on training images of the data set, accuracies are of its test images.

    That the test set was read is noted beside the file. Raises InputError for a data set that is not known or does
    not fit the network.
    """
    if data not in INPUT_SHAPES:
        known = ", ".join(INPUT_SHAPES)
        raise InputError("--data", [f"{data!r}: an exported network does not say its data: must be one of {known}"])
    artifact, chip = artifacts.load(path), load_chip(chip_name)
    if (shape := artifact.network.input_shape) != (given := INPUT_SHAPES[data]):
        raise InputError("--data", [f"{data!r}: its images are {given}, {artifact.network.name} takes {shape}"])
    cells = cells_on(chip, asked.cells)
    test = read_test(data, path.parent / "test_reads.jsonl", path.name, asked.images)
    found = measure(artifact, chip, calibration(data, Training().calibration_images), test)
    drawn = [] if cells.is_ideal else draws(found.artifact, test, array_numbers(chip), cells, asked=asked)
    return Exported(
        network=artifact.network.name, plan=found.report.plan, chip=chip.name, data=data, images=len(test[1]),
        bits_per_weight=artifact.plan.bits(artifact.network).bits_per_weight, energy_pj=found.report.energy_pj,
        latency_ns=found.report.latency_ns, interval_ns=found.report.interval_ns,
        ideal_accuracy=found.ideal_accuracy, array_accuracy=found.array_accuracy,
        cells=asked.title, drawn_accuracy=drawn,
    )  # fmt: skip
