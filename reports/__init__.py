"""Figures in one HTML page, from run directories; nothing here simulates."""

from __future__ import annotations

from pathlib import Path

__all__ = ["plot_front"]


def plot_front(rows: list[dict], path: Path | str, *, x: str = "energy_pj", y: str = "array_accuracy") -> list[Path]:
    """Draws two measures, energy against accuracy, with the non-dominated front; see `reports.front.plot_front`.

    The drawing library is imported on the first call, so `import reports` is free.
    """
    from reports.front import plot_front as draw

    return draw(rows, Path(path), x=x, y=y)
