"""Fills docs/decisions/015-trials-of-plans.md: what ranks plans before they are trained, and what a search gains.

`cimsim codesign examples/against_chance.yaml` comes first; `python -m docs.made.ranking [RUN]` then searches each of
its budgets again, and asks the supernet and a trial about the run's random plans, whose accuracy is known. It takes ten
minutes. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy import stats

from cimsim.chip.reading import load_chip
from cimsim.studies.meter import Meter
from cimsim.studies.run import RunDir
from cimsim.studies.study import load_study
from cimsim.studies.table import build_table
from docs.made.figures import ROOT, made, refresh
from docs.made.schemes import interval
from qat.experiments.stages import Stage, search_settings, supernet_of, tryouts_of, warm_key
from qat.planning.aim import Aim, Budgets
from qat.planning.nas import search
from qat.planning.selection import Judge
from qat.training.checkpoint import load_checkpoint
from reports.against_random import leads
from reports.frames import Frame, Run, read_run
from workloads.errors import InputError, RunError
from workloads.store import write_atomically

PAGE = ROOT / "docs/decisions/015-trials-of-plans.md"
DEFAULT_RUN = "runs/against_chance"
HEAD = ("budget", "searched plan", "random plans, median", "ahead of their 95th percentile (points)",
        "rank correlation: supernet", "trial")  # fmt: skip
WAYS = ("supernet", "trial")  # to judge a plan before it is trained


def measured(stage: Stage, run: Run, random: Frame, folder: Path) -> dict[str, float]:
    """Rank correlation of each way's loss, sign turned, with the accuracy of these random plans of one search."""
    chip, seed, fraction = (random[name].iloc[0] for name in ("chip", "seed", "budget_fraction"))
    path = folder / f"{chip}-{fraction:g}-{seed}.json"
    if not path.exists():
        plans = [{layer: one["format"] for layer, one in run.plan_of(row).items()} for _, row in random.iterrows()]
        losses = _losses(stage, str(chip), int(seed), float(fraction), plans)
        found = {way: -_rank_correlation(losses[way], random["array_accuracy"]) for way in WAYS}
        write_atomically(path, json.dumps(found).encode())
    return json.loads(path.read_text())


def _rank_correlation(losses: list[float], accuracies: Any) -> float:
    found: Any = stats.spearmanr(losses, accuracies)
    return float(found.statistic)


def _losses(stage: Stage, chip: str, seed: int, fraction: float, plans: list[dict[str, str]]) -> dict[str, list[float]]:
    """By the supernet as a search for this budget leaves it, and by trials."""
    study, data = stage.study, stage.data()
    table = build_table(study.load_network(), load_chip(chip), tuple(study.formats),
                        images_per_weight_load=study.images_per_weight_load)  # fmt: skip
    model, mixtures = supernet_of(stage, table, seed, data)
    model.load_state_dict(load_checkpoint(stage.run.path / f"checkpoints/{warm_key(table, seed)}.pt")["model"])
    settings = search_settings(study, study.train.search_images, seed)
    search(model, mixtures, Aim(table, Budgets(fraction * table.reference_pj()), lambda plan: True), data, settings)
    judge = Judge(model, mixtures, data.validation, settings.selection_images)
    ordered = [{layer: plan[layer] for layer in table.layers} for plan in plans]
    ways = {"supernet": judge.loss, "trial": tryouts_of(stage, seed, data).loss}
    return {way: [loss(plan) for plan in ordered] for way, loss in ways.items()}


def block(run: Run, folder: Path) -> str:
    """The table, a row per budget, over the seeds."""
    study, console = load_study(run.path / "study.yaml", for_training=True), Console(stderr=True)
    stage, ahead = Stage(study, RunDir(run.path), Meter(folder / "progress")), leads(run.results)
    lines = [f"| {' | '.join(HEAD)} |", f"|{' --: |' * len(HEAD)}"]
    for label, plans in run.results[run.results["kind"] == "search"].groupby("label", sort=False):
        same = np.isclose(run.results["budget_fraction"], plans["budget_fraction"].iloc[0])
        random = run.results[same & (run.results["kind"] == "random")]
        found = []
        for seed, group in random.groupby("seed"):
            console.print(f"{label}, seed {seed:g}")
            found.append(measured(stage, run, group, folder))
        lines.append(_line(plans, random, ahead[str(label)], found))
    return "\n".join(lines) + f"\n\n{made(run, 'docs.made.ranking')}"


def _line(plans: Frame, random: Frame, ahead: Any, found: list[dict[str, float]]) -> str:
    cells = [f"{plans['budget_fraction'].iloc[0]:g}", f"{100 * plans['array_accuracy'].mean():.2f} %",
             f"{100 * random['array_accuracy'].median():.2f} %", interval([100 * lead for lead in ahead])]  # fmt: skip
    return f"| {' | '.join([*cells, *(interval([one[way] for one in found], '') for way in WAYS)])} |"


def main(run: Path) -> None:
    if not (run / "results.csv").is_file():
        raise InputError(str(run), ["results.csv: missing: `cimsim codesign examples/against_chance.yaml` makes it"])
    torch.set_num_threads(1)
    folder = run / "ranking"
    folder.mkdir(exist_ok=True)
    text = block(read_run(run), folder)
    refresh(PAGE, {"ranking": lambda _: text})


if __name__ == "__main__":
    try:
        main(Path(*sys.argv[1:2] or [DEFAULT_RUN]))
    except (InputError, RunError) as error:
        sys.exit(f"{error}")
