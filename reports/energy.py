"""Energy of plans by component: a picture for paper, one to point at."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from plotly.subplots import make_subplots

from reports.canvas import draw_and_save
from reports.frames import Frame, Run, components_pj
from reports.interactive import GRID, LOOK, fragment
from reports.seeds import averaged
from reports.style import ENERGY_UNITS, OTHER, PALETTE, digits3, energy, percent, short_label, unit_of

KIND_ORDER = {"uniform": 0, "all_vq": 1, "search": 2}
NUM_NAMED_COMPONENTS = 7


def energy_figure(run: Run, path: Path) -> list[Path]:
    """Energy of each plan by component, one panel per chip; empty if no cost report is stored."""
    table = energy_by_component(run)
    return draw_and_save(lambda: _energies(table), path) if len(table) else []


def energy_by_component(run: Run) -> Frame:
    """Columns chip, kind, label, then pJ per component, largest first, small ones as `other`."""
    rows = run.results[(run.results["vary"] == "") & run.results["kind"].isin(KIND_ORDER)]
    rows = rows[rows["key"].isin(run.costs)]
    if rows.empty:
        return pd.DataFrame()
    parts = pd.DataFrame([components_pj(run.costs[key]) for key in rows["key"]], index=rows.index).fillna(0.0)
    share = parts.div(parts.sum(axis=1), axis=0).max().sort_values(ascending=False, kind="stable")
    named, rest = share.index[:NUM_NAMED_COMPONENTS], share.index[NUM_NAMED_COMPONENTS:]
    shown = parts[named].assign(other=parts[rest].sum(axis=1)) if len(rest) else parts[named]
    table = averaged(pd.concat([rows[["chip", "kind", "label"]], shown], axis=1), ["chip", "kind", "label"])
    return table.sort_values("kind", key=lambda kinds: kinds.map(KIND_ORDER), kind="stable", ignore_index=True)


def _energies(table: Frame) -> Figure:
    chips = list(table["chip"].unique())
    counts = [int((table["chip"] == chip).sum()) for chip in chips]
    figure = Figure(figsize=(9.0, 0.3 * sum(counts) + 0.85 * len(chips) + 0.5), layout="constrained")
    grid = figure.subplots(len(chips), 1, squeeze=False, height_ratios=[n + 1.2 for n in counts])[:, 0]
    names = [name for name in table.columns if name not in ("chip", "kind", "label")]
    colours = component_colours(names)
    for axes, chip in zip(grid, chips, strict=True):
        _energy_panel(axes, table[table["chip"] == chip], colours)
        axes.set_title(chip, loc="left", fontweight="bold", fontsize=10)
    handles = [Patch(facecolor=colours[name], label=name.replace("_", " ")) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8.5)
    return figure


def component_colours(names: list[str]) -> dict[str, str]:
    """Colour of each component, `other` in the neutral one."""
    return {name: OTHER if name == "other" else PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def _energy_panel(axes: Axes, rows: Frame, colours: dict[str, str]) -> None:
    totals = rows[list(colours)].sum(axis=1)
    size_pj, unit = unit_of(totals.max(), ENERGY_UNITS)
    left = np.zeros(len(rows))
    for name, colour in colours.items():
        axes.barh(range(len(rows)), rows[name] / size_pj, left=left, height=0.72, color=colour, label=name)
        left += rows[name].to_numpy() / size_pj
    for y, total in enumerate(left):
        axes.annotate(digits3(total), (total, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [short_label(label) for label in rows["label"]])
    axes.set_xlim(0, left.max() * 1.08)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"energy per image ({unit})", fontsize=8.5)


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
