"""Draws docs/images/validation.png: modelled over published, a row for each reference and kind of figure.

Run as `python -m docs.made.validation`; `python -m docs.made.figures` does.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from cimsim.validation import Verdict, check_references
from cimsim.validation.quantities import QUANTITIES
from cimsim.validation.units import UNITS
from cimsim.validation.verdict import UNSEEN

IMAGE = Path(__file__).parents[1] / "images" / "validation.png"
KINDS = {"time": "time and throughput", "energy": "energy", "area": "area"}
COLOURS = {"time": "#2a6f97", "energy": "#c44536", "area": "#6a994e"}
TABLES = {"held out read_pj": "energy", "held out write_pj": "energy", "held out area_um2": "area",
          "energy_pj": "energy", "area_um2": "area"}  # fmt: skip
INVERSE = ("throughput", "efficiency", "density")  # of time, energy and area: drawn as these
LEAST, MOST = 1 / 25, 5


def kind_of(row: Verdict) -> str:
    """What a figure is about; "" for shares, shapes, and figures that are shown only."""
    name = row.quantity.partition(".")[0]
    test = QUANTITIES[name].test if name in QUANTITIES else TABLES.get(row.quantity, "")
    test = {"bill": "area" if "area" in name else "energy", "cycles": "time"}.get(test, test)
    return test if row.passed is not None and test in KINDS else ""


def drawn_ratio(row: Verdict) -> float:
    """Of time, energy or area, inside the panel."""
    is_inverse = row.unit in UNITS and UNITS[row.unit].measures.removesuffix("_1b") in INVERSE
    return min(max(1 / row.ratio if is_inverse else row.ratio, LEAST), MOST)


def draw(path: Path = IMAGE) -> None:
    """One panel a kind; references from top to bottom, ratios on a logarithmic axis."""
    rows = [row for row in check_references() if kind_of(row)]
    refs = list(dict.fromkeys(row.ref for row in rows))[::-1]
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots(1, len(KINDS), sharey=True)
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        factor = UNSEEN[kind]
        axis.axvspan(1 / factor, factor, color="#dddddd", zorder=0)
        axis.axvline(1, color="#888888", linewidth=0.8, zorder=1)
        for row in rows:
            if kind_of(row) == kind:
                face = "none" if row.used_as_input else COLOURS[kind]
                axis.plot(drawn_ratio(row), refs.index(row.ref), "o", markersize=5, alpha=0.7,
                          markerfacecolor=face, markeredgecolor=COLOURS[kind])  # fmt: skip
        axis.set(xscale="log", xlim=(LEAST if kind != "time" else 0.5, MOST if kind != "time" else 2), title=title)
        ticks = (0.5, 1, 2) if kind == "time" else (0.1, 0.25, 0.5, 1, 2, 4)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("modelled over published")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(refs)), refs)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    draw()
