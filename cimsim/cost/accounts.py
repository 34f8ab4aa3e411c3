"""What a finished simulation comes to: its actions priced, its waits named, layer by layer and in total."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

from cimsim.arrays.encodings import lossless_adc_bits
from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.chip.numbers import array_numbers
from cimsim.components.base import Activity
from cimsim.cost.account import Account
from cimsim.cost.prices import Prices, add_energy, always_on_pj, leakage_pj, total_pj
from cimsim.cost.report import OP_CONVENTION, CostReport, LayerCost
from cimsim.cost.stalls import bottleneck, interval_ps, roofline, stalls_ps
from cimsim.dataflow import LayerWork
from cimsim.deploy import traffic
from cimsim.deploy.deployment import Deployment, paths
from cimsim.events import TaskTimes
from cimsim.records import Actions, EnergyPj
from workloads.plan import Plan


def report(account: Account, plan: Plan) -> CostReport:
    """The whole: sums of the layers, and what belongs to no layer."""
    network, chip = account.deployment.network, account.deployment.chip
    latency_ps, clock = account.timeline.latency_ps, chip.clocks_hz["array"]
    layers = tuple(_layer_costs(account))
    energy = add_energy([(layer.energy_by_component_pj, 1.0) for layer in layers])
    dynamic, leakage = total_pj(energy), leakage_pj(chip, latency_ps)
    works = account.deployment.works.values()
    return CostReport(
        network=network.name, chip=chip.name, plan=plan_label(plan), batch=network.batch,
        clocks_hz=dict(chip.clocks_hz), latency_clock="array", schedule=account.deployment.schedule,
        weight_state=weight_state(account.deployment),
        images_per_weight_load=account.images_per_load, op_convention=OP_CONVENTION,
        energy_pj=dynamic + leakage, dynamic_pj=dynamic, leakage_pj=leakage,
        always_on_pj=always_on_pj(chip, latency_ps),
        weight_load_pj=sum(total_pj(load_energy(work, account.prices)) for work in works),
        latency_cycles=rates.ticks(latency_ps, clock), latency_ns=latency_ps / 1000,
        interval_ns=interval_ps(account) / 1000,
        area_um2=chip.area_um2(), area_used_um2=area_used_um2(account.deployment),
        tops_per_w=2 * network.num_macs / (dynamic + leakage),
        stall_cycles={cause: sum(layer.stall_cycles[cause] for layer in layers) for cause in layers[0].stall_cycles},
        energy_by_component_pj=energy, layers=layers, sources=source_rows(chip), warnings=tuple(warnings(account)),
    )  # fmt: skip


def weight_state(deployment: Deployment) -> str:
    """Where weights, codebooks and codes are while images pass."""
    whole = "resident: loaded before the first image" if deployment.resident else "reloaded from outer memory"
    is_streamed = any(work.stream for work in deployment.works.values())
    return whole + ("; codes of looked-up layers come from outer memory for every image" if is_streamed else "")


def _layer_costs(account: Account) -> Iterator[LayerCost]:
    deployment, links = account.deployment, paths(account.deployment)
    tasks = iter(account.timeline.tasks)
    yield _layer_cost(account, next(tasks), "input", None, traffic.input_actions(deployment.network, deployment.chip))
    for node, times in zip(deployment.network.nodes, tasks, strict=True):
        work = deployment.works.get(node.name)
        actions = traffic.own_actions(node, work, deployment) + traffic.way_actions(node, links[node.name], deployment)
        yield _layer_cost(account, times, node.name, work, actions)


def _layer_cost(account: Account, times: TaskTimes, name: str, work: LayerWork | None, actions: Actions) -> LayerCost:
    loads = account.deployment.network.batch / account.images_per_load
    energy = node_energy(actions, work, account.prices, loads, account.activity.get(name))
    clock, span_ps = account.deployment.chip.clocks_hz["array"], times.end_ps - times.start_ps
    least_ns, bound = roofline(actions, work, times, account)
    lost_ps = stalls_ps(work, times, account.deployment)
    return LayerCost(
        name=name, dataflow=work.dataflow if work else "digital", format=work.format.name if work else "",
        bottleneck=bottleneck(work, times), energy_pj=total_pj(energy), latency_cycles=rates.ticks(span_ps, clock),
        latency_ns=span_ps / 1000, weight_load_ns=(times.fill_ps + times.starved_ps + times.queued_ps) / 1000,
        roofline_ns=least_ns, roofline_bound=bound,
        stall_cycles={cause: rates.ticks(ps, clock) for cause, ps in lost_ps.items()}, energy_by_component_pj=energy,
        arrays=work.placement.num_arrays if work else 0, rounds=work.placement.rounds if work else 0,
        resident=account.deployment.resident,
        counts={"/".join(filter(None, key)): n for key, n in sorted(actions.items())},
        dataflow_reason=work.why if work else "",
    )  # fmt: skip


def node_energy(
    actions: Actions, work: LayerWork | None, prices: Prices, loads: float, activity: Activity | None = None
) -> EnergyPj:
    """Dynamic energy of the batch: all of its actions, and its share of weight loads (`loads` of one)."""
    compute = prices.price(actions, activity)
    return add_energy([(compute, 1.0), (load_energy(work, prices), loads)]) if work else compute


def load_energy(work: LayerWork, prices: Prices) -> EnergyPj:
    return prices.price(traffic.load_actions(work, prices.chip))


def area_used_um2(deployment: Deployment) -> float:
    """Units in use (the most at one time, if layers take turns on them), times the area of one unit."""
    have = deployment.chip.num_tiles * deployment.chip.units_per_tile
    units = [work.placement.num_units for work in deployment.works.values()]
    used = sum(units) if deployment.resident else max(units, default=0)
    return min(have, used) * rates.unit_area_um2(deployment.chip)


def warnings(account: Account) -> Iterator[str]:
    """What a reader must know before believing the figures."""
    chip, images = account.deployment.chip, account.images_per_load
    numbers = array_numbers(chip)
    need = lossless_adc_bits(numbers)
    if numbers.adc_bits < need:
        yield (f"{chip.name}: adc.bits = {numbers.adc_bits}: reading {numbers.rows_on} rows without loss "
               f"needs {need} bits; accuracy through the arrays may suffer")  # fmt: skip
    if account.deployment.resident:
        return
    endurance = getattr(chip.array, "endurance_writes", None)
    if endurance and images < inf:
        writes = sum(work.placement.rounds for work in account.deployment.works.values()) / images
        life_s = endurance / writes * interval_ps(account) * 1e-12
        yield (f"{chip.name}: array.endurance_writes = {endurance:g}: reloading writes the busiest cells {writes:g} "
               f"times an image; they last {endurance / writes:.3g} images, {life_s:.3g} s of steady work")  # fmt: skip
    batch = account.deployment.network.batch
    maps = max((account.deployment.map_bits(node.name) for node in account.deployment.network.nodes), default=0)
    if images > batch and images / batch * maps > rates.map_buffer_bits(chip):
        yield (f"images_per_weight_load = {images:g}: feature maps of up to {maps // batch} bits an image wait between "
               "layers, more than the buffers hold together; that traffic is only in figures of a batch")  # fmt: skip


def plan_label(plan: Plan) -> str:
    """`uniform linear-4`, or `mixed`."""
    formats = {choice.format for choice in plan.layers.values()}
    return f"uniform {formats.pop()}" if len(formats) == 1 else "mixed"


def source_rows(chip: Chip) -> tuple[dict[str, Any], ...]:
    """Every citation and assumption behind the chip's prices, one row each."""
    rows: list[dict[str, Any]] = []
    for part in chip.placed:
        component = part.component
        for band in (*component.assumptions, *component.ASSUMPTIONS):
            rows.append({"part": part.name, "kind": "assumption", "text": f"{band.name}: {band.why}",
                         "low": band.low, "nominal": band.nominal, "high": band.high, "unit": band.unit})  # fmt: skip
        citations = [f"stated: {component.stated.source}"] if component.stated else []
        citations += [source.citation for source in component.SOURCES]
        rows += [{"part": part.name, "kind": "citation", "text": text} for text in citations]
    return tuple(rows)
