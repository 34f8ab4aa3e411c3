"""What commands share: options that several take, and the extras that some need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workloads.errors import InputError

TRAINING = ("torch", "sklearn")  # the extra [train]
REPORTING = ("matplotlib", "pandas", "jinja2", "plotly")  # the extra [report]
CLUSTER = ("dask", "distributed")  # the extra [cluster]

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
StudyFile = Annotated[Path, typer.Argument(help="A study YAML (see `cimsim init study`).", show_default=False)]
RunDirOption = Annotated[Path | None, typer.Option("--run-dir", help="Where results go [default: runs/NAME].")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Start of every random number.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, max=64, help="Processes [default: the study's].")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler", help="Address of a Dask scheduler, whose processes see this folder [default: processes here]."
    ),
]


def lacking(modules: tuple[str, ...]) -> list[str]:
    """Those that are not installed."""
    from importlib.util import find_spec

    return [name for name in modules if find_spec(name) is None]


def needs(modules: tuple[str, ...]) -> None:
    """Training, reports, clusters are extras; say so instead of failing on an import."""
    if missing := lacking(modules):
        raise InputError("cimsim", [f"this command needs {', '.join(missing)}: pip install 'cimsim[all]'"])
