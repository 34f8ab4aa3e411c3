"""What a finished simulation costs: its actions priced, its waits named, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import ceil
from typing import Any

from cimsim import cost, rates
from cimsim.cost import CostReport, LayerCost
from cimsim.dataflow import LayerWork
from cimsim.dataflow.work import Actions
from cimsim.events import Timeline
from cimsim.functional import lossless_adc_bits
from cimsim.kernels import count_load
from cimsim.schedule import steady_counts
from cimsim.spec import Chip
from workloads.layer import Network, Node
from workloads.plan import Plan

Densities = Mapping[str, dict[str, float]]  # layer -> {"input": share of ones streamed, "cell": mean cell level}


class Reporter:
    """Prices one finished simulation."""

    def __init__(self, network, chip, plan, works, resident, images, densities, timeline):
        self.network: Network = network
        self.chip: Chip = chip
        self.plan: Plan = plan
        self.works: dict[str, LayerWork] = works
        self.resident: bool = resident
        self.images: float = images
        self.densities: Densities = densities
        self.timeline: Timeline = timeline

    def report(self, tasks) -> CostReport:
        chip, clock = self.chip, self.chip.clocks_hz["array"]
        layers = tuple(self.layer_cost(i + 1, node) for i, node in enumerate(self.network.nodes))
        source = cost.price(input_actions(self.network, chip), chip)
        energy = cost.add_energy([(layer.energy_by_component_pj, 1.0) for layer in layers] + [(source, 1.0)])
        dynamic = cost.total_pj(energy)
        leakage = cost.leakage_pj(chip, self.timeline.latency_ps)
        ops = 2 * self.network.num_macs
        return CostReport(
            network=self.network.name, chip=chip.name, plan=plan_label(self.plan),
            clocks_hz=dict(chip.clocks_hz), latency_clock="array",
            schedule=chip.schedule if self.resident else "layer_by_layer",
            weight_state="resident: loaded before the first image" if self.resident else "reloaded from outer memory",
            images_per_weight_load=self.images, op_convention=cost.OP_CONVENTION,
            energy_pj=dynamic + leakage, dynamic_pj=dynamic, leakage_pj=leakage,
            always_on_pj=cost.always_on_pj(chip, self.timeline.latency_ps),
            weight_load_pj=sum(self.load_pj(work) for work in self.works.values()),
            latency_cycles=rates.ticks(self.timeline.latency_ps, clock), latency_ns=self.timeline.latency_ps / 1000,
            interval_ns=self.interval_ps(tasks) / 1000, area_um2=chip.area_um2(), area_used_um2=self.area_used_um2(),
            tops_per_w=ops / (dynamic + leakage),
            stall_cycles=dict(sum((Counter(layer.stall_cycles) for layer in layers), Counter())),
            energy_by_component_pj=energy, layers=layers, sources=source_rows(chip), warnings=tuple(self.warnings()),
        )  # fmt: skip

    def layer_cost(self, index: int, node: Node) -> LayerCost:
        times, clock = self.timeline.tasks[index], self.chip.clocks_hz["array"]
        work = self.works.get(node.name)
        energy = self.layer_energy(node, work)
        stalls = self.stalls_ps(work, times)
        span = times.end_ps - times.start_ps
        return LayerCost(
            node.name, work.dataflow if work else "digital", work.format.name if work else "",
            self.bottleneck(work, times), cost.total_pj(energy), rates.ticks(span, clock), span / 1000,
            {cause: rates.ticks(ps, clock) for cause, ps in stalls.items()}, energy,
            work.placement.num_arrays if work else 0, work.placement.rounds if work else 0, self.resident,
            {"/".join(filter(None, key)): n for key, n in sorted(work.actions.items())} if work else {},
        )  # fmt: skip

    def layer_energy(self, node: Node, work: LayerWork | None) -> cost.EnergyPj:
        if work is None:
            return cost.price(digital_actions(node, self.chip), self.chip)
        compute = cost.price(work.actions + mesh_actions(work, self.chip), self.chip, self.densities.get(node.name))
        load = cost.price(full_load_actions(work, self.chip), self.chip)
        return cost.add_energy([(compute, 1.0), (load, 1.0 / self.images)])

    def load_pj(self, work: LayerWork) -> float:
        return cost.total_pj(cost.price(full_load_actions(work, self.chip), self.chip))

    def stalls_ps(self, work: LayerWork | None, times) -> dict[str, int]:
        waits = {"dependency": times.stall_dependency, "mesh": times.stall_mesh, "dram": times.stall_dram,
                 "index_starvation": times.stall_index_starvation}  # fmt: skip
        if work is None:
            return waits
        counts, rate = steady_counts(work), rates.converter_rate_hz(self.chip)
        rounds = 1 if self.resident else work.placement.rounds
        for cause in ("adc", "output", "fetch"):
            waits[cause] = rates.instant_ps(getattr(counts, f"stall_{cause}") * rounds, rate)
        loads = [] if self.resident else [(count_load(job), count) for job, count in work.load_jobs]
        for cause in ("index", "rom_port"):
            ticks = sum(getattr(load, f"stall_{cause}") * count for load, count in loads)
            waits[cause] = rates.instant_ps(ceil(ticks / self.chip.num_tiles), self.chip.clocks_hz["digital"])
        return waits

    def bottleneck(self, work: LayerWork | None, times) -> str:
        """What this layer spends most time on: weights (and why), or the slowest stage of its arrays."""
        if work is None:
            return "digital"
        if times.load_ps > times.busy_ps:
            return "outer memory" if 2 * times.stall_index_starvation > times.load_ps else "weight write"
        job = work.array_job
        stages = {"array read": job.read_ticks * job.reads, "adc": -(-job.conversions // job.adcs) * job.reads,
                  "operand fetch": job.fetch_ticks, "digital": job.digital_ticks, "write": job.write_ticks}  # fmt: skip
        return max(stages, key=lambda name: stages[name])

    def interval_ps(self, tasks) -> int:
        """Steady completion interval: the slowest stage when pipelined, else loads shared by their images."""
        busy = [times.busy_ps for times in self.timeline.tasks]
        if self.resident:
            return max(busy) if self.chip.schedule == "pipelined" else self.timeline.latency_ps
        images = max(1.0, self.images)
        return ceil((self.timeline.latency_ps + (images - 1) * sum(busy)) / images)

    def area_used_um2(self) -> float:
        """Units in use, times the area of one unit."""
        have = self.chip.num_tiles * self.chip.units_per_tile
        units = [work.placement.num_units for work in self.works.values()]
        return min(have, sum(units) if self.resident else max(units)) * rates.unit_area_um2(self.chip)

    def warnings(self):
        numbers = rates.array_numbers(self.chip)
        need = lossless_adc_bits(numbers)
        if numbers.adc_bits < need:
            yield (f"{self.chip.name}: adc.bits = {numbers.adc_bits}: reading {numbers.rows_on} rows without loss "
                   f"needs {need} bits; accuracy through the arrays may suffer")  # fmt: skip


def plan_label(plan: Plan) -> str:
    """`uniform linear-4`, or `mixed`."""
    formats = {choice.format for choice in plan.layers.values()}
    return f"uniform {formats.pop()}" if len(formats) == 1 else "mixed"


def input_actions(network: Network, chip: Chip) -> Actions:
    """The image comes from outer memory, or over the chip's link."""
    channels, rows, columns = network.input_shape
    source = ("dram", "", "read_bit") if chip.part("dram") else ("link", "", "transfer_bit")
    return Counter({source: channels * rows * columns * 8})


