"""The front door: every command of `cimsim`. Heavy imports happen inside the command that needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cimsim import __version__, screen
from workloads.errors import InputError, RunError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
    help="Co-design compute-in-memory chips and quantized networks: exact cycles, sourced energy, measured accuracy.",
)  # fmt: skip
chips_app = typer.Typer(no_args_is_help=True, help="Chips that come with cimsim.")
app.add_typer(chips_app, name="chips")

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyFile = Annotated[Path, typer.Argument(help="A study YAML (see `cimsim init study`).", show_default=False)]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Where results go [default: runs/NAME].")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=64, help="Processes [default: the study's].")]


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    if version:
        print(f"cimsim {__version__}")
        raise typer.Exit


@app.command()
def simulate(
    network: Annotated[str, typer.Argument(help="A known network, or a YAML of shapes.", show_default=False)],
    chip: Annotated[str, typer.Option("--chip", help="A ready chip, or a chip YAML.")] = "isaac",
    plan: Annotated[str, typer.Option("--plan", help="A plan JSON, or one format for all layers.")] = "linear-8",
    images_per_weight_load: Annotated[
        float | None, typer.Option("--images-per-weight-load", min=1, help="Images that share one weight load.")
    ] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help="Write a timeline that opens in Perfetto.")] = None,
    json: Json = False,
) -> None:
    """Simulate one image of a network on a chip, from shapes alone.

    Example: `cimsim simulate resnet18 --chip isaac --json`
    """
    from cimsim.engine import simulate_timeline
    from cimsim.planfile import read_plan
    from cimsim.spec import load_chip
    from cimsim.trace import write_trace
    from workloads.shapes import load_network

    shapes = load_network(network)
    report, timeline = simulate_timeline(
        shapes, load_chip(chip), read_plan(plan, shapes), images_per_weight_load=images_per_weight_load
    )
    if trace:
        write_trace(timeline, trace)
    screen.show_report(report, json)


@app.command()
def sweep(study: StudyFile, run_dir: RunDirOption = None, workers: Workers = None, json: Json = False) -> None:
    """Simulate every chip variant of a study with every uniform format and every plan found so far.

    Example: `cimsim sweep examples/fashion_mnist.yaml`
    """
    from cimsim.study import load_study
    from cimsim.sweep import run_sweep

    screen.show_rows(run_sweep(load_study(study), run_dir, workers), json)


@app.command()
def train(
    study: StudyFile,
    plan: Annotated[str, typer.Option("--plan", help="A plan JSON, or one format for all layers.")] = "linear-8",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    run_dir: RunDirOption = None,
    json: Json = False,
) -> None:
    """Train one quantized network of a study and measure it on the study's chips.

    Example: `cimsim train examples/fashion_mnist.yaml --plan linear-4`
    """
    _needs_training("train")
    from cimsim.study import load_study
    from qat.codesign import train_one

    screen.show_rows(train_one(load_study(study), plan, seed, run_dir), json)


@app.command()
def search(
    study: StudyFile,
    chip: Annotated[str, typer.Option("--chip", help="One chip of the study.")],
    budget: Annotated[float, typer.Option("--budget", min=0.01, max=2.0, help="Energy, as a share of linear-8's.")],
    seed: Annotated[int, typer.Option("--seed")] = 0,
    run_dir: RunDirOption = None,
    json: Json = False,
) -> None:
    """Search a per-layer plan for one chip and budget.

    Example: `cimsim search examples/fashion_mnist.yaml --chip sram-rom --budget 0.4`
    """
    _needs_training("search")
    from cimsim.study import load_study
    from qat.codesign import search_one

    screen.show_plan(search_one(load_study(study), chip, budget, seed, run_dir), json)


@app.command()
def codesign(study: StudyFile, run_dir: RunDirOption = None, workers: Workers = None, json: Json = False) -> None:
    """Do the whole study: train, search, measure, sweep, report. Killed at any moment, the same command goes on.

    Example: `cimsim codesign examples/fashion_mnist.yaml`
    """
    _needs_training("codesign")
    from cimsim.study import load_study
    from qat.codesign import run_codesign
    from reports.page import write_report

    run = run_codesign(load_study(study), run_dir, workers)
    page = write_report(run.path)
    screen.show_rows(run.rows(), json)
    screen.say(f"Report: {page}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.", show_default=False)],
    json: Json = False,
) -> None:
    """Draw the figures and the HTML page of a run directory again.

    Example: `cimsim report runs/fashion_mnist`
    """
    _needs_training("report")
    from cimsim.rundir import RunDir
    from reports.page import write_report

    page = write_report(run)
    screen.show_rows(RunDir(run).rows(), json)
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
def formats(json: Json = False) -> None:
    """List the weight formats with their bits per weight.

    Example: `cimsim formats`
    """
    from workloads.format import DEFAULT_FORMATS, parse_format

    screen.show_formats([parse_format(name) for name in DEFAULT_FORMATS], json)


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


def _needs_training(command: str) -> None:
    """Training and reports are extras; say so instead of failing on an import."""
    from importlib.util import find_spec

    missing = [name for name in ("torch", "safetensors", "matplotlib", "pandas", "jinja2") if find_spec(name) is None]
    if missing:
        raise InputError(f"cimsim {command}", [f"needs {', '.join(missing)}: pip install 'cimsim[all]'"])


def main() -> None:
    """Run a command. Wrong input ends with exit code 2, failed work with 1, and no traceback without --debug."""
    debug = "--debug" in sys.argv
    try:
        app()
    except InputError as error:
        _leave(str(error), 2, debug)
    except (RunError, OSError, MemoryError) as error:
        _leave(f"{type(error).__name__}: {error}" if not isinstance(error, RunError) else str(error), 1, debug)
    except KeyboardInterrupt:
        _leave("interrupted; the same command goes on where it stopped", 1, debug)
    except Exception as error:
        _leave(f"internal error: {type(error).__name__}: {error} (run with --debug for a traceback)", 1, debug)


def _leave(message: str, code: int, debug: bool) -> None:
    if debug:
        raise  # noqa: PLE0704  the caller is an except block
    print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
