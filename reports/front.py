"""The picture of a front: two measures against each other."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from reports.canvas import USUAL, Label, draw_and_save, place_labels
from reports.frames import Frame, tidy
from reports.measures import FRONTS, MEASURES, Front
from reports.series import BASELINES, Side, base_points, markers, searched, sides, steps
from reports.style import FAINT, colours_of, short_label
from workloads.errors import InputError

Spots: TypeAlias = list[tuple[float, float]]  # data points that labels keep clear of
EDGE = 0.04  # of the axis: how far above its end stands what lies beyond


def front_figure(results: Frame, path: Path, front: Front = FRONTS[0], ends: tuple[str, ...] = USUAL) -> list[Path]:
    """Draws the front of each chip and writes `path` (.png, .svg or .pdf), or one file for each of `ends`.

    `results` has the columns of results.csv; several seeds become a mean with a 95 % t-interval.
    Raises InputError if no row has both measures.
    """
    points = base_points(results, front)
    return draw_and_save(partial(_draw, points, sides(points, front)), path, ends)


def plot_front(rows: list[dict], path: Path, *, x: str = "energy_pj", y: str = "array_accuracy") -> list[Path]:
    """Draws the front of your own results: one dict per evaluation; returns the files written.

    Keys: the measures `x` and `y`, of `energy_pj`, `latency_ns`, `interval_ns` (per inference), `area_mm2`,
    `bits_per_weight` and `array_accuracy` or, if not measured through arrays, `accuracy` (0 to 1); optional `chip`,
    `label`, `seed`, `kind` (`search`, `uniform`, `all_vq`, `random`), `ideal_accuracy`, `float_accuracy`. Rows that
    share chip and label are seeds of one point. Raises InputError for an unknown measure, or rows without the two
    numbers.
    """
    rows = [{"array_accuracy": row["accuracy"]} | row if "accuracy" in row else row for row in rows]
    known = ", ".join(MEASURES)
    problems = [
        f"{side} = {name}: must be one of {known}" for side, name in (("x", x), ("y", y)) if name not in MEASURES
    ] or [
        f"row {i + 1}.{key}: missing: must be a number"
        for i, row in enumerate(rows)
        for key in (x, y)
        if key not in row
    ]
    if problems or not rows:
        raise InputError("rows", problems or ["(empty): must hold at least one evaluation"])
    filled = [
        {"key": str(i), "kind": "search", "label": f"point {i + 1}", "seed": 0} | row for i, row in enumerate(rows)
    ]
    front = Front("own", "Own front", MEASURES[x], MEASURES[y])
    return front_figure(tidy(pd.DataFrame(filled), "rows"), path, front)


def _draw(points: Frame, both: tuple[Side, Side]) -> Figure:
    figure = Figure(figsize=(9.0, 5.4))
    axes = figure.add_subplot()
    _frame(axes, both)
    points = points.assign(**{name: _kept(points[name], side) for name, side in zip("xy", both, strict=True)})
    chips, shapes = colours_of(points["chip"]), markers(points)
    obstacles, labels = [], []
    for chip, colour in chips.items():
        obstacles += _chip_points(axes, points[points["chip"] == chip], both, colour)
        obstacles += _search_line(axes, searched(points, chip), both, colour)
    for _, row in points[points["kind"].isin(BASELINES)].iterrows():
        shape, colour = shapes[row["label"]][0], chips[row["chip"]]
        axes.plot(row["x"], row["y"], shape, ms=11 if shape == "*" else 7, color=colour, mec="white")
        labels.append(_label(row, both, colour))
    obstacles += _bound_lines(axes, both)
    place_labels(axes, labels, np.array(obstacles).reshape(-1, 2))
    _legend(figure, chips, points)
    return figure


def _kept(values: Frame, side: Side) -> Frame:
    """What lies below a share's range stands on its lower edge, where its label says the share."""
    return values if side.measure.scale == "log" else values.clip(lower=side.low + EDGE * (side.high - side.low))


def _frame(axes: Axes, both: tuple[Side, Side]) -> None:
    for name, axis, side in zip("xy", (axes.xaxis, axes.yaxis), both, strict=True):
        size, title = side.measure.axis(side.typical)
        axes.set(**{f"{name}scale": side.measure.scale, f"{name}lim": (side.low, side.high), f"{name}label": title})
        if side.measure.scale == "log":
            axis.set_ticks(*side.ticks())
            axis.set_ticks([], minor=True)
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _, size=size: f"{value / size:g}"))


def _chip_points(axes: Axes, points: Frame, both: tuple[Side, Side], colour: str) -> Spots:
    """Ideal accuracies, error bars and random plans of one chip; returns where they stand."""
    random, named = points[points["kind"] == "random"], points[points["kind"] != "random"]
    axes.plot(random["x"], random["y"], ".", color=colour, alpha=0.3, mec="none")
    ideal = named[(named["x_ideal"] > both[0].low) & (named["y_ideal"] > both[1].low)]
    tails, heads = ideal[["x", "y"]].to_numpy(), ideal[["x_ideal", "y_ideal"]].to_numpy()
    axes.add_collection(LineCollection(list(np.stack([tails, heads], axis=1)), colors=colour, alpha=0.2, lw=0.8))
    axes.plot(*heads.T, "o", ms=5, mfc="none", mec=colour, alpha=0.4)
    seen = named[["x_half", "y_half"]].notna().all(axis=1)
    for side in both:
        seen &= named[side.measure.column] > side.low
    stands = [*named[["x", "y"]].to_numpy(), *heads]
    return [(x, y) for x, y in stands] + _error_bars(axes, named[seen], both, colour)


