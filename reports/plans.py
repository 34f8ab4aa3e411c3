"""The format of each layer in each searched plan, as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from reports.canvas import draw_and_save
from reports.frames import Frame, Run
from reports.style import FAINT, INK, energy, format_colours, is_dark, short_format, short_label


def plans_figure(run: Run, path: Path) -> list[Path]:
    """Layers x searched plans, one panel per chip, coloured by weight format; empty if no plan is stored."""
    rows = run.results[(run.results["kind"] == "search") & (run.results["vary"] == "")]
    rows = rows[[bool(run.plan_of(row)) for _, row in rows.iterrows()]]
    return draw_and_save(lambda: _plans(run, rows), path) if len(rows) else []


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
