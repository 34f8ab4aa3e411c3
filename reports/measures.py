"""What a plan is measured by; any pair of measures is a front."""

from __future__ import annotations

from typing import Literal, NamedTuple

from reports.style import ENERGY_UNITS, TIME_UNITS, Units, percent, points, quantity, signed_percent, unit_of


class Measure(NamedTuple):
    """A column of results with how people read it.

    Costs differ by ratios, so they stand on a logarithmic scale; a share, from 0 to 1, on a linear one. `ideal` is the
    column of the same plan on ideal arrays, `bound` that of the float network.
    """

    column: str
    name: str
    title: str
    units: Units
    better: Literal["lower", "higher"] = "lower"
    scale: Literal["log", "linear"] = "log"
    note: str = ""
    ideal: str = ""
    bound: str = ""

    @property
    def loss(self) -> int:
        """Factor that makes lower better."""
        return 1 if self.better == "lower" else -1

    def axis(self, typical: float, note: bool = True) -> tuple[float, str]:
        """Size of the unit in which `typical` is written, with the title of an axis in it."""
        size, unit = unit_of(typical, self.units)
        return size, self.title + (f" ({unit})" if unit else "") + (f", {self.note}" if note and self.note else "")

    def write(self, value: float) -> str:
        return percent(value, 2) if self.scale == "linear" else quantity(value, self.units)

    def change(self, new: float, old: float) -> float:
        """By which ratio less 1, or by which share, `new` differs."""
        return new - old if self.scale == "linear" else new / old - 1

    def write_change(self, change: float) -> str:
        return points(change) if self.scale == "linear" else signed_percent(change)


ENERGY = Measure(
    "energy_pj", "energy", "energy per image", ENERGY_UNITS, note="dynamic and leakage, always-on left out"
)
LATENCY = Measure("latency_ns", "latency", "latency of one image", TIME_UNITS)
INTERVAL = Measure("interval_ns", "interval", "time between images", TIME_UNITS)
AREA = Measure("area_mm2", "area", "chip area", ((1.0, "mm²"),))
BITS = Measure("bits_per_weight", "bits per weight", "stored bits per weight", ((1.0, ""),))
ACCURACY = Measure(
    "array_accuracy", "accuracy", "accuracy through the arrays", ((0.01, "%"),), "higher", "linear",
    ideal="ideal_accuracy", bound="float_accuracy",
)  # fmt: skip
MEASURES = {measure.column: measure for measure in (ENERGY, LATENCY, INTERVAL, AREA, BITS, ACCURACY)}


class Front(NamedTuple):
    """Two measures against each other; `name` is that of its files, `title` the page's."""

    name: str
    title: str
    x: Measure
    y: Measure


# What the page draws, in its order; a front that no row has both measures of is left out.
FRONTS = (
    Front("pareto", "Pareto front", ENERGY, ACCURACY),
    Front("latency", "Latency front", LATENCY, ACCURACY),
)
