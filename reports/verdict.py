"""The verdict in plain words: what the search gained on each chip, and where vector quantization loses."""

from __future__ import annotations

from math import isnan, sqrt
from typing import Any, NamedTuple

import numpy as np

from reports.against_random import against_random
from reports.frames import Frame, Run, masked_formats
from reports.pareto import hypervolume
from reports.seeds import interval95, paired
from reports.series import accuracy_range, base_points, has_accuracy, searched
from reports.style import energy, percent, points, signed, signed_percent
from workloads.format import parse_format

BASELINE = "uniform linear-4"
MARGIN, WITHIN = 0.001, "0.1 points"  # accuracies nearer than this are not told apart: chance moves them more
MIN_AREA_SHARE = 0.05  # of the dominated area: a smaller one is of too few linear plans to be compared with


BigNumber = tuple[str, str, str]  # big number, what it is, tone


class Sentence(NamedTuple):
    """One finding; `tone` is good, bad or plain."""

    tone: str
    text: str


class ChipVerdict(NamedTuple):
    """What the run says about one chip."""

    chip: str
    figures: list[BigNumber]
    sentences: list[Sentence]


def verdicts(run: Run) -> list[ChipVerdict]:
    """One verdict per base chip, in the order of results.csv."""
    return [_chip_verdict(run, chip) for chip in run.results["chip"].unique()]


def _chip_verdict(run: Run, chip: str) -> ChipVerdict:
    rows = run.results[(run.results["chip"] == chip) & (run.results["vary"] == "")]
    if not has_accuracy(rows):
        text = "No accuracy was measured through this chip's arrays, so there is no verdict on it."
        return ChipVerdict(chip, [], [Sentence("bad", text)])
    table = base_points(rows)
    plans, base = searched(table, chip), table[table["label"] == BASELINE]
    found = []
    if plans.empty:
        found.append((None, Sentence("plain", "No plan was searched on this chip.")))
    elif base.empty:
        found.append((None, Sentence("bad", f"There is no {BASELINE} on this chip to compare with.")))
    else:
        found += [_saving(rows, plans, base.iloc[0]), _gain(rows, plans, base.iloc[0])]
    sentences = [sentence for _, sentence in found] + _budgets(plans)
    sentences += [Sentence(*against_random(rows))] if len(plans) else []
    sentences += _vector_formats(run, rows, table, chip)
    return ChipVerdict(chip, [figure for figure, _ in found if figure], sentences)


def _saving(rows: Frame, plans: Frame, base: Any) -> tuple[BigNumber, Sentence]:
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
    return (signed_percent(change), f"energy within {WITHIN}", tone), Sentence(tone, text)


def _nearest(plans: Frame, base: Any) -> Sentence:
    """What the most accurate searched plan misses, if none reaches the baseline's accuracy."""
    near = plans.loc[plans["array_accuracy"].idxmax()]
    text = (
        f"No searched plan comes within {WITHIN} of the accuracy of {BASELINE} ({percent(base['array_accuracy'], 2)}). "
        f"The nearest, “{near['label']}”, differs by "
        f"{points(near['array_accuracy'] - base['array_accuracy'])} and by "
        f"{signed_percent(near['energy_pj'] / base['energy_pj'] - 1)} in energy."
    )
    return Sentence("bad", text)


def _gain(rows: Frame, plans: Frame, base: Any) -> tuple[BigNumber, Sentence]:
    """The most accurate searched plan that needs no more energy than the baseline."""
    frugal = plans[plans["energy_pj"] <= base["energy_pj"]]
    if frugal.empty:
        least = f"{BASELINE} ({energy(base['energy_pj'])} per image)"
        text = f"Every searched plan needs more energy than {least}."
        return ("none", "plan within the same energy", "bad"), Sentence("bad", text)
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
    return (points(change), "accuracy at no more energy", tone), Sentence(tone, text)


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


