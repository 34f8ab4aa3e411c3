"""Plans on arrays that are not ideal, as `cimsim accuracy` measured them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.canvas import draw_and_save
from reports.frames import Frame, Run
from reports.seeds import interval95
from reports.style import INK, PALETTE, energy, percent, points
from reports.tables import Table

ROW_INCHES, WIDTH_INCHES = 0.27, 7.6


def cells_table(run: Run) -> Table:
    """A row per chip, plan and kind of cells: mean over seeds and draws, and the worst draw."""
    body = []
    for (chip, label, kind), group in _grouped(run.cells):
        draws = pd.Series([one for drawn in group["drawn"] for one in drawn])
        mean, half = interval95(draws)
        spread = "" if len(draws) < 2 else f" ± {100 * half:.2f}"
        ideal = group["array_accuracy"].mean()
        body.append([
            chip, label, kind, energy(group["energy_pj"].mean()), percent(group["fill"].mean(), 0), percent(ideal, 2),
            percent(mean, 2) + spread, points(mean - ideal), percent(draws.min(), 2), f"{len(draws)}",
        ])  # fmt: skip
    heads = ["chip", "plan", "cells", "energy", "levels filled", "ideal arrays", "drawn arrays", "change", "worst",
             "draws"]  # fmt: skip
    return Table(heads, body, 3)


def cells_figure(run: Run, path: Path) -> list[Path]:
    """One panel for each chip and kind of cells, a line for each plan; empty if nothing was drawn."""
    return draw_and_save(lambda: _panels(run.cells), path) if len(run.cells) else []


def _grouped(cells: Frame) -> list[tuple[Any, Frame]]:
    """By chip, cells and plan, the plans by rising energy."""
    if cells.empty:
        return []
    ordered = cells.sort_values(["chip", "cells", "energy_pj", "seed"], kind="stable")
    return list(ordered.groupby(["chip", "label", "cells"], sort=False))


def _panels(cells: Frame) -> Figure:
    panels = list(cells.groupby(["chip", "cells"]))
    heights = [1 + group["label"].nunique() for _, group in panels]
    figure = Figure(figsize=(WIDTH_INCHES, ROW_INCHES * (sum(heights) + 2 * len(heights)) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for place, ((chip, kind), group) in zip(axes, panels, strict=True):
        _panel(place, group)
        place.set_title(f"{chip}, {'its own cells' if kind == 'chip' else kind}", loc="left", fontsize=9.5)
    axes[-1].set_xlabel("accuracy (%)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=3, fontsize=8)
    return figure


def _panel(axes: Axes, group: Frame) -> None:
    """Cheapest plan on top: each draw a dot, their mean a bar, ideal arrays a ring."""
    plans = sorted(group.groupby("label"), key=lambda pair: -pair[1]["energy_pj"].mean())
    for y, (_, rows) in enumerate(plans):
        draws = [100 * one for drawn in rows["drawn"] for one in drawn]
        named = {} if y else {"draws": "drawn arrays", "mean": "their mean", "ideal": "ideal arrays"}
        axes.plot(
            draws, [y] * len(draws), "o", color=PALETTE[0], alpha=0.45, ms=4, mec="none", label=named.get("draws")
        )
        axes.plot([sum(draws) / len(draws)], [y], "|", color=INK, ms=11, mew=1.6, label=named.get("mean"))
        axes.plot([100 * rows["array_accuracy"].mean()], [y], "o", mfc="none", mec=INK, ms=7, label=named.get("ideal"))
    names = [f"{label}   {energy(rows['energy_pj'].mean())}" for label, rows in plans]
    axes.set(yticks=range(len(plans)), yticklabels=names, ylim=(-0.7, len(plans) - 0.3))
    axes.grid(visible=False, axis="y")
