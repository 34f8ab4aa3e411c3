"""The machine between the arrays: its state, and the moves that all its processes share."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from itertools import accumulate

from simpy.events import Event, Timeout

from cimsim.events.arbiter import Arbiter, Clock, Milestone
from cimsim.events.feed import Feed
from cimsim.events.tasks import MEMORY, Edge, JobId, Slice, Task, Track, used_links

Process = Generator[Event, int, None]


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
