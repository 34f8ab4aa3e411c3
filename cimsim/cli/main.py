"""The front door: every command of `cimsim`. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer

from cimsim import __version__
from cimsim.cli import show, training, trust
from cimsim.cli.options import CLUSTER, TRAINING, Json, RunDirOption, Scheduler, Seed, StudyFile, Workers, needs
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
    from cimsim.chip.reading import load_chip
    from cimsim.cost.uncertainty import intervals
    from cimsim.engine.planfile import read_layout, read_plan
    from cimsim.engine.whole import simulate as run
    from cimsim.trace import write_trace
    from workloads.shapes import load_network

    shapes, built = load_network(network), load_chip(chip)
    found = run(
        shapes, built, read_plan(plan, shapes), batch=batch, layout=read_layout(layout) if layout else None,
        images_per_weight_load=images_per_weight_load,
    )  # fmt: skip
    if trace:
        write_trace(found.timeline, trace, found)
    show.show_report(found.report, json, intervals(found.report, built, interval, seed) if interval else {})


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
    from cimsim.chip.reading import load_chip
    from cimsim.engine.duplicate import search_layout
    from cimsim.engine.planfile import read_plan
    from workloads.shapes import load_network
    from workloads.store import write_atomically

    shapes = load_network(network)
    found = search_layout(shapes, load_chip(chip), read_plan(plan, shapes), batch=batch, objective=objective)
    if out:
        write_atomically(out, found.layout.model_dump_json(indent=1).encode())
    show.show_layout(found, objective, json)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="A report of `simulate --json`, or a file of a run's costs/.")],
    after: Annotated[Path, typer.Argument(help="The report to compare it with.")],
    json: Json = False,
) -> None:
    """Explain where energy and cycles of two simulated runs differ: components, layers, stalls, actions.

    Example: `cimsim diff linear-4.json vq.json`
    """
    from cimsim.cost.diff import compare, read_report

    show.show_difference(compare(read_report(before), read_report(after)), json)


app.command()(trust.validate)
app.command()(trust.sensitivity)


@app.command()
def sweep(
    study: StudyFile,
    run_dir: RunDirOption = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Simulate every chip variant of a study with every uniform format and every plan found so far.

    Example: `cimsim sweep examples/fashion_mnist.yaml`
    """
    needs(CLUSTER if scheduler else ())
    from cimsim.studies.study import load_study
    from cimsim.studies.sweep import run_sweep

    swept = run_sweep(load_study(study), run_dir, workers, scheduler=scheduler)
    show.show_rows(swept.rows, json)
    show.show_refused(swept.refused)
    show.say(f"Results: {swept.path / 'results.csv'}")


app.command()(training.train)
app.command()(training.search)
app.command()(training.codesign)
app.command()(training.accuracy)
app.command()(training.report)


@chips_app.command("list")
def chips_list(json: Json = False) -> None:
    """List the ready chips.

    Example: `cimsim chips list`
    """
    from cimsim.chip.reading import chip_names, load_chip

    show.show_chips([load_chip(name) for name in chip_names()], json)


@chips_app.command("show")
def chips_show(chip: Annotated[str, typer.Argument(help="A ready chip, or a chip YAML.")], json: Json = False) -> None:
    """Bill of materials: peak power (mW) and area (mm2) per level and component, with sources.

    Example: `cimsim chips show isaac --json`
    """
    from cimsim.chip.reading import load_chip

    show.show_bill(load_chip(chip), json)


@app.command()
def formats(
    recipes: Annotated[bool, typer.Option("--recipes", help="List the recipes by which formats are trained.")] = False,
    json: Json = False,
) -> None:
    """List the weight formats with their bits per weight; or the training recipes.

    Example: `cimsim formats`
    """
    if recipes:
        needs(TRAINING)
        from qat.recipe import described

        return show.show_recipes(described(), json)
    from workloads.format import EXAMPLE_FORMATS, parse_format

    show.show_formats([parse_format(name) for name in EXAMPLE_FORMATS], json)


@app.command()
def init(
    what: Annotated[str, typer.Argument(help="`chip` or `study`.")],
    path: Annotated[Path | None, typer.Argument(help="File to write [default: chip.yaml or study.yaml].")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print only the JSON schema.")] = False,
) -> None:
    """Write a commented YAML to start from, with a JSON schema beside it for editors.

    Example: `cimsim init study my_study.yaml`
    """
    from cimsim.cli.starter import write_starter

    write_starter(what, path, json)


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
