"""Tick by tick through one array: an exact state machine for matrix-vector products."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numba

from cimsim.records import ArrayJob, Counts
from cimsim.unit.checks import check_job

# Rules of the MVM machine. Time t is the start of tick t; what ends at t frees its place at t, and what
# can start at t starts at t, however many moves that takes (the rules form a marked graph, so their order
# does not matter). All stages are first in, first out.
#   fetch    one vector at a time, as soon as one of the two input register places is free. A place is
#            held from the fetch's start until the array no longer drives the vector's last read.
#   read     starts when the array is free and the vector lies in the register. With a sample-and-hold
#            the array is free once it has handed its values over, without one when they are released.
#   convert  starts at the hand-over, which waits until the slot is empty. The slot empties when its
#            values are converted and, for a vector's last read, the result is released.
#   release  the shift-add is a pipeline of fixed latency that cannot pause. Durations are known ahead, so
#            a result is released as soon as it will find the output register (one place) empty when it
#            comes out. Hence the output stages may be stepped `shift_add_ticks` early, as if that latency
#            were zero, and the latency be added to the result times: exact, and no queue is needed.
#   digital, write  hold one vector each; a processed vector stays in digital until write is free.
# Stalls count from the first read's start until the array is free of the job's last read, so that this
# time = reads x read_ticks + stall_adc + stall_output + stall_fetch. A tick in which the array holds a
# finished read belongs to the converter while that converts, else to the output. `occupancy` is the
# result time of one further vector minus `first_result`: a like job entering then meets every stage free,
# and its first result comes when the stream's next one would have.


@lru_cache(maxsize=1 << 16)
def count_mvm(job: ArrayJob, fast_forward: bool = True) -> Counts:
    """What `job` does, in ticks of the converter clock.

    Without `fast_forward` every tick is run. With it (same integers) vectors that repeat their
    predecessor's states exactly are extrapolated. Raises ValueError if `vectors`, `reads`, `adcs` or
    `read_ticks` is below 1, or another field below 0.
    """
    check_job(job, at_least_one=("vectors", "reads", "adcs", "read_ticks"))
    return Counts(*_run_mvm_compiled(ArrayJob(*map(int, job)), bool(fast_forward)))


class _Flow(NamedTuple):
    """How many have entered each stage; the difference of neighbours is what a stage holds."""

    fetching: int  # vectors
    fetched: int
    started: int  # reads
    handed: int
    released: int
    queued: int  # vectors
    processed: int
    writing: int
    written: int


class _Ends(NamedTuple):
    """The tick at which each stage is done with what it holds (past if it waits or is empty)."""

    fetch: int
    read: int
    convert: int
    digital: int
    write: int


def _settle(job: ArrayJob, tick: int, flow: _Flow, ends: _Ends) -> tuple[_Flow, _Ends]:
    """All moves that are possible at `tick`.

    Taken from the last stage to the first, one pass finds them all: only a stage that takes no time can let its
    successor move again.
    """
    fetching, fetched, started, handed, released, queued, processed, writing, written = flow
    fetch_end, read_end, convert_end, digital_end, write_end = ends
    convert_ticks = (job.conversions + job.adcs - 1) // job.adcs
    is_timeless = min(convert_ticks, job.fetch_ticks, job.digital_ticks, job.write_ticks) == 0
    is_moving = True
    while is_moving:
        before = fetching + fetched + started + handed + released + processed + writing + written
        if writing > written and write_end <= tick:
            written += 1
        if processed > writing and digital_end <= tick and writing == written:
            writing, write_end = writing + 1, tick + job.write_ticks
        if queued > processed and processed == writing:
            processed, digital_end = processed + 1, tick + job.digital_ticks
        is_last = released + 1 == (queued + 1) * job.reads
        if handed > released and convert_end <= tick and (queued == processed or not is_last):
            released, queued = released + 1, queued + is_last
        if started > handed and read_end <= tick and handed == released:
            handed, convert_end = handed + 1, tick + convert_ticks
        if queued > processed and processed == writing:  # released just now
            processed, digital_end = processed + 1, tick + job.digital_ticks
        if fetching > fetched and fetch_end <= tick:
            fetched += 1
        if started == handed and started < fetched * job.reads and (job.sample_hold or handed == released):
            started, read_end = started + 1, tick + job.read_ticks
        num_driven = handed if job.sample_hold else released
        # one vector more than the job has: it tells the occupancy
        if fetching == fetched and fetching <= job.vectors and (fetching - 1) * job.reads <= num_driven:
            fetching, fetch_end = fetching + 1, tick + job.fetch_ticks
        is_moving = (
            is_timeless and before != fetching + fetched + started + handed + released + processed + writing + written
        )
    return (
        _Flow(fetching, fetched, started, handed, released, queued, processed, writing, written),
        _Ends(fetch_end, read_end, convert_end, digital_end, write_end),
    )


def _shift(flow: _Flow, reads: int, vectors: int) -> _Flow:
    """The same machine `vectors` later in its stream."""
    return _Flow(
        flow.fetching + vectors, flow.fetched + vectors, flow.started + vectors * reads,
        flow.handed + vectors * reads, flow.released + vectors * reads, flow.queued + vectors,
        flow.processed + vectors, flow.writing + vectors, flow.written + vectors,
    )  # fmt: skip


def _ticks_left(ends: _Ends, tick: int) -> _Ends:
    return _Ends(
        max(ends.fetch - tick, 0), max(ends.read - tick, 0), max(ends.convert - tick, 0),
        max(ends.digital - tick, 0), max(ends.write - tick, 0),
    )  # fmt: skip


def _run_mvm(job: ArrayJob, fast_forward: bool) -> Counts:
    reads = job.reads
    flow, ends = _Flow(0, 0, 0, 0, 0, 0, 0, 0, 0), _Ends(0, 0, 0, 0, 0)
    relative_flow, relative_ends = flow, ends
    waits_adc = waits_output = waits_fetch = False
    stall_adc = stall_output = stall_fetch = adc_before = output_before = fetch_before = 0
    tick = skipped_ticks = first = before_last = last = further = 0
    while flow.written <= job.vectors:
        if (
            (tick == ends.fetch) | (tick == ends.read) | (tick == ends.convert)
            | (tick == ends.digital) | (tick == ends.write)
        ):  # fmt: skip
            num_written = flow.written
            flow, ends = _settle_compiled(job, tick, flow, ends)
            num_driven = flow.handed if job.sample_hold else flow.released
            holds = ends.read <= tick if flow.started > flow.handed else flow.handed > num_driven
            is_live = flow.started > 0 and num_driven < job.vectors * reads
            waits_adc = is_live and holds and ends.convert > tick
            waits_output = is_live and holds and ends.convert <= tick
            waits_fetch = is_live and not holds and flow.started == flow.handed
            if flow.written > num_written:  # by one: reads, so results too, are at least one tick apart
                before_last, last, further = last, further, tick + skipped_ticks
                first = first if num_written else further
                repeats = job.vectors - flow.fetching  # the fetcher has not yet seen the stream's end
                if fast_forward and repeats > 0:
                    then_flow, then_ends = relative_flow, relative_ends
                    relative_flow = _shift_compiled(flow, reads, -flow.written)
                    relative_ends = _ticks_left_compiled(ends, tick)
                    if relative_flow == then_flow and relative_ends == then_ends:
                        flow = _shift_compiled(flow, reads, repeats)
                        skipped_ticks += repeats * (further - last)
                        stall_adc += repeats * (stall_adc - adc_before)
                        stall_output += repeats * (stall_output - output_before)
                        stall_fetch += repeats * (stall_fetch - fetch_before)
                        further = tick + skipped_ticks
                    adc_before, output_before, fetch_before = stall_adc, stall_output, stall_fetch
        stall_adc += waits_adc
        stall_output += waits_output
        stall_fetch += waits_fetch
        tick += 1
    num_reads = flow.started - reads  # the further vector is not the job's
    interval = last - before_last if job.vectors > 1 else 0
    return Counts(
        first + job.shift_add_ticks, interval, further - first, last + job.shift_add_ticks,
        num_reads, num_reads * job.conversions, stall_adc, stall_output, stall_fetch,
    )  # fmt: skip


_settle_compiled = numba.njit(inline="always")(_settle)  # a call would cost as much as its moves
_shift_compiled = numba.njit(cache=True)(_shift)
_ticks_left_compiled = numba.njit(cache=True)(_ticks_left)
_run_mvm_compiled = numba.njit(cache=True)(_run_mvm)
