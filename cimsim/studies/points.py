"""One trained plan as rows of the results: on each of its chips, and on the variants of that chip."""

from __future__ import annotations

from typing import Any, NamedTuple

from cimsim.chip.reading import load_chip
from cimsim.integer import artifact as artifacts
from cimsim.integer.forward import accuracy as integer_accuracy
from cimsim.studies.measure import Measured, Test, cost_columns, measure
from cimsim.studies.run import RunDir
from cimsim.studies.study import ChipChoice, Study
from cimsim.studies.table import CostTable
from cimsim.trace import write_trace
from workloads.data.parts import calibration
from workloads.plan import Plan
from workloads.store import content_key


class Point(NamedTuple):
    """A plan to measure: where it came from, its chips, and the columns its search already knows."""

    key: str
    kind: str
    label: str
    plan: Plan
    seed: int
    chips: tuple[ChipChoice, ...]
    columns: dict[str, Any]


def measure_point(study: Study, run: RunDir, point: Point, weights: str, *, test: Test, float_accuracy: float) -> None:
    """Write one row per chip and variant that is not there yet. `test`: what `read_test` gave for this point."""
    artifact = artifacts.load(run.path / weights)
    images = calibration(study.data, study.train.calibration_images)
    ideal = integer_accuracy(artifact, *test)
    common = point.columns | {"float_accuracy": float_accuracy, "test_images": len(test[1]), "weights": weights}
    for choice in point.chips:
        for variant in [{}, *(choice.variants() if is_varied(study, point, choice) else [])]:
            if run.has(f"rows/{row_key(point, choice, variant)}.json"):
                continue
            chip = load_chip(choice.chip, variant)
            measured = measure(artifact, chip, images, test, study.images_per_weight_load, ideal)
            _write(run, point, choice, variant, measured, common)


def row_key(point: Point, choice: ChipChoice, variant: dict[str, Any]) -> str:
    """Names the row and the files it points to."""
    return content_key(point.key, choice.chip, variant)


def table_file(chip: str) -> str:
    """Where a run keeps a chip's cost table; a chip may be named by the path of its file."""
    return f"table/{chip.replace('/', '_')}.json"


def is_varied(study: Study, point: Point, choice: ChipChoice) -> bool:
    """The sweep shows its knobs on two plans: uniform 4 bit, and the search at the middle budget."""
    budgets = study.budgets_of(choice)
    middle = sorted(budgets)[len(budgets) // 2]
    is_middle = point.kind == "search" and point.columns["budget_fraction"] == middle
    return is_middle or point.label == "uniform linear-4"


def _write(run: RunDir, point: Point, choice: ChipChoice, variant: dict[str, Any], measured: Measured,
           common: dict[str, Any]) -> None:  # fmt: skip
    """The row comes last: when it is there, everything it names is there."""
    key = row_key(point, choice, variant)
    run.write_json(f"plans/{key}.json", measured.artifact.plan.model_dump())
    run.write_json(f"costs/{key}.json", measured.report.to_dict())
    write_trace(measured.timeline, run.path / f"timeline/{key}.json")
    row = common | cost_columns(measured) | {
        "key": key, "job": point.key, "kind": "variant" if variant else point.kind, "label": point.label,
        "chip": choice.chip, "vary": ",".join(f"{k}={v}" for k, v in variant.items()), "seed": point.seed,
        "plan": f"{key}.json",
    }  # fmt: skip
    if "budget_pj" in common:
        row["met"] = measured.report.energy_pj <= common["budget_pj"]
    run.write_row(row | _contention(run, measured, choice) if not variant else row)


def _contention(run: RunDir, measured: Measured, choice: ChipChoice) -> dict[str, float]:
    """The whole simulation against the sum of the table, with the same assumed densities."""
    if not run.has(table_file(choice.chip)):
        return {}
    table = CostTable.from_dict(run.read_json(table_file(choice.chip)))
    formats = {name: layer.format for name, layer in measured.artifact.plan.layers.items()}
    if not set(formats.values()) <= set(table.formats):
        return {}
    energy, latency, _ = table.cost_of(formats)
    return {
        "contention_gap": measured.assumed_pj / energy - 1,
        "contention_gap_latency": measured.report.latency_ns / latency - 1,
    }
