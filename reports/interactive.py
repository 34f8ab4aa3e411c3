"""Plotly figures as HTML fragments; the page that embeds them carries plotly.js once."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from reports.energy import component_colours, energy_by_component
from reports.frames import Frame, Run
from reports.series import BASELINES, accuracy_range, base_points, has_accuracy, log_ticks, markers, searched
from reports.style import ENERGY_UNITS, FAINT, INK, colours_of, digits3, duration, energy, percent, short_label, unit_of

LOOK: Any = {
    "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK}, "paper_bgcolor": "white",
    "plot_bgcolor": "white", "margin": {"l": 60, "r": 16, "t": 16, "b": 60}, "hoverlabel": {"align": "left"},
}  # fmt: skip
GRID: Any = {"gridcolor": "#E9ECF0", "linecolor": "#C5CBD3", "zeroline": False, "ticks": "outside",
             "tickcolor": "#C5CBD3", "title_font_size": 13}  # fmt: skip


def front_fragment(run: Run) -> str:
    """The Pareto picture with plan, formats, energy, latency and bits on hover; empty without accuracies."""
    if not has_accuracy(run.results):
        return ""
    points = base_points(run.results)
    size_pj, unit = unit_of(points["energy_pj"].median(), ENERGY_UNITS)
    points["x"], points["x_half"] = points["energy_pj"] / size_pj, points["energy_pj_half"] / size_pj
    points["hover"] = [_hover(run, row) for _, row in points.iterrows()]
    figure, shapes = go.Figure(), markers(points)
    for chip, colour in colours_of(points["chip"]).items():
        _chip_traces(figure, points, chip, colour)
        for _, row in points[(points["chip"] == chip) & points["kind"].isin(BASELINES)].iterrows():
            marker = {
                "symbol": shapes[row["label"]][1],
                "size": 12,
                "color": colour,
                "line": {"width": 1, "color": "white"},
            }
            name = f"{chip}: {short_label(row['label'])}"
            figure.add_trace(_scatter(pd.DataFrame([row]), "array_accuracy", name, marker=marker))
    accuracy = points["float_accuracy"].mean()
    if not pd.isna(accuracy):
        figure.add_hline(
            y=100 * accuracy, line={"dash": "dash", "color": FAINT, "width": 1},
            annotation_text=f"float {percent(accuracy)}", annotation_position="top left",
        )  # fmt: skip
    low, high = accuracy_range(points)
    left, right = points["x"].min() / 1.35, points["x"].max() * 1.35
    ticks = log_ticks(left, right)
    figure.update_layout(**LOOK, height=560, legend={"orientation": "h", "y": -0.16, "yanchor": "top"})
    figure.update_xaxes(**GRID, type="log", range=[log10(left), log10(right)], title_text=f"energy per image ({unit})")
    figure.update_xaxes(tickvals=ticks, ticktext=[digits3(tick) for tick in ticks])
    figure.update_yaxes(**GRID, range=[100 * low, 100 * high], title_text="accuracy through the arrays (%)")
    return _fragment(figure, "front")


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
    return _fragment(figure, "components")


def _chip_traces(figure: go.Figure, points: Frame, chip: str, colour: str) -> None:
    own, plans = points[points["chip"] == chip], searched(points, chip)
    named, random = own[own["kind"] != "random"], own[own["kind"] == "random"]
    faint = {"symbol": "circle-open", "size": 8, "color": colour, "opacity": 0.45}
    figure.add_trace(_scatter(named, "ideal_accuracy", f"{chip}: ideal accuracy", marker=faint, showlegend=False))
    if len(random):
        dots = {"size": 5, "color": colour, "opacity": 0.3}
        figure.add_trace(_scatter(random, "array_accuracy", f"{chip}: random plans", marker=dots))
    best = plans[plans["on_front"]]
    figure.add_trace(go.Scatter(
        x=best["x"].tolist(), y=(100 * best["array_accuracy"]).tolist(), mode="lines", hoverinfo="skip",
        line={"color": colour, "shape": "hv", "width": 2}, showlegend=False,
    ))  # fmt: skip
    solid = {"size": 11, "color": colour, "line": {"width": 1, "color": "white"},
             "opacity": [1.0 if on else 0.5 for on in plans["on_front"]]}  # fmt: skip
    figure.add_trace(_scatter(plans, "array_accuracy", f"{chip}: searched plans", marker=solid))


def _scatter(rows: Frame, column: str, name: str, marker: dict, showlegend: bool = True) -> go.Scatter:
    bars = {}
    if column == "array_accuracy" and rows["array_accuracy_half"].notna().any():
        look = {"type": "data", "color": _translucent(marker["color"]), "thickness": 1, "width": 3}
        bars = {
            "error_y": look | {"array": (100 * rows["array_accuracy_half"]).fillna(0).tolist()},
            "error_x": look | {"array": rows["x_half"].fillna(0).tolist()},
        }
    return go.Scatter(
        x=rows["x"].tolist(), y=(100 * rows[column]).tolist(), mode="markers", name=name, marker=marker,
        showlegend=showlegend,
        customdata=rows["hover"].tolist(), hovertemplate="%{customdata}<extra></extra>", **bars,
    )  # fmt: skip


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.4)"


def _bars(rows: Frame, name: str, size_pj: float, colour: str, in_legend: bool) -> go.Bar:
    title = name.replace("_", " ")
    shares = rows[name] / rows.drop(columns=["chip", "kind", "label"]).sum(axis=1)
    texts = [f"{title}: {energy(value)} ({percent(share)})" for value, share in zip(rows[name], shares, strict=True)]
    return go.Bar(
        x=(rows[name] / size_pj).tolist(), y=[short_label(label) for label in rows["label"]], orientation="h",
        name=title, marker_color=colour, legendgroup=name, showlegend=in_legend, customdata=texts,
        hovertemplate="%{y}<br>%{customdata}<extra></extra>",
    )  # fmt: skip


def _hover(run: Run, row: Any) -> str:
    """What a point says of itself; formats are those of its lowest seed."""
    seeds = f" (mean of {row['num_seeds']} seeds)" if row["num_seeds"] > 1 else ""
    lines = [
        f"<b>{escape(row['chip'])}: {escape(row['label'])}</b>{seeds}",
        f"energy {energy(row['energy_pj'])}, latency {duration(row['latency_ns'])}",
        f"{digits3(row['bits_per_weight'])} bits per weight",
        f"accuracy {percent(row['array_accuracy'], 2)}, ideal {percent(row['ideal_accuracy'], 2)}",
    ]
    formats = [f"{escape(layer)}: {escape(name)}" for layer, name in run.formats_of(row).items()]
    many = [f"… and {len(formats) - 16} more layers"] if len(formats) > 16 else []
    return "<br>".join(lines + formats[:16] + many)


def _fragment(figure: go.Figure, name: str) -> str:
    config = {
        "responsive": True,
        "displaylogo": False,
        "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    }
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
