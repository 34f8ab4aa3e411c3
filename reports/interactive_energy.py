"""Energy of plans by component, to point at."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.energy import component_colours, energy_by_component
from reports.frames import Frame, Run
from reports.interactive import GRID, LOOK, fragment
from reports.style import ENERGY_UNITS, energy, percent, short_label, unit_of


def energy_fragment(run: Run) -> str:
    """Energy by component and plan, one panel per chip; empty without cost reports."""
    table = energy_by_component(run)
    if table.empty:
        return ""
    names = [name for name in table.columns if name not in ("chip", "kind", "label")]
    chips, colours = list(table["chip"].unique()), component_colours(names)
    counts = [int((table["chip"] == chip).sum()) for chip in chips]
    totals = table[names].sum(axis=1).groupby(table["chip"]).max()
    units = [unit_of(totals[chip], ENERGY_UNITS) for chip in chips]
    titles = [f"<b>{escape(chip)}</b>, energy per image ({unit})" for chip, (_, unit) in zip(chips, units, strict=True)]
    height = 34 * sum(counts) + 90 * len(chips) + 60
    figure = make_subplots(len(chips), 1, subplot_titles=titles, row_heights=counts, vertical_spacing=80 / height)
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    for panel, chip in enumerate(chips, start=1):
        rows = table[table["chip"] == chip]
        for name in names:
            figure.add_trace(_bars(rows, name, units[panel - 1][0], colours[name], panel == 1), row=panel, col=1)
    figure.update_xaxes(**GRID)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(**LOOK, height=height, barmode="stack")
    figure.update_layout(
        margin={"l": 120, "r": 16, "t": 30, "b": 90},
        legend={"orientation": "h", "y": -45 / height, "yanchor": "top"},
    )
    return fragment(figure, "components")


def _bars(rows: Frame, name: str, size_pj: float, colour: str, in_legend: bool) -> go.Bar:
    title = name.replace("_", " ")
    shares = rows[name] / rows.drop(columns=["chip", "kind", "label"]).sum(axis=1)
    texts = [f"{title}: {energy(value)} ({percent(share)})" for value, share in zip(rows[name], shares, strict=True)]
    return go.Bar(
        x=(rows[name] / size_pj).tolist(), y=[short_label(label) for label in rows["label"]], orientation="h",
        name=title, marker_color=colour, legendgroup=name, showlegend=in_legend, customdata=texts,
        hovertemplate="%{y}<br>%{customdata}<extra></extra>",
    )  # fmt: skip
