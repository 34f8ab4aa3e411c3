"""The words of the event layer: records of integers, times in picoseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

MEMORY = "memory"  # the outer memory's channel, as a link of a path


class Edge(NamedTuple):
    """Blocks of `producer` (a task index) flowing to one consumer over `path`, a tuple of link names.

    Consumer block b may start once producer block `need[b]` has arrived (-1: at once).
    """

    producer: int
    need: tuple[int, ...]
    path: tuple[str, ...] = ()
    transfer_ps: int = 0  # one block on the path


class Load(NamedTuple):
    """Weights of one task and round for one tile: chunks from outer memory through the index buffer.

    The last chunk is smaller; `*_rest_ps` are its times. `path` leads from the memory port to the tile.
    """

    tile: int
    chunks: int
    fetch_ps: int
    fetch_rest_ps: int
    fill_ps: int
    fill_rest_ps: int
    first_ps: int  # access latency before the first chunk
    path: tuple[str, ...] = ()
    hop_ps: int = 0  # one chunk on the path


class Stream(NamedTuple):
    """What a task takes from the outer memory while it works, and what it writes back behind its work.

    It begins with the task's turn. `opening_ps` of the memory must pass before any work, then `head_ps` of work that
    needs no chunk. Of each of the first `blocks` blocks `work_ps` go along with `chunks` chunks, which hold the memory
    for `fetch_ps` together: each equal part of that work begins with its chunk. A block's results go back in `results`
    pieces, `result_ps` together: after the block's last chunk has come, and each once the part of the work that makes
    it has begun. The task ends `tail_ps` after its last block, and not before its results are written.
    """

    opening_ps: int
    head_ps: int
    blocks: int
    chunks: int
    fetch_ps: int
    work_ps: int
    tail_ps: int = 0
    results: int = 0
    result_ps: int = 0
    first_ps: int = 0  # access latency, before the opening
    path: tuple[str, ...] = ()  # from the memory's port to the task's tile
    hop_ps: int = 0  # one chunk on it


class Task(NamedTuple):
    """One node of the network on its tiles: `blocks` blocks of `work_ps`, results after `latency_ps` more.

    `loads[r]` are the loads before round r; with none the weights are resident. A task without inputs is
    a source, which takes no turn on the arrays. `on_memory` tasks hold the outer memory while they work.
    """

    name: str
    blocks: int
    work_ps: int
    latency_ps: int
    inputs: tuple[Edge, ...] = ()
    rounds: int = 1
    loads: tuple[tuple[Load, ...], ...] = ()
    on_memory: bool = False
    stream: Stream | None = None  # of a task with one round


def used_links(tasks: Sequence[Task]) -> Iterator[str]:
    """Links on the paths of tasks, as often as they occur."""
    for task in tasks:
        for path in (edge.path for edge in task.inputs):
            yield from path
        for path in (load.path for in_round in task.loads for load in in_round):
            yield from path
        yield from task.stream.path if task.stream else ()


def share(total: int, part: int, parts: int) -> int:
    """Part number `part` of `parts` parts that are equal but for rounding, and are `total` together."""
    return total * (part + 1) // parts - total * part // parts


JobId = tuple[int, ...]  # of who holds or waits for a link: a task's index first, then what of it
Track = tuple[str, int | str]  # what kind of thing, and which


class Slice(NamedTuple):
    """One bar of the timeline. Bars of one track do not overlap.

    Tracks: ("task", index) with times of `TaskTimes`, weights apart; ("fill", tile) with those of its writer, and
    ("fetch", tile) or ("stream", task index) with each chunk from the memory's grant to its arrival;
    ("link", name) with who holds it, `MEMORY` among them. Jobs on tasks: (task, round, block, or chunk of its stream;
    -1 for neither). Elsewhere: a block's result (task, block, consumer); a chunk of weights (task, round, tile,
    chunk); of a stream (task, number), -1 being its opening and results following its chunks; a block of an input
    that holds the memory (task, block).
    """

    start_ps: int
    end_ps: int
    track: Track
    what: str
    job: JobId


class TaskTimes(NamedTuple):
    """Where the time of one task went (ps): `end - start` is the sum of all that follows, and its latency.

    It starts with its first block when pipelined, with its turn otherwise, and ends with its last result.
    """

    start_ps: int
    end_ps: int
    busy_ps: int  # blocks at work, and what comes before and behind them in a task with a stream
    fill_ps: int  # weights being decoded and written, in the tile that takes longest
    starved_ps: int  # that tile's writer waits for weights on their way: latency, memory, mesh
    queued_ps: int  # that tile's writer waits for weights while the outer memory serves others
    dependency_ps: int  # operands are not made yet
    mesh_ps: int  # operands are made, and wait for or cross mesh links
    memory_ps: int  # operands or results wait for or cross the outer memory's channel, or chunks wait for it
    stream_ps: int  # chunks are on their way: they cross the memory's channel or the mesh


class Setup(NamedTuple):
    """What was run, so that it can be run again with its bars kept."""

    tasks: tuple[Task, ...]
    pipelined: bool
    buffer_chunks: int


class Timeline(NamedTuple):
    """Who was busy or waiting when; `slices` only if they were asked for."""

    latency_ps: int
    tasks: tuple[TaskTimes, ...]
    slices: tuple[Slice, ...]
    link_busy_ps: dict[str, int]
    memory_busy_ps: int
    given: Setup
