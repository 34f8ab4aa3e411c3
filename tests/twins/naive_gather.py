"""A slow twin of the gather kernel: every tick is lived through, with queues, places and banks that one can look at."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from cimsim.records import GatherCounts, GatherJob


class Group(NamedTuple):
    """A row group on its way: the round it belongs to, ticks of multiplying, and the steps of its outputs."""

    round: int
    pass_ticks: int
    steps: list[list[int]]  # banks that each step's lanes ask


def gather(job: GatherJob, entries: list[int]) -> GatherCounts:
    """`count_gather`, tick by tick."""
    coming, waiting = deque(_groups(job, entries)), deque()
    multiplying: Group | None = None
    adding: Group | None = None
    steps: deque[list[int]] = deque()
    asked: Counter[int] = Counter()  # lookups of the step at work that banks still have to answer
    left = tick = places = 0
    first_step, ends = -1, [0] * job.rounds
    stalls = Counter()
    num_passes = sum(group.pass_ticks for group in coming) // job.pass_ticks
    num_steps = sum(len(group.steps) for group in coming)
    while coming or multiplying or waiting or adding:
        moved = True
        while moved:  # all that can happen at this instant
            moved = False
            if adding and not steps and not asked:
                ends[adding.round] = tick
                adding, places, moved = None, places - 1, True
            if multiplying and left == 0:
                waiting.append(multiplying)
                multiplying, moved = None, True
            if coming and not multiplying and places < job.buffers:
                multiplying, places, moved = coming.popleft(), places + 1, True
                left = multiplying.pass_ticks
            if waiting and not adding:
                adding, moved = waiting.popleft(), True
                steps = deque(adding.steps)
                first_step = tick if first_step < 0 else first_step
        left -= 1 if multiplying else 0
        if adding:
            if asked:
                stalls["bank"] += 1
            else:
                asked = Counter(steps.popleft())
            asked -= Counter(set(asked))  # each bank answers one
        elif first_step >= 0 and (coming or multiplying or waiting):
            stalls["product"] += 1
        tick += 1
    interval = ends[-1] - ends[-2] if job.rounds > 1 else 0
    gathered = job.rounds * job.vectors * job.outputs * job.books
    return GatherCounts(
        first_step, ends[0] + job.drain_ticks, interval, ends[-1] + job.drain_ticks, num_passes, num_steps, gathered,
        stalls["bank"], stalls["product"],
    )  # fmt: skip


def _groups(job: GatherJob, entries: list[int]) -> Iterator[Group]:
    for number in range(job.rounds):
        asked = 0
        met = 0
        for start in range(0, job.vectors, job.group_vectors):
            members = range(start, min(start + job.group_vectors, job.vectors))
            new = job.new_vectors * (members[-1] + 1) // job.vectors - met
            met += new
            for _ in range(job.books):
                steps = []
                for _ in range(job.outputs):
                    banks = []
                    for v in range(len(members)):
                        banks.append((entries[asked % len(entries)] if job.by_entry else v) % job.banks)
                        asked += 1
                    steps += [banks[i : i + job.lanes] for i in range(0, len(banks), job.lanes)]
                yield Group(number, -(-new // job.pass_vectors) * job.pass_ticks, steps)
