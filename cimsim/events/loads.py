"""Weights on their way into arrays, as SimPy processes: a fetcher before each index buffer, a writer behind it."""

from __future__ import annotations

from typing import NamedTuple

from simpy.events import Timeout

from cimsim.events.arbiter import Milestone
from cimsim.events.state import Machine, Process
from cimsim.events.tasks import MEMORY, JobId, Load


class Tile(NamedTuple):
    """A tile's index buffer: its loads (task, round, load) in order, room and filling, and for each chunk
    when the memory was asked for it and when it granted."""

    number: int
    loads: list[tuple[int, int, Load]]
    room: Milestone
    ready: Milestone
    asked: list[tuple[int, int]]


def fetch(machine: Machine, tile: Tile) -> Process:
    """Outer memory -> index buffer, as far ahead as the buffer has room."""
    memory, taken = machine.links[MEMORY], 0
    for index, r, load in tile.loads:
        if load.first_ps:
            yield Timeout(machine.clock, load.first_ps)
        for chunk in range(load.chunks):
            taken += 1
            if tile.room.count < taken:
                yield tile.room.reach(taken)
            asked_ps, job = machine.clock.ps, (index, r, tile.number, chunk)
            granted_ps = yield memory.serve(job, load.fetch_rest_ps if chunk == load.chunks - 1 else load.fetch_ps)
            tile.asked.append((asked_ps, granted_ps))
            if load.path:
                yield from machine.hold(load.path, load.hop_ps, job)
            tile.ready.add()
            if machine.trace:
                machine.bar(("fetch", tile.number), "fetch", job, granted_ps)


def fill(machine: Machine, tile: Tile) -> Process:
    """Index buffer -> decoder -> word lines, once the round before has left the arrays."""
    used = 0
    for index, r, load in tile.loads:
        if machine.turns.count < machine.turn_of[index] + r:
            yield machine.turns.reach(machine.turn_of[index] + r)
        fill_ps = starved_ps = queued_ps = 0
        for chunk in range(load.chunks):
            since_ps = machine.clock.ps
            if tile.ready.count < used + 1:
                yield tile.ready.reach(used + 1)
                starved, queued = _waited(machine, tile, used, (index, r, tile.number, chunk), since_ps)
                starved_ps, queued_ps = starved_ps + starved, queued_ps + queued
            began_ps = machine.clock.ps
            yield Timeout(machine.clock, load.fill_rest_ps if chunk == load.chunks - 1 else load.fill_ps)
            fill_ps += machine.clock.ps - began_ps
            if machine.trace:
                machine.bar(("fill", tile.number), "fill_ps", (index, r, tile.number, chunk), began_ps)
            used += 1
            tile.room.add()
        machine.fills[index, r].append((machine.clock.ps, -tile.number, fill_ps, starved_ps, queued_ps))
        machine.loaded[index, r].add()


def _waited(machine: Machine, tile: Tile, used: int, job: JobId, since_ps: int) -> tuple[int, int]:
    """What a writer waited for its next chunk: for its way, and for the memory while that served others."""
    asked_ps, granted_ps = tile.asked[used]
    asked_ps, granted_ps = max(asked_ps, since_ps), max(granted_ps, since_ps)
    now_ps = machine.clock.ps
    if machine.trace:
        machine.bar(("fill", tile.number), "starved_ps", job, since_ps, asked_ps)
        machine.bar(("fill", tile.number), "queued_ps", job, asked_ps, granted_ps)
        machine.bar(("fill", tile.number), "starved_ps", job, granted_ps)
    return asked_ps - since_ps + now_ps - granted_ps, granted_ps - asked_ps
