"""The stages of a study as jobs: each finds its result on disk or makes it, and may be killed at any moment."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from cimsim.chip.reading import load_chip
from cimsim.engine.whole import simulate
from cimsim.studies.jobs import Job, Meter
from cimsim.studies.measure import read_test
from cimsim.studies.points import Point, measure_point
from cimsim.studies.run import RunDir
from cimsim.studies.study import ChipChoice, Study
from cimsim.studies.table import CostTable
from qat.modules.mixture import Mixture
from qat.planning.nas import Aim, Budgets, SearchSettings, search, supernet, warm
from qat.planning.selection import Trials
from qat.storage.export import export
from qat.training.checkpoint import load_checkpoint
from qat.training.data import Part, TrainingData, training_data
from qat.training.loop import score, train_float
from qat.training.tune import judged, tune
from workloads.data.datasets import TRAIN_IMAGES
from workloads.errors import InputError
from workloads.networks.zoo import build
from workloads.plan import LayerPlan, Plan
from workloads.store import content_key, write_atomically

DONE = "checkpoints/{}.done"


class Stage(NamedTuple):
    """A job's surroundings: the study, its run directory, and the count of images done."""

    study: Study
    run: RunDir
    meter: Meter

    def data(self) -> TrainingData:
        return training_data(self.study.data)


def is_done(run: Path, job: Job) -> bool:
    return (run / DONE.format(job.key)).exists()


def _once(key: str, images: int, work: Callable[..., None], study: Study, run: Path, *rest: Any) -> None:
    """Do the work unless it is done, then mark it."""
    *args, meter = rest
    stage = Stage(study, RunDir(run), meter)
    if (run / DONE.format(key)).exists():
        return meter(images)
    work(stage, *args)
    write_atomically(run / DONE.format(key), b"")


def _job(key: str, images: int, work: Callable, args: tuple[Any, ...], needs: tuple[str, ...]) -> Job:
    """`args` are those of `_once` after `work`: the study, the run directory, and what `work` takes."""
    return Job(key, _once, (key, images, work, *args), needs, images)


def float_job(study: Study, run: Path, seed: int) -> Job:
    images = study.train.float_epochs * TRAIN_IMAGES[study.data]
    return _job(f"float-{seed}", images, _float, (study, run, seed), ())


def _float(stage: Stage, seed: int) -> None:
    model, path = build(stage.study.network, seed), _float_path(stage, seed)
    train_float(model, stage.data(), stage.study.train, seed, path, stage.meter)


def _float_path(stage: Stage, seed: int) -> Path:
    return stage.run.path / f"checkpoints/float-{seed}.pt"


def float_model(stage: Stage, seed: int) -> nn.Module:
    """The trained float network."""
    model = build(stage.study.network, seed)
    model.load_state_dict(load_checkpoint(_float_path(stage, seed))["model"])
    return model


def warm_key(table: CostTable, seed: int) -> str:
    """Chips that take the same formats share a supernet."""
    return f"warm-{content_key(table.candidates())}-{seed}"


def warm_job(study: Study, run: Path, table: CostTable, seed: int) -> Job:
    key = warm_key(table, seed)
    return _job(key, study.train.warm_images, _warm, (study, run, key, table, seed), (f"float-{seed}",))


def _warm(stage: Stage, key: str, table: CostTable, seed: int) -> None:
    data, settings = stage.data(), stage.study.train
    model, mixtures = supernet_of(stage, table, seed, data)
    warm(model, mixtures, data, search_settings(stage.study, settings.warm_images, seed), stage.meter)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_atomically(stage.run.path / f"checkpoints/{key}.pt", buffer.getvalue())


def supernet_of(stage: Stage, table: CostTable, seed: int, data: TrainingData) -> tuple[nn.Module, dict[str, Mixture]]:
    """The float network with a mixture in each layer, and these."""
    model = float_model(stage, seed)
    num_calibration = stage.study.train.calibration_images
    mixtures = supernet(model, table.candidates(), stage.study.activation_bits, data.train, num_calibration, seed)
    return model, mixtures


def search_settings(study: Study, images: int, seed: int) -> SearchSettings:
    weights, train = study.objective, study.train
    return SearchSettings(
        images, train.batch, train.tune_lr, train.arch_lr, (weights.energy, weights.latency, weights.area), seed,
        train.selection_images,
    )  # fmt: skip