def digital_actions(node: Node, chip: Chip) -> Actions:
    """Pooling, adding and the like: operations, and the tile buffer read and written."""
    role = "pool" if chip.part("digital", "pool") else "activation"
    return Counter({
        ("digital", role, "op"): node.num_digital_ops,
        ("buffer", "tile", "read_bit"): node.num_digital_ops * 8,
        ("buffer", "tile", "write_bit"): node.num_elements * 8,
    })  # fmt: skip


def mesh_actions(work: LayerWork, chip: Chip) -> Actions:
    """The input tensor passes every router of the layer's tiles once."""
    part = chip.part("router")
    hops = ceil(work.placement.num_tiles / part.component.shared_by) if part else 0
    return Counter({("router", "", "hop_bit"): work.input_bits * hops})


def full_load_actions(work: LayerWork, chip: Chip) -> Actions:
    """One load of a layer's weights, outer memory and mesh included."""
    hops = sum(len(rates.mesh_path(chip, 0, tile)) for tile in range(work.placement.num_tiles))
    share = ceil(work.load_bits / work.placement.num_tiles)
    outer = ("dram", "", "read_bit") if chip.part("dram") else ("link", "", "transfer_bit")
    return work.load_actions + Counter({outer: work.load_bits, ("router", "", "hop_bit"): share * hops})


def source_rows(chip: Chip) -> tuple[dict[str, Any], ...]:
    """Every citation and assumption behind the chip's prices, one row each."""
    rows: list[dict[str, Any]] = []
    for part in chip.parts():
        component = part.component
        for band in (*component.assumptions, *component.ASSUMPTIONS):
            rows.append({"part": part.name, "kind": "assumption", "text": f"{band.name}: {band.why}",
                         "low": band.low, "nominal": band.nominal, "high": band.high, "unit": band.unit})  # fmt: skip
        citations = [f"stated: {component.stated.source}"] if component.stated else []
        citations += [source.citation for source in component.SOURCES]
        rows += [{"part": part.name, "kind": "citation", "text": text} for text in citations]
    return tuple(rows)
