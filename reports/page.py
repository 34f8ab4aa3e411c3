"""Writes report.html: one file with its figures, readable without a network."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from reports import conditions, tables
from reports.canvas import USUAL
from reports.energy import energy_figure, energy_fragment
from reports.finding import BASELINE
from reports.frames import Run, read_run
from reports.front import front_figure
from reports.interactive_front import front_fragment
from reports.measures import FRONTS
from reports.plans import plans_figure
from reports.real_cells import cells_figure, cells_table
from reports.series import has_points
from reports.variants import variants_figure
from reports.verdict import verdicts


def write_report(folder: Path) -> Path:
    """Writes figures/ (PNG, SVG, PDF) and report.html into the run directory; returns the page's path.

    Raises InputError that names what the directory lacks.
    """
    run = read_run(Path(folder))
    figures = _draw(run, run.path / "figures")
    page = run.path / "report.html"
    page.write_text(_render(run, figures), encoding="utf-8")
    return page


def _draw(run: Run, folder: Path) -> dict[str, list[Path]]:
    """Draws every figure the run has data for: name -> its files."""
    figures = {
        front.name: front_figure(run.results, folder / front.name, front, (*USUAL, ".pdf"))
        for front in FRONTS
        if has_points(run.results, front)
    }
    figures |= {
        "plans": plans_figure(run, folder / "plans"),
        "energy": energy_figure(run, folder / "energy"),
        "variants": variants_figure(run, folder / "variants"),
        "cells": cells_figure(run, folder / "cells"),
    }
    return {name: files for name, files in figures.items() if files}


def _render(run: Run, figures: dict[str, list[Path]]) -> str:
    environment = Environment(
        loader=PackageLoader("reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=str(run.study.get("name") or run.path.resolve().name),
        run=run,
        baseline=BASELINE,
        verdicts=verdicts(run),
        files={name: [path.name for path in files] for name, files in figures.items()},
        images={name: _data_uri(path) for name, files in figures.items() for path in files if path.suffix == ".svg"},
        plotly_js=Markup(get_plotlyjs()),
        fronts=[(front, Markup(front_fragment(run, front))) for front in FRONTS if front.name in figures],
        energy=Markup(energy_fragment(run)),
        results=tables.results_table(run),
        gaps=tables.gaps_table(run),
        gap_texts=tables.GAPS.values(),
        stalls=tables.stalls_table(run),
        variants=tables.variants_table(run),
        cells=cells_table(run),
        sources=conditions.sources_table(run),
        masked=conditions.masked_table(run),
        settings=conditions.settings_table(run),
        warnings=conditions.warnings_of(run),
        always_on=conditions.always_on(run),
    )


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
