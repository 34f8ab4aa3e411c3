"""Means over seeds, with 95 % t-intervals."""

from __future__ import annotations

from math import nan, sqrt

import numpy as np
import pandas as pd

from reports.frames import Frame
from reports.measures import MEASURES

# Student's t, 97.5 % quantile, for 1 to 30 degrees of freedom (tests integrate the density to check them).
T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
NORMAL_QUANTILE = 1.960

GROUP = ["chip", "vary", "kind", "label"]


def interval95(values: pd.Series) -> tuple[float, float]:
    """Mean and half width of the 95 % t-interval; the half width is NaN for fewer than two values."""
    kept = values.dropna().to_numpy(float)
    if len(kept) < 2:
        return (float(kept[0]) if len(kept) else nan), nan
    quantile = T_QUANTILES[len(kept) - 2] if len(kept) - 2 < len(T_QUANTILES) else NORMAL_QUANTILE
    return float(np.mean(kept)), float(quantile * np.std(kept, ddof=1) / sqrt(len(kept)))


def summarize(results: Frame) -> Frame:
    """One row per chip, variant, kind and label: means of all numbers over seeds.

    Adds `num_seeds` and the half widths of measures, as `energy_pj_half`; `key` and `plan` are those of the
    lowest seed, and `met` holds only if all seeds meet the budget. Random plans are
    different plans, so each stays alone under its key.
    """
    rows = []
    own = results["label"].where(results["kind"] != "random", results["key"])
    for _, group in (
        results.assign(label=own).sort_values("seed", kind="stable").groupby(GROUP, sort=False, dropna=False)
    ):
        row = group.iloc[0].to_dict() | group.mean(numeric_only=True).to_dict()
        row["num_seeds"] = len(group)
        row["met"] = None if group["met"].isna().all() else not (group["met"] == False).any()  # noqa: E712
        for column in MEASURES:
            row[column], row[f"{column}_half"] = interval95(group[column])
        rows.append(row)
    return pd.DataFrame(rows)


def averaged(table: Frame, by: list[str]) -> Frame:
    """Means of all other columns for each combination of `by`, in order of appearance."""
    return table.groupby(by, sort=False).mean().reset_index()


def paired(results: Frame, column: str, one: str, other: str) -> Frame:
    """`column` of the labels `one` and `other` side by side, one row per seed that has both."""
    sides = [
        results[results["label"] == label].drop_duplicates("seed").set_index("seed")[column] for label in (one, other)
    ]
    return pd.concat(sides, axis=1, keys=["one", "other"]).dropna()
