"""The machine between the arrays, as SimPy processes: tasks, deliveries, fetchers and loaders.

Pipelined, every task owns its arrays and runs as soon as its blocks arrive. Layer by layer, tasks take
turns on the arrays in network order, and weights that are not resident are loaded before each turn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from simpy.events import Event, Timeout

from cimsim.events.arbiter import Arbiter, Clock, Milestone
from cimsim.events.feed import Feed
from cimsim.events.tasks import (
    MEMORY,
    Edge,
    Given,
    JobId,
    Load,
    Slice,
    Task,
    TaskTimes,
    Timeline,
    Track,
    share,
    used_links,
)

Process = Generator[Event, int, None]


def run(tasks: Sequence[Task], *, pipelined: bool, buffer_chunks: int = 2, trace: bool = False) -> Timeline:
    """Simulate one image. `buffer_chunks`: chunks an index buffer holds (its prefetch depth). `trace`: keep all bars.

    Raises ValueError if pipelined tasks have loads, or if a task waits for ever.
    """
    machine = Machine(tasks, pipelined, buffer_chunks, trace)
    return machine.run(machine.processes())


class Tile(NamedTuple):
    """A tile's index buffer: its loads (task, round, load) in order, room and filling, and for each chunk
    when the memory was asked for it and when it granted."""

    number: int
    loads: list[tuple[int, int, Load]]
    room: Milestone
    ready: Milestone
    asked: list[tuple[int, int]]


class Machine:
    """State shared by the processes of one run."""

    def __init__(self, tasks: Sequence[Task], pipelined: bool, buffer_chunks: int, trace: bool):
        if pipelined and any(task.loads for task in tasks):
            raise ValueError("tasks whose weights are loaded take turns: they cannot be pipelined")
        if any(task.stream and task.rounds > 1 for task in tasks):
            raise ValueError("tasks with a stream have one round")
        clock = self.clock = Clock()
        self.tasks, self.pipelined, self.buffer_chunks, self.trace = tasks, pipelined, buffer_chunks, trace
        self.slices: list[Slice] = []
        log = self.slices if trace else None
        self.links = {name: Arbiter(clock, name, log) for name in sorted({MEMORY, *used_links(tasks)})}
        self.arrived = [tuple(Milestone(clock) for _ in task.inputs) for task in tasks]
        self.made_ps: list[tuple[list[int], ...]] = [tuple([] for _ in task.inputs) for task in tasks]
        self.consumers: list[list[tuple[int, int, Edge]]] = [[] for _ in tasks]
        for index, task in enumerate(tasks):
            for k, edge in enumerate(task.inputs):
                self.consumers[edge.producer].append((index, k, edge))
        self.turns = Milestone(clock)  # rounds computed, over all tasks in order: whose turn it is
        self.turn_of = [0, *accumulate(task.rounds if task.inputs else 0 for task in tasks)]
        self.loaded: dict[tuple[int, int], Milestone] = defaultdict(lambda: Milestone(clock))
        self.fills: dict[tuple[int, int], list[tuple[int, ...]]] = defaultdict(list)
        self.spent_ps: list[Counter[str]] = [Counter() for _ in tasks]
        self.round = [0] * len(tasks)
        self.start_ps, self.end_ps = [-1] * len(tasks), [-1] * len(tasks)
        self.feeds = {i: Feed(clock, task, buffer_chunks) for i, task in enumerate(tasks) if task.stream}

    def processes(self) -> list[Process]:
        """One process per task, and a fetcher and a loader per tile; their order does not matter."""
        loads: dict[int, list[tuple[int, int, Load]]] = defaultdict(list)
        for index, task in enumerate(self.tasks):
            for r, in_round in enumerate(task.loads):
                for load in in_round:
                    loads[load.tile].append((index, r, load))
        tiles = [Tile(n, work, Milestone(self.clock), Milestone(self.clock), []) for n, work in loads.items()]
        for tile in tiles:
            tile.room.add(self.buffer_chunks)
        found = [self.compute(index) for index in range(len(self.tasks))]
        found += [self.stream_in(index) for index in self.feeds] + [self.write_back(index) for index in self.feeds]
        return found + [self.fetch(tile) for tile in tiles] + [self.fill(tile) for tile in tiles]

    def run(self, processes: Iterable[Process]) -> Timeline:
        for process in processes:
            self.clock.process(process)
        self.clock.run_all()
        stuck = [task.name for task, end_ps in zip(self.tasks, self.end_ps, strict=True) if end_ps < 0]
        if stuck:
            raise ValueError(f"these tasks wait for ever: {', '.join(stuck)}")
        causes = TaskTimes._fields[2:]
        times = tuple(
            TaskTimes(start_ps, end_ps, *(spent[cause] for cause in causes))
            for start_ps, end_ps, spent in zip(self.start_ps, self.end_ps, self.spent_ps, strict=True)
        )
        busy_ps = {name: link.busy_ps for name, link in self.links.items()}
        memory_busy_ps = busy_ps.pop(MEMORY)
        given = Given(tuple(self.tasks), self.pipelined, self.buffer_chunks)
        slices = tuple(sorted(self.slices))
        return Timeline(max(self.end_ps), times, slices, busy_ps, memory_busy_ps, given)

    def compute(self, index: int) -> Process:
        """One task: for each round its weights, then block after block as operands arrive."""
        task, spent = self.tasks[index], self.spent_ps[index]
        for r in range(task.rounds):
            self.round[index] = r
            if task.inputs and not self.pipelined:
                if self.turns.count < self.turn_of[index] + r:
                    yield self.turns.reach(self.turn_of[index] + r)
                self.begin(index)
            if task.loads:
                if self.loaded[index, r].count < len(task.loads[r]):
                    yield self.loaded[index, r].reach(len(task.loads[r]))
                _, _, fill, starved, queued = max(self.fills[index, r])  # of the last tile, the lowest of these
                spent.update(fill_ps=fill, starved_ps=starved, queued_ps=queued)
            if task.stream:
                yield from self.open(index)
            for block in range(task.blocks):
                yield from self.operands(index, block)
                self.begin(index)
                asked_ps = self.clock.ps
                if task.on_memory:
                    yield from self.hold((MEMORY,), task.work_ps, (index, block))
                    began_ps = self.clock.ps - task.work_ps
                    self.spend(index, "memory_ps", asked_ps, began_ps)
                    self.spend(index, "busy_ps", began_ps, part=block)
                elif task.stream:
                    yield from self.work_on_stream(index, block)
                elif task.work_ps:
                    yield Timeout(self.clock, task.work_ps)
                    self.spend(index, "busy_ps", asked_ps, part=block)
                if r == task.rounds - 1:
                    if task.stream and block == task.blocks - 1:
                        yield from self.close(index)
                    self.finish(index, block)
            if task.inputs:
                self.turns.add()

    def open(self, index: int) -> Process:
        """What a stream must bring before work begins, and the work before its first chunk."""
        stream, feed = self.tasks[index].stream, self.feeds[index]
        assert stream is not None, "asked for tasks with a stream only"
        if stream.opening_ps:
            yield from self.operands(index, 0)
            self.begin(index)
            since_ps = self.clock.ps
            if stream.first_ps:
                yield Timeout(self.clock, stream.first_ps)
            yield from self.hold((MEMORY,), stream.opening_ps, (index, -1))
            self.spend(index, "memory_ps", since_ps)
        feed.opened.add()
        if stream.head_ps:
            yield from self.operands(index, 0)
            self.begin(index)
            since_ps = self.clock.ps
            yield Timeout(self.clock, stream.head_ps)
            self.spend(index, "busy_ps", since_ps)

    def work_on_stream(self, index: int, block: int) -> Process:
        """One block: its parts that go along with chunks, each when its chunk is there, and the rest."""
        task, feed = self.tasks[index], self.feeds[index]
        stream = task.stream
        assert stream is not None, "asked for tasks with a stream only"
        rest_ps = task.work_ps
        if block < stream.blocks:
            rest_ps -= stream.work_ps
            for part in range(stream.chunks):
                since_ps, number = self.clock.ps, block * stream.chunks + part
                if feed.ready.count < number + 1:
                    yield feed.ready.reach(number + 1)
                began_ps, (asked_ps, granted_ps) = self.clock.ps, feed.asked[number]
                asked_ps, granted_ps = max(asked_ps, since_ps), max(granted_ps, since_ps)
                self.spend(index, "stream_ps", since_ps, asked_ps)
                self.spend(index, "memory_ps", asked_ps, granted_ps)
                self.spend(index, "stream_ps", granted_ps, began_ps)
                feed.begun.add()
                if part_ps := share(stream.work_ps, part, stream.chunks):
                    yield Timeout(self.clock, part_ps)
                    self.spend(index, "busy_ps", began_ps, part=number)
                feed.room.add()
        else:
            feed.begun.add()
        if rest_ps:
            since_ps = self.clock.ps
            yield Timeout(self.clock, rest_ps)
            self.spend(index, "busy_ps", since_ps)

    def close(self, index: int) -> Process:
        """What follows the last block of a task with a stream: its tail, and writing the results that still wait."""
        stream, feed, since_ps = self.tasks[index].stream, self.feeds[index], self.clock.ps
        assert stream is not None, "asked for tasks with a stream only"
        if stream.tail_ps:
            yield Timeout(self.clock, stream.tail_ps)
            self.spend(index, "busy_ps", since_ps)
        since_ps = self.clock.ps
        if feed.written.count < feed.num_results:
            yield feed.written.reach(feed.num_results)
            self.spend(index, "memory_ps", since_ps)

    def stream_in(self, index: int) -> Process:
        """Outer memory -> index buffer for one task's stream, as far ahead as the buffer has room."""
        stream, feed, memory = self.tasks[index].stream, self.feeds[index], self.links[MEMORY]
        assert stream is not None, "asked for tasks with a stream only"
        if feed.opened.count < 1:
            yield feed.opened.reach(1)
        if stream.first_ps and not stream.opening_ps:
            yield Timeout(self.clock, stream.first_ps)
        for number in range(feed.num_chunks):
            if feed.room.count < number + 1:
                yield feed.room.reach(number + 1)
            asked_ps, job = self.clock.ps, (index, number)
            granted_ps = yield memory.serve(job, share(stream.fetch_ps, number % stream.chunks, stream.chunks))
            feed.asked.append((asked_ps, granted_ps))
            feed.fetched.add()
            if stream.path:
                yield from self.hold(stream.path, stream.hop_ps, job)
            feed.ready.add()
            if self.trace:
                self.bar(("stream", index), "fetch", job, granted_ps)

    def write_back(self, index: int) -> Process:
        """Results -> outer memory, behind the chunks of their block."""
        feed = self.feeds[index]
        for number, result in enumerate(feed.results()):
            if feed.fetched.count < result.fetched:
                yield feed.fetched.reach(result.fetched)
            if feed.begun.count < result.begun:
                yield feed.begun.reach(result.begun)
            yield from self.hold((MEMORY,), result.write_ps, (index, feed.num_chunks + number))
            feed.written.add()

    def begin(self, index: int) -> None:
        if self.start_ps[index] < 0:
            self.start_ps[index] = self.clock.ps

    def operands(self, index: int, block: int) -> Process:
        """Wait for a block's operands, input by input; each wait ends with one arrival, which tells its cause."""
        for k, edge in enumerate(self.tasks[index].inputs):
            since_ps = self.clock.ps
            if self.arrived[index][k].count < edge.need[block] + 1:
                yield self.arrived[index][k].reach(edge.need[block] + 1)
            waited_ps = self.clock.ps - since_ps
            if waited_ps and self.start_ps[index] >= 0:
                making_ps = min(waited_ps, max(0, self.made_ps[index][k][edge.need[block]] - since_ps))
                moved = "memory_ps" if edge.path == (MEMORY,) else "mesh_ps"
                self.spend(index, "dependency_ps", since_ps, since_ps + making_ps)
                self.spend(index, moved, since_ps + making_ps)

    def finish(self, index: int, block: int) -> None:
        """A block has left the arrays; its result follows after the task's latency."""
        latency_ps = self.tasks[index].latency_ps
        if latency_ps == 0:
            return self.deliver(index, block)
        later = Timeout(self.clock, latency_ps)
        assert later.callbacks is not None, "a new event has not been processed"
        later.callbacks.append(lambda _: self.deliver(index, block))

    def deliver(self, index: int, block: int) -> None:
        """A result is there at once for consumers in reach; for the others it travels, one after the other."""
        made_ps = self.end_ps[index] = self.clock.ps
        remote = False
        for consumer, k, edge in self.consumers[index]:
            if edge.path:
                remote = True
            else:
                self.arrive(consumer, k, made_ps)
        if remote:
            self.clock.process(self.send(index, block, made_ps))

    def send(self, index: int, block: int, made_ps: int) -> Process:
        for consumer, k, edge in self.consumers[index]:
            if edge.path:
                yield from self.hold(edge.path, edge.transfer_ps, (index, block, consumer))
                self.arrive(consumer, k, made_ps)

    def arrive(self, consumer: int, k: int, made_ps: int) -> None:
        self.made_ps[consumer][k].append(made_ps)
        self.arrived[consumer][k].add()

    def hold(self, path: tuple[str, ...], duration_ps: int, job: JobId) -> Process:
        """Reserve the links in path order (XY order cannot deadlock), then use them together."""
        for link in path[:-1]:
            yield self.links[link].request(job)
        yield self.links[path[-1]].serve(job, duration_ps)
        for link in path[:-1]:
            self.links[link].release()

    def fetch(self, tile: Tile) -> Process:
        """Outer memory -> index buffer, as far ahead as the buffer has room."""
        memory, taken = self.links[MEMORY], 0
        for index, r, load in tile.loads:
            if load.first_ps:
                yield Timeout(self.clock, load.first_ps)
            for chunk in range(load.chunks):
                taken += 1
                if tile.room.count < taken:
                    yield tile.room.reach(taken)
                asked_ps, job = self.clock.ps, (index, r, tile.number, chunk)
                granted_ps = yield memory.serve(job, load.fetch_rest_ps if chunk == load.chunks - 1 else load.fetch_ps)
                tile.asked.append((asked_ps, granted_ps))
                if load.path:
                    yield from self.hold(load.path, load.hop_ps, job)
                tile.ready.add()
                if self.trace:
                    self.bar(("fetch", tile.number), "fetch", job, granted_ps)

    def fill(self, tile: Tile) -> Process:
        """Index buffer -> decoder -> word lines, once the round before has left the arrays."""
        used = 0
        for index, r, load in tile.loads:
            if self.turns.count < self.turn_of[index] + r:
                yield self.turns.reach(self.turn_of[index] + r)
            spent: Counter[str] = Counter(fill_ps=0, starved_ps=0, queued_ps=0)
            for chunk in range(load.chunks):
                since_ps = self.clock.ps
                if tile.ready.count < used + 1:
                    yield tile.ready.reach(used + 1)
                    self.book_wait(tile, used, (index, r, tile.number, chunk), since_ps, spent)
                began_ps = self.clock.ps
                yield Timeout(self.clock, load.fill_rest_ps if chunk == load.chunks - 1 else load.fill_ps)
                spent["fill_ps"] += self.clock.ps - began_ps
                if self.trace:
                    self.bar(("fill", tile.number), "fill_ps", (index, r, tile.number, chunk), began_ps)
                used += 1
                tile.room.add()
            times = (spent["fill_ps"], spent["starved_ps"], spent["queued_ps"])
            self.fills[index, r].append((self.clock.ps, -tile.number, *times))
            self.loaded[index, r].add()

    def book_wait(self, tile: Tile, used: int, job: JobId, since_ps: int, spent: Counter[str]) -> None:
        """What a writer waited for its next chunk: for the memory while that served others, else for its way."""
        asked_ps, granted_ps = tile.asked[used]
        asked_ps, granted_ps = max(asked_ps, since_ps), max(granted_ps, since_ps)
        spent["queued_ps"] += granted_ps - asked_ps
        spent["starved_ps"] += asked_ps - since_ps + self.clock.ps - granted_ps
        if self.trace:
            self.bar(("fill", tile.number), "starved_ps", job, since_ps, asked_ps)
            self.bar(("fill", tile.number), "queued_ps", job, asked_ps, granted_ps)
            self.bar(("fill", tile.number), "starved_ps", job, granted_ps)

    def spend(self, index: int, what: str, since_ps: int, until_ps: int | None = None, part: int = -1) -> None:
        """Books time of a task, until now if nothing else is said; `part`: its block, or chunk of its stream."""
        until_ps = self.clock.ps if until_ps is None else until_ps
        self.spent_ps[index][what] += until_ps - since_ps
        if self.trace:
            self.bar(("task", index), what, (index, self.round[index], part), since_ps, until_ps)

    def bar(self, track: Track, what: str, job: JobId, start_ps: int, end_ps: int | None = None) -> None:
        end_ps = self.clock.ps if end_ps is None else end_ps
        if end_ps > start_ps:
            self.slices.append(Slice(start_ps, end_ps, track, what, job))
