"""What the event layer is given and what it answers: records of integers, times in picoseconds."""

from __future__ import annotations

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


class Slice(NamedTuple):
    """One bar of the timeline. Bars of one track do not overlap."""

    track: str
    name: str
    start_ps: int
    end_ps: int


class TaskTimes(NamedTuple):
    """Where the time of one task went (ps): `end - start` is the sum of all that follows, and its latency.

    It starts with its first block when pipelined, with its turn otherwise, and ends with its last result.
    """

    start_ps: int
    end_ps: int
    busy_ps: int  # blocks at work
    fill_ps: int  # weights being decoded and written, in the tile that takes longest
    starved_ps: int  # that tile's writer waits for weights on their way: latency, memory, mesh
    queued_ps: int  # that tile's writer waits for weights while the outer memory serves others
    dependency_ps: int  # operands are not made yet
    mesh_ps: int  # operands are made, and wait for or cross mesh links
    memory_ps: int  # operands are made, and wait for or cross the outer memory's channel


class Timeline(NamedTuple):
    """Who was busy or waiting when."""

    latency_ps: int
    tasks: tuple[TaskTimes, ...]
    slices: tuple[Slice, ...]
    link_busy_ps: dict[str, int]
    memory_busy_ps: int
