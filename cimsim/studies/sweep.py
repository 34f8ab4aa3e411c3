"""Chips x plans: every combination of a study's varied knobs, with every uniform format and every plan found."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence

# Not Dask, which only the training extra installs: these trials need no order among them, and no other machine.
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from cimsim import __version__
from cimsim.chip.reading import load_chip
from cimsim.engine.planfile import read_plan
from cimsim.engine.whole import simulate
from cimsim.studies.run import RunDir, results_csv
from cimsim.studies.study import Study
from workloads.errors import InputError, RunError
from workloads.layer import Network
from workloads.plan import Plan
from workloads.store import content_key, write_atomically

REPORT_COLUMNS = ("energy_pj", "dynamic_pj", "leakage_pj", "always_on_pj", "latency_ns", "interval_ns")


class Trial(NamedTuple):
    """One simulation of the sweep; `key` names its row, `kind` is where the plan is from."""

    key: str
    kind: str
    chip: str
    vary: dict[str, Any]
    label: str
    plan: Plan


class Swept(NamedTuple):
    """Rows of the trials that the chips take, and `trial: reason` of those that they refuse."""

    path: Path
    rows: list[dict[str, Any]]
    refused: list[str]


def run_sweep(study: Study, run_dir: Path | None = None, workers: int | None = None) -> Swept:
    """Simulate all trials that have no row yet. Rows do not depend on `workers`.

    Raises RunError when a process dies; what is finished is found again.
    """
    run = RunDir(run_dir or Path("runs") / f"{study.name}-sweep").open(study.dump(), _manifest(study))
    wanted = trials(study, Path("runs") / study.name)
    todo = [trial for trial in wanted if not run.has(f"rows/{trial.key}.json")]
    for trial in todo:
        run.write_json(f"plans/{trial.key}.json", trial.plan.model_dump())
    for row in _simulate_all(study, todo, workers or study.workers):
        run.write_row(row)
    keys = {trial.key for trial in wanted}
    stored = [row for row in run.rows() if row["key"] in keys]
    rows = [row for row in stored if "refused" not in row]
    write_atomically(run.path / "results.csv", results_csv(rows).encode())
    return Swept(run.path, rows, [_refusal(row) for row in stored if "refused" in row])


def _refusal(row: dict[str, Any]) -> str:
    first, *others = row["refused"]
    chip = f"{row['chip']} {row['vary']}".strip()
    return f"{row['label']} on {chip}: {first}" + (f" (and {len(others)} more)" if others else "")


def _manifest(study: Study) -> dict[str, Any]:
    chips = {choice.chip: {"hash": load_chip(choice.chip).content_hash()} for choice in study.chips}
    return {"version": __version__, "chips": chips}


def trials(study: Study, found: Path) -> list[Trial]:
    """Base chip and the whole grid of its knobs, times uniform plans and the plans of the run in `found`."""
    network = study.load_network()
    plans = [
        ("uniform" if fmt.startswith("linear") else "all_vq", f"uniform {fmt}", _uniform(study, network, fmt))
        for fmt in dict.fromkeys((*study.formats, *study.baselines))
    ]
    files = sorted((found / "plans").glob("search-*.json"))
    plans += [("search", file.stem, read_plan(str(file), network)) for file in files]
    return [
        Trial(content_key(choice.chip, vary, label, plan.model_dump()), "variant" if vary else kind,
              choice.chip, vary, label, plan)
        for choice in study.chips
        for vary in ([{}, *choice.grid()] if choice.vary else [{}])
        for kind, label, plan in plans
    ]  # fmt: skip


def _uniform(study: Study, network: Network, fmt: str) -> Plan:
    return Plan.uniform(network, fmt, rules=study.held_layers(network), activation_bits=study.activation_bits)


# --- processes ---


def _simulate_all(study: Study, todo: Sequence[Trial], workers: int) -> Iterator[dict[str, Any]]:
    """Rows as they get ready, in this process for one worker."""
    is_serial = workers == 1 or len(todo) <= 1
    rows = map(partial(_simulate, study), todo) if is_serial else _on_processes(study, todo, workers)
    with _progress(len(todo)) as advance:
        for row in rows:
            yield row
            advance()


def _on_processes(study: Study, todo: Sequence[Trial], workers: int) -> Iterator[dict[str, Any]]:
    context = get_context("spawn")  # a forked process would share locks with the thread that draws progress
    pool = ProcessPoolExecutor(min(workers, len(todo)), context, initializer=_follow_parent)
    try:
        for future in as_completed([pool.submit(_simulate, study, trial) for trial in todo]):
            yield future.result()
    except BrokenProcessPool:
        reason = "a process died, perhaps for lack of memory: run the same command again with fewer --workers"
        raise RunError(f"sweep: {reason}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """A process of the pool ends at once when its parent is killed, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def wait() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _progress(total: int):
    """A Rich bar on standard error; yields the function that moves it by one trial."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("sweep", total=max(1, total), completed=0 if total else 1)
        yield lambda: progress.advance(task)


def _simulate(study: Study, trial: Trial) -> dict[str, Any]:
    """The row of one trial; a chip that refuses the plan, or cannot exist, is a row too, with the reasons."""
    row: dict[str, Any] = {
        "key": trial.key, "kind": trial.kind, "label": trial.label, "chip": trial.chip, "seed": 0,
        "vary": ",".join(f"{knob}={value}" for knob, value in trial.vary.items()), "plan": f"{trial.key}.json",
    }  # fmt: skip
    try:
        chip, network = load_chip(trial.chip, trial.vary), study.load_network()
        report = simulate(network, chip, trial.plan, images_per_weight_load=study.images_per_weight_load)
    except InputError as refused:
        return row | {"energy_pj": None, "refused": refused.problems}
    return row | {name: getattr(report, name) for name in REPORT_COLUMNS} | {
        "area_mm2": report.area_um2 / 1e6, "area_used_mm2": report.area_used_um2 / 1e6,
        "bits_per_weight": trial.plan.bits(network).bits_per_weight,
    }  # fmt: skip