def _error_bars(axes: Axes, points: Frame, both: tuple[Side, Side], colour: str) -> Spots:
    """Draws the 95 % intervals over seeds; returns points along the bars."""
    places, halves = points[["x", "y"]].to_numpy(), points[["x_half", "y_half"]].to_numpy()
    if len(points):  # a cost cannot be negative, whatever a t-interval of few seeds says
        lower = [
            np.minimum(half, 0.9 * at) if side.measure.scale == "log" else half
            for at, half, side in zip(places.T, halves.T, both, strict=True)
        ]
        axes.errorbar(
            *places.T, xerr=[lower[0], halves[:, 0]], yerr=[lower[1], halves[:, 1]], fmt="none", ecolor=colour,
            elinewidth=0.8, capsize=2, alpha=0.45,
        )  # fmt: skip
    steps = np.linspace(-1, 1, 15)
    along = [(x + s * dx, y) for (x, y), (dx, _) in zip(places, halves, strict=True) for s in steps]
    along += [(x, y + s * dy) for (x, y), (_, dy) in zip(places, halves, strict=True) for s in steps]
    logs = [index for index, side in enumerate(both) if side.measure.scale == "log"]
    return [spot for spot in along if all(spot[index] > 0 for index in logs)]


def _search_line(axes: Axes, plans: Frame, both: tuple[Side, Side], colour: str) -> Spots:
    """Searched plans, the non-dominated ones joined by the front's steps; returns points along the line."""
    best, beaten = plans[plans["on_front"]], plans[~plans["on_front"]]
    line = steps(best, both[0].measure)
    axes.plot(*line.T, "-", color=colour, lw=1.6, alpha=0.75)
    axes.plot(best["x"], best["y"], "o", ms=7, color=colour, mec="white")
    axes.plot(beaten["x"], beaten["y"], "o", ms=5, color=colour, mec="white", alpha=0.55)
    return [spot for start, end in pairwise(line) for spot in _between(start, end, both)]


def _between(start: Iterable[float], end: Iterable[float], both: tuple[Side, Side]) -> Spots:
    """Data points on the way from `start` to `end`, which share one coordinate."""
    x, y = (side.between(a, b, 12) for side, a, b in zip(both, start, end, strict=True))
    return list(zip(x, y, strict=True))


def _label(row: Any, both: tuple[Side, Side], colour: str) -> Label:
    text = short_label(row["label"])
    for name, arrow, side in zip("xy", "←↓", both, strict=True):
        value = row[side.measure.column]
        text += f" {arrow} {100 * value:.1f} %" if row[name] > value else ""
    return Label(row["x"], row["y"], text, colour)


def _bound_lines(axes: Axes, both: tuple[Side, Side]) -> Spots:
    """What the float network reaches as a dashed line; returns points along it."""
    along: Spots = []
    x, y = both
    if not np.isnan(y.bound):
        axes.axhline(y.bound, ls="--", lw=1, color=FAINT, zorder=1)
        axes.annotate(
            f"float network {100 * y.bound:.1f} %", (1, y.bound), (0, 3), textcoords="offset points",
            xycoords=("axes fraction", "data"), ha="right", fontsize=8, color="#52606D",
        )  # fmt: skip
        along += [(at, y.bound) for at in x.between(x.low, x.high, 60)]
    if not np.isnan(x.bound):
        axes.axvline(x.bound, ls="--", lw=1, color=FAINT, zorder=1)
        axes.annotate(
            f"float network {100 * x.bound:.1f} %", (x.bound, 1), (3, 0), textcoords="offset points",
            xycoords=("data", "axes fraction"), va="top", rotation=90, fontsize=8, color="#52606D",
        )  # fmt: skip
        along += [(x.bound, at) for at in y.between(y.low, y.high, 60)]
    return along


def _legend(figure: Figure, chips: dict[str, str], points: Frame) -> None:
    searching = set(points.loc[points["kind"] == "search", "chip"])
    lines = [
        Line2D([], [], color=colour, marker="o", mec="white", ms=7, label=f"{chip}: searched plans".lstrip(": "))
        if chip in searching
        else Line2D([], [], ls="", marker="s", color=colour, mec="white", ms=7, label=chip)
        for chip, colour in chips.items()
    ]
    if points["y_ideal"].notna().any():
        lines.append(Line2D([], [], ls="", marker="o", mfc="none", mec=FAINT, ms=5, label="ideal accuracy, same plan"))
    if (points["kind"] == "random").any():
        lines.append(Line2D([], [], ls="", marker=".", color=FAINT, label="random plans"))
    if points["num_seeds"].max() > 1:
        lines.append(Line2D([], [], marker="|", color=FAINT, label="95 % t-interval over seeds"))
    figure.legend(
        handles=lines,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.9),
        ncols=4 if len(lines) <= 4 else 3,
        fontsize=8.5,
    )
