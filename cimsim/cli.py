"""The front door: every command of `cimsim`. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer

from cimsim import __version__, cli_trust, screen
from workloads.errors import InputError, RunError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
chips_app = typer.Typer(
    no_args_is_help=True, help="Chips that come with cimsim.", epilog="Example: `cimsim chips show isaac --json`"
)
app.add_typer(chips_app, name="chips")

DEBUG = "--debug"  # taken from the command line before any command sees it, so that it may stand anywhere
INTERRUPTED = 130  # Typer's exit code after Ctrl-C
TRAINING = ("torch", "safetensors", "sklearn", "dask", "distributed")  # the extra [train]
REPORTING = ("matplotlib", "pandas", "jinja2", "plotly")  # the extra [report]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyFile = Annotated[Path, typer.Argument(help="A study YAML (see `cimsim init study`).", show_default=False)]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Where results go [default: runs/NAME].")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Start of every random number.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=64, help="Processes [default: the study's].")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cimsim {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: `cimsim simulate lenet5 --chip isaac`")
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show a traceback when something fails; may stand anywhere.")
    ] = False,
) -> None:
    """Co-design compute-in-memory chips and quantized networks: exact cycles, sourced energy, measured accuracy."""


@app.command()
def simulate(  # noqa: PLR0913 (a command line)
    network: Annotated[str, typer.Argument(help="A known network, or a YAML of shapes.", show_default=False)],
    chip: Annotated[str, typer.Option("--chip", help="A ready chip, or a chip YAML.")] = "isaac",
    plan: Annotated[str, typer.Option("--plan", help="A plan JSON, or one format for all layers.")] = "linear-8",
    batch: Annotated[int, typer.Option("--batch", min=1, max=4096, help="Images that pass together.")] = 1,
    layout: Annotated[Path | None, typer.Option("--layout", help="A layout JSON (see `cimsim map`).")] = None,
    images_per_weight_load: Annotated[
        float | None, typer.Option("--images-per-weight-load", min=1, help="Images that share one weight load.")
    ] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help="Write a timeline that opens in Perfetto.")] = None,
    interval: Annotated[
        int | None, typer.Option("--interval", min=100, max=100_000, help="Draws of all bands, for 90 % intervals.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Simulate a network on a chip, from shapes alone.

    Example: `cimsim simulate resnet18 --chip isaac --json`
    """
    from cimsim.engine import simulate_timeline
    from cimsim.planfile import read_layout, read_plan
    from cimsim.spec import load_chip
    from cimsim.trace import machine_of, write_trace
    from cimsim.uncertainty import intervals
    from workloads.shapes import load_network

    shapes = load_network(network)
    placed = read_layout(layout) if layout else None
    report, timeline = simulate_timeline(
        shapes, load_chip(chip), read_plan(plan, shapes), batch=batch, layout=placed,
        images_per_weight_load=images_per_weight_load,
    )  # fmt: skip
    if trace:
        write_trace(timeline, trace, machine_of(report, shapes, load_chip(chip), read_plan(plan, shapes), placed))
    found = intervals(report, load_chip(chip), interval, seed) if interval else {}
    screen.show_report(report, json, found)


@app.command(name="map")
def map_layers(  # noqa: PLR0913 (a command line)
    network: Annotated[str, typer.Argument(help="A known network, or a YAML of shapes.", show_default=False)],
    chip: Annotated[str, typer.Option("--chip", help="A ready chip, or a chip YAML.")] = "isaac",
    plan: Annotated[str, typer.Option("--plan", help="A plan JSON, or one format for all layers.")] = "linear-8",
    batch: Annotated[int, typer.Option("--batch", min=1, max=4096, help="Images that pass together.")] = 1,
    objective: Annotated[
        Literal["energy_delay", "latency", "interval", "energy"], typer.Option("--objective", help="What counts.")
    ] = "energy_delay",
    out: Annotated[Path | None, typer.Option("--out", help="Write the layout for `simulate --layout`.")] = None,
    json: Json = False,
) -> None:
    """Search how often each layer should lie on the chip, and say what that wins over the default.

    Example: `cimsim map resnet18 --chip isaac --objective interval`
    """
    from cimsim.mapper import search_layout
    from cimsim.planfile import read_plan
    from cimsim.rundir import write_atomically
    from cimsim.spec import load_chip
    from workloads.shapes import load_network

    shapes = load_network(network)
    found = search_layout(shapes, load_chip(chip), read_plan(plan, shapes), batch=batch, objective=objective)
    if out:
        write_atomically(out, found.layout.model_dump_json(indent=1).encode())
    screen.show_layout(found, objective, json)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A report of `simulate --json`, or a file of a run's costs/.")],
    after: Annotated[Path, typer.Argument(help="The report to compare it with.")],
    json: Json = False,
) -> None:
    """Explain where energy and cycles of two simulated runs differ: components, layers, stalls, actions.

    Example: `cimsim diff linear-4.json vq.json`
    """
    from cimsim.diff import compare, read_report

    screen.show_difference(compare(read_report(before), read_report(after)), json)


