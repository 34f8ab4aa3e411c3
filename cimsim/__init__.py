"""cimsim: cycle-level compute-in-memory simulation, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cimsim.chip.reading import chip_names, load_chip
    from cimsim.engine.whole import simulate
    from cimsim.studies.table import build_table
    from workloads.plan import Plan
    from workloads.shapes import load_network, network_names

__version__ = "0.1.0"
__all__ = ["Plan", "build_table", "chip_names", "load_chip", "load_network", "network_names", "simulate"]

_HOME = {
    "simulate": "cimsim.engine.whole",
    "load_chip": "cimsim.chip.reading",
    "chip_names": "cimsim.chip.reading",
    "build_table": "cimsim.studies.table",
    "Plan": "workloads.plan",
    "load_network": "workloads.shapes",
    "network_names": "workloads.shapes",
}


def __getattr__(name: str) -> Any:
    """Import each public name when it is first asked for, so that starting up stays quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'cimsim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