class Target(NamedTuple):
    """One search: the chip, its table, and the budget as a fraction and in pJ (ns, um2)."""

    choice: ChipChoice
    table: CostTable
    fraction: float
    budgets: Budgets


def search_job(study: Study, run: Path, target: Target, seed: int, *, plan_only: bool = False) -> Job:
    """Search a plan; then fine-tune and measure it, unless only the plan is wanted."""
    label = f"budget {target.fraction:g}"
    key = f"search-{target.choice.chip.replace('/', '_')}-{target.fraction:g}-{seed}" + ("-plan" if plan_only else "")
    train = study.train
    images = train.search_images + train.trials * train.trial_images + (0 if plan_only else train.tune_images)
    needs = (f"float-{seed}", warm_key(target.table, seed))
    return _job(key, images, _search, (study, run, key, label, target, seed, plan_only), needs)


def _search(stage: Stage, key: str, label: str, target: Target, seed: int, plan_only: bool) -> None:
    data, table = stage.data(), target.table
    model, mixtures = supernet_of(stage, table, seed, data)
    model.load_state_dict(load_checkpoint(stage.run.path / f"checkpoints/{warm_key(table, seed)}.pt"))
    settings = search_settings(stage.study, stage.study.train.search_images, seed)
    aim = Aim(table, target.budgets, _fits(stage, target), trials_of(stage, seed, data))
    found = search(model, mixtures, aim, data, settings, stage.meter)
    plan = plan_of(stage.study, found.formats)
    stage.run.write_json(f"plans/{key}.json", plan.model_dump())
    if plan_only:
        return
    gaps = {
        "budget_fraction": target.fraction,
        "budget_pj": target.budgets.energy_pj,
        "relaxation_gap": found.relaxation_gap,
        "discretization_gap": found.discretization_gap,
    }
    stage.run.write_json(f"table/{key}.json", found._asdict())
    _tune_and_measure(stage, Point(key, "search", label, plan, seed, (target.choice,), gaps), data)


def trials_of(stage: Stage, seed: int, data: TrainingData) -> Trials:
    """Plans on trial are fine-tuned like all others, only shorter."""
    settings = stage.study.train
    short = settings.model_copy(update={"tune_images": settings.trial_images})

    def loss(formats: dict[str, str]) -> float:
        model = float_model(stage, seed)
        tune(model, plan_of(stage.study, formats), data, short, seed, stage.meter)
        return judged(model, data.validation).loss

    return Trials(settings.trials, loss)


def _fits(stage: Stage, target: Target) -> Callable[[dict[str, str]], bool]:
    """Budgets are hard: a plan fits if the whole simulation says so, contention included."""
    network, chip = stage.study.load_network(), load_chip(target.choice.chip)

    def fits(formats: dict[str, str]) -> bool:
        try:
            report = simulate(
                network, chip, plan_of(stage.study, formats), images_per_weight_load=stage.study.images_per_weight_load
            )
        except InputError:  # books that fit one by one may not fit the ROM together
            return False
        costs = (report.energy_pj, report.latency_ns, report.area_used_um2)
        return all(bound is None or cost <= bound for cost, bound in zip(costs, target.budgets, strict=True))

    return fits


def plan_of(study: Study, formats: dict[str, str]) -> Plan:
    layers = {name: LayerPlan(format=fmt, activation_bits=study.activation_bits) for name, fmt in formats.items()}
    return Plan(network=study.load_network().name, layers=layers)


class Given(NamedTuple):
    """A plan that nobody searched for."""

    kind: str  # uniform | all_vq | train
    label: str
    plan: Plan
    chips: tuple[ChipChoice, ...]
    columns: dict[str, Any] = {}


def plan_job(study: Study, run: Path, given: Given, seed: int) -> Job:
    """Fine-tune a given plan and measure it on its chips."""
    key = f"{given.kind}-{content_key(given.plan.model_dump())}-{seed}"
    point = Point(key, given.kind, given.label, given.plan, seed, given.chips, given.columns)
    return _job(key, study.train.tune_images, _plan, (study, run, point), (f"float-{seed}",))


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
        tune(model, point.plan, data, settings, seed, stage.meter)
        export(model.eval(), point.plan, data.train.images(slice(0, 1)), stage.run.path / name, seed)
    test = read_test(stage.study.data, stage.run.path / "test_reads.jsonl", point.key, settings.test_images)
    found = score(float_model(stage, seed), Part(*map(torch.from_numpy, test))).accuracy
    measure_point(stage.study, stage.run, point, name, test=test, float_accuracy=found)
