"""Chips x plans: variants of a study's chips, with every uniform format, with every plan found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from cimsim.chip.reading import load_chip
from cimsim.engine.planfile import read_plan
from cimsim.engine.whole import simulate
from cimsim.studies.jobs import Job, run_jobs
from cimsim.studies.manifest import manifest
from cimsim.studies.measure import costs
from cimsim.studies.meter import IMAGES_PER_BYTE, Meter
from cimsim.studies.run import RunDir, row_file
from cimsim.studies.study import Study
from workloads.errors import InputError
from workloads.layer import Network
from workloads.plan import Plan
from workloads.results import Kind, Refused, Row, results_csv, uniform_kind
from workloads.store import content_key, write_atomically

SEARCHED = "search-*.json"  # plans of a run


class Cell(NamedTuple):
    """One simulation of the sweep; `key` names its row, `kind` is where the plan is from."""

    key: str
    kind: Kind
    chip: str
    vary: dict[str, int | float]
    label: str
    plan: Plan


class Swept(NamedTuple):
    """Rows of the cells that the chips take, and of those that they refuse."""

    path: Path
    rows: list[Row]
    refused: list[Refused]


def run_sweep(
    study: Study, run_dir: Path | None = None, workers: int | None = None, *, scheduler: str | None = None
) -> Swept:
    """Simulate all cells that have no row yet. Rows do not depend on `workers`, nor on the `scheduler`.

    Raises RunError when a process dies; what is finished is found again.
    """
    run = RunDir(run_dir or Path("runs") / f"{study.name}-sweep").open(study.dump(), manifest(study))
    wanted = cells(study, Path("runs") / study.name)
    jobs = [Job(cell.key, (), IMAGES_PER_BYTE, _simulate, (study, run.path, cell), (run.path / row_file(cell.key),))
            for cell in wanted]  # fmt: skip
    run_jobs(jobs, workers or study.workers, run.path, title="sweep", scheduler=scheduler)
    keys = {cell.key for cell in wanted}
    stored = [row for row in run.rows() if row.key in keys]
    rows = [row for row in stored if isinstance(row, Row)]
    write_atomically(run.path / "results.csv", results_csv(rows).encode())
    return Swept(run.path, rows, [row for row in stored if isinstance(row, Refused)])


def cells(study: Study, found: Path) -> list[Cell]:
    """Each base chip and what is proposed for its knobs, times uniform plans and the plans of the run in `found`."""
    network = study.load_network()
    formats = dict.fromkeys((*study.formats, *study.baselines))
    plans: list[tuple[Kind, str, Plan]] = [
        *((uniform_kind(fmt), f"uniform {fmt}", _uniform(study, network, fmt)) for fmt in formats),
        *(("search", file.stem, read_plan(str(file), network)) for file in sorted((found / "plans").glob(SEARCHED))),
    ]
    return [
        Cell(content_key(choice.chip, vary, label, plan.model_dump()), "variant" if vary else kind,
             choice.chip, vary, label, plan)
        for choice in study.chips
        for vary in [{}, *study.sweep.settings(choice)]
        for kind, label, plan in plans
    ]  # fmt: skip


def _uniform(study: Study, network: Network, fmt: str) -> Plan:
    return Plan.uniform(network, fmt, rules=study.fixed_formats(network), activation=study.activation)


def _simulate(study: Study, folder: Path, cell: Cell, meter: Meter) -> None:
    """Write the cell's plan and row; a chip that refuses the plan, or cannot exist, is a row too, with the reasons."""
    run, file = RunDir(folder), f"{cell.key}.json"
    run.write_json(f"plans/{file}", cell.plan.model_dump())
    known: dict[str, Any] = {**cell._asdict(), "plan": file}
    try:
        chip, network = load_chip(cell.chip, cell.vary), study.load_network()
        report = simulate(network, chip, cell.plan, images_per_weight_load=study.images_per_weight_load).report
    except InputError as reasons:
        run.write_row(Refused(**known, refused=tuple(reasons.problems)))
    else:
        run.write_row(Row(**known, **costs(report, cell.plan, network)))
    meter(IMAGES_PER_BYTE)
