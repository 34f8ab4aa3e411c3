"""Traces hold to the Chrome trace event format, and tell the same stalls, time and energy as the report.

The `perfetto` package reads traces with a program that it downloads on first use, so the format's rules are checked
here: a schema for each event, slices that nest, times that never run backwards on a track.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.chip import rates
from cimsim.chip.reading import load_chip
from cimsim.cost.prices import total_pj
from cimsim.cost.report import CostReport
from cimsim.deploy.deployment import Layout
from cimsim.engine.whole import simulate
from cimsim.events import Timeline
from cimsim.trace import counters, trace_events, write_trace
from cimsim.trace.bars import Bar, thinned
from workloads.plan import Plan
from workloads.shapes import load_network

# Pipelined on arrays and mesh; weights reloaded, plain, from a ROM and in several rounds; codes streamed.
RUNS = [
    ("digitsnet", "isaac", "linear-8", 1), ("lenet5", "isaac", "linear-4", 3), ("resnet8", "isaac", "linear-4", 1),
    ("lenet5", "sram-rom", "linear-8", 1),
    ("lenet5", "sram-rom", "vq-4x16-e4-s0", 2), ("resnet8", "sram-rom", "vq-8x256-e4-s0", 1),
    ("resnet8", "sram-lookup", "vq-8x256-e4-s0", 1), ("resnet8", "neurosim", "linear-8", 1),
    ("lenet5", "eva", "vq-8x256-e4-s0", 1), ("resnet8", "sram-digital", "linear-8", 2),
]  # fmt: skip

TIME = {"type": "number", "minimum": 0}
NUMBERED = {"pid": {"type": "integer", "minimum": 1}, "tid": {"type": "integer", "minimum": 1}, "ts": TIME}
CAUSE = {"enum": ["dependency", "mesh", "dram", "index_starvation", "index", "rom_port", "bank_conflict", "products",
                  "adc", "output", "fetch"]}  # fmt: skip


def event(ph: str, needed: list[str], **properties: Any) -> dict[str, Any]:
    return {"properties": {"ph": {"const": ph}, **properties}, "required": ["ph", "pid", *needed],
            "additionalProperties": False}  # fmt: skip


SCHEMA = {
    "type": "object",
    "required": ["displayTimeUnit", "otherData", "traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ns", "ms"]},
        "traceEvents": {"items": {"oneOf": [
            event("B", ["tid", "ts", "name", "cat", "args"], **NUMBERED, name={"type": "string", "minLength": 1},
                  cat={"enum": ["work", "stall"]},
                  args={"properties": {"cause": CAUSE, "pieces": {"type": "integer", "minimum": 2}},
                        "additionalProperties": False}),
            event("E", ["tid", "ts"], **NUMBERED),
            event("C", ["name", "ts", "args"], pid=NUMBERED["pid"], ts=TIME, name={"type": "string"},
                  args={"additionalProperties": {"type": "number", "minimum": 0}, "minProperties": 1,
                        "maxProperties": 1}),
            event("M", ["name", "args"], pid=NUMBERED["pid"], tid={"type": "integer"},
                  name={"enum": ["process_name", "thread_name", "process_sort_index", "thread_sort_index"]},
                  args={"minProperties": 1}),
        ]}},
    },
}  # fmt: skip


class Run(NamedTuple):
    report: CostReport
    timeline: Timeline
    trace: dict[str, Any]


@lru_cache
def traced(network: str, chip: str, fmt: str, batch: int) -> Run:
    shapes, built = load_network(network), load_chip(chip)
    plan = Plan.uniform(shapes, fmt)
    found = simulate(shapes, built, plan, batch=batch)
    return Run(found.report, found.timeline, trace_events(found.timeline, found))


@pytest.fixture(params=RUNS, ids=lambda run: "-".join(map(str, run)))
def run_of(request) -> Run:
    return traced(*request.param)


class Slice(NamedTuple):
    name: str
    cause: str
    start_ps: int
    end_ps: int
    depth: int


def ps(event: dict[str, Any]) -> int:
    return round(event["ts"] * 1e6)


def slices_of(trace: dict[str, Any]) -> dict[tuple[str, str], list[Slice]]:
    """Slices by group and track. Fails unless begins and ends pair up and times never run backwards on a track."""
    names = {(e["name"], e["pid"], e["tid"]): e["args"].get("name") for e in trace["traceEvents"] if e["ph"] == "M"}
    found: dict[tuple[str, str], list[Slice]] = {}
    stacks, last = defaultdict(list), Counter()
    for e in trace["traceEvents"]:
        if e["ph"] == "M" and e["name"] == "thread_name":
            found[names["process_name", e["pid"], e["pid"]], e["args"]["name"]] = []
        if e["ph"] not in "BE":
            continue
        assert ps(e) >= last[e["tid"]], "a track runs backwards"
        last[e["tid"]], stack = ps(e), stacks[e["tid"]]
        if e["ph"] == "B":
            stack.append(e)
            continue
        begin = stack.pop()
        track = names["process_name", e["pid"], e["pid"]], names["thread_name", e["pid"], e["tid"]]
        assert ps(begin) < ps(e), "a slice takes time"
        found[track].append(Slice(begin["name"], begin["args"].get("cause", ""), ps(begin), ps(e), len(stack)))
    assert not any(stacks.values()), "a slice has no end"
    return found


def length(slices: list[Slice]) -> int:
    return sum(one.end_ps - one.start_ps for one in slices)


def counters_of(trace: dict[str, Any]) -> dict[tuple[int, str], list[tuple[int, float]]]:
    found = defaultdict(list)
    for e in trace["traceEvents"]:
        if e["ph"] == "C":
            found[e["pid"], e["name"]].append((ps(e), *e["args"].values()))
    return found


# --- the format ---


def test_every_event_is_of_the_chrome_format(run_of):
    jsonschema.Draft202012Validator(SCHEMA).validate(run_of.trace)


def test_no_number_is_a_group_and_a_track(run_of):
    """Viewers take a thread whose number is its process's for the main one."""
    events = run_of.trace["traceEvents"]
    tracks = [e["tid"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"]
    assert len(tracks) == len(set(tracks))
    assert not set(tracks) & {e["pid"] for e in events}


def test_slices_nest_and_lie_within_the_run(run_of):
    for track in slices_of(run_of.trace).values():
        assert all(one.end_ps <= run_of.timeline.latency_ps and one.depth <= 1 for one in track)
    for points in counters_of(run_of.trace).values():
        times = [at for at, _ in points]
        assert times == sorted(set(times)) and times[0] == 0


def test_the_metadata_tells_what_was_run(run_of):
    about, report = run_of.trace["otherData"], run_of.report
    for name in ("network", "chip", "plan", "batch", "schedule"):
        assert about[name] == getattr(report, name)
    assert about["version"]


def test_the_same_run_gives_the_same_bytes(tmp_path):
    network, chip = load_network("lenet5"), load_chip("sram-rom")
    plan = Plan.uniform(network, "linear-4")
    for name in "ab":
        found = simulate(network, chip, plan)
        write_trace(found.timeline, tmp_path / name, found)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text())["otherData"]["chip"] == "sram-rom"


# --- the same as the report ---


def test_stall_slices_sum_to_the_reported_stalls(run_of):
    tracks, clock = slices_of(run_of.trace), run_of.report.clocks_hz["array"]
    for layer in run_of.report.layers:
        own = tracks["layers", layer.name]
        found = {cause: length([s for s in own if s.cause == cause]) for cause in layer.stall_cycles}
        assert {cause: rates.ticks(n, clock) for cause, n in found.items()} == layer.stall_cycles


def test_a_layer_track_tells_its_whole_time(run_of):
    """From its start to its last result, each instant once."""
    tracks = slices_of(run_of.trace)
    for layer, times in zip(run_of.report.layers, run_of.timeline.tasks, strict=True):
        assert length([s for s in tracks["layers", layer.name] if s.depth == 0]) == times.end_ps - times.start_ps


def by_cause(slices: list[Slice]) -> dict[str, int]:
    return {cause: length([s for s in slices if s.cause == cause]) for cause in {s.cause for s in slices if s.cause}}


def test_a_tile_stalls_as_its_layer_does(run_of):
    """A tile's time is its layer's, without results on their way, each instant once. Tiles of one layer work in step,
    so that it stalls for the same causes; one that is loaded before others depends on them."""
    tracks = slices_of(run_of.trace)
    tiles = {key: track for key, track in tracks.items() if key[1].startswith("tile ") and key[1][5:].isdigit()}
    assert tiles
    for (group, _), track in tiles.items():
        for layer in run_of.report.layers:
            own = [s for s in track if s.name.startswith(f"{layer.name}: ") and not s.name.endswith("results")]
            whole = [s for s in tracks["layers", layer.name] if s.depth == 0 and not s.name.endswith("results")]
            if own and layer.rounds == 1:
                assert (own[0].start_ps, length(own), own[-1].end_ps) == (
                    whole[0].start_ps, length(whole), whole[-1].end_ps
                )  # fmt: skip
            assert length(own) <= length(whole)
        if run_of.report.layers[-1].resident:
            layer = next(layer for layer in run_of.report.layers if group.startswith(f"{layer.name} ("))
            assert by_cause(track) == by_cause(tracks["layers", layer.name])


def test_power_over_time_is_the_energy(run_of):
    """mW x ps = 1e-3 pJ, in total and by component."""
    energy = {name: total_pj({name: actions}) for name, actions in run_of.report.energy_by_component_pj.items()}
    energy |= {"leakage": run_of.report.leakage_pj, "": run_of.report.energy_pj}
    found = {name.removeprefix("power").strip(): points for (_, name), points in counters_of(run_of.trace).items()
             if name.startswith("power")}  # fmt: skip
    assert set(found) == set(energy)
    for name, points in found.items():
        pairs = pairwise(points)
        integral = sum(mw * (after - at) for (at, mw), (after, _) in pairs) * 1e-3
        assert integral == pytest.approx(energy[name], rel=1e-5)
        assert points[-1] == (run_of.timeline.latency_ps, 0)


def test_buffers_fill_and_empty(run_of):
    """Nothing is taken out before it came in, nothing is left at the end, and no index buffer overflows."""
    held = {key: points for key, points in counters_of(run_of.trace).items() if not key[1].startswith("power")}
    part = load_chip(run_of.report.chip).part("index_buffer")
    assert held
    for (_, name), points in held.items():
        assert points[-1][1] == 0
        if name == "index buffer" and part is not None:
            assert max(bits for _, bits in points) <= part.component.capacity_bits


# --- what is drawn ---


def test_tracks_of_tiles_that_layers_take_turns_on():
    run = traced("resnet8", "sram-rom", "vq-8x256-e4-s0", 1)
    groups = defaultdict(list)
    for group, name in slices_of(run.trace):
        groups[group].append(name)
    assert list(groups) == ["layers", "outer memory", "mesh", "tile 0", "tile 1", "tile 2", "tile 3"]
    assert groups["layers"] == [layer.name for layer in run.report.layers]
    assert groups["outer memory"] == ["DRAM channel"]
    assert groups["mesh"] == ["link 0>1", "link 0>2", "link 1>3"]
    assert groups["tile 0"] == ["tile 0", "arrays of 128 x 128", "digital", "index buffer", "codebook ROM"]
    assert groups["tile 3"] == ["tile 3", "arrays of 128 x 128", "index buffer", "codebook ROM"]


def test_tracks_of_layers_that_have_their_tiles():
    run = traced("lenet5", "isaac", "linear-4", 3)
    names = {layer.name: f"{layer.arrays} arrays of 128 x 128" for layer in run.report.layers if layer.arrays}
    tracks = list(slices_of(run.trace))
    for layer, arrays in names.items():
        (group,) = {group for group, _ in tracks if group.startswith(f"{layer} (")}
        found = [name for of, name in tracks if of == group]
        assert found[0].startswith("tile ") and found[-1] == arrays


def test_a_timeline_alone_gives_layers_links_and_loaders():
    run = traced("lenet5", "sram-rom", "linear-8", 1)
    bare = trace_events(run.timeline)
    jsonschema.Draft202012Validator(SCHEMA).validate(bare)
    tracks = slices_of(bare)
    assert [name for group, name in tracks if group == "layers"] == [layer.name for layer in run.report.layers]
    assert {"outer memory", "tile 0"} <= {group for group, _ in tracks}


def test_a_layout_moves_tiles():
    network, chip = load_network("lenet5"), load_chip("isaac")
    plan, layout = Plan.uniform(network, "linear-8"), Layout(copies={"conv1": 3})
    machine = simulate(network, chip, plan, layout=layout)
    timeline = machine.timeline
    assert machine.deployment.works["conv1"].placement.copies == 3
    assert any("arrays of" in name for _, name in slices_of(trace_events(timeline, machine)))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 199), st.integers(1, 9), st.integers(0, 50)), min_size=11, max_size=60))
