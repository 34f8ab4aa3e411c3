"""A finding: one sentence of the verdict."""

from __future__ import annotations

from typing import NamedTuple

BASELINE = "uniform linear-4"  # what plans are compared with


class Finding(NamedTuple):
    """`tone` is good, bad or plain."""

    tone: str
    text: str
