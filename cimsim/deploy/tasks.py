"""From works to tasks: block times, operand needs, paths and weight loads for the event layer."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from cimsim.chip import mesh, rates
from cimsim.dataflow import LayerWork
from cimsim.deploy.deployment import Deployment, digital_ops, digital_role, paths
from cimsim.deploy.loads import weight_loads
from cimsim.deploy.needs import needs
from cimsim.deploy.traffic import (
    READ,
    WRITE,
    channel_ps,
    input_transfer,
    load_chunk_bits,
    map_transfer,
    stream_transfers,
)
from cimsim.events import MEMORY, Edge, Stream, Task
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
        work_ps = max(work_ps, channel_ps(chip, ceil(deployment.map_bits(node.inputs[0]) / rows)))
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
    opening, body, results = stream_transfers(moved)
    opening_ps = _whole_cycles(opening.last_ps(chip), clock) if opening.bits else 0
    result_ps = results.last_ps(chip) if results.bits else 0
    all_ps = _whole_cycles(channel_ps(chip, body.bits, results.bits), clock)
    chunk = load_chunk_bits(chip)
    chunks = ceil(moved.index_bits / blocks / (chunk * work.placement.num_tiles))
    round_ps = rates.instant_ps(work.interval_ticks * moved.positions, work.clock_hz)
    drain_ps = rates.instant_ps(moved.drain_ticks, work.clock_hz)
    memory, path = chip.parts.dram, mesh.mesh_path(chip, 0, work.placement.num_tiles - 1)
    stream = Stream(
        opening_ps=opening_ps, head_ps=rates.instant_ps(moved.head_ticks, work.clock_hz), blocks=blocks, chunks=chunks,
        fetch_ps=(all_ps - result_ps) // blocks, work_ps=work_ps if blocks == rows else min(work_ps, round_ps),
        tail_ps=0 if deployment.pipelined else drain_ps, results=ceil(chunks / moved.parts) if result_ps else 0,
        result_ps=result_ps // rows, first_ps=memory.latency_ps if memory else 0, path=path,
        hop_ps=mesh.transfer_ps(chip, chunk, len(path)),
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
    rows = deployment.network.input_shape[1]
    if deployment.stores.get("input") == "outside":  # it is where layers take it from
        return Task("input", rows, 0, 0)
    row_ps = input_transfer(deployment.network).chunk_ps(deployment.chip)
    return Task("input", rows, row_ps, 0, on_memory=deployment.chip.parts.dram is not None)


def _edge(deployment: Deployment, node: Node, name: str, producer: int, path: tuple[str, ...]) -> Edge:
    """Rows of `name` on their way to `node`: through the outer memory if they wait there, else by `path`.

    A row in outer memory holds it for being read, and for being written if this is its first reader. Later
    deliveries of the same map run behind the arrays' work, which is then at least as long as the reading.
    """
    chip, rows = deployment.chip, deployment.shape(name)[1]
    need, row_bits = needs(node, rows, deployment.network.batch), ceil(deployment.map_bits(name) / rows)
    if node.layer and deployment.stores.get(name) == "outside":
        return Edge(producer, need)
    if deployment.stores.get(name) in ("memory", "outside"):
        first_reader = next(reader.name for reader in deployment.network.nodes if name in reader.inputs)
        passes = (WRITE, READ) if first_reader == node.name else (READ,)
        rows_of = [map_transfer(name, action, deployment).chunk_bits for action in passes]
        return Edge(producer, need, (MEMORY,), channel_ps(chip, *rows_of))
    return Edge(producer, need, path, mesh.transfer_ps(chip, row_bits, len(path)))
