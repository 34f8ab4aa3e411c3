"""What a front's picture shows, whichever library draws it."""

from __future__ import annotations

from math import ceil, floor, isnan, log10, nan
from typing import NamedTuple

import numpy as np

from reports.frames import Frame
from reports.measures import FRONTS, Front, Measure
from reports.pareto import front as unbeaten
from reports.seeds import summarize
from reports.style import digits3
from workloads.errors import InputError

# (matplotlib, plotly) markers of the baselines, by kind in order of appearance; searched plans are circles.
MARKERS = {
    "uniform": (("s", "square"), ("D", "diamond"), ("^", "triangle-up"), ("v", "triangle-down")),
    "all_vq": (("*", "star"), ("X", "x"), ("h", "hexagon")),
}
BASELINES = tuple(MARKERS)


class Side(NamedTuple):
    """One side of a picture: the values of a measure worth showing, and what the float network reaches (or NaN)."""

    measure: Measure
    low: float
    high: float
    typical: float
    bound: float

    def ticks(self) -> tuple[list[float], list[str]]:
        """Round values of a logarithmic side, with their texts."""
        values, (size, _) = log_ticks(self.low, self.high), self.measure.axis(self.typical)
        return values, [digits3(value / size) for value in values]

    def between(self, start: float, stop: float, count: int) -> np.ndarray:
        """Values (count,) that stand evenly on this side."""
        return (np.geomspace if self.measure.scale == "log" else np.linspace)(start, stop, count)


def base_points(results: Frame, front: Front = FRONTS[0]) -> Frame:
    """Rows of the base chips that have both measures, averaged over seeds.

    Adds `x` and `y`, their half widths `x_half` and `y_half`, `x_ideal` and `y_ideal` of the same plan on ideal arrays
    (NaN where neither measure has any), and for searched plans `on_front`. Raises InputError if no row has both.
    """
    rows = _measured(results, front)
    if rows.empty:
        columns = f"{front.x.column}, {front.y.column}"
        raise InputError("results", [f"{columns}: empty in every row: must hold what was measured"])
    points = summarize(rows)
    has_ideal = bool(front.x.ideal or front.y.ideal)
    for side, measure in (("x", front.x), ("y", front.y)):
        points[side], points[f"{side}_half"] = points[measure.column], points[f"{measure.column}_half"]
        points[f"{side}_ideal"] = points[measure.ideal or measure.column] if has_ideal else nan
    points["on_front"] = False
    for _, plans in points[points["kind"] == "search"].groupby("chip"):
        points.loc[plans.index, "on_front"] = unbeaten(front.x.loss * plans["x"], -front.y.loss * plans["y"])
    return points


def has_points(results: Frame, front: Front = FRONTS[0]) -> bool:
    """Whether any row can stand on a front."""
    return len(_measured(results, front)) > 0


def _measured(results: Frame, front: Front) -> Frame:
    rows = results[(results["vary"] == "") & (results["kind"] != "variant")]
    for measure in (front.x, front.y):
        values = rows[measure.column]
        rows = rows[values.gt(0) if measure.scale == "log" else values.notna()]
    return rows


def searched(points: Frame, chip: str) -> Frame:
    """Searched plans of one chip by rising `x`."""
    return points[(points["chip"] == chip) & (points["kind"] == "search")].sort_values("x")


def steps(best: Frame, x: Measure) -> np.ndarray:
    """Corners (2 N - 1, 2) of the line that joins plans of a front by rising `x`: the edge of what they beat."""
    spots = best[["x", "y"]].to_numpy()
    before, after = spots[:-1], spots[1:]
    turns = (after[:, 0], before[:, 1]) if x.better == "lower" else (before[:, 0], after[:, 1])
    line = np.empty((max(2 * len(spots) - 1, 0), 2))
    line[::2], line[1::2] = spots, np.stack(turns, axis=1)
    return line


def markers(points: Frame) -> dict[str, tuple[str, str]]:
    """Label of each baseline -> its (matplotlib, plotly) marker; surplus baselines share the last."""
    found = {}
    for kind, shapes in MARKERS.items():
        labels = points.loc[points["kind"] == kind, "label"].unique()
        found |= {label: shapes[min(i, len(shapes) - 1)] for i, label in enumerate(labels)}
    return found


def log_ticks(low: float, high: float) -> list[float]:
    """Round values in [low, high] for a log axis: whole decades, or finer steps until there are three."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) >= 3:
            break
    return ticks


def sides(points: Frame, front: Front) -> tuple[Side, Side]:
    """What is worth showing of both measures."""
    return _side(points, "x", front.x), _side(points, "y", front.y)


def _side(points: Frame, name: str, measure: Measure) -> Side:
    values = points[name]
    if measure.scale == "log":
        low, high = float(values.min() / 1.35), float(values.max() * 1.35)
    else:
        low, high = share_range(points, name, measure)
    bound = float(points[measure.bound].mean()) if measure.bound else nan
    return Side(measure, low, high, float(values.median()), bound)


def share_range(points: Frame, name: str, measure: Measure) -> tuple[float, float]:
    """Shares (low, high) worth showing: every searched plan, but not far worse baselines."""
    shown = points[points["kind"] == "search"] if (points["kind"] == "search").any() else points
    columns = [name, f"{name}_ideal", *filter(None, [measure.bound])]
    bars = points[name] + points[f"{name}_half"].fillna(0.0)
    top, bottom = max(points[columns].max().max(), bars.max()), shown[name].min()
    span, margin = max(top - bottom, 0.01), shown[f"{name}_half"].max()
    margin = 0.0 if isnan(margin) else margin
    below = (0.1 if margin else 0.3) * span
    return float(max(bottom - min(margin, span) - below, 0.0)), float(min(1.0, top + 0.1 * span))
