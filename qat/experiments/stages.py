"""The stages of a study as jobs, each of which may be killed at any moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cimsim.chip.reading import load_chip
from cimsim.studies.jobs import Job
from cimsim.studies.measure import read_test
from cimsim.studies.meter import Meter
from cimsim.studies.points import Point, measure_point, row_paths
from cimsim.studies.run import RunDir
from cimsim.studies.study import ChipChoice, Study
from cimsim.studies.table import CostTable
from qat.modules.mixture import Mixture
from qat.planning.aim import Aim, Budgets, Goal, plan_of, tryouts
from qat.planning.nas import SearchSettings, search, supernet, warm
from qat.planning.selection import Tryouts
from qat.storage.export import export
from qat.training.checkpoint import load_checkpoint
from qat.training.data import Split, TrainingData, training_data
from qat.training.loop import score, train_float
from qat.training.tune import tune
from workloads.data.datasets import TRAIN_IMAGES
from workloads.networks.zoo import build
from workloads.plan import Plan
from workloads.results import Kind
from workloads.store import content_key, write_atomically


class Stage(NamedTuple):
    """A job's surroundings: the study, its run directory, and the count of images done."""

    study: Study
    run: RunDir
    meter: Meter

    def data(self) -> TrainingData:
        return training_data(self.study.data)


def _in_stage(work: Callable[..., None], study: Study, run: Path, *rest: Any) -> None:
    *args, meter = rest
    work(Stage(study, RunDir(run), meter), *args)


def _trained(run: Path, key: str) -> tuple[Path, Path]:
    """The checkpoint of a network, there while it is trained, and what is known when it is."""
    return run / f"checkpoints/{key}.pt", run / f"checkpoints/{key}.json"


def float_job(study: Study, run: Path, seed: int) -> Job:
    """Float training, and one test for all plans that start from it."""
    key, images = f"float-{seed}", study.train.float_epochs * TRAIN_IMAGES[study.data]
    return Job(key, (), images, _in_stage, (_float, study, run, key, seed), _trained(run, key))


def _float(stage: Stage, key: str, seed: int) -> None:
    path, known = _trained(stage.run.path, key)
    known.unlink(missing_ok=True)  # of a checkpoint that is there no more
    model, study = build(stage.study.network, seed), stage.study
    train_float(model, stage.data(), stage.study.train, seed, checkpoint=path, tick=stage.meter)
    test = read_test(study.data, stage.run.path / "test_reads.jsonl", key, study.train.test_images)
    found = score(float_model(stage, seed), Split(*map(torch.from_numpy, test))).accuracy
    write_atomically(known, json.dumps({"accuracy": found}).encode())


def float_model(stage: Stage, seed: int) -> nn.Module:
    """The trained float network."""
    model = build(stage.study.network, seed)
    model.load_state_dict(load_checkpoint(_trained(stage.run.path, f"float-{seed}")[0])["model"])
    return model


def warm_key(table: CostTable, seed: int) -> str:
    """Chips that take the same formats share a supernet."""
    return f"warm-{content_key(table.candidates())}-{seed}"


def warm_job(study: Study, run: Path, table: CostTable, seed: int) -> Job:
    key = warm_key(table, seed)
    args = (_warm, study, run, key, table, seed)
    return Job(key, (f"float-{seed}",), study.train.warm_images, _in_stage, args, _trained(run, key))


def _warm(stage: Stage, key: str, table: CostTable, seed: int) -> None:
    path, known = _trained(stage.run.path, key)
    known.unlink(missing_ok=True)  # of a checkpoint that is there no more
    data, settings = stage.data(), search_settings(stage.study, stage.study.train.warm_images, seed)
    model, mixtures = supernet_of(stage, table, seed, data)
    warm(model, mixtures, data, settings, checkpoint=path, tick=stage.meter)
    write_atomically(known, json.dumps({"images": settings.images}).encode())


def supernet_of(stage: Stage, table: CostTable, seed: int, data: TrainingData) -> tuple[nn.Module, dict[str, Mixture]]:
    """The float network with a mixture in each layer, and these."""
    model = float_model(stage, seed)
    how = {"activation": stage.study.activation, "num_calibration": stage.study.train.calibration_images, "seed": seed}
    mixtures = supernet(model, table.candidates(), data.train, **how)
    return model, mixtures


def search_settings(study: Study, images: int, seed: int) -> SearchSettings:
    weights, train = study.objective, study.train
    return SearchSettings(
        images, train.batch, train.tune_lr, train.arch_lr, (weights.energy, weights.latency, weights.area), seed,
        train.selection_images, train.temperature,
    )  # fmt: skip


