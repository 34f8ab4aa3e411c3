"""Commands that train: networks, plans and whole studies, and what is told of their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cimsim.cli import show
from cimsim.cli.options import (
    CLUSTER,
    REPORTING,
    TRAINING,
    Json,
    RunDirOption,
    Scheduler,
    Seed,
    StudyFile,
    Workers,
    lacking,
    needs,
)
from workloads.errors import InputError

OPTION = {"fmt": "format"}  # where a parameter's name is another


def _refuse_idle(context: typer.Context, what: str, names: tuple[str, ...]) -> None:
    """Options that were given and that this kind of training never looks at. Raises InputError."""
    given = [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        flags = {name: OPTION.get(name, name.replace("_", "-")) for name in given}
        problems = [f"--{flag} = {context.params[name]}: is not for {what}" for name, flag in flags.items()]
        raise InputError(context.command.name or "", problems)


def train(  # noqa: PLR0913 (a command line)
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="A study YAML, or a known network.", show_default=False)],
    plan: Annotated[
        str, typer.Option("--plan", help="Of a study: a plan JSON, or one format for all layers.")
    ] = "linear-8",
    fmt: Annotated[
        str, typer.Option("--format", help="Of a network: one format for all layers, or `float`.")
    ] = "linear-4",
    data: Annotated[str | None, typer.Option("--data", help="A data set [default: the network's usual one].")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="How the format is trained (`cimsim formats --recipes`).")
    ] = "default",
    float_epochs: Annotated[int, typer.Option("--float-epochs", min=1, help="Epochs of float training before.")] = 4,
    images: Annotated[
        int | None,
        typer.Option(
            "--images",
            min=1,
            help="Images or texts of fine-tuning [default: 100,000; of a network with published weights: 60 steps].",
        ),
    ] = None,
    start: Annotated[
        Literal["nearest", "hessian", "clip", "gptq"],
        typer.Option("--start", help="Of published weights: how they are quantized before training."),
    ] = "nearest",
    seed: Seed = 0,
    run_dir: RunDirOption = None,
    json: Json = False,
) -> None:
    """Train a quantized network: one plan of a study, measured on its chips, or any network in any format.

    `efficientnet_lite0` and `minilm` have published weights: their own float outputs teach them.

    Killed at any moment, the same command goes on.

    Example: `cimsim train lenet5 --format vq-8x256-e4-s0 --recipe softmax`
    """
    needs(TRAINING)
    if Path(what).suffix in (".yaml", ".yml"):
        _refuse_idle(context, "a study", ("fmt", "data", "recipe", "float_epochs", "images", "start"))
        from cimsim.studies.study import load_study
        from qat.experiments.study import train_one

        return show.show_rows(train_one(load_study(Path(what), for_training=True), plan, seed, run_dir), json)
    from qat.experiments.pretrained_trial import PUBLISHED

    folder, choices = run_dir or Path("runs/train"), {"format": fmt, "recipe": recipe, "seed": seed}
    if what in PUBLISHED:
        _refuse_idle(context, "published weights", ("plan", "float_epochs"))
        return _train_published(folder, json, (what, data, images), start=start, **choices)
    _refuse_idle(context, "a network without published weights", ("plan", "start"))
    images = 100_000 if images is None else images
    _train_network(folder, json, network=what, data=data, float_epochs=float_epochs, images=images, **choices)


def _train_published(folder: Path, json: bool, asked: tuple[str, str | None, int | None], **choices: Any) -> None:
    from qat.experiments.pretrained_trial import COLUMNS, cells, published_trial, run_published

    trial = published_trial(*asked, **choices)
    row = run_published(trial, folder)
    show.show_cells("beside the float network, on the test set", COLUMNS, [cells(row)], [row], json)
    if trial.weights:
        show.say(f"Weights: {folder / trial.weights}")


def _train_network(folder: Path, json: bool, **choices: Any) -> None:
    from qat.experiments.trial import run_trials, trial_of, weights_path

    trial = trial_of(**choices)
    show.show_trials(run_trials([trial], folder), json)
    if weights_path(folder, trial).exists():
        show.say(f"Weights: {weights_path(folder, trial)}")


def search(
    study: StudyFile,
    chip: Annotated[str, typer.Option("--chip", help="One chip of the study.")],
    budget: Annotated[float, typer.Option("--budget", min=0.01, max=2.0, help="Energy, as a share of linear-8's.")],
    seed: Seed = 0,
    run_dir: RunDirOption = None,
    json: Json = False,
) -> None:
    """Search a per-layer plan for one chip and budget.

    Example: `cimsim search examples/fashion_mnist.yaml --chip sram-rom --budget 0.4`
    """
    needs(TRAINING)
    from cimsim.studies.study import load_study
    from qat.experiments.study import search_one

    show.show_plan(search_one(load_study(study, for_training=True), chip, budget, seed, run_dir), json)


def codesign(
    study: StudyFile,
    run_dir: RunDirOption = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Do the whole study: train, search, measure, sweep, report. Killed at any moment, the same command goes on.

    Example: `cimsim codesign examples/fashion_mnist.yaml`
    """
    needs(TRAINING + REPORTING + (CLUSTER if scheduler else ()))
    from cimsim.studies.study import load_study
    from qat.experiments.study import run_codesign

    run = run_codesign(load_study(study, for_training=True), run_dir, workers, scheduler=scheduler)
    from reports.page import write_report  # after the long work, which needs none of what this imports

    page = write_report(run.path)
    show.show_rows(run.results(), json)
    show.say(f"Report: {page}")


