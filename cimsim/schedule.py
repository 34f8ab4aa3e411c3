"""From works to tasks: block times, operand needs, paths and weight loads for the event layer."""

from __future__ import annotations

from fractions import Fraction
from functools import cache, partial
from math import ceil

from cimsim import rates
from cimsim.dataflow import LayerWork
from cimsim.deployment import MAP_BITS, Deployment, digital_ops, digital_role, paths
from cimsim.events import MEMORY, Edge, Load, Stream, Task
from cimsim.kernels import count_load
from cimsim.spec import Chip
from cimsim.streams import needed_rows
from workloads.layer import Node


def build_tasks(deployment: Deployment) -> list[Task]:
    """Task 0 brings the input; then one task per node, in network order. A block is one output row."""
    network = deployment.network
    index_of = {"input": 0} | {node.name: i + 1 for i, node in enumerate(network.nodes)}
    links = paths(deployment)
    tasks = [_input_task(deployment)]
    for node in network.nodes:
        edges = tuple(
            _edge(deployment, node, name, index_of[name], path)
            for name, path in zip(node.inputs, links[node.name], strict=True)
        )
        tasks.append(_task(deployment, node, deployment.works.get(node.name), edges))
    return tasks


def alone_tasks(deployment: Deployment, node: Node, work: LayerWork) -> list[Task]:
    """One layer whose input is there at time 0, in its tiles or in outer memory, and which starts the chip."""
    rows = deployment.shape(node.inputs[0])[1]
    edge = _edge(deployment, node, node.inputs[0], 0, ())
    return [Task("input", rows, 0, 0), _task(deployment, node, work, (edge,))]


def fixed_ps(deployment: Deployment) -> int:
    """Time of the input and of the digital nodes, one after the other."""
    nodes = [node for node in deployment.network.nodes if node.layer is None]
    tasks = [_input_task(deployment)] + [_task(deployment, node, None, ()) for node in nodes]
    edges = [_edge(deployment, node, name, 0, ()) for node in nodes for name in node.inputs]
    moved = sum(edge.transfer_ps * (max(edge.need) + 1) for edge in edges)
    return sum(task.blocks * task.work_ps for task in tasks) + moved


def _task(deployment: Deployment, node: Node, work: LayerWork | None, edges: tuple[Edge, ...]) -> Task:
    chip, rows = deployment.chip, node.out_shape[1]
    if work is None:
        row_ps = rates.digital_ps(chip, digital_role(node), ceil(digital_ops(node) / rows))
        return Task(node.name, rows, row_ps, 0, edges)
    rate, interval = work.clock_hz, work.interval_ticks
    work_ps = rates.instant_ps(interval * _positions_at_once(work, rows), rate)
    if work.deliveries > 1 and deployment.stores.get(node.inputs[0]) == "memory":
        work_ps = max(work_ps, rates.memory_ps(chip, ceil(deployment.map_bits(node.inputs[0]) / rows)))
    if work.stream is not None:
        return _streaming_task(deployment, node, work, edges, work_ps)
    latency_ps = rates.instant_ps(work.first_ticks, rate) - rates.instant_ps(interval, rate)
    loads = () if deployment.resident else weight_loads(work, chip)
    return Task(node.name, rows, work_ps, latency_ps, edges, max(1, len(loads)), loads)


def _streaming_task(deployment: Deployment, node: Node, work: LayerWork, edges: tuple[Edge, ...], work_ps: int) -> Task:
    """A layer whose codes come while it works. Transfers begin and end with cycles of the tile's clock. Where layers
    take turns, the next one begins when the pipeline is empty. Books that are not resident are loaded before."""
    chip, rows, moved = deployment.chip, node.out_shape[1], work.stream
    assert moved is not None, "asked for works with a stream only"
    clock, blocks = chip.clocks_hz["digital"], rows if moved.readings == moved.rounds else 1
    opening_ps = _whole_cycles(rates.memory_ps(chip, moved.opening_bits), clock) if moved.opening_bits else 0
    result_ps = rates.memory_ps(chip, moved.result_bits) if moved.result_bits else 0
    all_bits = moved.index_bits + moved.other_bits + moved.result_bits
    all_ps = _whole_cycles(rates.memory_ps(chip, all_bits), clock)
    chunks = ceil(moved.index_bits / blocks / (chunk_bits(chip) * work.placement.num_tiles))
    round_ps = rates.instant_ps(work.interval_ticks * moved.positions, work.clock_hz)
    drain_ps = rates.instant_ps(moved.drain_ticks, work.clock_hz)
    memory, path = chip.part("dram"), rates.mesh_path(chip, 0, work.placement.num_tiles - 1)
    stream = Stream(
        opening_ps, rates.instant_ps(moved.head_ticks, work.clock_hz), blocks, chunks, (all_ps - result_ps) // blocks,
        work_ps if blocks == rows else min(work_ps, round_ps), 0 if deployment.pipelined else drain_ps,
        ceil(chunks / moved.parts) if result_ps else 0, result_ps // rows,
        memory.component.latency_ps if memory else 0, path, rates.transfer_ps(chip, chunk_bits(chip), len(path)),
    )  # fmt: skip
    latency_ps = drain_ps if deployment.pipelined else 0
    loads = () if deployment.resident or not work.load_bits else weight_loads(work, chip)
    return Task(node.name, rows, work_ps, latency_ps, edges, loads=loads, stream=stream)


