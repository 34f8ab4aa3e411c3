"""The page's tables: rows of finished text, in the order they are shown."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from reports.frames import Frame, Run, masked_formats
from reports.seeds import summarize
from reports.style import digits3, duration, energy, percent, points, signed_percent
from reports.variants import variant_changes

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
    body = []
    for _, row in summarize(rows).iterrows() if len(rows) else ():
        half = row["array_accuracy_half"]
        spread = "" if pd.isna(half) else f" ± {100 * half:.2f}"
        body.append([
            row["chip"], row["label"], energy(row["energy_pj"]), duration(row["latency_ns"]),
            duration(row["interval_ns"]), digits3(row["area_mm2"]), digits3(row["bits_per_weight"]),
            percent(row["ideal_accuracy"], 2), percent(row["array_accuracy"], 2) + spread, _met(row["met"]),
        ])  # fmt: skip
    heads = ["chip", "plan", "energy", "latency", "interval", "area mm²", "bits per weight", "ideal accuracy",
             "accuracy through arrays", "budget met"]  # fmt: skip
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
    rows = _with_costs(run)
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
        [row["chip"], row["vary"], row["label"], *(signed_percent(row[name]) for name in
         ("energy_pj", "latency_ns", "area_mm2")), points(row["array_accuracy"])]
        for _, row in variant_changes(run.results).iterrows()
    ]  # fmt: skip
    return Table(["chip", "change", "plan", "energy", "latency", "area", "accuracy"], body, 3)


def sources_table(run: Run) -> Table:
    """Every constant once with all parts that use it, assumptions first and marked."""
    used: dict[tuple, set[str]] = {}
    for cost in run.costs.values():
        for source in cost.get("sources", []):
            item = tuple(source.get(name) for name in ("kind", "text", "low", "nominal", "high", "unit"))
            used.setdefault(item, set()).add(str(source.get("part")).replace("_", " "))
    ordered = sorted(used, key=lambda item: (item[0] != "assumption", sorted(used[item]), *map(str, item)))
    body = []
    for item in ordered:
        kind, text, low, nominal, high, unit = item
        parts = ", ".join(sorted(used[item]))
        body.append([kind, text, parts, _value(nominal, unit), _band(low, high)])
    marked = tuple(i for i, item in enumerate(ordered) if item[0] == "assumption")
    return Table(["kind", "source", "parts", "value", "band"], body, 3, marked)


def masked_table(run: Run) -> Table:
    """Formats that were not offered on a chip, by reason."""
    body = [[chip, *entry] for chip in run.tables for entry in masked_formats(run, chip)]
    return Table(["chip", "format", "layers", "reason"], body, 4)


def settings_table(run: Run) -> Table:
    """What the numbers depend on: clock, loads, conventions, seeds, versions."""
    told = run.manifest
    rows = [["network", _joined(cost["network"] for cost in run.costs.values())]]
    rows += [[f"chip {name}", f"hash {chip.get('hash', '–')}"] for name, chip in told.get("chips", {}).items()]
    rows.append(["data", " ".join(str(value) for value in told.get("data", {}).values())])
    rows.append(["test images", _joined(f"{value:,.0f}" for value in run.results["test_images"].dropna())])
    for name, text in (("images_per_weight_load", "images per weight load"), ("schedule", "schedule"),
                       ("op_convention", "operations are counted as")):  # fmt: skip
        rows.append([text, _joined(str(cost.get(name, "")) for cost in run.costs.values())])
    rows += _clocks(run) + _weight_states(run)
    rows.append(["seeds", ", ".join(str(seed) for seed in told.get("seeds", []))])
    packages = [f"{name} {version}" for name, version in told.get("packages", {}).items()]
    rows.append(
        [
            "versions",
            ", ".join([f"cimsim {told.get('version', '–')}", f"Python {told.get('python', '–')}", *packages]),
        ]
    )
    rows.append(["commit", str(told.get("commit", "–"))])
    return Table(["setting", "value"], [row for row in rows if row[1]], 2)


def warnings_of(run: Run) -> list[str]:
    """What the cost reports warn about, each once with the chips it concerns."""
    found: dict[str, set[str]] = {}
    for cost in run.costs.values():
        for text in cost.get("warnings", []):
            found.setdefault(text, set()).add(cost["chip"])
    return [
        text if any(text.startswith(chip) for chip in chips) else f"{', '.join(sorted(chips))}: {text}"
        for text, chips in sorted(found.items())
    ]


def always_on(run: Run) -> list[str]:
    """Always-on energy per image of each chip that has any, as ranges over its plans."""
    texts = []
    for chip, rows in run.results.groupby("chip", sort=False):
        low, high = rows["always_on_pj"].min(), rows["always_on_pj"].max()
        if high > 0:
            amount = energy(high) if energy(low) == energy(high) else f"{energy(low)} to {energy(high)}"
            texts.append(f"{chip}: {amount} per image")
    return texts


def _with_costs(run: Run) -> Frame:
    rows = run.results[(run.results["vary"] == "") & ~run.results["kind"].isin(["random", "variant"])]
    rows = rows[rows["key"].isin(run.costs)].sort_values("seed", kind="stable")
    return rows.drop_duplicates(["chip", "kind", "label"]).sort_index()


def _clocks(run: Run) -> list[list[str]]:
    clocks: dict[str, str] = {}
    for cost in run.costs.values():
        clocks[cost["chip"]] = ", ".join(
            f"{name} {hz / 1e6:,.6g} MHz" for name, hz in cost.get("clocks_hz", {}).items()
        )
    return [[f"clocks of {chip}", text] for chip, text in clocks.items()]


def _weight_states(run: Run) -> list[list[str]]:
    """How many layers of the base plans keep their weights in the arrays."""
    counts: dict[str, set[str]] = {}
    for key in _with_costs(run)["key"]:
        layers = run.costs[key]["layers"]
        resident = sum(bool(layer.get("resident")) for layer in layers)
        counts.setdefault(run.costs[key]["chip"], set()).add(f"{resident} of {len(layers)}")
    return [[f"resident layers on {chip}", ", ".join(sorted(texts))] for chip, texts in counts.items()]


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _met(met: Any) -> str:
    return "" if met is None or pd.isna(met) else "yes" if met else "no"


def _value(nominal: Any, unit: Any) -> str:
    return "–" if nominal is None else f"{digits3(float(nominal))} {unit or ''}".strip()


def _band(low: Any, high: Any) -> str:
    if low is None or high is None or low == high:
        return "–"
    return f"{digits3(float(low))} to {digits3(float(high))}"
