"""Pictures beside the front: the plans layer by layer, energy by component, and chip variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.canvas import draw_and_save
from reports.frames import Frame, Run, components_pj
from reports.seeds import averaged
from reports.style import (
    ENERGY_UNITS,
    FAINT,
    INK,
    OTHER,
    PALETTE,
    digits3,
    energy,
    format_colours,
    is_dark,
    short_format,
    short_label,
    signed,
    unit_of,
)  # fmt: skip

NUM_NAMED_COMPONENTS = 7
KIND_ORDER = {"uniform": 0, "all_vq": 1, "search": 2}
VARIANT_MEASURES = {
    "energy_pj": "energy", "latency_ns": "latency", "area_mm2": "area", "array_accuracy": "accuracy (points)",
}  # fmt: skip


def plans_figure(run: Run, path: Path) -> list[Path]:
    """Layers x searched plans, one panel per chip, coloured by weight format; empty if no plan is stored."""
    rows = run.results[(run.results["kind"] == "search") & (run.results["vary"] == "")]
    rows = rows[[bool(run.plan_of(row)) for _, row in rows.iterrows()]]
    return draw_and_save(lambda: _plans(run, rows), path) if len(rows) else []


def energy_figure(run: Run, path: Path) -> list[Path]:
    """Energy of each plan by component, one panel per chip; empty if no cost report is stored."""
    table = energy_by_component(run)
    return draw_and_save(lambda: _energies(table), path) if len(table) else []


def variants_figure(run: Run, path: Path) -> list[Path]:
    """How energy, latency, area and accuracy move from the base chip to its variants; empty without any."""
    changes = variant_changes(run.results)
    return draw_and_save(lambda: _variants(changes), path) if len(changes) else []


def energy_by_component(run: Run) -> Frame:
    """Columns chip, kind, label, then pJ per component, largest first, small ones as `other`."""
    rows = run.results[(run.results["vary"] == "") & run.results["kind"].isin(KIND_ORDER)]
    rows = rows[rows["key"].isin(run.costs)]
    if rows.empty:
        return pd.DataFrame()
    parts = pd.DataFrame([components_pj(run.costs[key]) for key in rows["key"]], index=rows.index).fillna(0.0)
    share = parts.div(parts.sum(axis=1), axis=0).max().sort_values(ascending=False, kind="stable")
    named, rest = share.index[:NUM_NAMED_COMPONENTS], share.index[NUM_NAMED_COMPONENTS:]
    shown = parts[named].assign(other=parts[rest].sum(axis=1)) if len(rest) else parts[named]
    table = averaged(pd.concat([rows[["chip", "kind", "label"]], shown], axis=1), ["chip", "kind", "label"])
    return table.sort_values("kind", key=lambda kinds: kinds.map(KIND_ORDER), kind="stable", ignore_index=True)


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
            change = {name: row[name] / first[name] - 1 for name in ("energy_pj", "latency_ns", "area_mm2")}
            change["array_accuracy"] = row["array_accuracy"] - first["array_accuracy"]
            rows.append({"chip": row["chip"], "vary": row["vary"], "label": first["label"]} | change)
    return averaged(pd.DataFrame(rows), ["chip", "vary", "label"]) if rows else pd.DataFrame()


def _plans(run: Run, rows: Frame) -> Figure:
    chips = list(rows["chip"].unique())
    colours = format_colours(name for _, row in rows.iterrows() for name in run.formats_of(row).values())
    layers = [max((list(run.plan_of(row)) for _, row in _of(rows, chip).iterrows()), key=len) for chip in chips]
    num_columns = max(4, rows.groupby("chip").size().max())  # fewer would stretch the cells
    heights = [len(names) + 2.6 for names in layers]
    figure = Figure(figsize=(max(6.0, 1.6 + 0.95 * num_columns), 0.34 * sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(chips), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, chip, names in zip(grid, chips, layers, strict=True):
        _plan_panel(axes, run, _of(rows, chip), names, colours)
        axes.set_xlim(-0.5, num_columns - 0.5)
    handles = [Patch(facecolor=colour, edgecolor=FAINT, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), fontsize=8.5)
    return figure


def _of(rows: Frame, chip: str) -> Frame:
    return rows[rows["chip"] == chip].sort_values(["budget_fraction", "seed", "energy_pj"], kind="stable")


def _plan_panel(axes: Axes, run: Run, rows: Frame, names: list[str], colours: dict[str, str]) -> None:
    several = rows["seed"].nunique() > 1
    heads = []
    for column, (_, row) in enumerate(rows.iterrows()):
        for layer, name in run.formats_of(row).items():
            _cell(axes, column, names.index(layer), colours[name], short_format(name))
        seed = f"\nseed {row['seed']:.0f}" if several else ""
        heads.append(short_label(row["label"]) + seed)
        foot = f"{energy(row['energy_pj'])}\n{100 * row['array_accuracy']:.1f} %"
        axes.text(column, len(names) - 0.42, foot, ha="center", va="top", fontsize=7.5, color="#52606D")
    axes.set_ylim(len(names) - 0.5 + 1.1, -0.5)
    axes.set_xticks(range(len(heads)), heads)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(rows["chip"].iloc[0], loc="left", fontweight="bold", fontsize=10)


def _cell(axes: Axes, x: int, y: int, colour: str, text: str) -> None:
    axes.add_patch(Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, facecolor=colour, edgecolor="none"))
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if is_dark(colour) else INK)


def _energies(table: Frame) -> Figure:
    chips = list(table["chip"].unique())
    counts = [int((table["chip"] == chip).sum()) for chip in chips]
    figure = Figure(figsize=(9.0, 0.3 * sum(counts) + 0.85 * len(chips) + 0.5), layout="constrained")
    grid = figure.subplots(len(chips), 1, squeeze=False, height_ratios=[n + 1.2 for n in counts])[:, 0]
    names = [name for name in table.columns if name not in ("chip", "kind", "label")]
    colours = component_colours(names)
    for axes, chip in zip(grid, chips, strict=True):
        _energy_panel(axes, table[table["chip"] == chip], colours)
        axes.set_title(chip, loc="left", fontweight="bold", fontsize=10)
    handles = [Patch(facecolor=colours[name], label=name.replace("_", " ")) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), fontsize=8.5)
    return figure


def component_colours(names: list[str]) -> dict[str, str]:
    """Colour of each component, `other` in the neutral one."""
    return {name: OTHER if name == "other" else PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def _energy_panel(axes: Axes, rows: Frame, colours: dict[str, str]) -> None:
    totals = rows[list(colours)].sum(axis=1)
    size_pj, unit = unit_of(totals.max(), ENERGY_UNITS)
    left = np.zeros(len(rows))
    for name, colour in colours.items():
        axes.barh(range(len(rows)), rows[name] / size_pj, left=left, height=0.72, color=colour, label=name)
        left += rows[name].to_numpy() / size_pj
    for y, total in enumerate(left):
        axes.annotate(digits3(total), (total, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [short_label(label) for label in rows["label"]])
    axes.set_xlim(0, left.max() * 1.08)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"energy per image ({unit})", fontsize=8.5)


def _variants(changes: Frame) -> Figure:
    figure = Figure(figsize=(9.6, 0.36 * len(changes) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(VARIANT_MEASURES), sharey=True)
    names = [f"{row['chip']}: {row['vary']}\n{short_label(row['label'])}" for _, row in changes.iterrows()]
    for axes, (measure, title) in zip(panels, VARIANT_MEASURES.items(), strict=True):
        _variant_panel(axes, changes[measure].to_numpy(float), measure)
        axes.set_title(title, fontsize=9.5)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _variant_panel(axes: Axes, values: np.ndarray, measure: str) -> None:
    """Bars from zero: blue where the variant is better than the base, vermillion where it is worse."""
    better = values > 0 if measure == "array_accuracy" else values < 0
    colours = [PALETTE[0] if good else PALETTE[1] for good in better]
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
    suffix = "" if measure == "array_accuracy" else " %"
    axes.xaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}{suffix}".replace("-", "−") if x else "0"))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(visible=False, axis="y")
