"""Bars of a trace: where the time of layers, tiles, links and loaders went, with the cause of each stall.

What the event layer knows one by one (work, waiting, transfers) is drawn where it happened. Waiting inside arrays and
writers is known as totals only: a bar has its share of them as `inner` times, drawn at its end, one cause after the
other. Where bars are too many, neighbours are drawn together, kind after kind, so that each kind's sum stays exact.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from cimsim.events import JobId, Setup, Slice, Timeline, run

WORK = {"busy_ps": "compute", "fill_ps": "load weights"}
WAY_OUT = "write results"
CAUSES = {  # of what tasks and writers wait for, in the words of `LayerCost`
    "dependency_ps": "dependency", "mesh_ps": "mesh", "memory_ps": "dram", "queued_ps": "dram",
    "starved_ps": "index_starvation", "stream_ps": "index_starvation",
}  # fmt: skip

Times = tuple[tuple[str, int], ...]


class Bar(NamedTuple):
    """One slice of a track: what somebody did, or (with a `cause`) waited for; `inner` are stalls within it (ps)."""

    name: str
    start_ps: int
    end_ps: int
    cause: str = ""
    inner: Times = ()
    pieces: int = 1


class Log(NamedTuple):
    """A run's bars by track, and those of writers by task and round, then tile."""

    given: Setup
    ends_ps: tuple[int, ...]
    tracks: dict[tuple[str, int | str], list[Slice]]
    fills: dict[tuple[int, int], dict[int, list[Slice]]]


class Inner(NamedTuple):
    """Stalls of one task known as totals: of all its work (ps), and of its writers in ticks out of `load_ticks`."""

    work_ps: dict[str, int]
    load_share: dict[str, int]
    load_ticks: int


NOTHING_INSIDE = Inner({}, {}, 1)


def log_of(timeline: Timeline) -> Log:
    """Runs again what was run, with all bars kept."""
    given = timeline.given
    tracks: dict[tuple[str, int | str], list[Slice]] = defaultdict(list)
    fills: dict[tuple[int, int], dict[int, list[Slice]]] = defaultdict(lambda: defaultdict(list))
    again = run(given.tasks, pipelined=given.pipelined, buffer_chunks=given.buffer_chunks, trace=True)
    for bar in again.slices:
        tracks[bar.track].append(bar)
        if bar.track[0] == "fill":
            index, r, tile, _ = bar.job
            fills[index, r][tile].append(bar)
    return Log(given, tuple(times.end_ps for times in timeline.tasks), tracks, fills)


def layer_bars(log: Log, index: int, inner: Inner = NOTHING_INSIDE) -> list[Bar]:
    """The whole time of one task, from its start to its last result. Loading is that of each round's last tile."""
    tiles = [max(fills, key=lambda tile: (fills[tile][-1].end_ps, -tile)) for fills in _rounds(log, index)]
    return _drawn(log, index, tiles, inner)


def tile_bars(log: Log, index: int, tile: int, inner: Inner) -> list[Bar]:
    """The time of one of a task's tiles: as the task's, but for rounds with loads its own loading, and what is left
    until all tiles of the round are loaded, a dependency. Rounds in which it has no part are left out, and results on
    their way, which no longer take the tile's time."""
    bars = _drawn(log, index, [tile if tile in fills else -1 for fills in _rounds(log, index)], inner)
    return [bar for bar in bars if not bar.name.endswith(WAY_OUT)]


def _rounds(log: Log, index: int) -> Iterator[dict[int, list[Slice]]]:
    """Bars of writers by tile, of each round of a task that waits for any."""
    for r in range(log.given.tasks[index].rounds):
        if fills := log.fills.get((index, r)):
            yield fills


def _drawn(log: Log, index: int, tiles: Sequence[int], inner: Inner) -> list[Bar]:
    """Bars of a task; in its rounds with loads those of one tile (-1: none)."""
    task, slices = log.given.tasks[index], log.tracks.get(("task", index), [])
    loads = [(fills, tile) for fills, tile in zip(_rounds(log, index), tiles, strict=True) if tile >= 0]
    skipped = {r for r, tile in enumerate(tiles) if tile < 0}
    loading = [bar for fills, tile in loads for bar in fills[tile]]
    bars = [
        *_named(task.name, loading, _load_shares(inner, loading)),
        *_named(task.name, slices, _Shares(inner.work_ps, _length(slices, "busy_ps")), skipped),
        *_waits_for_others(task.name, loads),
    ]  # fmt: skip
    bars.sort(key=lambda bar: bar.start_ps)
    if task.latency_ps:
        bars.append(Bar(f"{task.name}: {WAY_OUT}", log.ends_ps[index] - task.latency_ps, log.ends_ps[index]))
    return joined(bars)


def _length(bars: Iterable[Slice], what: str) -> int:
    return sum(bar.end_ps - bar.start_ps for bar in bars if bar.what == what)


def _waits_for_others(name: str, loads: Iterable[tuple[dict[int, list[Slice]], int]]) -> Iterator[Bar]:
    for fills, tile in loads:
        full_ps, all_full_ps = fills[tile][-1].end_ps, max(own[-1].end_ps for own in fills.values())
        if full_ps < all_full_ps:
            yield stall(name, "dependency", full_ps, all_full_ps)


