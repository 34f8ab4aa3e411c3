"""A task's traffic with the outer memory while it works, as SimPy processes."""

from __future__ import annotations

from simpy.events import Timeout

from cimsim.events.state import Machine, Process
from cimsim.events.tasks import MEMORY, share


def open_stream(machine: Machine, index: int) -> Process:
    """What a stream must bring before work begins, and the work before its first chunk."""
    stream, feed = machine.tasks[index].stream, machine.feeds[index]
    assert stream is not None, "asked for tasks with a stream only"
    if stream.opening_ps:
        yield from machine.operands(index, 0)
        machine.begin(index)
        since_ps = machine.clock.ps
        if stream.first_ps:
            yield Timeout(machine.clock, stream.first_ps)
        yield from machine.hold((MEMORY,), stream.opening_ps, (index, -1))
        machine.spend(index, "memory_ps", since_ps)
    feed.opened.add()
    if stream.head_ps:
        yield from machine.operands(index, 0)
        machine.begin(index)
        since_ps = machine.clock.ps
        yield Timeout(machine.clock, stream.head_ps)
        machine.spend(index, "busy_ps", since_ps)


def work_on_stream(machine: Machine, index: int, block: int) -> Process:
    """One block: its parts that go along with chunks, each when its chunk is there, and the rest."""
    task, feed = machine.tasks[index], machine.feeds[index]
    stream = task.stream
    assert stream is not None, "asked for tasks with a stream only"
    rest_ps = task.work_ps
    if block < stream.blocks:
        rest_ps -= stream.work_ps
        for part in range(stream.chunks):
            since_ps, number = machine.clock.ps, block * stream.chunks + part
            if feed.ready.count < number + 1:
                yield feed.ready.reach(number + 1)
            began_ps, (asked_ps, granted_ps) = machine.clock.ps, feed.asked[number]
            asked_ps, granted_ps = max(asked_ps, since_ps), max(granted_ps, since_ps)
            machine.spend(index, "stream_ps", since_ps, asked_ps)
            machine.spend(index, "memory_ps", asked_ps, granted_ps)
            machine.spend(index, "stream_ps", granted_ps, began_ps)
            feed.begun.add()
            if part_ps := share(stream.work_ps, part, stream.chunks):
                yield Timeout(machine.clock, part_ps)
                machine.spend(index, "busy_ps", began_ps, part=number)
            feed.room.add()
    else:
        feed.begun.add()
    if rest_ps:
        since_ps = machine.clock.ps
        yield Timeout(machine.clock, rest_ps)
        machine.spend(index, "busy_ps", since_ps)


def close_stream(machine: Machine, index: int) -> Process:
    """What follows the last block of a task with a stream: its tail, and writing the results that still wait."""
    stream, feed, since_ps = machine.tasks[index].stream, machine.feeds[index], machine.clock.ps
    assert stream is not None, "asked for tasks with a stream only"
    if stream.tail_ps:
        yield Timeout(machine.clock, stream.tail_ps)
        machine.spend(index, "busy_ps", since_ps)
    since_ps = machine.clock.ps
    if feed.written.count < feed.num_results:
        yield feed.written.reach(feed.num_results)
        machine.spend(index, "memory_ps", since_ps)


def stream_in(machine: Machine, index: int) -> Process:
    """Outer memory -> index buffer for one task's stream, as far ahead as the buffer has room."""
    stream, feed, memory = machine.tasks[index].stream, machine.feeds[index], machine.links[MEMORY]
    assert stream is not None, "asked for tasks with a stream only"
    if feed.opened.count < 1:
        yield feed.opened.reach(1)
    if stream.first_ps and not stream.opening_ps:
        yield Timeout(machine.clock, stream.first_ps)
    for number in range(feed.num_chunks):
        if feed.room.count < number + 1:
            yield feed.room.reach(number + 1)
        asked_ps, job = machine.clock.ps, (index, number)
        granted_ps = yield memory.serve(job, share(stream.fetch_ps, number % stream.chunks, stream.chunks))
        feed.asked.append((asked_ps, granted_ps))
        feed.fetched.add()
        if stream.path:
            yield from machine.hold(stream.path, stream.hop_ps, job)
        feed.ready.add()
        if machine.trace:
            machine.bar(("stream", index), "fetch", job, granted_ps)


def write_back(machine: Machine, index: int) -> Process:
    """Results -> outer memory, behind the chunks of their block."""
    feed = machine.feeds[index]
    for number, result in enumerate(feed.results()):
        if feed.fetched.count < result.fetched:
            yield feed.fetched.reach(result.fetched)
        if feed.begun.count < result.begun:
            yield feed.begun.reach(result.begun)
        yield from machine.hold((MEMORY,), result.write_ps, (index, feed.num_chunks + number))
        feed.written.add()
