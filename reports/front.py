"""The Pareto picture: energy per image against accuracy measured through the arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from reports.canvas import Label, draw_and_save, place_labels
from reports.frames import Frame, tidy
from reports.series import BASELINES, accuracy_range, base_points, log_ticks, markers, searched
from reports.style import ENERGY_UNITS, FAINT, colours_of, digits3, short_label, unit_of
from workloads.errors import InputError


def pareto_figure(results: pd.DataFrame, path: Path) -> list[Path]:
    """Draws the front of each chip and writes `path` (.png, .svg or .pdf), or PNG and SVG without a suffix.

    `results` has the columns of results.csv; several seeds become a mean with a 95 % t-interval.
    Raises InputError if no row has an accuracy through the arrays.
    """
    points = base_points(results)
    return draw_and_save(lambda: _front(points), path)


def plot_front(rows: list[dict], path: Path) -> list[Path]:
    """Draws the front of your own results: one dict per evaluation; returns the files written.

    Keys: `energy_pj` (per inference) and `array_accuracy` or, if not measured through arrays, `accuracy` (0 to 1);
    optional `chip`, `label`, `seed`, `kind`
    (`search`, `uniform`, `all_vq`, `random`), `ideal_accuracy`, `float_accuracy`. Rows that share chip and
    label are seeds of one point. Raises InputError for rows without the two numbers.
    """
    rows = [{"array_accuracy": row["accuracy"]} | row if "accuracy" in row else row for row in rows]
    problems = [
        f"row {i + 1}.{key}: missing: must be a number"
        for i, row in enumerate(rows)
        for key in ("energy_pj", "array_accuracy")
        if key not in row
    ]
    if problems or not rows:
        raise InputError("rows", problems or ["(empty): must hold at least one evaluation"])
    filled = [
        {"key": str(i), "kind": "search", "label": f"point {i + 1}", "seed": 0} | row for i, row in enumerate(rows)
    ]
    return pareto_figure(tidy(pd.DataFrame(filled), "rows"), path)


def _front(points: Frame) -> Figure:
    figure = Figure(figsize=(9.0, 5.4))
    axes = figure.add_subplot()
    low, high = accuracy_range(points)
    # What lies below the range stands on its lower edge and says its accuracy.
    points = points.assign(y=points["array_accuracy"].clip(lower=low + 0.04 * (high - low)))
    _frame(axes, points, (low, high))
    chips, shapes = colours_of(points["chip"]), markers(points)
    obstacles, labels = [], []
    for chip, colour in chips.items():
        obstacles += _chip_points(axes, points[points["chip"] == chip], colour)
        obstacles += _search_line(axes, searched(points, chip), colour)
    for _, row in points[points["kind"].isin(BASELINES)].iterrows():
        size = 11 if shapes[row["label"]][0] == "*" else 7
        axes.plot(
            row["energy_pj"],
            row["y"],
            shapes[row["label"]][0],
            ms=size,
            color=chips[row["chip"]],
            mec="white",
        )
        labels.append(_label(row, chips[row["chip"]]))
    obstacles += _float_line(axes, points)
    place_labels(axes, labels, np.array(obstacles).reshape(-1, 2))
    _legend(figure, chips, points)
    return figure


def _frame(axes: Axes, points: Frame, limits: tuple[float, float]) -> None:
    size_pj, unit = unit_of(points["energy_pj"].median(), ENERGY_UNITS)
    axes.set_xscale("log")
    low_pj, high_pj = points["energy_pj"].min() / 1.35, points["energy_pj"].max() * 1.35
    axes.set_xlim(low_pj, high_pj)
    axes.set_ylim(*limits)
    ticks_pj = log_ticks(low_pj, high_pj)
    axes.set_xticks(ticks_pj, [digits3(tick / size_pj) for tick in ticks_pj])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}"))
    axes.set_xlabel(f"energy per image ({unit}), dynamic and leakage, always-on left out")
    axes.set_ylabel("accuracy through the arrays (%)")


def _chip_points(axes: Axes, points: Frame, colour: str) -> list[tuple[float, float]]:
    """Ideal accuracies, error bars and random plans of one chip; returns where they stand."""
    random = points[points["kind"] == "random"]
    axes.plot(random["energy_pj"], random["y"], ".", color=colour, alpha=0.3, mec="none")
    named = points[points["kind"] != "random"]
    bottom = axes.get_ylim()[0]
    ideal = named[named["ideal_accuracy"] > bottom]
    axes.vlines(ideal["energy_pj"], ideal["y"], ideal["ideal_accuracy"], color=colour, alpha=0.2, lw=0.8)
    axes.plot(ideal["energy_pj"], ideal["ideal_accuracy"], "o", ms=5, mfc="none", mec=colour, alpha=0.4)
    stands = [*named[["energy_pj", "y"]].to_numpy(), *ideal[["energy_pj", "ideal_accuracy"]].to_numpy()]
    seen = named[(named["array_accuracy"] > bottom) & named["array_accuracy_half"].notna()]
    return [(x, y) for x, y in stands] + _error_bars(axes, seen, colour)


def _error_bars(axes: Axes, points: Frame, colour: str) -> list[tuple[float, float]]:
    """Draws the 95 % intervals over seeds; returns points along the bars."""
    x, y = points["energy_pj"].to_numpy(), points["y"].to_numpy()
    dx, dy = points["energy_pj_half"].to_numpy(), points["array_accuracy_half"].to_numpy()
    if len(x):  # an energy cannot be negative, whatever a t-interval of few seeds says
        left = np.minimum(dx, 0.9 * x)
        axes.errorbar(x, y, xerr=[left, dx], yerr=dy, fmt="none", ecolor=colour, elinewidth=0.8, capsize=2, alpha=0.45)
    steps = np.linspace(-1, 1, 15)
    along = [(x[i] + step * dx[i], y[i]) for i in range(len(x)) for step in steps if dx[i] < 0.9 * x[i]]
    return along + [(x[i], y[i] + step * dy[i]) for i in range(len(x)) for step in steps]


def _search_line(axes: Axes, plans: Frame, colour: str) -> list[tuple[float, float]]:
    """Searched plans, the non-dominated ones joined by the front's steps; returns points along the line."""
    best, beaten = plans[plans["on_front"]], plans[~plans["on_front"]]
    axes.plot(best["energy_pj"], best["y"], "-", drawstyle="steps-post", color=colour, lw=1.6, alpha=0.75)
    axes.plot(best["energy_pj"], best["y"], "o", ms=7, color=colour, mec="white")
    axes.plot(beaten["energy_pj"], beaten["y"], "o", ms=5, color=colour, mec="white", alpha=0.55)
    along, x, y = [], best["energy_pj"].to_numpy(), best["y"].to_numpy()
    for i in range(len(best) - 1):
        along += [(value, y[i]) for value in np.geomspace(x[i], x[i + 1], 12)]
        along += [(x[i + 1], value) for value in np.linspace(y[i], y[i + 1], 6)]
    return along


