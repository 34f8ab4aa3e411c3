"""Units of published figures: what they measure, and how many of our own units one of them is."""

from __future__ import annotations

from typing import NamedTuple


class Unit(NamedTuple):
    """`measures` names the kind of quantity; `size` is in pJ, ns, um2, mW, TOPS, TOPS/W, TOPS/mm2 or plain numbers."""

    measures: str
    size: float


UNITS: dict[str, Unit] = {
    "fJ": Unit("energy", 1e-3), "pJ": Unit("energy", 1), "nJ": Unit("energy", 1e3), "uJ": Unit("energy", 1e6),
    "mJ": Unit("energy", 1e9),
    "fJ/MAC": Unit("energy", 1e-3), "pJ/MAC": Unit("energy", 1), "fJ/op": Unit("energy", 1e-3),
    "ps": Unit("time", 1e-3), "ns": Unit("time", 1), "us": Unit("time", 1e3), "ms": Unit("time", 1e6),
    "um2": Unit("area", 1), "mm2": Unit("area", 1e6),
    "uW": Unit("power", 1e-3), "mW": Unit("power", 1), "W": Unit("power", 1e3),
    "GOPS": Unit("throughput", 1e-3), "TOPS": Unit("throughput", 1), "TOPS_1b": Unit("throughput_1b", 1),
    "GOPS/W": Unit("efficiency", 1e-3), "GOPS/s/W": Unit("efficiency", 1e-3), "TOPS/W": Unit("efficiency", 1),
    "TOPS_1b/W": Unit("efficiency_1b", 1),
    "GOPS/mm2": Unit("density", 1e-3), "GOPS/s/mm2": Unit("density", 1e-3), "TOPS/mm2": Unit("density", 1),
    "TOPS/s/mm2": Unit("density", 1), "TOPS_1b/mm2": Unit("density_1b", 1),
    "MB/mm2": Unit("storage", 8 * 2**20), "kb/mm2": Unit("storage", 1024), "Mb/mm2": Unit("storage", 2**20),
    "cycles": Unit("count", 1), "bit": Unit("count", 1), "count": Unit("count", 1), "": Unit("count", 1),
    "ratio": Unit("ratio", 1), "x": Unit("ratio", 1),
}  # fmt: skip
