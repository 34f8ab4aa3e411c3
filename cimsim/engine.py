"""simulate(): the story in four steps. Place the layers, count their work, wait for each other, price it."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from cimsim import cost, rates
from cimsim.cost import CostReport
from cimsim.dataflow import DATAFLOWS, LayerWork
from cimsim.dataflow.work import array_job, compute_actions
from cimsim.events import Timeline, run
from cimsim.mapping import Unmappable, place
from cimsim.pricing import Densities, Reporter, digital_actions, full_load_actions, input_actions, mesh_actions
from cimsim.schedule import alone_tasks, buffer_chunks, build_tasks, digital_tasks_ps
from cimsim.spec import Chip
from workloads.errors import InputError
from workloads.layer import Layer, Network
from workloads.plan import LayerPlan, Plan


def simulate(
    network: Network,
    chip: Chip,
    plan: Plan | None = None,
    *,
    images_per_weight_load: float | None = None,
    densities: Densities | None = None,
) -> CostReport:
    """Energy, latency and area of one image of `network` on `chip` under `plan` (default: 8-bit linear).

    Raises InputError that names every layer which the chip cannot hold or decode, and why.
    """
    return simulate_timeline(
        network, chip, plan, images_per_weight_load=images_per_weight_load, densities=densities
    )[0]  # fmt: skip


def simulate_timeline(
    network: Network,
    chip: Chip,
    plan: Plan | None = None,
    *,
    images_per_weight_load: float | None = None,
    densities: Densities | None = None,
) -> tuple[CostReport, Timeline]:
    """As `simulate`, with who was busy or waiting when."""
    plan = plan or Plan.uniform(network, "linear-8")
    works = layer_works(network, chip, plan)
    resident = is_resident(works, chip)
    _check_reload(network, works, chip, resident)
    images = images_per_weight_load or (inf if resident else 1)
    tasks = build_tasks(network, works, chip, resident)
    pipelined = resident and chip.schedule == "pipelined"
    timeline = run(tasks, pipelined=pipelined, buffer_chunks=buffer_chunks(chip))
    report = Reporter(network, chip, plan, works, resident, images, densities or {}, timeline).report(tasks)
    return report, timeline


def layer_works(network: Network, chip: Chip, plan: Plan) -> dict[str, LayerWork]:
    """Place every layer and count its work. Raises InputError with all refusals at once."""
    plan.check(network)
    works, problems = {}, list(_rom_problems(chip, plan))
    for layer in network.layers:
        try:
            works[layer.name] = layer_work(layer, plan.layers[layer.name], chip)
        except Unmappable as refused:
            problems.append(f"layers.{layer.name}.format = {plan.layers[layer.name].format!r}: {refused}")
    if problems:
        raise InputError(f"{network.name} on {chip.name}", problems)
    return works


def layer_work(layer: Layer, choice: LayerPlan, chip: Chip) -> LayerWork:
    """One layer's placement, array job and actions. Raises Unmappable with the reason."""
    fmt, bits = choice.weight_format, choice.activation_bits
    name = ("stationary" if fmt.kind == "linear" else "decode") if choice.dataflow == "auto" else choice.dataflow
    dataflow = DATAFLOWS[name]
    if reason := dataflow.refusal(fmt, chip):
        raise Unmappable(reason)
    placement = place(layer, fmt, chip)
    return LayerWork(
        layer, fmt, name, placement,
        array_job(layer, placement, chip, bits),
        compute_actions(layer, fmt, placement, chip, bits),
        dataflow.load_jobs(fmt, placement, chip),
        fmt.bits(layer).total,
        dataflow.load_actions(layer, fmt, placement),
        input_bits=layer.in_channels * layer.in_size[0] * layer.in_size[1] * bits,
        output_bits=layer.num_outputs * layer.num_positions * bits,
    )  # fmt: skip


def is_resident(works: Mapping[str, LayerWork], chip: Chip) -> bool:
    """Whether all layers have arrays of their own, each starting on a fresh unit."""
    return sum(work.placement.num_units for work in works.values()) <= chip.num_tiles * chip.units_per_tile


def _check_reload(network: Network, works: Mapping[str, LayerWork], chip: Chip, resident: bool) -> None:
    if resident or chip.part("dram") is not None:
        return
    need = sum(work.placement.num_units for work in works.values()) * chip.arrays_per_unit
    have = chip.num_tiles * chip.units_per_tile * chip.arrays_per_unit
    raise InputError(
        f"{network.name} on {chip.name}",
        [f"the network needs {need} arrays, the chip has {have} and no outer memory (dram) to reload from: "
         "use fewer bits, more tiles, or add a dram part"],
    )  # fmt: skip


def _rom_problems(chip: Chip, plan: Plan):
    """The ROM holds every distinct book of the plan at once."""
    rom, books = chip.part("codebook_rom"), plan.codebooks()
    bits = sum(fmt.codebook_bits for fmt in books.values())
    if rom is not None and bits > rom.component.capacity_bits:
        yield (f"codebooks {', '.join(sorted(books))} have {bits} bits together, "
               f"the ROM {rom.name} holds {rom.component.capacity_bits}: share books or enlarge it")  # fmt: skip


def cost_alone(
    work: LayerWork, chip: Chip, resident: bool, images: float, densities: dict[str, float] | None
) -> tuple[float, float, float]:
    """Energy (pJ, leakage included), latency (ns) and array area (um2) of one layer with the chip to itself."""
    timeline = run(alone_tasks(work, chip, resident), pipelined=resident, buffer_chunks=buffer_chunks(chip), trace=False)
    compute = cost.price(work.actions + mesh_actions(work, chip), chip, densities)
    load = cost.price(full_load_actions(work, chip), chip)
    energy = cost.total_pj(compute) + cost.total_pj(load) / images + cost.leakage_pj(chip, timeline.latency_ps)
    units = min(work.placement.num_units, chip.num_tiles * chip.units_per_tile)
    return energy, timeline.latency_ps / 1000, units * rates.unit_area_um2(chip)


def fixed_cost(network: Network, chip: Chip) -> tuple[float, float]:
    """Energy (pJ) and time (ns) that every plan pays: the input and the digital nodes."""
    actions = sum((digital_actions(node, chip) for node in network.nodes if node.layer is None), input_actions(network, chip))
    duration_ps = digital_tasks_ps(network, chip)
    return cost.total_pj(cost.price(actions, chip)) + cost.leakage_pj(chip, duration_ps), duration_ps / 1000
