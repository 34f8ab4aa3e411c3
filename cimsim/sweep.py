"""Chips x plans: every combination of a study's varied knobs, with every uniform format and every plan found."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cimsim.engine import simulate
from cimsim.planfile import read_plan
from cimsim.pricing import plan_label
from cimsim.rundir import RunDir, content_key, results_csv, write_atomically
from cimsim.spec import load_chip
from cimsim.study import Study
from workloads.errors import InputError
from workloads.plan import Plan


class Trial(NamedTuple):
    """One simulation of the sweep; `key` names its row."""

    key: str
    chip: str
    vary: dict[str, Any]
    label: str
    plan: Plan


def run_sweep(study: Study, run_dir: Path | None = None, workers: int | None = None) -> list[dict[str, Any]]:
    """Simulate all trials that have no row yet; returns every row. Combinations a chip refuses are rows too."""
    path = run_dir or Path("runs") / f"{study.name}-sweep"
    run = RunDir(path).open(study.dump(), {"study": study.name})
    todo = [trial for trial in trials(study, Path("runs") / study.name) if not run.has(f"rows/{trial.key}.json")]
    with ProcessPoolExecutor(workers or study.workers) as pool:
        for row in pool.map(_simulate, [(study, trial) for trial in todo], chunksize=4):
            run.write_row(row)
    rows = [row for row in run.rows() if not row.get("refused")]
    write_atomically(run.path / "results.csv", results_csv(rows).encode())
    return rows


def trials(study: Study, found: Path) -> list[Trial]:
    """Base chip and the whole grid of its knobs, times uniform plans and the plans of a finished run."""
    network = study.load_network()
    plans = {f"uniform {fmt}": Plan.uniform(network, fmt) for fmt in dict.fromkeys((*study.formats, *study.baselines))}
    for file in sorted((found / "plans").glob("search-*.json")):
        plans[file.stem] = read_plan(str(file), network)
    return [
        Trial(content_key(choice.chip, vary, label, plan.model_dump()), choice.chip, vary, label, plan)
        for choice in study.chips
        for vary in ([{}, *choice.grid()] if choice.vary else [{}])
        for label, plan in plans.items()
    ]


def _simulate(task: tuple[Study, Trial]) -> dict[str, Any]:
    study, trial = task
    row: dict[str, Any] = {
        "key": trial.key, "kind": "sweep", "label": trial.label, "chip": trial.chip, "seed": 0,
        "vary": ",".join(f"{knob}={value}" for knob, value in trial.vary.items()), "plan": plan_label(trial.plan),
    }  # fmt: skip
    try:
        chip, network = load_chip(trial.chip, trial.vary), study.load_network()
        report = simulate(network, chip, trial.plan, images_per_weight_load=study.images_per_weight_load)
    except InputError as refused:
        return row | {"refused": refused.problems}
    return row | {
        "energy_pj": report.energy_pj, "dynamic_pj": report.dynamic_pj, "leakage_pj": report.leakage_pj,
        "always_on_pj": report.always_on_pj, "latency_ns": report.latency_ns, "interval_ns": report.interval_ns,
        "area_mm2": report.area_um2 / 1e6, "area_used_mm2": report.area_used_um2 / 1e6,
        "bits_per_weight": trial.plan.bits(network).bits_per_weight,
    }  # fmt: skip