class _Shares:
    """Deals totals (ps by cause, together at most `whole_ps`) out to what follows each other and is `whole_ps` long:
    parts add up to the totals exactly, and never to more than the time they are of."""

    def __init__(self, totals_ps: dict[str, int], whole_ps: int):
        kept = {cause: ps for cause, ps in totals_ps.items() if ps}
        self.ends = tuple(zip(kept, accumulate(kept.values()), strict=True))
        self.whole_ps, self.done_ps = whole_ps, 0

    def take(self, duration_ps: int) -> Times:
        before, self.done_ps = self.done_ps, self.done_ps + duration_ps
        taken, last = [], 0
        for cause, end in self.ends:
            upto = end * self.done_ps // self.whole_ps - end * before // self.whole_ps
            if upto > last:
                taken.append((cause, upto - last))
            last = upto
        return tuple(taken)


def _load_shares(inner: Inner, loading: Sequence[Slice]) -> _Shares:
    fill_ps = _length(loading, "fill_ps")
    return _Shares({cause: fill_ps * n // inner.load_ticks for cause, n in inner.load_share.items()}, fill_ps)


def _named(name: str, slices: Iterable[Slice], shares: _Shares, skipped: Container[int] = ()) -> Iterator[Bar]:
    """Slices as bars: stalls with their cause, work with its inner times. Rounds that are skipped take theirs along."""
    for bar in slices:
        if bar.what in CAUSES:
            found = stall(name, CAUSES[bar.what], bar.start_ps, bar.end_ps)
        else:
            inner = shares.take(bar.end_ps - bar.start_ps)
            found = Bar(f"{name}: {WORK[bar.what]}", bar.start_ps, bar.end_ps, "", inner)
        if bar.job[1] not in skipped:
            yield found


def stall(name: str, cause: str, start_ps: int, end_ps: int) -> Bar:
    return Bar(f"{name}: stall {cause}", start_ps, end_ps, cause)


def joined(bars: Iterable[Bar]) -> list[Bar]:
    """Bars of the same name that touch become one, but for work, whose blocks stay apart."""
    found: list[Bar] = []
    for bar in bars:
        touches = found and found[-1].name == bar.name and found[-1].end_ps == bar.start_ps
        if touches and not bar.name.endswith(WORK["busy_ps"]):
            last = found.pop()
            inner = _sums(last.inner, bar.inner)
            bar = Bar(bar.name, last.start_ps, bar.end_ps, bar.cause, inner, last.pieces + bar.pieces)
        found.append(bar)
    return found


def _sums(first: Times, second: Times) -> Times:
    return tuple((Counter(dict(first)) + Counter(dict(second))).items()) if first and second else first or second


def thinned(bars: list[Bar], most: int) -> list[Bar]:
    """At most so many groups of neighbours, each drawn together: kind after kind from the first one's start."""
    if len(bars) <= most:
        return bars
    size = -(-len(bars) // most)
    return [bar for start in range(0, len(bars), size) for bar in _together(bars[start : start + size])]


def _together(bars: Sequence[Bar]) -> Iterator[Bar]:
    """One bar for each name, as long as its bars together."""
    kinds: dict[str, list[Bar]] = {}
    for bar in bars:
        kinds.setdefault(bar.name, []).append(bar)
    at_ps = bars[0].start_ps
    for name, same in kinds.items():
        end_ps = at_ps + sum(bar.end_ps - bar.start_ps for bar in same)
        inner: dict[str, int] = {}
        for cause, ps in (stall for bar in same for stall in bar.inner):
            inner[cause] = inner.get(cause, 0) + ps
        yield Bar(name, at_ps, end_ps, same[0].cause, tuple(inner.items()), sum(bar.pieces for bar in same))
        at_ps = end_ps


def link_bars(log: Log, link: str) -> list[Bar]:
    """Who holds a link, or the outer memory's channel, and for what."""
    return joined(
        Bar(_purpose(log.given, bar.job), bar.start_ps, bar.end_ps) for bar in log.tracks.get(("link", link), [])
    )


def _purpose(given: Setup, job: JobId) -> str:
    """What a transfer carries, as `Slice` tells jobs apart."""
    task, parts = given.tasks[job[0]], len(job)
    if parts == 4:
        return f"{task.name}: weights for tile {job[2]}"
    if parts == 3:
        return f"{task.name}: results for {given.tasks[job[2]].name}"
    if task.stream is None:
        return f"{task.name}: read"
    is_index = 0 <= job[1] < task.stream.blocks * task.stream.chunks
    return f"{task.name}: {'codes' if is_index else 'opening' if job[1] < 0 else WAY_OUT}"


def fetch_bars(log: Log, track: tuple[str, int | str]) -> list[Bar]:
    """Chunks on their way into the index buffer of a tile, or of a task with a stream."""
    names = [task.name for task in log.given.tasks]
    return joined(Bar(f"{names[bar.job[0]]}: fetch", bar.start_ps, bar.end_ps) for bar in log.tracks.get(track, []))


def writer_bars(log: Log, tile: int, inners: Sequence[Inner]) -> dict[int, list[Bar]]:
    """A tile's writer at work, by task."""
    found: dict[int, list[Slice]] = defaultdict(list)
    for bar in log.tracks.get(("fill", tile), []):
        if bar.what == "fill_ps":
            found[bar.job[0]].append(bar)
    return {
        index: joined(_named(log.given.tasks[index].name, bars, _load_shares(inners[index], bars)))
        for index, bars in found.items()
    }
