"""The run of a machine, as SimPy processes: a task each, a fetcher with a writer for each tile that is loaded.

Pipelined, every task owns its arrays and runs as soon as its blocks arrive. Layer by layer, tasks take
turns on the arrays in network order, and weights that are not resident are loaded before each turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from simpy.events import Timeout

from cimsim.events import loads, streams
from cimsim.events.arbiter import Milestone
from cimsim.events.state import Machine, Process
from cimsim.events.tasks import MEMORY, Load, Setup, Task, TaskTimes, Timeline


def run(tasks: Sequence[Task], *, pipelined: bool, buffer_chunks: int = 2, trace: bool = False) -> Timeline:
    """Simulate one image. `buffer_chunks`: chunks an index buffer holds (its prefetch depth). `trace`: keep all bars.

    Raises ValueError if pipelined tasks have loads, or if a task waits for ever.
    """
    machine = Machine(tasks, pipelined, buffer_chunks, trace)
    return finished(machine, processes(machine))


def processes(machine: Machine) -> list[Process]:
    """One process per task, and a fetcher and a loader per tile; their order does not matter."""
    of_tile: dict[int, list[tuple[int, int, Load]]] = defaultdict(list)
    for index, task in enumerate(machine.tasks):
        for r, in_round in enumerate(task.loads):
            for load in in_round:
                of_tile[load.tile].append((index, r, load))
    clock = machine.clock
    tiles = [loads.Tile(n, work, Milestone(clock), Milestone(clock), []) for n, work in of_tile.items()]
    for tile in tiles:
        tile.room.add(machine.buffer_chunks)
    found = [compute(machine, index) for index in range(len(machine.tasks))]
    found += [streams.stream_in(machine, index) for index in machine.feeds]
    found += [streams.write_back(machine, index) for index in machine.feeds]
    return found + [loads.fetch(machine, tile) for tile in tiles] + [loads.fill(machine, tile) for tile in tiles]


def finished(machine: Machine, processes: Iterable[Process]) -> Timeline:
    """Who was busy or waiting when, once nobody can move any more. Raises ValueError if a task waits for ever."""
    for process in processes:
        machine.clock.process(process)
    machine.clock.run_all()
    stuck = [task.name for task, end_ps in zip(machine.tasks, machine.end_ps, strict=True) if end_ps < 0]
    if stuck:
        raise ValueError(f"these tasks wait for ever: {', '.join(stuck)}")
    causes = TaskTimes._fields[2:]
    times = tuple(
        TaskTimes(start_ps, end_ps, *(spent[cause] for cause in causes))
        for start_ps, end_ps, spent in zip(machine.start_ps, machine.end_ps, machine.spent_ps, strict=True)
    )
    busy_ps = {name: link.busy_ps for name, link in machine.links.items()}
    memory_busy_ps = busy_ps.pop(MEMORY)
    given = Setup(tuple(machine.tasks), machine.pipelined, machine.buffer_chunks)
    slices = tuple(sorted(machine.slices))
    return Timeline(max(machine.end_ps), times, slices, busy_ps, memory_busy_ps, given)


def compute(machine: Machine, index: int) -> Process:
    """One task: for each round its weights, then block after block as operands arrive."""
    task, spent = machine.tasks[index], machine.spent_ps[index]
    for r in range(task.rounds):
        machine.round[index] = r
        if task.inputs and not machine.pipelined:
            if machine.turns.count < machine.turn_of[index] + r:
                yield machine.turns.reach(machine.turn_of[index] + r)
            machine.begin(index)
        if task.loads:
            if machine.loaded[index, r].count < len(task.loads[r]):
                yield machine.loaded[index, r].reach(len(task.loads[r]))
            _, _, fill, starved, queued = max(machine.fills[index, r])  # of the last tile, the lowest of these
            spent.update(fill_ps=fill, starved_ps=starved, queued_ps=queued)
        if task.stream:
            yield from streams.open_stream(machine, index)
        for block in range(task.blocks):
            yield from machine.operands(index, block)
            machine.begin(index)
            asked_ps = machine.clock.ps
            if task.on_memory:
                yield from machine.hold((MEMORY,), task.work_ps, (index, block))
                began_ps = machine.clock.ps - task.work_ps
                machine.spend(index, "memory_ps", asked_ps, began_ps)
                machine.spend(index, "busy_ps", began_ps, part=block)
            elif task.stream:
                yield from streams.work_on_stream(machine, index, block)
            elif task.work_ps:
                yield Timeout(machine.clock, task.work_ps)
                machine.spend(index, "busy_ps", asked_ps, part=block)
            if r == task.rounds - 1:
                if task.stream and block == task.blocks - 1:
                    yield from streams.close_stream(machine, index)
                machine.finish(index, block)
        if task.inputs:
            machine.turns.add()
