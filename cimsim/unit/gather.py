"""Sums of products that are looked up: when row groups are multiplied and gathered, and which lanes wait for a bank.

The machine has two stages with `buffers` row groups between them. Products of a group begin when those of the group
before are made and a place of the buffer is free; a place is held until its group has been gathered. Gathering begins
when a group's products are all made and the group before is gathered; its outputs follow each other without a pause.
All lanes of a step wait for the slowest, since one tree adds them.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from cimsim.records import GatherCounts, GatherJob

STATED = 65_536  # lookups after which a stated distribution repeats
MOST_BUFFERS = 2


@lru_cache(maxsize=1 << 10)
def count_gather(job: GatherJob, entries: bytes = b"") -> GatherCounts:
    """What `job` does. Raises ValueError unless all fields are >= 1 (new_vectors, by_entry, drain_ticks: 0).

    `entries` are the indices that one round's lookups ask for, as int64 bytes, in their order (`in_order`); they
    repeat if they are fewer, and are the same in every round. They matter with `by_entry` only. Without any, indices
    are uniform and independent, the same ones in every run (`stated_entries`).
    """
    free = ("new_vectors", "by_entry", "drain_ticks")
    wrong = [f"{name} = {n}" for name, n in job._asdict().items() if n < (name not in free)]
    if wrong or job.buffers > MOST_BUFFERS or job.new_vectors > job.vectors:
        limits = f"must be >= 1 ({', '.join(free)}: 0), buffers <= {MOST_BUFFERS}, new_vectors <= vectors"
        raise ValueError(f"GatherJob: {', '.join(wrong) or job}: {limits}")
    stream = np.frombuffer(entries or stated_entries(), np.int64)
    return GatherCounts(*_run_gather_compiled(GatherJob(*map(int, job)), stream))


def stated_entries(shares: tuple[float, ...] = ()) -> bytes:
    """Entries of 65,536 independent lookups: uniform, or entry e with a probability in proportion to `shares[e]`."""
    random = np.random.default_rng(0)
    if not shares:
        return random.integers(0, 1 << 32, STATED).tobytes()  # mod any number of banks as good as uniform
    parts = np.asarray(shares, float)
    return random.choice(parts.size, STATED, p=parts / parts.sum()).astype(np.int64).tobytes()


def in_order(codes: ArrayLike, group_vectors: int, copies: int = 1) -> bytes:
    """Codes [outputs, sub-vectors, books] in the order of one round's lookups: by row group, book, output, sub-vector.

    With `copies` > 1 so many positions share a round: their lookups of one code lie `sub-vectors of the group` apart.
    `group_vectors` counts the sub-vectors of one position.
    """
    indices = np.asarray(codes, np.int64)
    groups = [indices[:, start : start + group_vectors] for start in range(0, indices.shape[1], group_vectors)]
    return b"".join(np.tile(group.transpose(2, 0, 1), copies).tobytes() for group in groups)


def _group_ticks(job: GatherJob, entries: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps, and ticks of gathering, of each row group and book of a round."""
    groups = (job.vectors + job.group_vectors - 1) // job.group_vectors
    steps, ticks = np.zeros(groups * job.books, np.int64), np.zeros(groups * job.books, np.int64)
    load = np.zeros(job.banks, np.int64)
    asked = 0
    for n in range(groups * job.books):
        size = min(job.group_vectors, job.vectors - n // job.books * job.group_vectors)
        steps[n] = (size + job.lanes - 1) // job.lanes * job.outputs
        if not job.by_entry:
            full, rest = size // job.lanes, size % job.lanes
            worst = full * ((job.lanes + job.banks - 1) // job.banks) + (rest + job.banks - 1) // job.banks
            ticks[n] = worst * job.outputs
            continue
        for _ in range(job.outputs):
            for start in range(0, size, job.lanes):
                load[:] = 0
                most = 0
                for _ in range(min(job.lanes, size - start)):
                    bank = entries[asked % entries.size] % job.banks
                    load[bank] += 1
                    most = max(most, load[bank])
                    asked += 1
                ticks[n] += most
    return steps, ticks


def _run_gather(job: GatherJob, entries: NDArray[np.int64]) -> tuple[int, ...]:
    steps, ticks = _group_ticks_compiled(job, entries)
    passes = np.zeros(steps.size, np.int64)
    for n in range(steps.size):
        start = n // job.books * job.group_vectors
        end = min(start + job.group_vectors, job.vectors)
        new = job.new_vectors * end // job.vectors - job.new_vectors * start // job.vectors
        passes[n] = (new + job.pass_vectors - 1) // job.pass_vectors
    made = gathered = gathered_before = 0  # when the newest group's products are made, and the last two are gathered
    first_step = first_result = before = last = stall_product = 0
    for number in range(job.rounds):
        for n in range(steps.size):
            place_free = gathered_before if job.buffers == 2 else gathered
            made = max(made, place_free) + passes[n] * job.pass_ticks
            start = max(made, gathered)
            if number == 0 and n == 0:
                first_step = start
            else:
                stall_product += start - gathered
            gathered_before, gathered = gathered, start + ticks[n]
        before, last = last, gathered
        if number == 0:
            first_result = last + job.drain_ticks
    interval = last - before if job.rounds > 1 else 0
    num_steps, num_lookups = steps.sum() * job.rounds, job.vectors * job.outputs * job.books * job.rounds
    return (
        first_step, first_result, interval, last + job.drain_ticks, passes.sum() * job.rounds, num_steps, num_lookups,
        ticks.sum() * job.rounds - num_steps, stall_product,
    )  # fmt: skip


_group_ticks_compiled = numba.njit(cache=True)(_group_ticks)
_run_gather_compiled = numba.njit(cache=True)(_run_gather)
