"""The conditions of a run: what its numbers rest on."""

from __future__ import annotations

from typing import Any

from reports.frames import Run, masked_formats
from reports.style import digits3, energy
from reports.tables import Table, with_costs


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
    for key in with_costs(run)["key"]:
        layers = run.costs[key]["layers"]
        resident = sum(bool(layer.get("resident")) for layer in layers)
        counts.setdefault(run.costs[key]["chip"], set()).add(f"{resident} of {len(layers)}")
    return [[f"resident layers on {chip}", ", ".join(sorted(texts))] for chip, texts in counts.items()]


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value))


def _value(nominal: Any, unit: Any) -> str:
    return "–" if nominal is None else f"{digits3(float(nominal))} {unit or ''}".strip()


def _band(low: Any, high: Any) -> str:
    if low is None or high is None or low == high:
        return "–"
    return f"{digits3(float(low))} to {digits3(float(high))}"
