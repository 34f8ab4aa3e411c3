"""Tick by tick through the loading of one array: index words, ROM or decoder, word lines."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from cimsim.records import LoadCounts, LoadJob
from cimsim.unit.checks import check_job

MOST_BANKS = 62  # one bit each of an integer
UNIFORM = 4096  # lookups after which the stated distribution repeats

# Rules of the load machine, in the order in which they act inside a tick.
#   issue    lookups in their order, until `ports` are used, the buffer being filled has all of its block, a
#            code begins that is not whole in the reservoir, or a lookup's bank has answered in this tick. One
#            tick serves one buffer, which is taken at its block's first issue and is free again in the tick
#            after its last row. Lookups issued in tick t are in the buffer at t + latency.
#   write    starts or goes on if its block is complete. An idle tick of the writer is the index's if lookups
#            of the awaited block ended for want of bits, the bank's if they ended at a bank, else the ROM's
#            (ports or latency).
#   index    a word enters if it fits into max(2 words, code + word) bits; its bits serve the next tick.
# More ports, or an index of twice the width, never slow a load. Widths that are no multiple can (by a few
# ticks), since a wider word may not fit where a narrower one did.


@lru_cache(maxsize=1 << 12)
def count_load(job: LoadJob) -> LoadCounts:
    """What `job` does, in ticks of the digital clock. Raises ValueError unless all are >= 1 (latency, banks: 0).

    Uniform indices are the same ones in every run.
    """
    counts = job._replace(entries=b"")
    check_job(counts, at_least_one=tuple(name for name in job._fields if name not in ("latency", "banks", "entries")))
    if job.banks > MOST_BANKS:
        raise ValueError(f"LoadJob: banks = {job.banks}: must be <= {MOST_BANKS}")
    stream = np.frombuffer(job.entries, np.int64) if job.entries else _uniform_entries()
    return LoadCounts(*_run_load_compiled(LoadJob._make((*map(int, job[:-1]), 0)), stream))


@lru_cache(maxsize=1)
def _uniform_entries() -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 1 << 32, UNIFORM)  # mod any number of banks as good as uniform


def _run_load(job: LoadJob, entries: NDArray[np.int64]) -> LoadCounts:
    block_lookups = job.codes_per_block * job.lookups
    num_words = (job.blocks * job.codes_per_block * job.code_bits + job.index_width - 1) // job.index_width
    capacity_bits = max(2 * job.index_width, job.code_bits + job.index_width)
    tick = held_bits = index_words = rom_reads = rows_written = stall_index = stall_rom_port = stall_bank = 0
    issued_blocks = written_blocks = in_buffer = 0
    row_ticks_left = rows_left = 0
    complete_even = complete_odd = 0  # when the last code of the newest even and odd block is in its buffer
    while written_blocks < job.blocks:
        is_short = is_conflict = False
        if issued_blocks < min(job.blocks, written_blocks + job.buffers):
            busy_banks = issued = 0
            while issued < job.ports and in_buffer < block_lookups:
                begins = in_buffer % job.lookups == 0
                if begins and held_bits < job.code_bits:
                    is_short = True
                    break
                if job.banks:
                    bank = 1 << (entries[rom_reads % entries.size] % job.banks)
                    if busy_banks & bank:
                        is_conflict = True
                        break
                    busy_banks |= bank
                held_bits -= job.code_bits if begins else 0
                rom_reads, in_buffer, issued = rom_reads + 1, in_buffer + 1, issued + 1
            if in_buffer == block_lookups:
                if issued_blocks & 1:
                    complete_odd = tick + job.latency
                else:
                    complete_even = tick + job.latency
                issued_blocks, in_buffer = issued_blocks + 1, 0
        complete = complete_odd if written_blocks & 1 else complete_even
        if rows_left == 0 and issued_blocks > written_blocks and complete <= tick:
            rows_left, row_ticks_left = job.block_rows, job.write_ticks
        if rows_left == 0:
            is_awaited = issued_blocks == written_blocks
            stall_index += is_short and is_awaited
            stall_bank += is_conflict and is_awaited
            stall_rom_port += not ((is_short or is_conflict) and is_awaited)
        else:
            row_ticks_left -= 1
            if row_ticks_left == 0:
                rows_left, row_ticks_left = rows_left - 1, job.write_ticks
                rows_written += 1
                written_blocks += rows_left == 0
        if index_words < num_words and held_bits + job.index_width <= capacity_bits:
            held_bits += job.index_width
            index_words += 1
        tick += 1
    return LoadCounts(tick, index_words, rom_reads, rows_written, stall_index, stall_rom_port, stall_bank)


_run_load_compiled = numba.njit(cache=True)(_run_load)
