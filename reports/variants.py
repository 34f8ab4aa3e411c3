"""What single knobs of a chip change, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.canvas import draw_and_save
from reports.frames import Frame, Run
from reports.measures import ACCURACY, AREA, ENERGY, LATENCY, Measure
from reports.seeds import averaged
from reports.style import FAINT, PALETTE, short_label, signed

MEASURES_CHANGED = (ENERGY, LATENCY, AREA, ACCURACY)


def variants_figure(run: Run, path: Path) -> list[Path]:
    """How energy, latency, area and accuracy move from the base chip to its variants; empty without any."""
    changes = variant_changes(run.results)
    return draw_and_save(lambda: _variants(changes), path) if len(changes) else []


def variant_changes(results: Frame) -> Frame:
    """One row per variant: relative change of energy, latency and area, and accuracy in points of a fraction.

    The base is the same plan, else the same label, and seed on the same chip; rows without one are left out.
    """
    base = results[(results["vary"] == "") & (results["kind"] != "variant")]
    rows = []
    for _, row in results[results["vary"] != ""].iterrows():
        same = base[(base["chip"] == row["chip"]) & (base["seed"].eq(row["seed"]) | pd.isna(row["seed"]))]
        match = same[(same["plan"] == row["plan"]) & (row["plan"] != "")]
        match = match if len(match) else same[same["label"] == row["label"]]
        if len(match):
            first = match.iloc[0]
            change = {one.column: one.change(row[one.column], first[one.column]) for one in MEASURES_CHANGED}
            rows.append({"chip": row["chip"], "vary": row["vary"], "label": first["label"]} | change)
    return averaged(pd.DataFrame(rows), ["chip", "vary", "label"]) if rows else pd.DataFrame()


def _variants(changes: Frame) -> Figure:
    figure = Figure(figsize=(9.6, 0.36 * len(changes) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(MEASURES_CHANGED), sharey=True)
    names = [f"{row['chip']}: {row['vary']}\n{short_label(row['label'])}" for _, row in changes.iterrows()]
    for axes, measure in zip(panels, MEASURES_CHANGED, strict=True):
        _variant_panel(axes, changes[measure.column].to_numpy(float), measure)
        axes.set_title(f"{measure.name} ({'points' if measure.scale == 'linear' else '%'})", fontsize=9.5)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _variant_panel(axes: Axes, values: np.ndarray, measure: Measure) -> None:
    """Bars from zero: blue where the variant is better than the base, vermillion where it is worse."""
    colours = [PALETTE[0] if good else PALETTE[1] for good in measure.loss * values < 0]
    axes.barh(range(len(values)), 100 * np.nan_to_num(values), height=0.5, color=colours)
    reach = max(float(np.nanmax(np.abs(100 * values), initial=0.0)), 0.1)
    for y, value in enumerate(100 * values):
        side = 1 if not value < 0 else -1
        axes.annotate(
            signed(value), (np.nan_to_num(value), y), (3 * side, 0), textcoords="offset points", va="center",
            ha="left" if side > 0 else "right", fontsize=7.5,
        )  # fmt: skip
    axes.set_xlim(-1.75 * reach, 1.75 * reach)
    axes.axvline(0, color=FAINT, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}".replace("-", "−") if x else "0"))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(visible=False, axis="y")
