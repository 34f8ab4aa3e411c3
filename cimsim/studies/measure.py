"""A finished network on a chip: accuracy ideal and through the arrays, and the cost of the whole plan."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cimsim.chip.model import Chip
from cimsim.chip.numbers import array_numbers
from cimsim.cost.report import CostReport
from cimsim.engine.whole import simulate_timeline
from cimsim.events import Timeline
from cimsim.integer.artifact import Artifact
from cimsim.integer.forward import accuracy, calibrate_adc, collect
from workloads.data.datasets import Dataset, load

Test = tuple[np.ndarray, np.ndarray]  # uint8 images and their labels


class Measured(NamedTuple):
    """`report` has the energy of measured data, `assumed_pj` is that of half of all data on, as the table assumes."""

    artifact: Artifact  # with the converter steps of this chip in its plan
    report: CostReport
    timeline: Timeline
    assumed_pj: float
    ideal_accuracy: float
    array_accuracy: float


def read_test(data: str, log: Path, purpose: str, images: int) -> Test:
    """The only place that opens the test set: uint8 images and labels; each reading is logged."""
    test = _load(data)
    with log.open("a") as file:
        file.write(json.dumps({"purpose": purpose, "images": min(images, len(test.test_y))}) + "\n")
    return test.test_x[:images], test.test_y[:images]


@lru_cache(maxsize=2)
def _load(data: str) -> Dataset:
    return load(data)


def measure(artifact: Artifact, chip: Chip, calibration: np.ndarray, test: Test,
            images_per_weight_load: float | None, ideal_accuracy: float | None = None) -> Measured:  # fmt: skip
    """Freeze converter steps on `calibration` (uint8 training images), then run the test images and simulate.

    `ideal_accuracy` does not depend on the chip and is measured only when not given.
    """
    numbers = array_numbers(chip)
    artifact = calibrate_adc(artifact, calibration, numbers)
    activity = collect(artifact, calibration, numbers)
    report, timeline = simulate_timeline(
        artifact.network, chip, artifact.plan, images_per_weight_load=images_per_weight_load, activity=activity
    )
    assumed, _ = simulate_timeline(artifact.network, chip, artifact.plan, images_per_weight_load=images_per_weight_load)
    ideal = accuracy(artifact, *test) if ideal_accuracy is None else ideal_accuracy
    return Measured(artifact, report, timeline, assumed.energy_pj, ideal, accuracy(artifact, *test, numbers))


def cost_columns(measured: Measured) -> dict[str, Any]:
    """The measured columns of a result row."""
    report = measured.report
    return {
        "energy_pj": report.energy_pj,
        "dynamic_pj": report.dynamic_pj,
        "leakage_pj": report.leakage_pj,
        "always_on_pj": report.always_on_pj,
        "latency_ns": report.latency_ns,
        "interval_ns": report.interval_ns,
        "area_mm2": report.area_um2 / 1e6,
        "area_used_mm2": report.area_used_um2 / 1e6,
        "bits_per_weight": measured.artifact.plan.bits(measured.artifact.network).bits_per_weight,
        "ideal_accuracy": measured.ideal_accuracy,
        "array_accuracy": measured.array_accuracy,
        "density_gap": report.energy_pj / measured.assumed_pj - 1,
    }
