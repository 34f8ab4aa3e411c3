"""A slow twin of the event layer: every instant is visited, everybody is asked whether they can go on.

At each instant all that can move moves, in random order, until nothing does; then every free link is given to
its oldest request (the lowest job id among equals), all links together; and so on until the instant is spent.
Waiting is booked unit by unit, by looking at what is missing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from random import Random

from cimsim.events import MEMORY, Load, Setup, Task, TaskTimes, Timeline

Step = tuple[Callable[[], bool], Callable[[], None]]  # may I go on? and what I book for each unit of waiting


def run(tasks: Sequence[Task], pipelined: bool, buffer_chunks: int, seed: int = 0) -> Timeline:
    """What `cimsim.events.run` must answer, without bars. Raises RuntimeError if nobody can ever move."""
    return _Twin(tasks, pipelined, buffer_chunks, Random(seed)).run()


def nothing() -> None:
    """A wait that is nobody's."""


class _Twin:
    def __init__(self, tasks: Sequence[Task], pipelined: bool, buffer_chunks: int, random: Random):
        self.tasks, self.pipelined, self.buffer_chunks, self.random = tasks, pipelined, buffer_chunks, random
        self.time = 0
        self.owner: dict[str, tuple[int, ...] | None] = defaultdict(lambda: None)
        self.queue: dict[str, list[tuple[int, tuple[int, ...]]]] = defaultdict(list)
        self.held: Counter[str] = Counter()
        self.made, self.arrived, self.loaded = Counter(), Counter(), Counter()
        self.room, self.ready = Counter(), Counter()
        self.turns = 0
        self.spent = [Counter() for _ in tasks]
        self.filled: dict[tuple[int, int, int], Counter] = defaultdict(Counter)
        self.full_at: dict[tuple[int, int, int], int] = {}
        self.opened, self.fetched, self.begun, self.written = Counter(), Counter(), Counter(), Counter()
        self.streamed, self.used = Counter(), Counter()  # chunks that are there, and those whose work is done
        self.start, self.end = [-1] * len(tasks), [-1] * len(tasks)
        self.waiting: list[tuple[Iterator[Step], Step]] = []

    def run(self) -> Timeline:
        loads: dict[int, list[tuple[int, int, Load]]] = defaultdict(list)
        for index, task in enumerate(self.tasks):
            self.launch(self.compute(index))
            if task.stream:
                self.launch(self.stream_in(index))
                self.launch(self.write_back(index))
            for r, in_round in enumerate(task.loads):
                for load in in_round:
                    loads[load.tile].append((index, r, load))
        for tile, work in loads.items():
            self.room[tile] = self.buffer_chunks
            self.launch(self.fetch(tile, work))
            self.launch(self.fill(tile, work))
        while self.waiting:
            self.spend_instant()
            for _, (_, book) in self.waiting:
                book()
            self.held.update(link for link, owner in self.owner.items() if owner is not None)
            self.time += 1
            if self.time > 100_000:
                raise RuntimeError("nobody can ever move")
        memory = self.held.pop(MEMORY, 0)
        times = tuple(map(self.times, range(len(self.tasks))))
        given = Setup(tuple(self.tasks), self.pipelined, self.buffer_chunks)
        return Timeline(max(self.end), times, (), dict(self.held), memory, given)

    def times(self, index: int) -> TaskTimes:
        spent = self.spent[index]
        for r, in_round in enumerate(self.tasks[index].loads):
            keys = [(index, r, load.tile) for load in in_round]
            spent += self.filled[max(keys, key=lambda key: (self.full_at[key], -key[2]))]
        return TaskTimes(self.start[index], self.end[index], *(spent[name] for name in TaskTimes._fields[2:]))

    def spend_instant(self) -> None:
        while True:
            able = [pair for pair in self.waiting if pair[1][0]()]
            if able:
                pair = self.random.choice(able)
                self.waiting.remove(pair)
                self.launch(pair[0])
                continue
            free = [link for link, queue in self.queue.items() if queue and self.owner[link] is None]
            if not free:
                return
            for link in free:
                first = min(self.queue[link])
                self.queue[link].remove(first)
                self.owner[link] = first[1]

    def launch(self, process: Iterator[Step]) -> None:
        step = next(process, None)
        if step is not None:
            self.waiting.append((process, step))

    def after(self, duration: int, book: Callable[[], None] = nothing) -> Step:
        end = self.time + duration
        return (lambda: self.time >= end), book

    def book(self, index: int, cause: str) -> Callable[[], None]:
        def add() -> None:
            self.spent[index][cause] += 1

        return add

    def compute(self, index: int) -> Iterator[Step]:
        task = self.tasks[index]
        before = sum(other.rounds for other in self.tasks[:index] if other.inputs)
        for r in range(task.rounds):
            if task.inputs and not self.pipelined:
                yield (lambda r=r: self.turns >= before + r), nothing
                self.start[index] = self.time if r == 0 else self.start[index]
            yield (lambda r=r: not task.loads or self.loaded[index, r] == len(task.loads[r])), nothing
            if task.stream:
                yield from self.open(index)
            for block in range(task.blocks):
                for k in range(len(task.inputs)):
                    yield self.operand(index, k, block)
                if self.start[index] < 0:
                    self.start[index] = self.time
                busy = self.book(index, "busy_ps")
                if task.on_memory:
                    yield from self.hold((MEMORY,), task.work_ps, (index, block), self.book(index, "memory_ps"), busy)
                elif task.stream:
                    yield from self.work_on_stream(index, block)
                else:
                    yield self.after(task.work_ps, busy)
                if task.stream and block == task.blocks - 1:
                    yield self.after(task.stream.tail_ps, busy)
                    all_written = sum(len(pieces) for pieces in self.pieces(index))
                    yield (lambda n=all_written: self.written[index] == n), self.book(index, "memory_ps")
                if r == task.rounds - 1:
                    self.launch(self.deliver(index, block))
            self.turns += 1 if task.inputs else 0

    def open(self, index: int) -> Iterator[Step]:
        stream = self.tasks[index].stream
        for step, duration in (("opening", stream.opening_ps), ("head", stream.head_ps)):
            if duration:
                for k in range(len(self.tasks[index].inputs)):
                    yield self.operand(index, k, 0)
                if self.start[index] < 0:
                    self.start[index] = self.time
            if step == "head":
                yield self.after(duration, self.book(index, "busy_ps"))
                continue
            waits = self.book(index, "memory_ps")
            if duration:
                yield self.after(stream.first_ps, waits)
                yield from self.hold((MEMORY,), duration, (index, -1), waits, waits)
            self.opened[index] = 1

    def work_on_stream(self, index: int, block: int) -> Iterator[Step]:
        task, busy = self.tasks[index], self.book(index, "busy_ps")
        stream = task.stream
        if block >= stream.blocks:
            self.begun[index] += 1
            yield self.after(task.work_ps, busy)
            return
        ends = [stream.work_ps * (part + 1) // stream.chunks for part in range(stream.chunks)]
        for begin, end in zip([0, *ends], ends, strict=False):
            number = self.used[index]

            def book(number: int = number) -> None:
                is_queued = any(job == (index, number) for _, job in self.queue[MEMORY])
                self.spent[index]["memory_ps" if is_queued else "stream_ps"] += 1

            yield (lambda number=number: self.streamed[index] > number), book
            self.begun[index] += 1
            yield self.after(end - begin, busy)
            self.used[index] += 1
        yield self.after(task.work_ps - stream.work_ps, busy)

    def stream_in(self, index: int) -> Iterator[Step]:
        stream = self.tasks[index].stream
        yield (lambda: self.opened[index] == 1), nothing
        if not stream.opening_ps:
            yield self.after(stream.first_ps)
        ends = [stream.fetch_ps * (part + 1) // stream.chunks for part in range(stream.chunks)]
        for number in range(stream.blocks * stream.chunks):
            yield (lambda number=number: number < self.used[index] + self.buffer_chunks), nothing
            part = number % stream.chunks
            yield from self.hold((MEMORY,), ends[part] - (ends[part - 1] if part else 0), (index, number))
            self.fetched[index] += 1
            if stream.path:
                yield from self.hold(stream.path, stream.hop_ps, (index, number))
            self.streamed[index] += 1

    def pieces(self, index: int) -> list[list[int]]:
        """For each block, the parts of the task's work that make its pieces of results."""
        task, numbered, found = self.tasks[index], 0, []
        for block in range(task.blocks):
            parts = task.stream.chunks if block < task.stream.blocks else 1
            numbers = list(range(numbered, numbered + parts))
            found.append(numbers[-task.stream.results :] if task.stream.results else [])
            numbered += parts
        return found

    def write_back(self, index: int) -> Iterator[Step]:
        stream = self.tasks[index].stream
        for block, pieces in enumerate(self.pieces(index)):
            wanted = min(block + 1, stream.blocks) * stream.chunks
            for n, part in enumerate(pieces):
                yield (lambda wanted=wanted: self.fetched[index] >= wanted), nothing
                yield (lambda part=part: self.begun[index] > part), nothing
                share = stream.result_ps * (n + 1) // len(pieces) - stream.result_ps * n // len(pieces)
                yield from self.hold((MEMORY,), share, (index, stream.blocks * stream.chunks + self.written[index]))
                self.written[index] += 1

    def operand(self, index: int, k: int, block: int) -> Step:
        edge = self.tasks[index].inputs[k]
        need = edge.need[block] + 1

        def book() -> None:
            if self.start[index] >= 0:
                moving = "memory_ps" if edge.path == (MEMORY,) else "mesh_ps"
                self.spent[index]["dependency_ps" if self.made[edge.producer] < need else moving] += 1

        return (lambda: self.arrived[index, k] >= need), book

    def deliver(self, index: int, block: int) -> Iterator[Step]:
        yield self.after(self.tasks[index].latency_ps)
        self.made[index] += 1
        self.end[index] = self.time
        edges = [(c, k, edge) for c, task in enumerate(self.tasks) for k, edge in enumerate(task.inputs)]
        mine = [item for item in edges if item[2].producer == index]
        for consumer, k, edge in sorted(mine, key=lambda item: bool(item[2].path)):
            if edge.path:
                yield from self.hold(edge.path, edge.transfer_ps, (index, block, consumer))
            self.arrived[consumer, k] += 1

    def hold(
        self, path: tuple[str, ...], duration: int, job: tuple[int, ...],
        queued: Callable[[], None] = nothing, moving: Callable[[], None] = nothing,
    ) -> Iterator[Step]:  # fmt: skip
        for link in path:
            self.queue[link].append((self.time, job))
            yield (lambda link=link: self.owner[link] == job), queued
        yield self.after(duration, moving)
        for link in path:
            self.owner[link] = None

    def fetch(self, tile: int, work: list[tuple[int, int, Load]]) -> Iterator[Step]:
        for index, r, load in work:
            yield self.after(load.first_ps)
            for chunk in range(load.chunks):
                yield (lambda: self.room[tile] > 0), nothing
                self.room[tile] -= 1
                duration = load.fetch_rest_ps if chunk == load.chunks - 1 else load.fetch_ps
                yield from self.hold((MEMORY,), duration, (index, r, tile, chunk))
                if load.path:
                    yield from self.hold(load.path, load.hop_ps, (index, r, tile, chunk))
                self.ready[tile] += 1

    def fill(self, tile: int, work: list[tuple[int, int, Load]]) -> Iterator[Step]:
        for index, r, load in work:
            before = sum(other.rounds for other in self.tasks[:index] if other.inputs)
            yield (lambda before=before, r=r: self.turns >= before + r), nothing
            spent = self.filled[index, r, tile]
            for chunk in range(load.chunks):
                job = (index, r, tile, chunk)
                yield (lambda: self.ready[tile] > 0), lambda job=job, spent=spent: self.book_starved(job, spent)
                self.ready[tile] -= 1
                duration = load.fill_rest_ps if chunk == load.chunks - 1 else load.fill_ps
                yield self.after(duration, lambda spent=spent: spent.update(fill_ps=1))
                self.room[tile] += 1
            self.full_at[index, r, tile] = self.time
            self.loaded[index, r] += 1

    def book_starved(self, job: tuple[int, ...], spent: Counter) -> None:
        is_queued = any(waiting == job for _, waiting in self.queue[MEMORY])
        spent.update({"queued_ps" if is_queued else "starved_ps": 1})
