"""The machine between the arrays, as SimPy processes: tasks, deliveries, fetchers and loaders.

Pipelined, every task owns its arrays and runs as soon as its blocks arrive. Layer by layer, tasks take
turns on the arrays in network order, and weights that are not resident are loaded before each turn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Sequence

import simpy

from cimsim.events.arbiter import Arbiter, Milestone
from cimsim.events.tasks import Edge, Load, Slice, Task, TaskTimes, Timeline


def run(tasks: Sequence[Task], *, pipelined: bool, buffer_chunks: int = 2, trace: bool = True) -> Timeline:
    """Simulate one image. `buffer_chunks`: chunks an index buffer holds (its prefetch depth)."""
    machine = _Machine(tasks, pipelined, buffer_chunks, trace)
    machine.start()
    machine.env.run()
    return machine.timeline()


class _Machine:
    """State shared by the processes of one run."""

    def __init__(self, tasks: Sequence[Task], pipelined: bool, buffer_chunks: int, trace: bool):
        self.env = simpy.Environment(initial_time=0)
        self.tasks, self.pipelined, self.buffer_chunks, self.trace = tasks, pipelined, buffer_chunks, trace
        self.memory = Arbiter(self.env)
        self.links: dict[str, Arbiter] = defaultdict(lambda: Arbiter(self.env))
        self.arrived = {(index, k): Milestone(self.env) for index, t in enumerate(tasks) for k in range(len(t.inputs))}
        self.consumers: dict[int, list[tuple[int, int, Edge]]] = defaultdict(list)
        for index, task in enumerate(tasks):
            for k, edge in enumerate(task.inputs):
                self.consumers[edge.producer].append((index, k, edge))
        self.turns = Milestone(self.env)  # rounds computed, over all tasks in order: whose turn it is
        self.turn_of = _running_sum([task.rounds for task in tasks])
        self.loaded: dict[tuple[int, int], Milestone] = defaultdict(lambda: Milestone(self.env))
        self.stalls: list[Counter] = [Counter() for _ in tasks]
        self.start_ps, self.end_ps = [-1] * len(tasks), [0] * len(tasks)
        self.slices: list[Slice] = []

    def start(self) -> None:
        for index in range(len(self.tasks)):
            self.env.process(self.compute(index))
        tiles: dict[int, list[tuple[int, int, Load]]] = defaultdict(list)
        for index, task in enumerate(self.tasks):
            for r, loads in enumerate(task.loads):
                for load in loads:
                    tiles[load.tile].append((index, r, load))
        for tile, work in sorted(tiles.items()):
            room, ready = Milestone(self.env), Milestone(self.env)
            room.add(self.buffer_chunks)
            self.env.process(self.fetch(tile, work, room, ready))
            self.env.process(self.fill(tile, work, room, ready))

    def compute(self, index: int) -> Generator:
        """One task: for each round its weights, then block after block as operands arrive."""
        task, env = self.tasks[index], self.env
        for r in range(task.rounds):
            if not self.pipelined:
                yield from self.wait(self.turns, self.turn_of[index] + r)
            if task.loads:
                yield from self.wait(self.loaded[index, r], len(task.loads[r]))
            for block in range(task.blocks):
                yield from self.operands(index, task, block)
                if self.start_ps[index] < 0:
                    self.start_ps[index] = env.now
                yield from self.work(index, task, block)
                if r == task.rounds - 1:
                    env.process(self.deliver(index, task, block))
            self.bar(task.name, f"{task.name} round {r}" if task.rounds > 1 else task.name, self.start_ps[index])
            self.turns.add()

    def work(self, index: int, task: Task, block: int) -> Generator:
        if task.on_memory:
            yield self.memory.request((index, block))
        if task.work_ps:
            yield self.env.timeout(task.work_ps)
        if task.on_memory:
            self.memory.release()

    def operands(self, index: int, task: Task, block: int) -> Generator:
        before = self.env.now
        for k, edge in enumerate(task.inputs):
            yield from self.wait(self.arrived[index, k], edge.need[block] + 1)
        self.stalls[index]["dependency"] += self.env.now - before

    def deliver(self, index: int, task: Task, block: int) -> Generator:
        """A finished block leaves the pipeline and travels to each consumer."""
        if task.latency_ps:
            yield self.env.timeout(task.latency_ps)
        self.end_ps[index] = max(self.end_ps[index], self.env.now)
        for consumer, k, edge in self.consumers[index]:
            if edge.path:
                asked = self.env.now
                yield from self.travel(edge.path, edge.transfer_ps, (index, block, consumer))
                self.stalls[consumer]["mesh"] += self.env.now - asked - edge.transfer_ps
                self.end_ps[index] = max(self.end_ps[index], self.env.now)
            self.arrived[consumer, k].add()

    def travel(self, path: tuple[str, ...], duration_ps: int, job: tuple) -> Generator:
        """Reserve the links in path order (XY order cannot deadlock), then use them together."""
        for link in path:
            yield self.links[link].request(job)
        yield self.env.timeout(duration_ps)
        for link in path:
            self.links[link].release()

    def fetch(self, tile: int, work: list[tuple[int, int, Load]], room: Milestone, ready: Milestone) -> Generator:
        """Outer memory -> index buffer, as far ahead as the buffer has room."""
        taken = 0
        for index, r, load in work:
            if load.first_ps:
                yield self.env.timeout(load.first_ps)
            for chunk in range(load.chunks):
                taken += 1
                yield from self.wait(room, taken)
                asked, held = self.env.now, load.fetch_rest_ps if chunk == load.chunks - 1 else load.fetch_ps
                yield self.memory.request((index, r, tile, chunk))
                self.stalls[index]["dram"] += self.env.now - asked
                yield self.env.timeout(held)
                self.memory.release()
                if load.path:
                    yield from self.travel(load.path, load.hop_ps, (index, r, tile, chunk))
                ready.add()
            self.bar(f"fetch {tile}", self.tasks[index].name, self.env.now - load.fetch_ps * load.chunks)

    def fill(self, tile: int, work: list[tuple[int, int, Load]], room: Milestone, ready: Milestone) -> Generator:
        """Index buffer -> decoder -> word lines, once the round before has left the arrays."""
        used = 0
        for index, r, load in work:
            yield from self.wait(self.turns, self.turn_of[index] + r)
            began = self.env.now
            for chunk in range(load.chunks):
                used += 1
                asked = self.env.now
                yield from self.wait(ready, used)
                self.stalls[index]["index_starvation"] += self.env.now - asked
                yield self.env.timeout(load.fill_rest_ps if chunk == load.chunks - 1 else load.fill_ps)
                room.add()
            self.stalls[index]["load"] = max(self.stalls[index]["load"], self.env.now - began)
            self.bar(f"fill {tile}", self.tasks[index].name, began)
            self.loaded[index, r].add()

    def wait(self, milestone: Milestone, count: int) -> Generator:
        event = milestone.reach(count)
        if event is not None:
            yield event

    def bar(self, track: str, name: str, start_ps: int) -> None:
        if self.trace:
            self.slices.append(Slice(track, name, max(0, start_ps), self.env.now))

    def timeline(self) -> Timeline:
        times = tuple(
            TaskTimes(
                max(0, self.start_ps[i]), self.end_ps[i], task.blocks * task.work_ps * task.rounds,
                self.stalls[i]["load"], self.stalls[i]["dependency"], self.stalls[i]["mesh"],
                self.stalls[i]["index_starvation"], self.stalls[i]["dram"],
            )
            for i, task in enumerate(self.tasks)
        )  # fmt: skip
        links = {name: link.busy_ps for name, link in sorted(self.links.items())}
        return Timeline(max(self.end_ps), times, tuple(self.slices), links, self.memory.busy_ps)


def _running_sum(counts: list[int]) -> list[int]:
    """What has been done before each: [0, a, a+b, ...]."""
    sums = [0]
    for count in counts:
        sums.append(sums[-1] + count)
    return sums
