"""Whether the search beats chance: searched plans beside random ones of equal budget."""

from __future__ import annotations

from math import isnan
from typing import Any

import numpy as np
import pandas as pd

from reports.finding import Finding
from reports.frames import Frame
from reports.seeds import interval95
from reports.style import points

MIN_RANDOM = 20  # fewer random plans have no meaningful 95th percentile
SHARE = 95  # per cent of the random plans that a search must beat


def leads(rows: Frame) -> dict[str, pd.Series]:
    """Label of a searched plan -> by how much its accuracy exceeds that percentile, for each seed that can say."""
    found: dict[str, pd.Series] = {}
    random = rows[(rows["kind"] == "random") & rows["array_accuracy"].notna()]
    for label, plans in rows[(rows["kind"] == "search") & rows["array_accuracy"].notna()].groupby("label", sort=False):
        each = {plan["seed"]: _lead(plan, random) for _, plan in plans.iterrows()}
        known = pd.Series(each, dtype=float).dropna()
        if len(known):
            found[str(label)] = known
    return found


def _lead(plan: Any, random: Frame) -> float:
    same = np.isclose(random["budget_fraction"], plan["budget_fraction"]) & (random["seed"] == plan["seed"])
    rivals = random.loc[same, "array_accuracy"]
    return plan["array_accuracy"] - np.percentile(rivals, SHARE) if len(rivals) >= MIN_RANDOM else float("nan")


def against_random(rows: Frame) -> Finding:
    """At how many budgets it does, by how much."""
    found = leads(rows)
    if not found:
        open_yet = f"Whether the search beats chance is open: no budget has {MIN_RANDOM} random plans to compare."
        return Finding("plain", open_yet)
    means = {label: interval95(each) for label, each in found.items()}
    won = sum(mean > 0 for mean, _ in means.values())
    figures = ", ".join(f"“{label}” {_margin(*mean)}" for label, mean in means.items())
    text = (
        f"The search beats the {SHARE}th percentile of random plans of equal budget and seed at {won} of {len(found)} "
        f"budgets ({figures})."
    )
    return Finding("good" if won == len(found) else "bad", text)


def _margin(mean: float, half: float) -> str:
    return points(mean) if isnan(half) else points(mean).replace(" points", f" ± {100 * half:.2f} points")
