"""Rows of results as a test needs them."""

from __future__ import annotations

import pandas as pd

from reports.frames import tidy


def rows_of(*entries: tuple) -> pd.DataFrame:
    """Result rows (kind, label, energy_pj, array_accuracy[, seed]) on one chip."""
    names = ("kind", "label", "energy_pj", "array_accuracy", "seed")
    rows = [dict(zip(names, (*entry, 0)[:5], strict=True)) for entry in entries]
    return tidy(pd.DataFrame(rows).assign(chip="c", test_images=10_000), "test")
