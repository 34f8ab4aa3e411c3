"""A static figure without a screen: one look, repeatable bytes, labels that keep apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text

from reports.style import FAINT, INK

# A fixed salt and no dates make SVG and PDF files the same bytes on every run.
LOOK: Any = {
    "svg.hashsalt": "cimsim", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#C5CBD3", "xtick.color": "#52606D",
    "ytick.color": "#52606D", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#E9ECF0", "grid.linewidth": 0.8, "legend.frameon": False,
    "figure.facecolor": "white", "savefig.dpi": 160,
}  # fmt: skip
DATELESS = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
USUAL = (".png", ".svg")


class Label(NamedTuple):
    """A text that wants to stand near the data point (x, y)."""

    x: float
    y: float
    text: str
    colour: str


def draw_and_save(draw: Callable[[], Figure], path: Path, ends: tuple[str, ...] = USUAL) -> list[Path]:
    """Runs `draw` in the common look; writes `path`, or one file for each of `ends` if it has none of them."""
    paths = [path.with_name(path.name + end) for end in ([""] if path.suffix in DATELESS else ends)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(LOOK):
        figure = draw()
        for file in paths:
            figure.savefig(file, metadata=DATELESS[file.suffix], bbox_inches="tight", pad_inches=0.12)
    return paths


def place_labels(axes: Axes, labels: list[Label], obstacles: np.ndarray) -> None:
    """Writes each label at the nearest place free of `obstacles` (N, 2 data points) and of earlier labels.

    Limits of the axes must be final. A label that had to move away gets a thin line to its point.
    """
    figure = axes.figure.figure
    assert isinstance(figure, Figure)
    renderer, pixels_per_point = FigureCanvasAgg(figure).get_renderer(), figure.dpi / 72
    centres, radius = axes.transData.transform(obstacles), 5 * pixels_per_point
    taken = np.hstack([centres - radius, centres + radius])  # boxes as x0, y0, x1, y1
    inside = np.array(axes.get_window_extent(renderer).extents)
    for label in sorted(labels, key=lambda item: (item.x, item.y)):
        note = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", color=label.colour,
            fontsize=8, arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 0, "shrinkB": 5},
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        text_box = Text.get_window_extent(note, renderer)  # without the line to its point
        origin = axes.transData.transform((label.x, label.y))
        boxes = [_box_at(origin, spot, (text_box.width, text_box.height), pixels_per_point) for spot in SPOTS]
        best = min(range(len(SPOTS)), key=lambda i: (_cost(boxes[i], taken, inside), i))
        note.set_position(tuple((boxes[best][:2] - origin) / pixels_per_point))
        if np.hypot(*SPOTS[best]) < FAR_POINTS and note.arrow_patch is not None:
            note.arrow_patch.set_visible(False)
        taken = np.vstack([taken, boxes[best]])


# Where a label may go, in points from its marker: eight directions, near ones first.
SPOTS = [
    (r * dx, r * dy)
    for r in (8, 12, 18, 27, 38, 52)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))
]


FAR_POINTS = 20


def _box_at(origin: np.ndarray, spot: tuple[float, float], size: tuple[float, float], scale: float) -> np.ndarray:
    """Box of `size` pixels whose nearest edge or corner sits at `spot` points from `origin`."""
    corner = origin + np.array(spot) * scale - np.array(size) * (0.5 - 0.5 * np.sign(spot))
    return np.hstack([corner, corner + size])


def _cost(box: np.ndarray, taken: np.ndarray, inside: np.ndarray) -> float:
    """Pixels of `box` that are already taken, plus four times those outside the axes."""
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _shared(box, inside[None])
    return float(_shared(box, taken) + 4 * outside)


def _shared(box: np.ndarray, others: np.ndarray) -> float:
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return float(np.sum(width.clip(min=0) * height.clip(min=0)))
