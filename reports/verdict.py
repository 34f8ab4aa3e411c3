"""The verdict in plain words: what the search gained on each chip."""

from __future__ import annotations

from math import isnan, sqrt
from typing import Any, NamedTuple

from reports.against_random import against_random
from reports.finding import BASELINE, Finding
from reports.frames import Frame, Run
from reports.seeds import interval95, paired
from reports.series import base_points, has_points, searched
from reports.style import energy, percent, points, signed, signed_percent
from reports.vectors import vector_findings

MARGIN, WITHIN = 0.001, "0.1 points"  # accuracies nearer than this are not told apart: chance moves them more


BigNumber = tuple[str, str, str]  # big number, what it is, tone


class ChipVerdict(NamedTuple):
    """What the run says about one chip."""

    chip: str
    figures: list[BigNumber]
    sentences: list[Finding]


def verdicts(run: Run) -> list[ChipVerdict]:
    """One verdict per base chip, in the order of results.csv."""
    return [_chip_verdict(run, chip) for chip in run.results["chip"].unique()]


def _chip_verdict(run: Run, chip: str) -> ChipVerdict:
    rows = run.results[(run.results["chip"] == chip) & (run.results["vary"] == "")]
    if not has_points(rows):
        text = "No accuracy was measured through this chip's arrays, so there is no verdict on it."
        return ChipVerdict(chip, [], [Finding("bad", text)])
    table = base_points(rows)
    plans, base = searched(table, chip), table[table["label"] == BASELINE]
    found = []
    if plans.empty:
        found.append((None, Finding("plain", "No plan was searched on this chip.")))
    elif base.empty:
        found.append((None, Finding("bad", f"There is no {BASELINE} on this chip to compare with.")))
    else:
        found += [_saving(rows, plans, base.iloc[0]), _gain(rows, plans, base.iloc[0])]
    sentences = [sentence for _, sentence in found] + _budgets(plans)
    sentences += [against_random(rows)] if len(plans) else []
    sentences += vector_findings(run, rows, table, chip)
    return ChipVerdict(chip, [figure for figure, _ in found if figure], sentences)


def _saving(rows: Frame, plans: Frame, base: Any) -> tuple[BigNumber, Finding]:
    """The cheapest searched plan that is as accurate as the baseline, within the margin."""
    equal = plans[plans["array_accuracy"] >= base["array_accuracy"] - MARGIN]
    if equal.empty:
        return ("none", f"plan within {WITHIN}", "bad"), _nearest(plans, base)
    best = equal.loc[equal["energy_pj"].idxmin()]
    pairs = paired(rows, "energy_pj", best["label"], BASELINE)
    change, half = interval95(pairs["one"] / pairs["other"] - 1)
    change = best["energy_pj"] / base["energy_pj"] - 1 if isnan(change) else change
    tone = "plain" if not isnan(half) and abs(change) <= half else "good" if change < 0 else "bad"
    name = f"“{best['label']}”"
    lead = (
        f"{name} needs {percent(-change)} less energy than {BASELINE}, within {WITHIN} of its accuracy"
        if change < 0
        else f"The search saves nothing here: within {WITHIN} of that accuracy its cheapest plan, "
        f"{name}, needs {percent(change)} more energy than {BASELINE}"
    )
    text = (
        f"{lead}: {energy(best['energy_pj'])} against {energy(base['energy_pj'])} per image, at "
        f"{percent(best['array_accuracy'], 2)} against {percent(base['array_accuracy'], 2)}"
        f"{_certainty(100 * change, 100 * half, len(pairs), ' %')}."
    )
    return (signed_percent(change), f"energy within {WITHIN}", tone), Finding(tone, text)


def _nearest(plans: Frame, base: Any) -> Finding:
    """What the most accurate searched plan misses, if none reaches the baseline's accuracy."""
    near = plans.loc[plans["array_accuracy"].idxmax()]
    text = (
        f"No searched plan comes within {WITHIN} of the accuracy of {BASELINE} ({percent(base['array_accuracy'], 2)}). "
        f"The nearest, “{near['label']}”, differs by "
        f"{points(near['array_accuracy'] - base['array_accuracy'])} and by "
        f"{signed_percent(near['energy_pj'] / base['energy_pj'] - 1)} in energy."
    )
    return Finding("bad", text)


def _gain(rows: Frame, plans: Frame, base: Any) -> tuple[BigNumber, Finding]:
    """The most accurate searched plan that needs no more energy than the baseline."""
    frugal = plans[plans["energy_pj"] <= base["energy_pj"]]
    if frugal.empty:
        least = f"{BASELINE} ({energy(base['energy_pj'])} per image)"
        text = f"Every searched plan needs more energy than {least}."
        return ("none", "plan within the same energy", "bad"), Finding("bad", text)
    best = frugal.loc[frugal["array_accuracy"].idxmax()]
    pairs = paired(rows, "array_accuracy", best["label"], BASELINE)
    change, half = interval95(pairs["one"] - pairs["other"])
    change = best["array_accuracy"] - base["array_accuracy"] if isnan(change) else change
    noise = _sampling_error(base)
    unsure = abs(change) <= (noise if isnan(half) else half)
    tone = "plain" if unsure else "good" if change > 0 else "bad"
    spent = signed_percent(best["energy_pj"] / base["energy_pj"] - 1)
    text = (
        f"For no more energy, “{best['label']}” is {'more' if change > 0 else 'not more'} accurate than "
        f"{BASELINE}: {points(change)} ({percent(best['array_accuracy'], 2)} against "
        f"{percent(base['array_accuracy'], 2)}) at {spent} energy"
        f"{_certainty(100 * change, 100 * half, len(pairs), ' points')}."
    )
    if isnan(half) and unsure:
        chance = f"the ±{100 * noise:.2f} points that {base['test_images']:,.0f} test images leave to chance"
        text += f" This is within {chance}."
    return (points(change), "accuracy at no more energy", tone), Finding(tone, text)


def _certainty(mean: float, half: float, num_seeds: int, unit: str) -> str:
    if isnan(half):
        return " (one seed, so no interval)"
    doubt = "; the interval includes zero, so this is not established" if abs(mean) <= half else ""
    interval = f"{signed(mean, 2)} ± {half:.2f}{unit}, 95 % t-interval of the paired seeds"
    return f" ({num_seeds} seeds, {interval}{doubt})"


def _sampling_error(row: Any) -> float:
    """95 % half width of the difference of two accuracies on `test_images` independent images each."""
    share = row["array_accuracy"]
    return 1.96 * sqrt(2 * share * (1 - share) / row["test_images"]) if row["test_images"] > 0 else 0.0


def _budgets(plans: Frame) -> list[Finding]:
    failed = plans.loc[plans["met"].map(lambda met: met is False or met == False), "label"]  # noqa: E712
    if failed.empty:
        return []
    names = ", ".join(f"“{label}”" for label in sorted(failed))
    return [Finding("bad", f"Not met on simulated cost: {len(failed)} of {len(plans)} budgets ({names}).")]
