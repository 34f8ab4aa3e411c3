"""A finished network on a chip: accuracy ideal and through the arrays, and the cost of the whole plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cimsim.chip.model import Chip
from cimsim.chip.numbers import array_numbers
from cimsim.cost.report import CostReport
from cimsim.engine.whole import simulate
from cimsim.events import Timeline
from cimsim.integer.artifact import Artifact
from cimsim.integer.forward import accuracy, calibrate_adc, collect
from workloads.data.parts import loaded
from workloads.layer import Network
from workloads.plan import Plan

SAME = ("energy_pj", "dynamic_pj", "leakage_pj", "always_on_pj", "latency_ns", "interval_ns")  # in report and row
Test = tuple[np.ndarray, np.ndarray]  # uint8 images and their labels


class Measured(NamedTuple):
    """`report` has the energy of measured data, `assumed_pj` is that of half of all data on, as the table assumes."""

    artifact: Artifact  # with the converter steps of this chip in its plan
    report: CostReport
    timeline: Timeline
    assumed_pj: float
    ideal_accuracy: float
    array_accuracy: float

    @property
    def density_gap(self) -> float:
        """What the assumption is off by, as a part of it."""
        return self.report.energy_pj / self.assumed_pj - 1


def read_test(data: str, log: Path, purpose: str, images: int) -> Test:
    """The only place that opens the test set: uint8 images and labels; each reading is logged."""
    test = loaded(data)
    with log.open("a") as file:
        file.write(json.dumps({"purpose": purpose, "images": min(images, len(test.test_y))}) + "\n")
    return test.test_x[:images], test.test_y[:images]


def measure(
    artifact: Artifact, chip: Chip, calibration: np.ndarray, test: Test, *,
    images_per_weight_load: float | None = None, ideal_accuracy: float | None = None,
) -> Measured:  # fmt: skip
    """Freeze converter steps on `calibration` (uint8 training images), then run the test images and simulate.

    `ideal_accuracy` does not depend on the chip and is measured only when not given.
    """
    numbers = array_numbers(chip)
    artifact = calibrate_adc(artifact, calibration, numbers)
    activity = collect(artifact, calibration, numbers)
    assumed = simulate(artifact.network, chip, artifact.plan, images_per_weight_load=images_per_weight_load)
    ideal = accuracy(artifact, *test) if ideal_accuracy is None else ideal_accuracy
    return Measured(
        artifact=artifact, report=assumed.repriced(activity), timeline=assumed.timeline, assumed_pj=assumed.energy_pj,
        ideal_accuracy=ideal, array_accuracy=accuracy(artifact, *test, numbers),
    )  # fmt: skip


def costs(report: CostReport, plan: Plan, network: Network) -> dict[str, Any]:
    """The fields of a row that say what one image costs on a chip, and what the plan's weights take."""
    return {
        **{name: getattr(report, name) for name in SAME},
        "area_mm2": report.area_um2 / 1e6,
        "area_used_mm2": report.area_used_um2 / 1e6,
        "bits_per_weight": plan.bits(network).bits_per_weight,
    }