def _whole_cycles(duration_ps: int, clock_hz: int) -> int:
    return rates.instant_ps(rates.ticks(duration_ps, clock_hz), clock_hz)


def _positions_at_once(work: LayerWork, rows: int) -> Fraction:
    """Positions of a row that one copy computes; copies beyond a row's positions work on several rows at once."""
    in_row = ceil(work.layer.num_positions / rows)
    copies = work.placement.copies
    return Fraction(ceil(in_row / copies)) if copies <= in_row else Fraction(in_row, copies)


def _input_task(deployment: Deployment) -> Task:
    channels, rows, columns = deployment.network.input_shape
    if deployment.stores.get("input") == "outside":  # it is where layers take it from
        return Task("input", rows, 0, 0)
    row_ps = rates.memory_ps(deployment.chip, channels * columns * MAP_BITS)
    return Task("input", rows, row_ps, 0, on_memory=deployment.chip.part("dram") is not None)


def _edge(deployment: Deployment, node: Node, name: str, producer: int, path: tuple[str, ...]) -> Edge:
    """Rows of `name` on their way to `node`: through the outer memory if they wait there, else by `path`.

    A row in outer memory holds it for being read, and for being written if this is its first reader. Later
    deliveries of the same map run behind the arrays' work, which is then at least as long as the reading.
    """
    chip, rows = deployment.chip, deployment.shape(name)[1]
    need, row_bits = _needs(node, rows, deployment.network.batch), ceil(deployment.map_bits(name) / rows)
    if node.layer and deployment.stores.get(name) == "outside":
        return Edge(producer, need)
    if deployment.stores.get(name) in ("memory", "outside"):
        first_reader = next(reader.name for reader in deployment.network.nodes if name in reader.inputs)
        passes = 2 if first_reader == node.name else 1
        return Edge(producer, need, (MEMORY,), rates.memory_ps(chip, row_bits * passes))
    return Edge(producer, need, path, rates.transfer_ps(chip, row_bits, len(path)))


def _needs(node: Node, all_in_rows: int, batch: int) -> tuple[int, ...]:
    """The last input row each output row needs; the maps of a batch lie one below the other."""
    in_rows = all_in_rows // batch
    of_one = _image_needs(node, in_rows, node.out_shape[1] // batch)
    return tuple(image * in_rows + row for image in range(batch) for row in of_one)


def _image_needs(node: Node, in_rows: int, rows: int) -> tuple[int, ...]:
    """Within one image: a window's last row, the same row, or (a flattened input) all."""
    if node.layer is not None and node.layer.in_size[0] == in_rows and in_rows > 1:
        window = (node.layer.kernel[0], node.layer.stride[0], node.layer.padding[0])
    elif node.op in ("max_pool", "avg_pool"):
        window = (node.kernel[0], node.stride[0], node.padding[0])
    elif node.op == "pad":
        window = (1, 1, node.padding[0])
    elif rows == in_rows and node.op not in ("layer", "matmul"):
        window = (1, 1, 0)
    else:
        return (in_rows - 1,) * rows
    return tuple(int(row) for row in needed_rows(rows, in_rows, *window))


def weight_loads(work: LayerWork, chip: Chip) -> tuple[tuple[Load, ...], ...]:
    """For each round, one load per tile that takes part. Each array has the mean share of bits and of
    filling time; a tile fills its arrays one after the other."""
    per_tile = chip.arrays_per_unit * chip.units_per_tile
    ticks = sum(count_load(job).ticks * count for job, count in work.load_jobs)
    num_arrays, in_round = work.placement.num_arrays, per_tile * chip.num_tiles
    load = cache(partial(_tile_load, chip))  # most are alike
    return tuple(
        tuple(
            load((first - start) // per_tile, *(
                total * min(first + per_tile, num_arrays) // num_arrays - total * first // num_arrays
                for total in (work.load_bits, ticks)
            ))
            for first in range(start, min(start + in_round, num_arrays), per_tile)
        )
        for start in range(0, num_arrays, in_round)
    )  # fmt: skip


def _tile_load(chip: Chip, tile: int, bits: int, ticks: int) -> Load:
    chunk = min(chunk_bits(chip), bits)
    chunks = ceil(bits / chunk)
    rest = bits - (chunks - 1) * chunk
    clock, path, memory = chip.clocks_hz["digital"], rates.mesh_path(chip, 0, tile), chip.part("dram")
    fill_ps = rates.instant_ps(ceil(ticks * chunk / bits), clock)
    fill_rest_ps = rates.instant_ps(ceil(ticks * rest / bits), clock)
    return Load(
        tile, chunks, rates.memory_ps(chip, chunk), rates.memory_ps(chip, rest), fill_ps, fill_rest_ps,
        memory.component.latency_ps if memory else 0, path, rates.transfer_ps(chip, chunk, len(path)),
    )  # fmt: skip


def chunk_bits(chip: Chip) -> int:
    """Bits fetched at once: one prefetch block of the index buffer, or half the tile buffer without one."""
    index = chip.part("index_buffer")
    if index is not None:
        return index.component.capacity_bits // index.component.prefetch_blocks
    return rates.tile_buffer_bits(chip) // 2


def buffer_chunks(chip: Chip) -> int:
    index = chip.part("index_buffer")
    return index.component.prefetch_blocks if index is not None else 2
