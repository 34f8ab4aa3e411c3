"""Timelines as Chrome trace events, which the Perfetto UI opens.

A timeline alone gives a track for each layer, mesh link and the outer memory, and for the index buffer and writer of
each tile that weights are loaded into. With the simulation there is a track for each tile, its arrays and its ROM too,
and counters for power and for what buffers hold. Layers that keep their weights have their tiles to themselves, so each
is a group; else each tile is one. Tiles are numbered in the order in which layers fill them.

Slices are pairs of B and E events, not X events: Perfetto rounds start and duration to ns one by one, after which
neighbours could overlap. Times in the file are exact to the ps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cimsim import __version__
from cimsim.engine.whole import Simulation
from cimsim.events import Timeline
from cimsim.trace.bars import Bar, layer_bars, log_of, thinned
from cimsim.trace.counters import CHIP, Counter, buffer_counters, power_counters
from cimsim.trace.tracks import Track, all_tracks, scene_of
from workloads.store import write_atomically

MOST_SLICES = 150_000  # of all tracks together, some 30 MB; tracks with more than their part are thinned
MOST_OUTLINED = 20_000  # of a timeline alone, of which a study keeps one for each row


def write_trace(timeline: Timeline, path: Path, simulation: Simulation | None = None) -> None:
    """Writes the trace as JSON, an event a line."""
    write_atomically(path, _json(timeline, simulation).encode())


def trace_events(timeline: Timeline, simulation: Simulation | None = None) -> dict[str, Any]:
    """The trace as JSON values: `traceEvents` (times in us) and `otherData` (version, network, chip, plan)."""
    return json.loads(_json(timeline, simulation))


def _json(timeline: Timeline, simulation: Simulation | None) -> str:
    log = log_of(timeline)
    scene = scene_of(log, timeline.tasks, simulation)
    layers = [layer_bars(log, index, inner) for index, inner in enumerate(scene.inners)]
    tracks = list(all_tracks(scene, layers))
    counters = [*power_counters(scene, layers), *buffer_counters(scene)] if simulation else []
    named = dict.fromkeys([CHIP, *(track.group for track in tracks), *(counter.group for counter in counters)])
    groups = {name: n + 1 for n, name in enumerate(named)}
    most = (MOST_SLICES if simulation else MOST_OUTLINED) // len(tracks)
    lines = [_named(groups), *_counter_lines(counters, groups), *_track_lines(tracks, groups, most)]
    about = {"displayTimeUnit": "ns", "otherData": _about(simulation)}
    return json.dumps(about)[:-1] + ', "traceEvents": [\n' + ",\n".join(lines) + "\n]}\n"


def _about(simulation: Simulation | None) -> dict[str, Any]:
    """What the file is a trace of."""
    if simulation is None:
        return {"version": __version__}
    report = simulation.report
    return {"version": __version__, "network": report.network, "chip": report.chip, "plan": report.plan,
            "batch": report.batch, "schedule": report.schedule, "weight_state": report.weight_state}  # fmt: skip


def _named(groups: dict[str, int]) -> str:
    return ",\n".join(
        line
        for name, pid in groups.items()
        for line in (_meta("process_name", pid, pid, name=name), _meta("process_sort_index", pid, pid, sort_index=pid))
    )


def _meta(what: str, pid: int, tid: int, **args: str | int) -> str:
    return json.dumps({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args})


def _us(ps: int) -> str:
    """Microseconds, exact."""
    return f"{ps // 10**6}.{ps % 10**6:06d}"


def _counter_lines(counters: Sequence[Counter], groups: dict[str, int]) -> Iterator[str]:
    for counter in counters:
        head = f'{{"ph":"C","pid":{groups[counter.group]},"name":{json.dumps(counter.name)},"ts":'
        for ps, value in counter.points:
            yield f'{head}{_us(ps)},"args":{{"{counter.unit}":{value!r}}}}}'


def _track_lines(tracks: Sequence[Track], groups: dict[str, int], most: int) -> Iterator[str]:
    """Thread ids follow the process ids, so that no number is both. `most`: slices of a track."""
    for tid, track in enumerate(tracks, start=len(groups) + 1):
        pid = groups[track.group]
        yield _meta("thread_name", pid, tid, name=track.name)
        yield _meta("thread_sort_index", pid, tid, sort_index=tid)
        where = f'"pid":{pid},"tid":{tid},"ts":'
        in_bar = 1 + max((len(bar.inner) for bar in track.bars), default=0)
        for bar in thinned(track.bars, max(1, most // in_bar)):
            yield from _bar_lines(bar, where)


def _bar_lines(bar: Bar, where: str) -> Iterator[str]:
    """A slice, and in it, at its end, the stalls within it."""
    inner_ps = bar.end_ps - sum(ps for _, ps in bar.inner)
    yield _begin(bar.name, bar.cause, bar.pieces, bar.start_ps, where)
    for cause, ps in bar.inner:
        yield _begin(f"stall {cause}", cause, bar.pieces, inner_ps, where)
        inner_ps += ps
        yield f'{{"ph":"E",{where}{_us(inner_ps)}}}'
    yield f'{{"ph":"E",{where}{_us(bar.end_ps)}}}'


def _begin(name: str, cause: str, pieces: int, start_ps: int, where: str) -> str:
    """`pieces`: of so many that follow each other, this tells the sum."""
    args = [f'"cause":"{cause}"'] * bool(cause) + [f'"pieces":{pieces}'] * (pieces > 1)
    kind = "stall" if cause else "work"
    return f'{{"ph":"B",{where}{_us(start_ps)},"cat":"{kind}","name":{json.dumps(name)},"args":{{{",".join(args)}}}}}'
