"""Counter tracks of a trace: power by component, and what index buffers, line buffers and map buffers hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimsim.cost import accounts
from cimsim.cost.prices import Prices
from cimsim.deploy.deployment import Deployment
from cimsim.deploy.traffic import load_chunk_bits
from cimsim.events import Slice, Task
from cimsim.records import EnergyPj
from cimsim.trace.bars import WORK, Bar, Log
from cimsim.trace.tracks import Scene, group_of
from workloads.layer import Network

WINDOWS = 1000  # of equal length, of which counters tell the mean power
CHIP = "chip"


class Counter(NamedTuple):
    """A value (of `unit`) that holds from each time in ps to the next."""

    group: str
    name: str
    unit: str
    points: list[tuple[int, float]]


def power_counters(scene: Scene, layers: Sequence[list[Bar]]) -> Iterator[Counter]:
    """Mean power in each window, in total and by component: each layer's energy of loading spread evenly over its
    loading, the rest over its work. What takes no time is spread over its layer's time or, if that is none, over all.
    """
    assert scene.simulation is not None, "asked for with a simulation only"
    report, latency_ps = scene.simulation.report, max(scene.log.ends_ps)
    edges = np.unique(np.linspace(0, latency_ps, WINDOWS + 1).astype(np.int64))
    if len(edges) < 2:
        return
    spent: dict[str, NDArray] = {}  # component -> pJ in each window
    for layer, bars, loading in zip(report.layers, layers, _loading_pj(scene), strict=True):
        work, load = _spread(bars, "busy_ps", edges), _spread(bars, "fill_ps", edges)
        for component, actions in layer.energy_by_component_pj.items():
            load_pj = loading.get(component, 0.0) if load is not None else 0.0
            part = (work if work is not None else _over_all(bars, edges)) * (sum(actions.values()) - load_pj)
            part = part + load * load_pj if load is not None else part
            spent[component] = spent.get(component, 0) + part
    spent["leakage"] = np.diff(edges) / latency_ps * report.leakage_pj
    total = np.sum(list(spent.values()), axis=0)
    for name, energy_pj in [("", total), *sorted(spent.items())]:
        power_mw = energy_pj / np.diff(edges) * 1000
        yield Counter(CHIP, f"power {name}".strip(), "mW", _steps(edges, power_mw))


def _steps(edges: NDArray, values: NDArray) -> list[tuple[int, float]]:
    """Where a value changes, in six digits, and its end."""
    points = [(int(t), float(f"{value:.6g}")) for t, value in zip(edges, values, strict=False)]
    return [next(same) for _, same in groupby(points, key=lambda point: point[1])] + [(int(edges[-1]), 0.0)]


def _loading_pj(scene: Scene) -> Iterator[dict[str, float]]:
    """By component, what of each task's energy is its share of loading weights."""
    assert scene.simulation is not None, "asked for with a simulation only"
    deployment, report = scene.simulation.deployment, scene.simulation.report
    prices, loads = Prices(deployment.chip), report.batch / report.images_per_weight_load
    for work in scene.works:
        energy: EnergyPj = accounts.load_energy(work, prices) if work else {}
        yield {component: sum(actions.values()) * loads for component, actions in energy.items()}


def _spread(bars: Sequence[Bar], what: str, edges: NDArray) -> NDArray | None:
    """The share of each window in the time of these bars (None if there are none)."""
    own = [bar for bar in bars if not bar.cause and bar.name.endswith(WORK[what])]
    return _shares([(bar.start_ps, bar.end_ps) for bar in own], edges) if own else None


def _over_all(bars: Sequence[Bar], edges: NDArray) -> NDArray:
    spans = [(bars[0].start_ps, bars[-1].end_ps)] if bars else [(0, int(edges[-1]))]
    return _shares(spans, edges)


def _shares(spans: list[tuple[int, int]], edges: NDArray) -> NDArray:
    times = np.array(spans, dtype=np.int64)
    lengths = times[:, 1] - times[:, 0]
    done = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1)
    return np.diff(np.interp(edges, times.ravel(), done.ravel())) / lengths.sum()


def buffer_counters(scene: Scene) -> Iterator[Counter]:
    """Bits in index buffers, in whole blocks; in the line buffers of layers that work as rows arrive; of whole maps."""
    assert scene.simulation is not None, "asked for with a simulation only"
    log, deployment = scene.log, scene.simulation.deployment
    block_bits, last_ps = load_chunk_bits(deployment.chip), max(log.ends_ps)
    for (kind, which), fetched in sorted(log.tracks.items(), key=lambda item: str(item[0])):
        if kind in ("fetch", "stream"):
            used = log.tracks["fill" if kind == "fetch" else "task", which]
            group = f"tile {which}" if kind == "fetch" else group_of(scene, int(which))
            yield Counter(group, "index buffer", "bits", held_bits(_in_buffer(fetched, used, block_bits), last_ps))
    if deployment.pipelined:
        yield from _line_buffers(scene, deployment)
    else:
        yield Counter(CHIP, "maps in buffers", "bits", held_bits(_maps(scene, deployment), last_ps))