def _budgets(plans: Frame) -> list[Sentence]:
    failed = plans.loc[plans["met"].map(lambda met: met is False or met == False), "label"]  # noqa: E712
    if failed.empty:
        return []
    names = ", ".join(f"“{label}”" for label in sorted(failed))
    return [Sentence("bad", f"Not met on simulated cost: {len(failed)} of {len(plans)} budgets ({names}).")]


def _vector_formats(run: Run, rows: Frame, table: Frame, chip: str) -> list[Sentence]:
    """Where vector quantization (codebook or lattice) wins and loses on this chip."""
    coded = {row["label"] for _, row in rows.iterrows() if _uses_vectors(run, row)}
    linear = table[~table["label"].isin(coded) & table["kind"].isin(["uniform", "search"])]
    sentences = _masked_sentences(run, chip)
    for _, row in table[table["kind"] == "all_vq"].iterrows():
        sentences.append(_all_vector(row, linear, table))
    if not coded:
        text = "No plan of this run uses vector quantization on this chip."
        return [*sentences, Sentence("plain", text)]
    best = searched(table, chip).query("on_front")
    if best.empty or linear.empty:
        return sentences
    num_coded, grown = int(best["label"].isin(coded).sum()), _front_growth(table, linear)
    text = (
        f"{num_coded} of {len(best)} plans on the searched front use vector quantization (codebook or "
        f"lattice) in at least one layer{'' if num_coded else ': linear formats win here'}."
    )
    if grown > 0:
        text += (
            f" Plans with vectors make the dominated area (log energy by accuracy) {percent(grown)} larger than "
            "this run's linear plans alone; a search among linear formats only might close part of that."
        )
    return [*sentences, Sentence("good" if grown > 0 and num_coded else "bad", text)]


def _all_vector(row: Any, linear: Frame, table: Frame) -> Sentence:
    """One all-VQ baseline against the linear plans of its chip."""
    base = table[table["label"] == BASELINE]
    text = f"“{row['label']}” reaches {percent(row['array_accuracy'], 2)} at {energy(row['energy_pj'])}"
    if len(base):
        first = base.iloc[0]
        text += (
            f", {signed_percent(row['energy_pj'] / first['energy_pj'] - 1)} energy and "
            f"{points(row['array_accuracy'] - first['array_accuracy'])} against {BASELINE}"
        )
    enough = linear["array_accuracy"] >= row["array_accuracy"]
    beating = linear[enough & (linear["energy_pj"] <= row["energy_pj"])].sort_values("energy_pj")
    if len(beating):
        return Sentence(
            "bad", f"{text}. It loses: “{beating.iloc[0]['label']}” is linear, no dearer, no less accurate."
        )
    return Sentence("plain", f"{text}. No linear plan of this run is both as cheap and as accurate.")


def _masked_sentences(run: Run, chip: str) -> list[Sentence]:
    """Vector formats that were not offered on the chip, with the reason its cost table gives."""
    reasons: dict[str, list[str]] = {}
    for name, layers, reason in masked_formats(run, chip):
        if parse_format(name).kind != "linear":
            reasons.setdefault(reason, []).append(name if layers == "all" else f"{name} (in {layers})")
    return [
        Sentence("plain", f"Not offered on this chip: {', '.join(names)}. Reason: {reason}.")
        for reason, names in reasons.items()
    ]


def _uses_vectors(run: Run, row: Any) -> bool:
    named = row["kind"] == "all_vq"
    return named or any(parse_format(name).kind != "linear" for name in run.formats_of(row).values())


def _front_growth(table: Frame, linear: Frame) -> float:
    """Relative growth of the dominated area when plans with vector formats join the linear ones."""
    reference = (float(np.log10(table["energy_pj"].max() * 1.01)), accuracy_range(table)[0])
    areas = [
        hypervolume(np.log10(some["energy_pj"]), some["array_accuracy"], reference)
        for some in (table[table["kind"] != "random"], linear)
    ]
    return areas[0] / areas[1] - 1 if areas[1] > MIN_AREA_SHARE * areas[0] else float("nan")
