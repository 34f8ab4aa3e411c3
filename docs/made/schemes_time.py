"""Processor time of schemes: of a training step beside the float network's, and of a whole trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.timing import interleaved, ratio
from docs.made.schemes_tasks import ROWS, Row
from qat.experiments.trial import FLOAT, Trial, run_trials
from qat.modules.attach import quantize
from qat.modules.upkeep import after_step
from qat.recipe import RECIPES
from qat.schemes.universal import ratio_penalty
from qat.training.loop import step_on
from qat.training.tune import tuning_groups
from workloads.networks.zoo import NETWORKS, build
from workloads.plan import Plan
from workloads.store import write_atomically

STEP_NETWORK, BATCH, ROUNDS = "lenet5", 128, 7


class Period(NamedTuple):
    """The steps after which all that a scheme does between steps has happened once."""

    steps: int
    run: Callable[[], None]


def steps_of(row: Row) -> int:
    """How many steps a period of the row has; 50 of the float network."""
    recipe = RECIPES[row.recipe]
    return max(recipe.after_every, recipe.rematch_every) if row.format.startswith("pool") else recipe.after_every


def period(row: Row, network: str = STEP_NETWORK) -> Period:
    """Training steps on random images, with weights quantized as the row says and activations in float."""
    recipe, model = RECIPES[row.recipe], build(network, seed=0)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if row.format != FLOAT:
        quantize(model, Plan.uniform(model, row.format, rules=row.rules.get(network, {})), recipe=recipe)
    optimizer = torch.optim.AdamW(tuning_groups(model.train(), 1e-4, recipe))
    x = torch.randn(BATCH, *NETWORKS[network].input_shape).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (BATCH,))

    def penalty() -> Tensor | float:
        return ratio_penalty(model) if recipe.vector == "universal" else 0

    def run() -> None:
        for step in range(steps_of(row)):
            step_on(optimizer, lambda: cross_entropy(model(x), y) + penalty(), row.title)
            if row.format != FLOAT and (step + 1) % recipe.after_every == 0:
                after_step(model, step)

    return Period(steps_of(row), run)


def step_ratios(rows: Sequence[Row], network: str = STEP_NETWORK, rounds: int = ROUNDS) -> dict[str, float]:
    """Key of each row -> time of its step as a multiple of the float network's, which must be the first row.

    All take turns on one thread; the median over rounds counts. Rows that a float network teaches are left out:
    its forward pass is theirs, too, and no part of the scheme.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    periods = {row.key: period(row, network) for row in rows if not is_taught(row)}
    seconds = interleaved({key: one.run for key, one in periods.items()}, rounds)
    a_step = {key: [taken / periods[key].steps for taken in seconds[key]] for key in seconds}
    return {key: ratio(taken, a_step[rows[0].key]) for key, taken in a_step.items()}


def is_taught(row: Row) -> bool:
    """Whether a float network runs beside the quantized one."""
    recipe = RECIPES[row.recipe]
    return bool(recipe.distill_factor or recipe.block_distill_factor)


def known_ratios(folder: Path, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The ratios that the folder holds; measured anew if a row of the page is missing."""
    path = folder / "steps.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    if not {row.key for row in ROWS if not is_taught(row)} <= set(known):
        known = measure()
        write_atomically(path, json.dumps(known, indent=1).encode())
    return known


def timed(trial: Trial, folder: Path) -> dict[str, Any]:
    """The trial's result with `seconds`, its processor time on one thread; what was begun before is begun again.

    A trial of the float network trains and tests it; others find it trained.
    """
    path = folder / "seconds" / f"{trial.key}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        for begun in _files(trial, folder):
            begun.unlink(missing_ok=True)
        start = process_time()
        run_trials([trial], folder)
        write_atomically(path, json.dumps(process_time() - start).encode())
    (row,) = run_trials([trial], folder)
    return row | {"seconds": json.loads(path.read_text())}


def _files(trial: Trial, folder: Path) -> list[Path]:
    network = [folder / f"checkpoints/{trial.float_key}{ending}" for ending in (".pt", ".json")]
    own = [folder / f"results/{trial.key}.json", folder / f"checkpoints/{trial.key}.pt"]
    return own + (network if trial.format == FLOAT else [])