def accuracy(  # noqa: PLR0913 (a command line)
    context: typer.Context,
    what: Annotated[
        Path, typer.Argument(help="A run directory of `cimsim codesign`, or an exported network.", show_default=False)
    ],
    chip: Annotated[
        str, typer.Option("--chip", help="Of an exported network: a ready chip, or a chip YAML.")
    ] = "isaac",
    data: Annotated[
        str | None, typer.Option("--data", help="Of an exported network: `digits` or `fashion_mnist`.")
    ] = None,
    cells: Annotated[
        str, typer.Option("--cells", help="`chip`: those of each chip; `reram`, `pcm`; or a YAML file.")
    ] = "chip",
    draws: Annotated[int, typer.Option("--draws", min=1, max=1000, help="How often the arrays are written.")] = 5,
    images: Annotated[int, typer.Option("--images", min=1, help="Test images of each draw.")] = 1_000,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Of a run: processes.")] = 2,
    json: Json = False,
) -> None:
    """Measure trained plans on arrays that are not ideal: those of a run, whose report is drawn again, or one network.

    Arrays are written with errors, some cells are stuck, reads are noisy, conductances drift and wires lose voltage.

    Of an exported network (`qat.export`, a file of a run's `weights/`) also its costs and its accuracy without all
    that are told.

    Example: `cimsim accuracy runs/digits --cells reram`
    """
    from cimsim.studies.real_cells import Asked, measure_run

    asked = Asked(cells, draws, images)
    if what.is_file() or what.suffix == ".safetensors":
        _refuse_idle(context, "an exported network", ("workers",))
        from cimsim.studies.exported import measure_file

        return show.show_exported(measure_file(what, chip, data, asked), json)
    _refuse_idle(context, "a run, which has chips and data of its own", ("chip", "data"))
    show.show_drawn(measure_run(what, asked, workers), json)
    if missing := lacking(REPORTING):
        return show.say(f"Report: not drawn, needs {', '.join(missing)}: pip install 'cimsim[report]'")
    from reports.page import write_report

    show.say(f"Report: {write_report(what)}")


def report(
    run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    json: Json = False,
) -> None:
    """Draw the figures and the HTML page of a run directory again.

    Example: `cimsim report runs/fashion_mnist`
    """
    needs(REPORTING)
    from cimsim.studies.run import RunDir
    from reports.page import write_report

    page = write_report(run)
    show.show_rows(RunDir(run).results(), json)
    show.say(f"Report: {page}")