app.command()(cli_trust.validate)
app.command()(cli_trust.sensitivity)


@app.command()
def sweep(study: StudyFile, run_dir: RunDirOption = None, workers: Workers = None, json: Json = False) -> None:
    """Simulate every chip variant of a study with every uniform format and every plan found so far.

    Example: `cimsim sweep examples/fashion_mnist.yaml`
    """
    from cimsim.study import load_study
    from cimsim.sweep import run_sweep

    swept = run_sweep(load_study(study), run_dir, workers)
    screen.show_rows(swept.rows, json)
    screen.show_refused(swept.refused)
    screen.say(f"Results: {swept.path / 'results.csv'}")


@app.command()
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
    _needs(TRAINING)
    if Path(what).suffix in (".yaml", ".yml"):
        _refuse_idle(context, "a study", ("fmt", "data", "recipe", "float_epochs", "images", "start"))
        from cimsim.study import load_study
        from qat.codesign import train_one

        return screen.show_rows(train_one(load_study(Path(what), for_training=True), plan, seed, run_dir), json)
    from qat.published_trial import PUBLISHED

    folder = run_dir or Path("runs/train")
    if what in PUBLISHED:
        _refuse_idle(context, "published weights", ("plan", "float_epochs"))
        from qat.published_trial import COLUMNS, cells, published_trial, run_published

        chosen = published_trial(what, data, images, format=fmt, recipe=recipe, start=start, seed=seed)
        row = run_published(chosen, folder)
        screen.show_cells("beside the float network, on the test set", COLUMNS, [cells(row)], [row], json)
        return screen.say(f"Weights: {folder / chosen.weights}") if chosen.weights else None
    _refuse_idle(context, "a network without published weights", ("plan", "start"))
    from qat.lab import run_trials, trial_of, weights_path

    trial = trial_of(network=what, data=data, format=fmt, recipe=recipe, seed=seed, float_epochs=float_epochs,
                     images=100_000 if images is None else images)  # fmt: skip
    screen.show_trials(run_trials([trial], folder), json)
    if weights_path(folder, trial).exists():
        screen.say(f"Weights: {weights_path(folder, trial)}")


@app.command()
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
    _needs(TRAINING)
    from cimsim.study import load_study
    from qat.codesign import search_one

    screen.show_plan(search_one(load_study(study, for_training=True), chip, budget, seed, run_dir), json)


@app.command()
def codesign(study: StudyFile, run_dir: RunDirOption = None, workers: Workers = None, json: Json = False) -> None:
    """Do the whole study: train, search, measure, sweep, report. Killed at any moment, the same command goes on.

    Example: `cimsim codesign examples/fashion_mnist.yaml`
    """
    _needs(TRAINING + REPORTING)
    from cimsim.study import load_study
    from qat.codesign import run_codesign

    run = run_codesign(load_study(study, for_training=True), run_dir, workers)
    from reports.page import write_report  # after the long work, which needs none of what this imports

    page = write_report(run.path)
    screen.show_rows(run.results(), json)
    screen.say(f"Report: {page}")


