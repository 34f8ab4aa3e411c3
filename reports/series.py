"""What a front picture shows, whichever library draws it: points, fronts, markers and the range worth seeing."""

from __future__ import annotations

from math import ceil, floor, log10

import pandas as pd

from reports.pareto import front
from reports.seeds import summarize
from workloads.errors import InputError

# (matplotlib, plotly) markers of the baselines, by kind in order of appearance; searched plans are circles.
MARKERS = {
    "uniform": (("s", "square"), ("D", "diamond"), ("^", "triangle-up"), ("v", "triangle-down")),
    "all_vq": (("*", "star"), ("X", "x"), ("h", "hexagon")),
}
BASELINES = tuple(MARKERS)


def base_points(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of the base chips, averaged over seeds, that have both energy and accuracy through the arrays."""
    rows = results[(results["vary"] == "") & (results["kind"] != "variant")]
    rows = rows[rows["energy_pj"].gt(0) & rows["array_accuracy"].notna()]
    if rows.empty:
        raise InputError("results", ["array_accuracy: empty in every row: must hold a measured accuracy"])
    return summarize(rows)


def has_accuracy(results: pd.DataFrame) -> bool:
    """Whether any row can stand on a front."""
    rows = results[(results["vary"] == "") & (results["kind"] != "variant")]
    return bool((rows["energy_pj"].gt(0) & rows["array_accuracy"].notna()).any())


def searched(points: pd.DataFrame, chip: str) -> pd.DataFrame:
    """Searched plans of one chip by rising energy, with `on_front`."""
    rows = points[(points["chip"] == chip) & (points["kind"] == "search")].sort_values("energy_pj")
    return rows.assign(on_front=front(rows["energy_pj"], rows["array_accuracy"]))


def markers(points: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Label of each baseline -> its (matplotlib, plotly) marker; more baselines than markers share the last."""
    found = {}
    for kind, shapes in MARKERS.items():
        labels = points.loc[points["kind"] == kind, "label"].unique()
        found |= {label: shapes[min(i, len(shapes) - 1)] for i, label in enumerate(labels)}
    return found


def log_ticks(low: float, high: float) -> list[float]:
    """Round values 1, 2, 5 times a power of ten in [low, high]; powers alone over more than three decades."""
    steps = (1, 2, 5) if high < 1e3 * low else (1,)
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def accuracy_range(points: pd.DataFrame) -> tuple[float, float]:
    """Accuracies (low, high) worth showing: every searched plan, with room; far worse baselines fall outside."""
    shown = points[points["kind"] == "search"] if (points["kind"] == "search").any() else points
    top = points[["array_accuracy", "ideal_accuracy", "float_accuracy"]].max().max()
    bottom = shown["array_accuracy"].min()
    span = max(top - bottom, 0.01)
    margin = shown["array_accuracy_half"].max() if shown["array_accuracy_half"].notna().any() else 0.0
    return float(max(bottom - min(margin, span) - 0.3 * span, 0.0)), float(top + 0.15 * span)
