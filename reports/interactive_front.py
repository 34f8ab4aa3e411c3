"""The front of two measures, to point at."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from math import isnan, log10, nan
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from reports.frames import Frame, Run
from reports.interactive import GRID, LOOK, fragment
from reports.measures import AREA, BITS, ENERGY, FRONTS, INTERVAL, LATENCY, Front, Measure
from reports.series import BASELINES, Side, base_points, markers, searched, sides, steps
from reports.style import FAINT, colours_of, percent, short_label


def front_fragment(run: Run, front: Front = FRONTS[0]) -> str:
    """The front's picture with plan, formats, costs on hover. Raises InputError if no row has both measures."""
    points = base_points(run.results, front)
    both = sides(points, front)
    for name, side in zip("xy", both, strict=True):
        columns = [name, f"{name}_half", f"{name}_ideal"]
        points[columns] /= side.measure.axis(side.typical)[0]
    points["hover"] = [_hover(run, row) for _, row in points.iterrows()]
    figure, shapes = go.Figure(), markers(points)
    for chip, colour in colours_of(points["chip"]).items():
        _chip_traces(figure, points, chip, colour, front)
        for _, row in points[(points["chip"] == chip) & points["kind"].isin(BASELINES)].iterrows():
            marker = {"symbol": shapes[row["label"]][1], "size": 12, "line": {"width": 1, "color": "white"}}
            name = f"{chip}: {short_label(row['label'])}"
            figure.add_trace(_scatter(pd.DataFrame([row]), name, colour, marker))
    figure.update_layout(**LOOK, height=560, legend={"orientation": "h", "y": -0.16, "yanchor": "top"})
    figure.update_xaxes(**GRID, **_axis(both[0]))
    figure.update_yaxes(**GRID, **_axis(both[1]))
    _bound_lines(figure, both)
    return fragment(figure, f"front-{front.name}")


def _axis(side: Side) -> dict[str, Any]:
    """Plotly's settings of an axis, whose data are in the unit that its title names."""
    size, title = side.measure.axis(side.typical, note=False)
    if side.measure.scale == "linear":
        return {"range": [side.low / size, side.high / size], "title_text": title}
    values, texts = side.ticks()
    return {
        "type": "log", "range": [log10(side.low / size), log10(side.high / size)], "title_text": title,
        "tickvals": [value / size for value in values], "ticktext": texts,
    }  # fmt: skip


def _bound_lines(figure: go.Figure, both: tuple[Side, Side]) -> None:
    """What the float network reaches."""
    for side, add, place in zip(both, ("add_vline", "add_hline"), ("x", "y"), strict=True):
        if not isnan(side.bound):
            getattr(figure, add)(
                **{place: side.bound / side.measure.axis(side.typical)[0]},
                line={"dash": "dash", "color": FAINT, "width": 1},
                annotation_text=f"float {percent(side.bound)}", annotation_position="top left",
            )  # fmt: skip


def _chip_traces(figure: go.Figure, points: Frame, chip: str, colour: str, front: Front) -> None:
    own, plans = points[points["chip"] == chip], searched(points, chip)
    named, random = own[own["kind"] != "random"], own[own["kind"] == "random"]
    faint = {"symbol": "circle-open", "size": 8, "opacity": 0.45}
    ideal = named.assign(x=named["x_ideal"], y=named["y_ideal"], x_half=nan, y_half=nan)
    figure.add_trace(_scatter(ideal, f"{chip}: ideal accuracy", colour, faint, showlegend=False))
    if len(random):
        figure.add_trace(_scatter(random, f"{chip}: random plans", colour, {"size": 5, "opacity": 0.3}))
    line = steps(plans[plans["on_front"]], front.x)
    figure.add_trace(go.Scatter(
        x=line[:, 0].tolist(), y=line[:, 1].tolist(), mode="lines", hoverinfo="skip",
        line={"color": colour, "width": 2}, showlegend=False,
    ))  # fmt: skip
    plans = plans.sort_values("on_front", ascending=False, kind="stable")  # the legend looks like the first plan
    shades = [colour if on else _translucent(colour, 0.5) for on in plans["on_front"]]
    solid = {"size": 11, "color": shades, "line": {"width": 1, "color": "white"}}
    figure.add_trace(_scatter(plans, f"{chip}: searched plans", colour, solid))


def _scatter(rows: Frame, name: str, colour: str, marker: dict, *, showlegend: bool = True) -> go.Scatter:
    look = {"type": "data", "color": _translucent(colour, 0.4), "thickness": 1, "width": 3}
    halves = rows[["x_half", "y_half"]]
    bars = (
        {f"error_{side[0]}": look | {"array": halves[side].fillna(0.0).tolist()} for side in halves}
        if halves["y_half"].notna().any()
        else {}
    )
    return go.Scatter(
        x=rows["x"].tolist(), y=rows["y"].tolist(), mode="markers", name=name, showlegend=showlegend,
        marker={"color": colour} | marker,
        customdata=rows["hover"].tolist(), hovertemplate="%{customdata}<extra></extra>", **bars,
    )  # fmt: skip


def _translucent(colour: str, share: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{share})"


def _written(row: Any, measures: Iterable[Measure]) -> str:
    return ", ".join(f"{measure.name} {measure.write(row[measure.column])}" for measure in measures)


def _hover(run: Run, row: Any) -> str:
    """What a point says of itself; formats are those of its lowest seed."""
    seeds = f" (mean of {row['num_seeds']} seeds)" if row["num_seeds"] > 1 else ""
    lines = [
        f"<b>{escape(row['chip'])}: {escape(row['label'])}</b>{seeds}",
        _written(row, (ENERGY, LATENCY)),
        _written(row, (INTERVAL, AREA)),
        f"{BITS.write(row[BITS.column])} {BITS.name}",
        f"accuracy {percent(row['array_accuracy'], 2)}, ideal {percent(row['ideal_accuracy'], 2)}",
    ]
    formats = [f"{escape(layer)}: {escape(name)}" for layer, name in run.formats_of(row).items()]
    many = [f"… and {len(formats) - 16} more layers"] if len(formats) > 16 else []
    return "<br>".join(lines + formats[:16] + many)
