"""What is known of one task's stream while it runs: chunks asked for, there and used, results written back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cimsim.events.arbiter import Clock, Milestone
from cimsim.events.tasks import Task, share


class Result(NamedTuple):
    """A piece of a block's results: chunks that must be fetched and parts that must have begun before, and its time."""

    fetched: int
    begun: int
    write_ps: int


class Feed:
    """Counts of one task's stream. `asked`: for each chunk, when the memory was asked for it and when it granted."""

    def __init__(self, clock: Clock, task: Task, buffer_chunks: int):
        assert task.stream is not None, "made for tasks with a stream only"
        self.task, self.stream = task, task.stream
        self.opened, self.room, self.fetched, self.ready, self.begun, self.written = (
            Milestone(clock) for _ in range(6)
        )
        self.room.add(buffer_chunks)
        self.asked: list[tuple[int, int]] = []
        self.num_chunks = self.stream.blocks * self.stream.chunks
        self.num_results = sum(1 for _ in self.results())

    def results(self) -> Iterator[Result]:
        """Pieces in their order. The last parts of a block make one each; a block without chunks is one part."""
        stream, fetched, before = self.stream, 0, 0
        if not stream.results:
            return
        for block in range(self.task.blocks):
            fetched += stream.chunks if block < stream.blocks else 0
            parts = stream.chunks if block < stream.blocks else 1
            pieces = min(stream.results, parts)
            for piece in range(pieces):
                begun = before + parts - pieces + piece + 1
                yield Result(fetched, begun, share(stream.result_ps, piece, pieces))
            before += parts
