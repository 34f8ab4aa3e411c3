"""What a front picture shows, whichever library draws it: points, fronts, markers and ranges."""

from __future__ import annotations

from math import ceil, floor, log10

from reports.frames import Frame
from reports.pareto import front
from reports.seeds import summarize
from workloads.errors import InputError

# (matplotlib, plotly) markers of the baselines, by kind in order of appearance; searched plans are circles.
MARKERS = {
    "uniform": (("s", "square"), ("D", "diamond"), ("^", "triangle-up"), ("v", "triangle-down")),
    "all_vq": (("*", "star"), ("X", "x"), ("h", "hexagon")),
}
BASELINES = tuple(MARKERS)


def base_points(results: Frame) -> Frame:
    """Rows of the base chips, averaged over seeds, that have both energy and accuracy through the arrays."""
    rows = results[(results["vary"] == "") & (results["kind"] != "variant")]
    rows = rows[rows["energy_pj"].gt(0) & rows["array_accuracy"].notna()]
    if rows.empty:
        raise InputError("results", ["array_accuracy: empty in every row: must hold a measured accuracy"])
    return summarize(rows)


def has_accuracy(results: Frame) -> bool:
    """Whether any row can stand on a front."""
    rows = results[(results["vary"] == "") & (results["kind"] != "variant")]
    return bool((rows["energy_pj"].gt(0) & rows["array_accuracy"].notna()).any())


def searched(points: Frame, chip: str) -> Frame:
    """Searched plans of one chip by rising energy, with `on_front`."""
    rows = points[(points["chip"] == chip) & (points["kind"] == "search")].sort_values("energy_pj")
    return rows.assign(on_front=front(rows["energy_pj"], rows["array_accuracy"]))


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


def accuracy_range(points: Frame) -> tuple[float, float]:
    """Accuracies (low, high) worth showing: every searched plan, but not far worse baselines."""
    shown = points[points["kind"] == "search"] if (points["kind"] == "search").any() else points
    bars = points["array_accuracy"] + points["array_accuracy_half"].fillna(0.0)
    top = max(points[["array_accuracy", "ideal_accuracy", "float_accuracy"]].max().max(), bars.max())
    bottom = shown["array_accuracy"].min()
    span = max(top - bottom, 0.01)
    margin = shown["array_accuracy_half"].max() if shown["array_accuracy_half"].notna().any() else 0.0
    below = (0.1 if margin else 0.3) * span
    return float(max(bottom - min(margin, span) - below, 0.0)), float(min(1.0, top + 0.1 * span))
