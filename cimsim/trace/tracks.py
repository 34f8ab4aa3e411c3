"""Which tracks a trace has: layers, outer memory, mesh links, and the parts of each tile, in this order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cimsim.cost import stalls
from cimsim.dataflow import LayerWork
from cimsim.deploy.deployment import Deployment, homes
from cimsim.engine.whole import Simulation
from cimsim.events import MEMORY, TaskTimes
from cimsim.trace.bars import NOTHING_INSIDE, WORK, Bar, Inner, Log, fetch_bars, link_bars, tile_bars, writer_bars
from cimsim.unit.load import count_load

WRITERS = {"codebook_rom": "codebook ROM", "lattice_decoder": "lattice decoder"}
LAYERS = "layers"


class Track(NamedTuple):
    """Bars, one after the other, of one thing in a group of things."""

    group: str
    name: str
    bars: list[Bar]


class Scene(NamedTuple):
    """What tracks are made from: a run's bars, each task's work (None: digital) and tiles, and stalls within work."""

    log: Log
    works: list[LayerWork | None]
    tiles: list[range]
    inners: list[Inner]
    simulation: Simulation | None


def scene_of(log: Log, times: Sequence[TaskTimes], simulation: Simulation | None) -> Scene:
    """Without a simulation no task has a tile, and nothing is known of what happens within work."""
    tasks = log.given.tasks
    if simulation is None:
        return Scene(log, [None] * len(tasks), [range(0)] * len(tasks), [NOTHING_INSIDE] * len(tasks), None)
    deployment, at = simulation.deployment, homes(simulation.deployment)
    works = [deployment.works.get(task.name) for task in tasks]
    last = deployment.chip.num_tiles
    tiles = [range(0)] + [
        range(at[task.name], min(last, at[task.name] + (work.placement.num_tiles if work else 1)))
        for task, work in zip(tasks[1:], works[1:], strict=True)
    ]
    inners = [_inner(work, time, deployment) for work, time in zip(works, times, strict=True)]
    return Scene(log, works, tiles, inners, simulation)


def _inner(work: LayerWork | None, times: TaskTimes, deployment: Deployment) -> Inner:
    """Stalls within a task's work, and within any loading of its weights, as `accounts.stalls_ps` has them."""
    if work is None:
        return NOTHING_INSIDE
    lost = stalls.stalls_ps(work, times._replace(fill_ps=0), deployment)
    loads = [(count_load(job), count) for job, count in work.load_jobs]
    idle = {
        cause: sum(getattr(load, f"stall_{cause}") * count for load, count in loads)
        for cause in ("index", "rom_port", "bank_conflict")
    }
    return Inner(
        {cause: lost[cause] for cause in stalls.ARRAY_CAUSES}, idle,
        max(1, sum(load.ticks * count for load, count in loads)),
    )  # fmt: skip


def all_tracks(scene: Scene, layers: list[list[Bar]]) -> Iterator[Track]:
    """Every track, those without bars but for layers' left out."""
    log = scene.log
    names = [task.name for task in log.given.tasks]
    yield from (Track(LAYERS, name, bars) for name, bars in zip(names, layers, strict=True))
    links = sorted((str(which) for kind, which in log.tracks if kind == "link"), key=_numbers_in)
    around = [Track("outer memory", "DRAM channel", link_bars(log, link)) for link in links if link == MEMORY]
    around += [Track("mesh", f"link {link}", link_bars(log, link)) for link in links if link != MEMORY]
    if scene.simulation is not None and scene.simulation.deployment.resident:
        around += [track for i in range(1, len(names)) for track in _own_tiles(scene, i, layers[i])]
    elif scene.simulation is not None:
        around += _shared_tiles(scene, layers)
    yield from (track for track in [*around, *_buffers_and_writers(scene)] if track.bars)


def _numbers_in(link: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", link)], link


def group_of(scene: Scene, index: int) -> str:
    """The group of a task that has its tiles to itself."""
    name, tiles = scene.log.given.tasks[index].name, scene.tiles[index]
    if not tiles:
        return name
    return f"{name} (tile {tiles[0]})" if len(tiles) == 1 else f"{name} (tiles {tiles[0]} to {tiles[-1]})"


def _own_tiles(scene: Scene, index: int, bars: list[Bar]) -> Iterator[Track]:
    """Tiles of one layer work in step."""
    work, group = scene.works[index], group_of(scene, index)
    if work is None:
        yield Track(group, f"tile {scene.tiles[index][0]} digital", bars)
        return
    yield from (Track(group, f"tile {tile}", bars) for tile in scene.tiles[index])
    yield Track(group, _arrays(scene, work), _at_work(bars))


def _shared_tiles(scene: Scene, layers: list[list[Bar]]) -> Iterator[Track]:
    """Tiles that layers take turns on: a group for each. Results still on their way belong to no tile."""
    log = scene.log
    for tile in sorted({tile for tiles in scene.tiles for tile in tiles}):
        own: list[Bar] = []
        arrays: list[Bar] = []
        digital: list[Bar] = []
        for index, tiles in enumerate(scene.tiles):
            if tile not in tiles:
                continue
            if scene.works[index] is None:
                digital += layers[index]
                continue
            bars = tile_bars(log, index, tile, scene.inners[index])
            own, arrays = own + bars, arrays + _at_work(bars)
        work = next(work for work in scene.works if work)
        yield Track(f"tile {tile}", f"tile {tile}", own)
        yield Track(f"tile {tile}", _arrays(scene, work), arrays)
        yield Track(f"tile {tile}", "digital", digital)


def _arrays(scene: Scene, work: LayerWork) -> str:
    assert scene.simulation is not None, "works are known from a simulation only"
    array = scene.simulation.deployment.chip.array
    number = f"{work.placement.num_arrays} " if scene.simulation.deployment.resident else ""
    return f"{number}arrays of {array.rows} x {array.columns}"


def _at_work(bars: list[Bar]) -> list[Bar]:
    return [bar for bar in bars if not bar.cause and bar.name.endswith(tuple(WORK.values()))]


def _buffers_and_writers(scene: Scene) -> Iterator[Track]:
    """What passes the index buffers of tiles and of tasks with a stream, and what writers do with it."""
    log = scene.log
    for tile in sorted(int(which) for kind, which in log.tracks if kind == "fetch"):
        group = f"tile {tile}"
        yield Track(group, _store(scene), fetch_bars(log, ("fetch", tile)))
        by_part: dict[str, list[Bar]] = {}
        for index, bars in writer_bars(log, tile, scene.inners).items():
            by_part.setdefault(_writer(scene.works[index]), []).extend(bars)
        yield from (Track(group, part, by_part[part]) for part in sorted(by_part))
    for index in sorted(int(which) for kind, which in log.tracks if kind == "stream"):
        yield Track(group_of(scene, index), _store(scene), fetch_bars(log, ("stream", index)))


def _store(scene: Scene) -> str:
    """Where weights and codes wait."""
    has_index = scene.simulation is None or scene.simulation.deployment.chip.parts.index_buffer is not None
    return "index buffer" if has_index else "tile buffer"


def _writer(work: LayerWork | None) -> str:
    """What turns a layer's codes into rows of its arrays."""
    kinds = {kind for kind, _, _ in work.load_actions} if work else set()
    return next((name for kind, name in WRITERS.items() if kind in kinds), "array writer")