@app.command()
def accuracy(
    run: Annotated[Path, typer.Argument(help="A run directory of `cimsim codesign`.", show_default=False)],
    cells: Annotated[
        str, typer.Option("--cells", help="`chip`: those of each chip; `reram`, `pcm`; or a YAML file.")
    ] = "chip",
    draws: Annotated[int, typer.Option("--draws", min=1, max=1000, help="How often the arrays are written.")] = 5,
    images: Annotated[int, typer.Option("--images", min=1, help="Test images of each draw.")] = 1_000,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Processes.")] = 2,
    json: Json = False,
) -> None:
    """Measure the trained plans of a run on arrays that are not ideal, and draw the report again.

    Arrays are written with errors, some cells are stuck, reads are noisy, conductances drift and wires lose voltage.

    Example: `cimsim accuracy runs/digits --cells reram`
    """
    _needs(TRAINING + REPORTING)
    from qat.drawn import Asked, measure_run

    screen.show_drawn(measure_run(run, Asked(cells, draws, images), workers), json)
    from reports.page import write_report

    screen.say(f"Report: {write_report(run)}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    json: Json = False,
) -> None:
    """Draw the figures and the HTML page of a run directory again.

    Example: `cimsim report runs/fashion_mnist`
    """
    _needs(REPORTING)
    from cimsim.rundir import RunDir
    from reports.page import write_report

    page = write_report(run)
    screen.show_rows(RunDir(run).results(), json)
    screen.say(f"Report: {page}")


@chips_app.command("list")
def chips_list(json: Json = False) -> None:
    """List the ready chips.

    Example: `cimsim chips list`
    """
    from cimsim.spec import chip_names, load_chip

    screen.show_chips([load_chip(name) for name in chip_names()], json)


@chips_app.command("show")
def chips_show(chip: Annotated[str, typer.Argument(help="A ready chip, or a chip YAML.")], json: Json = False) -> None:
    """Bill of materials: peak power (mW) and area (mm2) per level and component, with sources.

    Example: `cimsim chips show isaac --json`
    """
    from cimsim.spec import load_chip

    screen.show_bill(load_chip(chip), json)


@app.command()
def formats(
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes by which formats are trained.")] = False,
    json: Json = False,
) -> None:
    """List the weight formats with their bits per weight; or the training recipes.

    Example: `cimsim formats`
    """
    if recipes:
        _needs(TRAINING)
        from qat.recipe import described

        return screen.show_recipes(described(), json)
    from workloads.format import EXAMPLE_FORMATS, parse_format

    screen.show_formats([parse_format(name) for name in EXAMPLE_FORMATS], json)


@app.command()
def init(
    what: Annotated[str, typer.Argument(help="`chip` or `study`.")],
    path: Annotated[Path | None, typer.Argument(help="File to write [default: chip.yaml or study.yaml].")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print only the JSON schema.")] = False,
) -> None:
    """Write a commented YAML to start from, with a JSON schema beside it for editors.

    Example: `cimsim init study my_study.yaml`
    """
    from cimsim.starter import write_starter

    write_starter(what, path, json)


OPTION = {"fmt": "format"}  # where a parameter's name is another


def _refuse_idle(context: typer.Context, what: str, names: tuple[str, ...]) -> None:
    """Options that were given and that this kind of training never looks at. Raises InputError."""
    given = [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        flags = {name: OPTION.get(name, name.replace("_", "-")) for name in given}
        problems = [f"--{flag} = {context.params[name]}: is not for {what}" for name, flag in flags.items()]
        raise InputError(context.command.name or "", problems)


def _needs(modules: tuple[str, ...]) -> None:
    """Training and reports are extras; say so instead of failing on an import."""
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise InputError("cimsim", [f"this command needs {', '.join(missing)}: pip install 'cimsim[all]'"])


def main() -> None:
    """Run a command. Wrong input ends with exit code 2, failed work with 1, and no traceback without --debug."""
    arguments = sys.argv[1:]
    try:
        _run([argument for argument in arguments if argument != DEBUG])
    except Exception as error:
        if DEBUG in arguments:
            traceback.print_exc()
        else:
            print(_message(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


def _run(arguments: list[str]) -> None:
    """Typer leaves through SystemExit; what is still unwritten by then may fail to be written."""
    try:
        app(arguments)
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:
            print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        _flush()
        raise


def _flush() -> None:
    """A full disk behind standard output is an error of this command, not of the interpreter's end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _message(error: Exception) -> str:
    if isinstance(error, InputError | RunError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}: free space or fix permissions"
    if isinstance(error, MemoryError):
        return "out of memory: use fewer --workers or a smaller network"
    return f"internal error: {type(error).__name__}: {error} (run with --debug for a traceback)"


if __name__ == "__main__":
    main()
