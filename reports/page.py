"""Writes report.html: one file with its figures, readable without a network."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from reports import tables
from reports.energy import energy_figure
from reports.frames import Run, read_run
from reports.front import pareto_figure
from reports.interactive import energy_fragment, front_fragment
from reports.plans import plans_figure
from reports.real_cells import drawn_figure, drawn_table
from reports.series import has_accuracy
from reports.variants import variants_figure
from reports.verdict import BASELINE, verdicts


def write_report(run: Path) -> Path:
    """Writes figures/ (PNG, SVG, PDF) and report.html into the run directory `run`; returns the page's path.

    Raises InputError that names what the directory lacks.
    """
    held = read_run(Path(run))
    figures = _draw(held, held.path / "figures")
    page = held.path / "report.html"
    page.write_text(_render(held, figures), encoding="utf-8")
    return page


def _draw(run: Run, folder: Path) -> dict[str, Path]:
    """Draws every figure the run has data for: name -> SVG file."""
    folder.mkdir(exist_ok=True)
    if has_accuracy(run.results):
        pareto_figure(run.results, folder / "pareto")
        pareto_figure(run.results, folder / "pareto.pdf")
    plans_figure(run, folder / "plans")
    energy_figure(run, folder / "energy")
    variants_figure(run, folder / "variants")
    drawn_figure(run, folder / "cells")
    return {name: path for name in ("pareto", "plans", "energy", "variants", "cells")
            if (path := folder / f"{name}.svg").is_file()}  # fmt: skip


def _render(run: Run, figures: dict[str, Path]) -> str:
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
        images={name: _data_uri(path) for name, path in figures.items()},
        plotly_js=Markup(get_plotlyjs()),
        front=Markup(front_fragment(run)),
        energy=Markup(energy_fragment(run)),
        results=tables.results_table(run),
        gaps=tables.gaps_table(run),
        gap_texts=tables.GAPS.values(),
        stalls=tables.stalls_table(run),
        variants=tables.variants_table(run),
        drawn=drawn_table(run),
        sources=tables.sources_table(run),
        masked=tables.masked_table(run),
        settings=tables.settings_table(run),
        warnings=tables.warnings_of(run),
        always_on=tables.always_on(run),
    )


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
