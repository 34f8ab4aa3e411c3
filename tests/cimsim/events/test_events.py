"""The event layer against its time-stepped twin, closed forms, queueing theory and conservation."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.events import MEMORY, Edge, Load, Slice, Stream, Task, TaskTimes, run
from cimsim.events.arbiter import Arbiter, Clock
from cimsim.events.machine import finished, processes
from cimsim.events.state import Machine
from tests.twins import naive, naive_machine

PATHS = [(), (), ("a",), ("b",), ("a", "b"), ("b", "c"), (MEMORY,)]  # links in one order: no deadlock


@st.composite
def edges(draw, producer: int, producer_blocks: int, blocks: int) -> Edge:
    need = sorted(draw(st.lists(st.integers(-1, producer_blocks - 1), min_size=blocks, max_size=blocks)))
    path = draw(st.sampled_from(PATHS))
    return Edge(producer, tuple(need), path, draw(st.integers(0, 4)) if path else 0)


@st.composite
def loads(draw, tile: int) -> Load:
    fetch, fetch_rest, fill, fill_rest, first, hop = (draw(st.integers(0, 5)) for _ in range(6))
    path = draw(st.sampled_from([(), ("a",), ("b", "c")]))
    chunks = draw(st.integers(1, 3))
    return Load(tile, chunks, fetch, fetch_rest, fill, fill_rest, first, path, hop if path else 0)


@st.composite
def streams(draw, blocks: int, work: int) -> Stream:
    opening, head, fetch, tail, result, first, hop = (draw(st.integers(0, 6)) for _ in range(7))
    path = draw(st.sampled_from([(), ("a",), ("b", "c")]))
    return Stream(
        opening, head, draw(st.integers(1, blocks)), draw(st.integers(1, 4)), 2 * fetch, draw(st.integers(0, work)),
        tail, draw(st.integers(0, 3)), result, first, path, hop if path else 0,
    )  # fmt: skip


@st.composite
def graphs(draw, with_loads: bool) -> list[Task]:
    tasks = [Task("input", draw(st.integers(1, 4)), draw(st.integers(0, 4)), 0, on_memory=draw(st.booleans()))]
    for index in range(1, draw(st.integers(2, 5))):
        blocks = draw(st.integers(1, 4))
        producers = draw(st.lists(st.integers(0, index - 1), min_size=1, max_size=2))
        inputs = tuple(draw(edges(p, tasks[p].blocks, blocks)) for p in producers)
        rounds = draw(st.integers(0, 2)) if with_loads else 0
        load = tuple(tuple(draw(loads(tile)) for tile in range(draw(st.integers(1, 3)))) for _ in range(rounds))
        work, latency = draw(st.integers(0, 5)), draw(st.integers(0, 4))
        stream = draw(streams(blocks, 3 * work)) if rounds < 2 and draw(st.booleans()) else None
        work *= 3 if stream else 1
        tasks.append(Task(f"task {index}", blocks, work, latency, inputs, max(1, rounds), load, stream=stream))
    return tasks


def check_against_twin(tasks: list[Task], pipelined: bool, buffer_chunks: int, seed: int) -> None:
    found = run(tasks, pipelined=pipelined, buffer_chunks=buffer_chunks)
    twin = naive_machine.run(tasks, pipelined, buffer_chunks, seed)
    assert found.tasks == twin.tasks
    assert found.latency_ps == twin.latency_ps
    assert found.memory_busy_ps == twin.memory_busy_ps
    assert {name: ps for name, ps in found.link_busy_ps.items() if ps} == twin.link_busy_ps


@settings(max_examples=150)
@given(graphs(with_loads=False), st.integers(0, 9))
def test_pipelined_equals_its_twin(tasks, seed):
    check_against_twin(tasks, True, 2, seed)


@settings(max_examples=150)
@given(graphs(with_loads=True), st.integers(1, 3), st.integers(0, 9))
def test_layer_by_layer_equals_its_twin(tasks, buffer_chunks, seed):
    check_against_twin(tasks, False, buffer_chunks, seed)


@settings(max_examples=80)
@given(graphs(with_loads=True), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_in_which_processes_are_made_changes_nothing(tasks, has_loads, random):
    tasks = tasks if has_loads else [task._replace(loads=(), rounds=1) for task in tasks]
    plain, shuffled = (Machine(tasks, not has_loads, 2, True) for _ in range(2))
    mixed = processes(shuffled)
    random.shuffle(mixed)
    assert finished(shuffled, mixed) == finished(plain, processes(plain))


@settings(max_examples=80)
@given(graphs(with_loads=True), st.booleans())
def test_time_is_work_and_waiting(tasks, has_loads):
    """No time of a task is lost or counted twice: span = work + latency + weights + waits by cause."""
    tasks = tasks if has_loads else [task._replace(loads=(), rounds=1) for task in tasks]
    timeline = run(tasks, pipelined=not has_loads)
    for task, times in zip(tasks, timeline.tasks, strict=True):
        assert times.end_ps - times.start_ps == sum(times[2:]) + task.latency_ps
        around_ps = task.stream.head_ps + task.stream.tail_ps if task.stream else 0
        assert times.busy_ps == task.blocks * task.work_ps * task.rounds + around_ps


def length(bar: Slice) -> int:
    return bar.end_ps - bar.start_ps


@settings(max_examples=80)
@given(graphs(with_loads=True), st.booleans())
def test_bars_of_a_track_do_not_overlap(tasks, has_loads):
    tasks = tasks if has_loads else [task._replace(loads=(), rounds=1) for task in tasks]
    timeline = run(tasks, pipelined=not has_loads, trace=True)
    for track in {bar.track for bar in timeline.slices}:
        bars = [bar for bar in timeline.slices if bar.track == track]
        assert all(bar.start_ps < bar.end_ps for bar in bars)
        assert all(first.end_ps <= second.start_ps for first, second in pairwise(bars))


@settings(max_examples=80)
@given(graphs(with_loads=True), st.booleans())
def test_bars_are_the_times_that_are_told(tasks, has_loads):
    """Of each task by cause, of the last tile in each round of loading, and of each link."""
    tasks = tasks if has_loads else [task._replace(loads=(), rounds=1) for task in tasks]
    timeline = run(tasks, pipelined=not has_loads, trace=True)
    assert timeline.given == (tuple(tasks), not has_loads, 2)
    links = timeline.link_busy_ps | {MEMORY: timeline.memory_busy_ps}
    found = {name: sum(length(bar) for bar in timeline.slices if bar.track == ("link", name)) for name in links}
    assert found == links
    for index, (task, times) in enumerate(zip(tasks, timeline.tasks, strict=True)):
        spent = Counter()
        for bar in timeline.slices:
            spent[bar.what] += length(bar) if bar.track == ("task", index) else 0
        for r in range(len(task.loads)):
            filling = [bar for bar in timeline.slices if bar.track[0] == "fill" and bar.job[:2] == (index, r)]
            last = max(filling, key=lambda bar: (bar.end_ps, -bar.job[2]), default=None)
            for bar in filling:
                spent[bar.what] += length(bar) if last and bar.track == last.track else 0
        assert {what: n for what, n in times._asdict().items() if n and what in TaskTimes._fields[2:]} == +spent


@settings(max_examples=150)
@given(st.data())
def test_a_chain_with_nothing_contended_is_max_plus(data):
    """Pipelined tasks without paths start when the max-plus closed form says, block by block."""
    tasks = [Task("input", data.draw(st.integers(1, 9)), data.draw(st.integers(0, 50)), 0)]
    ready = np.arange(1, tasks[0].blocks + 1) * tasks[0].work_ps
    for index in range(1, data.draw(st.integers(2, 6))):
        blocks = data.draw(st.integers(1, 9))
        edge = data.draw(edges(index - 1, tasks[-1].blocks, blocks))._replace(path=(), transfer_ps=0)
        tasks.append(Task("task", blocks, data.draw(st.integers(0, 50)), data.draw(st.integers(0, 20)), (edge,)))
        start, ready = naive.stream(ready, edge.need, [tasks[-1].work_ps] * blocks, tasks[-1].latency_ps)
        timeline = run(tasks, pipelined=True)
        assert (timeline.tasks[-1].start_ps, timeline.tasks[-1].end_ps) == (start[0], ready[-1])


@settings(max_examples=40)
@given(graphs(with_loads=True), st.booleans())
def test_two_runs_are_identical(tasks, has_loads):
    tasks = tasks if has_loads else [task._replace(loads=(), rounds=1) for task in tasks]
    bare, *traced = [run(tasks, pipelined=not has_loads, trace=trace) for trace in (False, True, True)]
    assert traced[0] == traced[1]
    assert traced[0]._replace(slices=()) == bare


def chain(work: int, transfer: int, fetch: int, hop: int) -> list[Task]:
    """Three layers with a link and, on one tile, weights of their own."""
    tasks = [Task("input", 8, 20, 0)]
    for i in range(3):
        load = Load(0, 4, 3 * fetch, fetch, 40, 15, 20, ("to tile",), hop)
        edge = Edge(i, tuple(range(8)), (f"link {i}",), transfer)
        tasks.append(Task(f"layer {i}", 8, work, 7, (edge,), 2, ((load,), (load,))))
    return tasks


times = st.integers(1, 60)


@given(times, times, times, times, st.booleans())
def test_faster_memory_links_or_arrays_never_slow_a_fixed_grant_order(work, transfer, fetch, hop, pipelined):
    """Nobody overtakes here, so time is max-plus. (Where requests compete, list-scheduling anomalies are real.)"""

    def latency(*durations: int) -> int:
        tasks = chain(*durations)
        tasks = [task._replace(loads=(), rounds=1) for task in tasks] if pipelined else tasks
        return run(tasks, pipelined=pipelined).latency_ps

    base = latency(work, transfer, fetch, hop)
    assert latency((work + 1) // 2, transfer, fetch, hop) <= base
    assert latency(work, (transfer + 1) // 2, fetch, hop) <= base
    assert latency(work, transfer, (fetch + 1) // 2, hop) <= base
    assert latency(work, transfer, fetch, (hop + 1) // 2) <= base


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20))
def test_the_memory_is_held_for_what_it_serves(work, fetch, hop):
    tasks = chain(work, 1, fetch, hop)
    tasks[0] = tasks[0]._replace(on_memory=True)
    served = 8 * 20 + 3 * 2 * (3 * 3 * fetch + fetch)
    assert run(tasks, pipelined=False).memory_busy_ps == served


def test_a_task_that_waits_for_ever_is_named():
    tasks = [Task("input", 2, 1, 0), Task("conv", 1, 1, 0, (Edge(0, (2,)),))]
    with pytest.raises(ValueError, match="wait for ever: conv"):
        run(tasks, pipelined=True)


def test_pipelined_tasks_hold_their_weights():
    with pytest.raises(ValueError, match="cannot be pipelined"):
        run(chain(1, 1, 1, 1), pipelined=True)


# --- queueing theory ---


def waits(arrival_chance: float, service: int, jobs: int, seed: int) -> np.ndarray:
    """Waiting times of Bernoulli arrivals (at most one a slot) at one arbiter that serves in fixed time."""
    random, env = Random(seed), Clock()
    server, found = Arbiter(env), np.zeros(jobs)

    def job(number: int):
        asked = env.now
        yield server.request((number,))
        found[number] = env.now - asked
        yield env.timeout(service)
        server.release()

    def source():
        for number in range(jobs):
            yield env.timeout(1 + int(math.log(1 - random.random()) / math.log(1 - arrival_chance)))
            env.process(job(number))

    env.process(source())
    env.run_all()
    return found


@pytest.mark.parametrize(("arrival_chance", "service"), [(0.05, 10), (0.08, 10), (0.2, 3)])
def test_an_arbiter_waits_as_geo_d_1(arrival_chance, service):
    """Geo/D/1: mean wait = p s (s - 1) / (2 (1 - p s)), within the 99 % interval of 40 batch means."""
    expected = arrival_chance * service * (service - 1) / (2 * (1 - arrival_chance * service))
    found = waits(arrival_chance, service, 40_000, seed=7)[4_000:].reshape(40, -1).mean(axis=1)
    half_width = 2.71 * found.std(ddof=1) / math.sqrt(found.size)  # Student's t, 39 degrees of freedom
    assert abs(found.mean() - expected) < half_width
    assert half_width < 0.1 * expected  # the interval is tight enough to mean something


def test_equal_requests_are_served_by_lowest_id():
    env = Clock()
    link, order = Arbiter(env), []

    def job(number: int):
        yield env.timeout(3)
        yield link.request((number,))
        order.append((number, env.now))
        yield env.timeout(2)
        link.release()

    for number in (4, 2, 9, 1):
        env.process(job(number))
    env.run_all()
    assert order == [(1, 3), (2, 5), (4, 7), (9, 9)]
    assert link.busy_ps == 8