def _label(row: Any, colour: str) -> Label:
    below = f" ↓ {100 * row['array_accuracy']:.1f} %" if row["y"] > row["array_accuracy"] else ""
    return Label(row["energy_pj"], row["y"], short_label(row["label"]) + below, colour)


def _float_line(axes: Axes, points: Frame) -> list[tuple[float, float]]:
    """The float network's accuracy as a dashed line; returns points along it."""
    accuracy = points["float_accuracy"].mean()
    if np.isnan(accuracy):
        return []
    axes.axhline(accuracy, ls="--", lw=1, color=FAINT, zorder=1)
    axes.annotate(
        f"float network {100 * accuracy:.1f} %", (1, accuracy), (0, 3), textcoords="offset points",
        xycoords=("axes fraction", "data"), ha="right", fontsize=8, color="#52606D",
    )  # fmt: skip
    return [(x, accuracy) for x in np.geomspace(*axes.get_xlim(), 60)]


def _legend(figure: Figure, chips: dict[str, str], points: Frame) -> None:
    searching = set(points.loc[points["kind"] == "search", "chip"])
    lines = [
        Line2D([], [], color=colour, marker="o", mec="white", ms=7, label=f"{chip}: searched plans".lstrip(": "))
        if chip in searching
        else Line2D([], [], ls="", marker="s", color=colour, mec="white", ms=7, label=chip)
        for chip, colour in chips.items()
    ]
    if points["ideal_accuracy"].notna().any():
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
