"""Counts x components: what a simulated network costs, by layer, component and action."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cimsim.records import EnergyPj

OP_CONVENTION = "2 operations per multiply-accumulate, at the plan's activation and weight bits"


@dataclass(frozen=True)
class LayerCost:
    """One node's share; the first is the network's input. Energy is dynamic, for the batch, its share of
    weight loading included; `counts` are the actions behind it, weight loading apart.

    Pipelined, latency runs from the node's first block at work to its last result; layer by layer it begins
    with the node's turn, so that weight loading (`weight_load_ns`) is in it. `roofline_ns` is the least time that its
    slowest stage at full pace and its traffic with the outer memory allow: `roofline_bound` tells which of the two
    is longer (traffic may run before the layer's turn, or in its reader's). `stall_cycles` divide what of the
    latency is lost, each cycle under one cause and rounded up to a cycle of the array clock:
      dependency        operands are not made yet
      mesh              operands are made, and wait for or cross mesh links
      dram              operands or weights wait for (operands: or cross) the outer memory's channel
      index_starvation  the writer of weights waits for weights, or the gather unit for codes, on their way to it
      index, rom_port   the writer waits for index words, for the ports or the latency of ROM or decoder
      bank_conflict     a gather waits for banks that several of its lanes want
      products          the gather unit, or signs beside a pool, wait for products that are not made yet
      adc               arrays hold a finished read that waits for converters
      output            arrays hold a finished read that waits for the stages after the converters
      fetch             arrays wait for operands from the tile's own buffer
    """

    name: str
    dataflow: str
    format: str
    bottleneck: str
    energy_pj: float
    latency_cycles: int
    latency_ns: float
    weight_load_ns: float
    roofline_ns: float
    roofline_bound: str
    stall_cycles: dict[str, int]
    energy_by_component_pj: EnergyPj
    arrays: int
    rounds: int
    resident: bool
    counts: dict[str, int] = field(default_factory=dict)
    dataflow_reason: str = ""  # why this one, where the plan left it open


@dataclass(frozen=True)
class CostReport:
    """A batch of images through a network on a chip. `energy_pj` = dynamic + leakage of the batch, `latency_ns` from
    its first byte to its last result, `interval_ns` one image's share of a steady stream; always-on power stands apart.
    """

    network: str
    chip: str
    plan: str
    batch: int
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
