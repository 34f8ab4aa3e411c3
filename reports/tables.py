"""The page's tables of plans: rows of finished text, in the order they are shown."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from reports.frames import Frame, Run
from reports.measures import AREA, BITS, ENERGY, INTERVAL, LATENCY
from reports.seeds import summarize
from reports.style import percent, points, signed_percent
from reports.variants import MEASURES_CHANGED, variant_changes

# Column -> (name, what it means, how a value is written).
GAPS = {
    "relaxation_gap": (
        "Relaxation",
        "the energy that the search's softened mixture of formats expected, relative to the table's energy of "
        "the plan picked from it; far from zero, the gradient saw another cost than the plan has.",
        signed_percent,
    ),
    "discretization_gap": (
        "Discretization",
        "validation accuracy of the mixture minus that of the plan picked from it, both before fine-tuning; "
        "positive is what deciding on one format per layer costs.",
        points,
    ),
    "contention_gap": (
        "Contention, energy",
        "the whole plan simulated with all layers sharing the chip, relative to the sum of the table's "
        "layers; it is what an additive cost table cannot see.",
        signed_percent,
    ),
    "contention_gap_latency": (
        "Contention, latency",
        "the same for latency; negative where layers overlap, positive where they wait for each other.",
        signed_percent,
    ),
}


class Table(NamedTuple):
    """Headings and rows of text; `num_text` leading columns are left-aligned. `marked` rows stand out."""

    heads: list[str]
    rows: list[list[str]]
    num_text: int = 1
    marked: tuple[int, ...] = ()


def results_table(run: Run) -> Table:
    """Every plan on the base chips, averaged over seeds; random plans are left to results.csv."""
    rows = run.results[(run.results["vary"] == "") & ~run.results["kind"].isin(["random", "variant"])]
    costs, body = (ENERGY, LATENCY, INTERVAL, AREA, BITS), []
    for _, row in summarize(rows).iterrows() if len(rows) else ():
        half = row["array_accuracy_half"]
        spread = "" if pd.isna(half) else f" ± {100 * half:.2f}"
        body.append([
            row["chip"], row["label"], *(measure.write(row[measure.column]) for measure in costs),
            percent(row["ideal_accuracy"], 2), percent(row["array_accuracy"], 2) + spread, _met(row["met"]),
        ])  # fmt: skip
    heads = ["chip", "plan", *(measure.name for measure in costs), "ideal accuracy", "accuracy through arrays",
             "budget met"]  # fmt: skip
    return Table(heads, body, 2)


def gaps_table(run: Run) -> Table:
    """The three gaps of each searched plan, averaged over seeds."""
    rows = run.results[(run.results["kind"] == "search") & run.results[list(GAPS)].notna().any(axis=1)]
    body = [
        [row["chip"], row["label"], *(write(row[gap]) for gap, (_, _, write) in GAPS.items())]
        for _, row in (summarize(rows) if len(rows) else rows).iterrows()
    ]
    return Table(["chip", "plan", *(name.lower() for name, *_ in GAPS.values())], body, 2)


def stalls_table(run: Run) -> Table:
    """Stall cycles by cause beside the latency in cycles; one row per base plan of the lowest seed."""
    rows = with_costs(run)
    causes = sorted({cause for key in rows["key"] for cause in run.costs[key].get("stall_cycles", {})})
    body = []
    for _, row in rows.iterrows():
        cost = run.costs[row["key"]]
        stalls = cost.get("stall_cycles", {})
        slowest = max(cost["layers"], key=lambda layer: layer["latency_cycles"], default={"name": "–"})
        limit = f"{slowest['name']} ({slowest['bottleneck']})" if "bottleneck" in slowest else slowest["name"]
        counts = [f"{stalls.get(cause, 0):,}" for cause in causes]
        body.append([row["chip"], row["label"], limit, f"{cost['latency_cycles']:,}", *counts])
    heads = [
        "chip",
        "plan",
        "slowest layer (bottleneck)",
        "latency cycles",
        *(cause.replace("_", " ") for cause in causes),
    ]
    return Table(heads, body, 3) if causes else Table([], [])


def variants_table(run: Run) -> Table:
    """Each chip variant against its base chip, same plan."""
    body = [
        [row["chip"], row["vary"], row["label"], *(one.write_change(row[one.column]) for one in MEASURES_CHANGED)]
        for _, row in variant_changes(run.results).iterrows()
    ]
    return Table(["chip", "change", "plan", *(one.name for one in MEASURES_CHANGED)], body, 3)


def with_costs(run: Run) -> Frame:
    """Base plans that have a cost report, those of the lowest seed."""
    rows = run.results[(run.results["vary"] == "") & ~run.results["kind"].isin(["random", "variant"])]
    rows = rows[rows["key"].isin(run.costs)].sort_values("seed", kind="stable")
    return rows.drop_duplicates(["chip", "kind", "label"]).sort_index()


def _met(met: Any) -> str:
    return "" if met is None or pd.isna(met) else "yes" if met else "no"