def _in_buffer(fetched: list[Slice], used: list[Slice], block_bits: int) -> Iterator[tuple[int, int]]:
    """A block is in the buffer from its arrival until it is used."""
    ends = {_chunk(bar): bar.end_ps for bar in used if bar.what in ("fill_ps", "busy_ps")}
    for bar in fetched:
        if bar.job in ends:
            yield bar.end_ps, block_bits
            yield ends[bar.job], -block_bits


def _chunk(bar: Slice) -> tuple[int, ...]:
    return bar.job if bar.what == "fill_ps" else (bar.job[0], bar.job[2])


def _line_buffers(scene: Scene, deployment: Deployment) -> Iterator[Counter]:
    """Rows from their arrival until the blocks that may need them are done; what no block needs does not stay."""
    log = scene.log
    for index, task in enumerate(log.given.tasks):
        changes: list[tuple[int, int]] = []
        done_ps = _blocks_ps(log, index)
        for edge in task.inputs:
            producer = log.given.tasks[edge.producer]
            row_bits = -(-deployment.map_bits(producer.name) // producer.blocks)
            kept = [*_first_needed(deployment.network, task, edge.need, producer.blocks)[1:], producer.blocks]
            freed = [after - before for before, after in pairwise([0, *accumulate(kept, max)])]
            leave_ps = [ps for ps, rows in zip(done_ps, freed, strict=True) for _ in range(rows)]
            for arrival_ps, ps in zip(_arrivals_ps(log, edge.producer, index, edge.path), leave_ps, strict=True):
                changes += [(arrival_ps, row_bits), (max(arrival_ps, ps), -row_bits)]
        if changes:
            yield Counter(group_of(scene, index), "input rows", "bits", held_bits(changes, max(log.ends_ps)))


def _first_needed(network: Network, task: Task, need: Sequence[int], all_in_rows: int) -> list[int]:
    """The first row that each block, or any after it, may need: its window's height before the last one."""
    node, rows, in_rows = network.node(task.name), task.blocks // network.batch, all_in_rows // network.batch
    if node.layer is not None and node.layer.in_size[0] == in_rows:
        window = node.layer.kernel[0]
    elif node.op in ("max_pool", "avg_pool"):
        window = node.kernel[0]
    else:
        window = 1 if node.op == "pad" or (rows == in_rows and node.op not in ("layer", "matmul")) else in_rows
    return [max(block // rows * in_rows, last - window + 1) for block, last in enumerate(need)]


def _blocks_ps(log: Log, index: int) -> list[int]:
    """When a task's blocks leave its arrays; those of a stream, which are not told apart, all at its end."""
    task = log.given.tasks[index]
    own = log.tracks.get(("task", index), []) if task.stream is None else []
    ends = {bar.job[2]: bar.end_ps for bar in own if bar.what == "busy_ps" and bar.job[1] == task.rounds - 1}
    last_ps = log.ends_ps[index] - task.latency_ps
    return [ends.get(block, last_ps) for block in range(task.blocks)]


def _made_ps(log: Log, index: int) -> list[int]:
    return [ps + log.given.tasks[index].latency_ps for ps in _blocks_ps(log, index)]


def _arrivals_ps(log: Log, producer: int, consumer: int, path: tuple[str, ...]) -> list[int]:
    """When a producer's blocks are at a consumer."""
    made_ps = _made_ps(log, producer)
    moved = log.tracks.get(("link", path[-1]), []) if path else []
    ends = {bar.job: bar.end_ps for bar in moved}
    return [ends.get((producer, block, consumer), ps) for block, ps in enumerate(made_ps)]


def _maps(scene: Scene, deployment: Deployment) -> Iterator[tuple[int, int]]:
    """Whole maps, row by row as they are made, until their last reader is done."""
    log, index_of = scene.log, {task.name: i for i, task in enumerate(scene.log.given.tasks)}
    read_ps = {node.name: log.ends_ps[index_of[node.name]] for node in deployment.network.nodes}
    for node in deployment.network.nodes:
        for name in node.inputs:
            read_ps[name] = max(read_ps.get(name, 0), log.ends_ps[index_of[node.name]])
    for name, store in deployment.stores.items():
        if store == "buffer":
            rows_ps, bits = _made_ps(log, index_of[name]), deployment.map_bits(name)
            yield from ((ps, bits * (n + 1) // len(rows_ps) - bits * n // len(rows_ps)) for n, ps in enumerate(rows_ps))
            yield read_ps[name], -bits


def held_bits(changes: Iterable[tuple[int, int]], last_ps: int) -> list[tuple[int, float]]:
    """What is held from when to when; if it changes very often, the most in each window."""
    net: dict[int, int] = defaultdict(int)
    for ps, bits in changes:
        net[ps] += bits
    times = sorted(ps for ps in net if net[ps])
    points = [(0, 0), *zip(times, accumulate(net[ps] for ps in times), strict=True)]
    if len(points) <= 2 * WINDOWS:
        return [*points]
    width, held, found = -(-last_ps // WINDOWS), 0, {}
    for window, inside in groupby(points, key=lambda point: point[0] // width):
        values = [bits for _, bits in inside]
        found[window * width] = max(held, *values)
        held = values[-1]
        found[min(last_ps, (window + 1) * width)] = held  # until a change in the next window
    return [*found.items()]
