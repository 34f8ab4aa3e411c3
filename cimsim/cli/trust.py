"""Commands that tell how far to trust the models: against published chips, and within their own bands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cimsim.cli import show_trust
from cimsim.cli.options import Json
from workloads.errors import InputError


def validate(
    ref: Annotated[str | None, typer.Option("--ref", help="One reference, with every point.")] = None,
    chip: Annotated[str | None, typer.Option("--chip", help="Your chip (YAML), with --targets.")] = None,
    targets: Annotated[Path | None, typer.Option("--targets", help="CSV: quantity,value,unit,kind[,point].")] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="What chips left out of the joint fit would show.")
    ] = False,
    json: Json = False,
) -> None:
    """Compare the models with published chips, or with figures of yours. Exit code 1 if a figure is out of its band.

    Example: `cimsim validate --ref jia65`
    """
    from cimsim import validation

    if leave_one_out:
        return show_trust.show_left_out(validation.left_out(), json)
    if (chip is None) != (targets is None):
        raise InputError("validate", ["--chip and --targets: need each other"])
    rows = validation.check_own(chip, targets) if chip and targets else validation.check_references(ref)
    show_trust.show_validation(rows, json, is_whole=ref is None and chip is None)
    if any(row.passed is False for row in rows):
        raise typer.Exit(1)


def sensitivity(
    network: Annotated[str, typer.Argument(help="A known network, or a YAML of shapes.", show_default=False)],
    chip: Annotated[list[str], typer.Option("--chip", help="A design: give this option once for each.")],
    plan: Annotated[str, typer.Option("--plan", help="A plan JSON, or one format for all layers.")] = "linear-8",
    figure: Annotated[
        Literal["energy", "area"], typer.Option("--figure", help="What the designs are ranked by.")
    ] = "energy",
    json: Json = False,
) -> None:
    """Name the assumptions that would change which design is best, each moved to both ends of its band.

    Example: `cimsim sensitivity resnet18 --chip sram-rom --chip sram-digital`
    """
    from cimsim.chip.reading import load_chip
    from cimsim.cost.uncertainty import sensitivity as find
    from cimsim.engine.planfile import read_plan
    from cimsim.engine.whole import simulate
    from workloads.shapes import load_network

    shapes, chips = load_network(network), [load_chip(name) for name in chip]
    reports = [simulate(shapes, one, read_plan(plan, shapes)).report for one in chips]
    field = {"energy": "energy_pj", "area": "area_um2"}[figure]
    show_trust.show_sensitivity(find(reports, chips, field), [one.name for one in chips], figure, json)