class Target(NamedTuple):
    """One search: the chip, its table, and the budget as a fraction and in pJ (ns, um2)."""

    choice: ChipChoice
    table: CostTable
    fraction: float
    budgets: Budgets

    @property
    def label(self) -> str:
        return f"budget {self.fraction:g}"


def search_job(study: Study, run: Path, target: Target, seed: int, *, plan_only: bool = False) -> Job:
    """Search a plan; then fine-tune and measure it, unless only the plan is wanted."""
    key = f"search-{target.choice.chip.replace('/', '_')}-{target.fraction:g}-{seed}" + ("-plan" if plan_only else "")
    train = study.train
    images = train.search_images + train.trials * train.trial_images + (0 if plan_only else train.tune_images)
    needs = (f"float-{seed}", warm_key(target.table, seed))
    unknown = Plan(network=study.network, layers={})  # no name of a row depends on its plan
    point = Point(key, "search", target.label, unknown, seed, (target.choice,), {"budget_fraction": target.fraction})
    results = (run / f"plans/{key}.json",) if plan_only else row_paths(study, run, point)
    return Job(key, needs, images, _in_stage, (_search, study, run, key, target, seed, plan_only), results)


def _search(stage: Stage, key: str, target: Target, seed: int, plan_only: bool) -> None:
    data, table = stage.data(), target.table
    model, mixtures = supernet_of(stage, table, seed, data)
    model.load_state_dict(load_checkpoint(stage.run.path / f"checkpoints/{warm_key(table, seed)}.pt")["model"])
    settings = search_settings(stage.study, stage.study.train.search_images, seed)
    goal, checkpoint = _goal(stage.study, target), stage.run.path / f"checkpoints/{key}.pt"
    aim = Aim(table, target.budgets, goal.fits, tryouts_of(stage, seed, data))
    found = search(model, mixtures, aim, data, settings, checkpoint=checkpoint, tick=stage.meter)
    plan = goal.plan(found.formats)
    stage.run.write_json(f"plans/{key}.json", plan.model_dump())
    if not plan_only:
        gaps = {
            "budget_fraction": target.fraction,
            "budget_pj": target.budgets.energy_pj,
            "relaxation_gap": found.relaxation_gap,
            "discretization_gap": found.discretization_gap,
        }
        stage.run.write_json(f"table/{key}.json", found._asdict())
        _tune_and_measure(stage, Point(key, "search", target.label, plan, seed, (target.choice,), gaps), data)
    checkpoint.unlink(missing_ok=True)


def tryouts_of(stage: Stage, seed: int, data: TrainingData) -> Tryouts:
    """Plans on trial start from the seed's float network."""
    study, fresh = stage.study, partial(float_model, stage, seed)
    plan = partial(plan_of, study.load_network(), activation=study.activation)
    return tryouts(fresh, plan, data, study.train, seed, tick=stage.meter)


def _goal(study: Study, target: Target) -> Goal:
    network, chip = study.load_network(), load_chip(target.choice.chip)
    return Goal(network, chip, target.budgets, study.activation, study.images_per_weight_load)


class Given(NamedTuple):
    """A plan that nobody searched for."""

    kind: Kind
    label: str
    plan: Plan
    chips: tuple[ChipChoice, ...]
    columns: dict[str, Any] = {}


def plan_job(study: Study, run: Path, given: Given, seed: int) -> Job:
    """Fine-tune a given plan and measure it on its chips."""
    key = f"{given.kind}-{content_key(given.plan.model_dump())}-{seed}"
    point = Point(key, given.kind, given.label, given.plan, seed, given.chips, given.columns)
    args, results = (_plan, study, run, point), row_paths(study, run, point)
    return Job(key, (f"float-{seed}",), study.train.tune_images, _in_stage, args, results)


def _plan(stage: Stage, point: Point) -> None:
    stage.run.write_json(f"plans/{point.key}.json", point.plan.model_dump())
    _tune_and_measure(stage, point, stage.data())


def _tune_and_measure(stage: Stage, point: Point, data: TrainingData) -> None:
    """Plans that several searches find are trained once; then every chip and variant gets its rows."""
    settings, seed = stage.study.train, point.seed
    name = f"weights/{content_key(point.plan.model_dump(), settings.model_dump(), seed)}.safetensors"
    if stage.run.has(name):
        stage.meter(settings.tune_images)
    else:
        model = float_model(stage, seed)
        tune(model, point.plan, data, settings, seed, tick=stage.meter)
        export(model.eval(), point.plan, data.train.images(slice(0, 1)), stage.run.path / name, seed)
    test = read_test(stage.study.data, stage.run.path / "test_reads.jsonl", point.key, settings.test_images)
    tested = stage.run.read_json(f"checkpoints/float-{seed}.json")
    measure_point(stage.study, stage.run, point, name, test=test, float_accuracy=tested["accuracy"])
