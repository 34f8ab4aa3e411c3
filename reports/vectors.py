"""Where vector quantization loses on a chip, in plain words."""

from __future__ import annotations

from typing import Any

import numpy as np

from reports.finding import BASELINE, Finding
from reports.frames import Frame, Run, masked_formats
from reports.measures import ACCURACY
from reports.pareto import hypervolume
from reports.series import searched, share_range
from reports.style import energy, percent, points, signed_percent
from workloads.format import parse_format

MIN_AREA_SHARE = 0.05  # of the dominated area: a smaller one is of too few linear plans to be compared with


def vector_findings(run: Run, rows: Frame, table: Frame, chip: str) -> list[Finding]:
    """Where vector quantization (codebook or lattice) wins and loses on this chip."""
    coded = {row["label"] for _, row in rows.iterrows() if _uses_vectors(run, row)}
    linear = table[~table["label"].isin(coded) & table["kind"].isin(["uniform", "search"])]
    sentences = _masked_sentences(run, chip)
    for _, row in table[table["kind"] == "all_vq"].iterrows():
        sentences.append(_all_vector(row, linear, table))
    if not coded:
        text = "No plan of this run uses vector quantization on this chip."
        return [*sentences, Finding("plain", text)]
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
    return [*sentences, Finding("good" if grown > 0 and num_coded else "bad", text)]


def _all_vector(row: Any, linear: Frame, table: Frame) -> Finding:
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
        return Finding("bad", f"{text}. It loses: “{beating.iloc[0]['label']}” is linear, no dearer, no less accurate.")
    return Finding("plain", f"{text}. No linear plan of this run is both as cheap and as accurate.")


def _masked_sentences(run: Run, chip: str) -> list[Finding]:
    """Vector formats that were not offered on the chip, with the reason its cost table gives."""
    reasons: dict[str, list[str]] = {}
    for name, layers, reason in masked_formats(run, chip):
        if parse_format(name).kind != "linear":
            reasons.setdefault(reason, []).append(name if layers == "all" else f"{name} (in {layers})")
    return [
        Finding("plain", f"Not offered on this chip: {', '.join(names)}. Reason: {reason}.")
        for reason, names in reasons.items()
    ]


def _uses_vectors(run: Run, row: Any) -> bool:
    named = row["kind"] == "all_vq"
    return named or any(parse_format(name).kind != "linear" for name in run.formats_of(row).values())


def _front_growth(table: Frame, linear: Frame) -> float:
    """Relative growth of the dominated area when plans with vector formats join the linear ones."""
    reference = (float(np.log10(table["energy_pj"].max() * 1.01)), share_range(table, "y", ACCURACY)[0])
    areas = [
        hypervolume(np.log10(some["energy_pj"]), some["array_accuracy"], reference)
        for some in (table[table["kind"] != "random"], linear)
    ]
    return areas[0] / areas[1] - 1 if areas[1] > MIN_AREA_SHARE * areas[0] else float("nan")
