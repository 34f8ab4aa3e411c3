"""One trained plan as rows of the results: on each of its chips, on the variants of that chip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cimsim.chip.reading import load_chip
from cimsim.integer import artifact as artifacts
from cimsim.integer.forward import accuracy as integer_accuracy
from cimsim.studies.measure import Measured, Test, costs, measure
from cimsim.studies.run import RunDir, row_file
from cimsim.studies.study import ChipChoice, Study
from cimsim.studies.table import CostTable
from cimsim.trace import write_trace
from workloads.data.parts import calibration
from workloads.plan import Plan
from workloads.results import Kind, Row
from workloads.store import content_key


class Point(NamedTuple):
    """A plan to measure: where it came from, its chips, and the columns its search already knows."""

    key: str
    kind: Kind
    label: str
    plan: Plan
    seed: int
    chips: tuple[ChipChoice, ...]
    columns: dict[str, Any]


class Cause(NamedTuple):
    """What a row is of: a point on one of its chips, as it is or with one knob varied."""

    point: Point
    chip: str
    vary: dict[str, int | float]

    @property
    def key(self) -> str:
        """Names the row and the files it points to."""
        return content_key(self.point.key, self.chip, self.vary)


def causes(study: Study, point: Point) -> Iterator[Cause]:
    """Of all rows that a point has."""
    for choice in point.chips:
        for vary in [{}, *(choice.variants() if is_varied(study, point, choice) else [])]:
            yield Cause(point, choice.chip, vary)


def row_paths(study: Study, run: Path, point: Point) -> tuple[Path, ...]:
    """Files of all rows that a point has: when they are there, it is measured."""
    return tuple(run / row_file(cause.key) for cause in causes(study, point))


def measure_point(study: Study, run: RunDir, point: Point, weights: str, *, test: Test, float_accuracy: float) -> None:
    """Write one row per chip and variant that is not there yet. `test`: what `read_test` gave for this point."""
    artifact = artifacts.load(run.path / weights)
    images = calibration(study.data, study.train.calibration_images)
    ideal = integer_accuracy(artifact, *test)
    terms = {"images_per_weight_load": study.images_per_weight_load, "ideal_accuracy": ideal}
    known = point.columns | {"float_accuracy": float_accuracy, "test_images": len(test[1]), "weights": weights}
    for cause in causes(study, point):
        if not run.has(row_file(cause.key)):
            chip = load_chip(cause.chip, cause.vary)
            measured = measure(artifact, chip, images, test, **terms)
            _write(run, cause, measured, known)


def table_file(chip: str) -> str:
    """Where a run keeps a chip's cost table; a chip may be named by the path of its file."""
    return f"table/{chip.replace('/', '_')}.json"


def is_varied(study: Study, point: Point, choice: ChipChoice) -> bool:
    """The sweep shows its knobs on two plans: uniform 4 bit, and the search at the middle budget."""
    budgets = study.budgets_of(choice)
    middle = sorted(budgets)[len(budgets) // 2]
    is_middle = point.kind == "search" and point.columns["budget_fraction"] == middle
    return is_middle or point.label == "uniform linear-4"


def _write(run: RunDir, cause: Cause, measured: Measured, known: dict[str, Any]) -> None:
    """The row comes last: when it is there, everything it names is there."""
    key, (point, chip, vary) = cause.key, cause
    plan, network = measured.artifact.plan, measured.artifact.network
    run.write_json(f"plans/{key}.json", plan.model_dump())
    run.write_json(f"costs/{key}.json", measured.report.to_dict())
    write_trace(measured.timeline, run.path / f"timeline/{key}.json")
    if "budget_pj" in known:
        known = known | {"met": measured.report.energy_pj <= known["budget_pj"]}
    if not vary:
        known = known | _contention(run, measured, chip)
    row = Row(
        key=key, kind="variant" if vary else point.kind, label=point.label, chip=chip, vary=vary, seed=point.seed,
        job=point.key, plan=f"{key}.json", ideal_accuracy=measured.ideal_accuracy,
        array_accuracy=measured.array_accuracy, density_gap=measured.density_gap,
        **costs(measured.report, plan, network), **known,
    )  # fmt: skip
    run.write_row(row)


def _contention(run: RunDir, measured: Measured, chip: str) -> dict[str, float]:
    """The whole simulation against the sum of the table, with the same assumed densities."""
    if not run.has(table_file(chip)):
        return {}
    table = CostTable.from_dict(run.read_json(table_file(chip)))
    formats = {name: layer.format for name, layer in measured.artifact.plan.layers.items()}
    if not set(formats.values()) <= set(table.formats):
        return {}
    energy, latency, _ = table.cost_of(formats)
    return {
        "contention_gap": measured.assumed_pj / energy - 1,
        "contention_gap_latency": measured.report.latency_ns / latency - 1,
    }
