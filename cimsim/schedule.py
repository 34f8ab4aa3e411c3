"""From works to tasks: block times, operand needs, mesh paths and weight loads for the event layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

from cimsim import rates
from cimsim.dataflow.work import LayerWork
from cimsim.events import Edge, Load, Task
from cimsim.kernels import count_load, count_mvm
from cimsim.records import Counts
from cimsim.spec import Chip
from cimsim.streams import needed_rows
from workloads.layer import Network, Node


def build_tasks(network: Network, works: Mapping[str, LayerWork], chip: Chip, resident: bool) -> list[Task]:
    """Task 0 brings the input; then one task per node, in network order."""
    homes = _homes(network, works, resident)
    index_of = {"input": 0} | {node.name: i + 1 for i, node in enumerate(network.nodes)}
    tasks = [_input_task(network, chip)]
    for node in network.nodes:
        edges = tuple(
            _edge(network, node, k, index_of[name], works, chip, rates.mesh_path(chip, homes[name], homes[node.name]))
            for k, name in enumerate(node.inputs)
        )
        if node.layer is None:
            tasks.append(_digital_task(node, edges, chip))
        else:
            work = works[node.name]
            loads = () if resident else weight_loads(work, chip)
            tasks.append(_layer_task(node, work, edges, loads, chip))
    return tasks


def alone_tasks(work: LayerWork, chip: Chip, resident: bool) -> list[Task]:
    """One layer whose whole input is there at time 0."""
    layer = work.layer
    node = Node(name=layer.name, op="layer", layer=layer, out_shape=(layer.num_outputs, *layer.out_size))
    edge = Edge(0, (0,) * layer.out_size[0])
    return [Task("input", 1, 0, 0), _layer_task(node, work, (edge,), () if resident else weight_loads(work, chip), chip)]


def digital_tasks_ps(network: Network, chip: Chip) -> int:
    """Time of the input and of the digital nodes, one after the other."""
    tasks = [_input_task(network, chip)] + [_digital_task(n, (), chip) for n in network.nodes if n.layer is None]
    return sum(task.blocks * task.work_ps for task in tasks)


def steady_counts(work: LayerWork) -> Counts:
    """The unit's counts, with at least three vectors so that the interval is the steady one."""
    return count_mvm(work.array_job._replace(vectors=max(3, work.array_job.vectors)))


def _layer_task(node: Node, work: LayerWork, edges: tuple[Edge, ...], loads: tuple, chip: Chip) -> Task:
    counts, rate = steady_counts(work), rates.converter_rate_hz(chip)
    rows = node.out_shape[1]
    per_row = ceil(work.layer.num_positions / rows)
    work_ps = rates.instant_ps(per_row * counts.interval, rate)
    latency_ps = rates.instant_ps(counts.first_result, rate) - rates.instant_ps(counts.interval, rate)
    return Task(node.name, rows, work_ps, latency_ps, edges, work.placement.rounds if loads else 1, loads)


def _digital_task(node: Node, edges: tuple[Edge, ...], chip: Chip) -> Task:
    rows = node.out_shape[1]
    return Task(node.name, rows, rates.pool_ps(chip, ceil(node.num_digital_ops / rows)), 0, edges)


def _input_task(network: Network, chip: Chip) -> Task:
    channels, rows, columns = network.input_shape
    return Task("input", rows, rates.memory_ps(chip, channels * columns * 8), 0, on_memory=chip.part("dram") is not None)


def _edge(
    network: Network, node: Node, k: int, producer: int, works: Mapping[str, LayerWork], chip: Chip, path: tuple
) -> Edge:
    name = node.inputs[k]
    channels, rows, columns = network.input_shape if name == "input" else network.node(name).out_shape
    bits = works[node.name].input_bits if node.layer else channels * rows * columns * 8
    need = _needs(node, rows)
    return Edge(producer, need, path, rates.transfer_ps(chip, ceil(bits / rows)) if path else 0)


def _needs(node: Node, in_rows: int) -> tuple[int, ...]:
    """The last input row each output row needs: a window's, the same row, or (a flattened input) all."""
    rows = node.out_shape[1]
    if node.layer is not None and node.layer.in_size[0] == in_rows and in_rows > 1:
        window = (node.layer.kernel[0], node.layer.stride[0], node.layer.padding[0])
    elif node.op in ("max_pool", "avg_pool"):
        window = (node.kernel[0], node.stride[0], node.padding[0])
    elif rows == in_rows and node.op in ("add", "relu", "gelu", "concat", "layer_norm"):
        window = (1, 1, 0)
    else:
        return (in_rows - 1,) * rows
    return tuple(int(row) for row in needed_rows(rows, in_rows, *window))


def _homes(network: Network, works: Mapping[str, LayerWork], resident: bool) -> dict[str, int]:
    """First tile of each node: resident layers follow each other, reloaded ones all start at tile 0."""
    homes, next_tile = {"input": 0}, 0
    for node in network.nodes:
        if node.layer is None:
            homes[node.name] = homes[node.inputs[0]]
            continue
        homes[node.name] = next_tile if resident else 0
        next_tile += works[node.name].placement.num_tiles if resident else 0
    return homes


def weight_loads(work: LayerWork, chip: Chip) -> tuple[tuple[Load, ...], ...]:
    """For each round, one load per tile that takes part."""
    per_tile = chip.arrays_per_unit * chip.units_per_tile
    fill_ticks = sum(count_load(job).ticks * count for job, count in work.load_jobs)
    rounds, left = [], work.placement.num_arrays
    for _ in range(work.placement.rounds):
        in_round = min(left, per_tile * chip.num_tiles)
        rounds.append(tuple(
            _tile_load(work, chip, tile, min(per_tile, in_round - tile * per_tile), fill_ticks)
            for tile in range(ceil(in_round / per_tile))
        ))  # fmt: skip
        left -= in_round
    return tuple(rounds)


def _tile_load(work: LayerWork, chip: Chip, tile: int, arrays: int, fill_ticks: int) -> Load:
    share = work.placement.num_arrays
    bits, ticks = ceil(work.load_bits * arrays / share), ceil(fill_ticks * arrays / share)
    chunk = min(chunk_bits(chip), bits)
    chunks = ceil(bits / chunk)
    rest = bits - (chunks - 1) * chunk
    clock, path = chip.clocks_hz["digital"], rates.mesh_path(chip, 0, tile)
    fill_ps = rates.instant_ps(ceil(ticks * chunk / bits), clock)
    fill_rest_ps = rates.instant_ps(ceil(ticks * rest / bits), clock)
    memory = chip.part("dram")
    return Load(
        tile, chunks, rates.memory_ps(chip, chunk), rates.memory_ps(chip, rest), fill_ps, fill_rest_ps,
        memory.component.latency_ps if memory else 0, path, rates.transfer_ps(chip, chunk) if path else 0,
    )  # fmt: skip


def chunk_bits(chip: Chip) -> int:
    """Bits fetched at once: one prefetch block of the index buffer, or half the tile buffer without one."""
    index = chip.part("index_buffer")
    if index is not None:
        return index.component.capacity_bits // index.component.prefetch_blocks
    buffer = chip.part("buffer", "tile")
    assert buffer is not None, "load_chip refuses a chip without a tile buffer"
    return buffer.component.capacity_bits // 2


def buffer_chunks(chip: Chip) -> int:
    index = chip.part("index_buffer")
    return index.component.prefetch_blocks if index is not None else 2
