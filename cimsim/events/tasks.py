"""What the event layer is given and what it answers: records of integers, times in picoseconds."""

from __future__ import annotations

from typing import NamedTuple


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

    `loads[r]` are the loads before round r; with none the weights are resident. `on_memory` tasks hold
    the outer memory while they work (the network's input).
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
    """One bar of the timeline."""

    track: str
    name: str
    start_ps: int
    end_ps: int


class TaskTimes(NamedTuple):
    """When a task started and ended, and what it waited for (ps)."""

    start_ps: int
    end_ps: int
    busy_ps: int
    load_ps: int  # writing weights: the arrays cannot compute
    stall_dependency: int
    stall_mesh: int
    stall_index_starvation: int
    stall_dram: int


class Timeline(NamedTuple):
    """Who was busy or waiting when."""

    latency_ps: int
    tasks: tuple[TaskTimes, ...]
    slices: tuple[Slice, ...]
    link_busy_ps: dict[str, int]
    memory_busy_ps: int
