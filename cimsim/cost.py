"""Counts x components: what a simulated network costs, by layer, component and action."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from cimsim.dataflow.work import Actions
from cimsim.spec import Chip

OP_CONVENTION = "2 operations per multiply-accumulate, at the plan's activation and weight bits"
DATA_ACTIONS = {("crossbar", "read_cell"): ("input", "cell"), ("dac", "drive"): ("input",)}
REFERENCE_DENSITY = 0.5  # of ones streamed in and of cell level: the point where unit energies are stated

EnergyPj = dict[str, dict[str, float]]  # component -> action -> pJ


@dataclass(frozen=True)
class LayerCost:
    """One node's share. Energy is dynamic, for one image, its share of weight loading included."""

    name: str
    dataflow: str
    format: str
    bottleneck: str
    energy_pj: float
    latency_cycles: int
    latency_ns: float
    stall_cycles: dict[str, int]
    energy_by_component_pj: EnergyPj
    arrays: int
    rounds: int
    resident: bool
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CostReport:
    """A network on a chip. `energy_pj` = dynamic + leakage of one image; always-on power stands apart."""

    network: str
    chip: str
    plan: str
    clocks_hz: dict[str, int]
    latency_clock: str
    schedule: str
    weight_state: str
    images_per_weight_load: float
    op_convention: str
    energy_pj: float
    dynamic_pj: float
    leakage_pj: float
    always_on_pj: float
    weight_load_pj: float
    latency_cycles: int
    latency_ns: float
    interval_ns: float
    area_um2: float
    area_used_um2: float
    tops_per_w: float
    stall_cycles: dict[str, int]
    energy_by_component_pj: EnergyPj
    layers: tuple[LayerCost, ...]
    sources: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; an infinite `images_per_weight_load` becomes the word `inf`."""
        plain = asdict(self)
        if self.images_per_weight_load == float("inf"):
            plain["images_per_weight_load"] = "inf"
        return plain


def price(actions: Actions, chip: Chip, densities: dict[str, float] | None = None) -> EnergyPj:
    """Energy by component and action. Parts a chip does not have cost nothing.

    `densities` (`input`: share of ones streamed in, `cell`: mean cell level) scale what depends on data.
    """
    energy: EnergyPj = defaultdict(dict)
    for (kind, role, action), count in sorted(actions.items()):
        part = chip.part(kind, role) or chip.part(kind)  # a kind's only part plays all its roles
        if part is None or count == 0:
            continue
        unit_pj = part.component.energy_pj(action, chip.technology) * _data_factor(kind, action, densities)
        energy[part.name][action] = energy[part.name].get(action, 0.0) + count * unit_pj
    return dict(energy)


def _data_factor(kind: str, action: str, densities: dict[str, float] | None) -> float:
    factor = 1.0
    if densities:
        for which in DATA_ACTIONS.get((kind, action), ()):
            factor *= densities[which] / REFERENCE_DENSITY
    return factor


def total_pj(energy: EnergyPj) -> float:
    return sum(sum(actions.values()) for actions in energy.values())


def add_energy(parts: list[tuple[EnergyPj, float]]) -> EnergyPj:
    """Weighted sum of energies by component and action."""
    result: dict[str, Counter] = defaultdict(Counter)
    for energy, weight in parts:
        for name, actions in energy.items():
            for action, value in actions.items():
                result[name][action] += value * weight
    return {name: dict(actions) for name, actions in sorted(result.items())}


def leakage_pj(chip: Chip, duration_ps: int) -> float:
    """Whole chip, unused arrays included: uW x ps = 1e-6 pJ."""
    return chip.leakage_uw() * duration_ps * 1e-6


def always_on_pj(chip: Chip, duration_ps: int) -> float:
    """Parts that never sleep: mW x ps = 1e-3 pJ."""
    return chip.always_on_mw() * duration_ps * 1e-3