def test_a_counter_in_windows_tells_the_most_in_each(stays):
    """Five windows instead of every change: never below the truth, its maximum reached, exact at the end."""
    changes = [change for at, bits, stay in stays for change in ((at, bits), (min(200, at + stay), -bits))]
    truth = [sum(bits for ps, bits in changes if ps <= at) for at in range(201)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "WINDOWS", 5)
        points = counters.held_bits(changes, 200)
    assert len(points) <= 11
    told = [next(bits for ps, bits in reversed(points) if ps <= at) for at in range(201)]
    assert all(a >= b for a, b in zip(told, truth, strict=True))
    assert told[200] == truth[200] == 0
    assert max(told) == max(truth)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.integers(0, 3)), max_size=40), st.integers(1, 9)
)
def test_thinning_keeps_every_sum(drawn, most):
    bars, at = [], 0
    for name, duration, gap in drawn:
        cause = "mesh" if name == "a" else ""
        bars.append(Bar(name, at + gap, at + gap + duration, cause, (("adc", duration - 1),) if name == "b" else ()))
        at += gap + duration
    found = thinned(bars, most)
    assert len(found) <= max(len(bars) if len(bars) <= most else 3 * most, 0)
    for name in "abc":
        sums = [
            (sum(b.end_ps - b.start_ps for b in some if b.name == name),
             sum(ps for b in some if b.name == name for _, ps in b.inner),
             sum(b.pieces for b in some if b.name == name))
            for some in (bars, found)
        ]  # fmt: skip
        assert sums[0] == sums[1]
    assert all(first.end_ps <= second.start_ps for first, second in pairwise(found))
    assert not found or found[-1].end_ps <= bars[-1].end_ps
