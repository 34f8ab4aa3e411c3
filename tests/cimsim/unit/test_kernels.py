"""The array machines against their plain twins, closed forms, and ISAAC's published pipeline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.records import ArrayJob, LoadJob
from cimsim.unit.load import count_load
from cimsim.unit.mvm import count_mvm
from tests.twins import naive


def ints(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low, high)


mvm_jobs = st.builds(
    ArrayJob, vectors=ints(1, 12), reads=ints(1, 5), conversions=ints(0, 12), adcs=ints(1, 4),
    read_ticks=ints(1, 6), sample_hold=ints(0, 1), fetch_ticks=ints(0, 20), shift_add_ticks=ints(0, 9),
    digital_ticks=ints(0, 20), write_ticks=ints(0, 20),
)  # fmt: skip
load_jobs = st.builds(
    LoadJob, entries=st.just(b""), blocks=ints(1, 5), codes_per_block=ints(1, 9), code_bits=ints(1, 9),
    index_width=ints(1, 12), ports=ints(1, 5), latency=ints(0, 6), block_rows=ints(1, 4), write_ticks=ints(1, 4),
    buffers=ints(1, 2), lookups=ints(1, 3), banks=st.just(0),
)  # fmt: skip

# Shafiee et al., "ISAAC", ISCA 2016: a 16-bit product takes 22 cycles of 100 ns and a new one starts every
# 16. One cycle fetches, 16 read one input bit each, 128 columns share one converter, then shift-add (2 cycles
# after the last conversion), activation and write. 128 conversions in 100 ns are 1.28 GS/s: 128 ticks.
ISAAC = ArrayJob(
    vectors=20, reads=16, conversions=128, adcs=1, read_ticks=128, sample_hold=1, fetch_ticks=128,
    shift_add_ticks=256, digital_ticks=128, write_ticks=128,
)  # fmt: skip
HALF_RATE = ISAAC._replace(fetch_ticks=64, read_ticks=64, shift_add_ticks=128, digital_ticks=64, write_ticks=64)


@pytest.mark.parametrize(
    ("job", "cycle_ticks", "first_cycles", "interval_cycles"),
    [
        pytest.param(ISAAC, 128, 22, 16, id="published"),
        pytest.param(HALF_RATE, 64, None, 32, id="half the ADC rate"),
        pytest.param(ISAAC._replace(conversions=256), 128, None, 32, id="two arrays per ADC"),
        pytest.param(ISAAC._replace(sample_hold=0), 128, None, 32, id="no sample-and-hold"),
        pytest.param(ISAAC._replace(reads=8), 128, 14, 8, id="2-bit DAC"),
    ],
)
def test_isaac_pipeline_emerges(job, cycle_ticks, first_cycles, interval_cycles):
    counts = count_mvm(job)
    assert counts.interval == interval_cycles * cycle_ticks
    assert counts.occupancy == job.vectors * counts.interval
    assert first_cycles is None or counts.first_result == first_cycles * cycle_ticks


def test_isaac_at_1_2_gs_per_s_cannot_keep_its_cycle():
    cycle_ticks = 120  # 100 ns at 1.2 GS/s: 128 conversions do not fit
    slow = ISAAC._replace(
        read_ticks=cycle_ticks, fetch_ticks=cycle_ticks, shift_add_ticks=2 * cycle_ticks,
        digital_ticks=cycle_ticks, write_ticks=cycle_ticks,
    )  # fmt: skip
    counts = count_mvm(slow)
    assert counts.interval == 16 * 128 > 16 * cycle_ticks
    assert counts.stall_adc == 8 * (slow.vectors * slow.reads - 1)  # every read but the first waits 8 ticks


@settings(max_examples=2000)
@given(mvm_jobs)
def test_mvm_equals_its_twin(job):
    expected = naive.mvm(job)
    assert count_mvm(job, fast_forward=False) == expected
    assert count_mvm(job) == expected


@settings(max_examples=2000)
@given(load_jobs, ints(0, 6), st.lists(ints(0, 40), min_size=1, max_size=30))
def test_load_equals_its_twin(job, banks, entries):
    job = job._replace(banks=banks)
    assert count_load(job._replace(entries=np.array(entries, np.int64).tobytes())) == naive.load(job, entries)


@settings(max_examples=300)
@given(mvm_jobs, ints(13, 3000))
def test_fast_forward_changes_nothing_in_long_jobs(job, vectors):
    job = job._replace(vectors=vectors)
    assert count_mvm(job) == count_mvm(job, fast_forward=False)


@given(mvm_jobs)
def test_fast_forward_is_linear_in_the_stream(job):
    """A million vectors at once: beyond the fill, each further one adds the interval and the same stalls."""
    one, two = (count_mvm(job._replace(vectors=n)) for n in (10**6, 2 * 10**6))
    assert two.interval == one.interval and two.first_result == one.first_result
    assert two.drain - one.drain == two.occupancy - one.occupancy == 10**6 * one.interval


@given(mvm_jobs, ints(1, 5))
def test_mvm_conserves_work_and_time(job, extra):
    counts = count_mvm(job)
    assert counts.reads == job.vectors * job.reads
    assert counts.conversions == counts.reads * job.conversions
    longer = count_mvm(job._replace(vectors=job.vectors + extra))
    assert longer.first_result == counts.first_result  # what comes later changes nothing earlier
    assert longer.drain >= counts.drain
    next_first = count_mvm(job._replace(vectors=job.vectors + 1)).drain
    assert counts.occupancy + counts.first_result == next_first  # the next job goes on with the stream


@given(mvm_jobs)
def test_array_time_is_reads_and_stalls(job):
    """With output stages that never block, the array is busy from its first read to its last hand-over."""
    job = job._replace(shift_add_ticks=0, digital_ticks=0, write_ticks=0)
    counts = count_mvm(job)
    convert_ticks = -(-job.conversions // job.adcs)
    busy = counts.reads * job.read_ticks + counts.stall_adc + counts.stall_fetch
    assert counts.stall_output == 0
    assert counts.drain == job.fetch_ticks + busy + (convert_ticks if job.sample_hold else 0)


@given(mvm_jobs)
def test_interval_closed_form(job):
    """Uncontended output: the larger of read and conversion with a sample-and-hold, their sum without."""
    convert_ticks = -(-job.conversions // job.adcs)
    per_read = max(job.read_ticks, convert_ticks) if job.sample_hold else job.read_ticks + convert_ticks
    vector_ticks = per_read * job.reads
    job = job._replace(
        vectors=200, fetch_ticks=min(job.fetch_ticks, vector_ticks),
        digital_ticks=min(job.digital_ticks, vector_ticks), write_ticks=min(job.write_ticks, vector_ticks),
    )  # fmt: skip
    counts = count_mvm(job)
    head = job.fetch_ticks + job.read_ticks + (job.reads - 1) * per_read + convert_ticks
    assert counts.interval == vector_ticks
    assert counts.first_result == head + job.shift_add_ticks + job.digital_ticks + job.write_ticks


@given(mvm_jobs)
def test_interval_is_the_slowest_stage(job):
    convert_ticks = -(-job.conversions // job.adcs)
    per_read = max(job.read_ticks, convert_ticks) if job.sample_hold else job.read_ticks + convert_ticks
    slowest = max(per_read * job.reads, job.fetch_ticks, job.digital_ticks, job.write_ticks)
    assert count_mvm(job._replace(vectors=10_000)).interval == slowest


def test_each_stall_has_its_cause():
    job = ArrayJob(
        vectors=100, reads=4, conversions=8, adcs=2, read_ticks=4, sample_hold=1, fetch_ticks=16,
        shift_add_ticks=3, digital_ticks=16, write_ticks=16,
    )  # fmt: skip
    causes = {
        "none": job, "adc": job._replace(adcs=1), "output": job._replace(write_ticks=40),
        "fetch": job._replace(fetch_ticks=40),
    }  # fmt: skip
    stalled = {cause: count_mvm(variant)[-3:] for cause, variant in causes.items()}
    assert stalled["none"] == (0, 0, 0)
    assert stalled["adc"] == (4 * (400 - 1), 0, 0)  # converting takes 8, reading 4
    assert stalled["fetch"] == (0, 0, 24 * 99)  # 40 to fetch, 16 to read
    adc, output, fetch = stalled["output"]
    assert adc == fetch == 0 and 24 * 95 < output < 24 * 99  # the registers take the first few


@settings(max_examples=500)
@given(mvm_jobs, st.sampled_from(["adcs", "sample_hold"]), ints(1, 3))
def test_more_hardware_is_never_slower(job, name, more):
    better = job._replace(**{name: 1 if name == "sample_hold" else job.adcs + more})
    ours, theirs = count_mvm(job), count_mvm(better)
    assert theirs.drain <= ours.drain and theirs.first_result <= ours.first_result


@settings(max_examples=500)
@given(load_jobs, ints(1, 4))
def test_more_ports_wider_index_second_buffer_are_never_slower(job, more):
    ticks = count_load(job).ticks
    assert count_load(job._replace(ports=job.ports + more)).ticks <= ticks
    assert count_load(job._replace(index_width=job.index_width << more)).ticks <= ticks
    assert count_load(job._replace(buffers=2)).ticks <= ticks


@given(load_jobs)
def test_load_conserves_work_and_time(job):
    counts = count_load(job)
    codes = job.blocks * job.codes_per_block
    assert counts.rom_reads == codes * job.lookups
    assert counts.index_words == -(-codes * job.code_bits // job.index_width)
    assert counts.rows_written == job.blocks * job.block_rows
    stalls = counts.stall_index + counts.stall_rom_port + counts.stall_bank_conflict
    assert counts.ticks == counts.rows_written * job.write_ticks + stalls


def test_banks_cost_what_their_conflicts_cost():
    """Four ports on four banks: entries in turn never meet, equal ones always do, random ones sometimes.

    n independent uniform lookups in order on B banks issue as many in a tick as come before the first repeat.
    """
    job = WRITE_BOUND._replace(index_width=256, latency=1, write_ticks=1, banks=4, blocks=200, block_rows=2)
    turns = np.tile(np.arange(4), 64).astype(np.int64).tobytes()
    assert count_load(job._replace(entries=turns)) == count_load(job._replace(banks=0))
    alike = count_load(job._replace(entries=np.zeros(1, np.int64).tobytes()))
    assert alike.ticks == count_load(job._replace(banks=0, ports=1)).ticks and alike.stall_bank_conflict > 0
    random = count_load(job)
    per_tick = 1 + 3 / 4 + 3 / 4 * 2 / 4 + 3 / 4 * 2 / 4 * 1 / 4  # expected length of a run without a repeat
    bound = 16 * 200 / per_tick  # a little longer: runs end at the borders of blocks of 16
    assert bound <= random.ticks <= 1.15 * bound and random.stall_index < 10


WRITE_BOUND = LoadJob(
    blocks=16, codes_per_block=16, code_bits=8, index_width=32, ports=4, latency=2, block_rows=8,
    write_ticks=10, buffers=2,
)  # fmt: skip


def test_load_bound_by_writing_or_by_the_index_or_by_the_rom():
    write_ticks = 16 * 8 * 10
    fill = 1 + (4 - 1) + 2  # first word, further issues of the first block, latency of the last
    assert count_load(WRITE_BOUND).ticks == fill + write_ticks
    assert count_load(WRITE_BOUND._replace(buffers=1)).ticks == 16 * (4 - 1 + 2) + 1 + write_ticks
    narrow = count_load(WRITE_BOUND._replace(index_width=1))  # 128 ticks of index a block, 80 of writing
    assert narrow.ticks == 16 * 128 + 2 + 80 and narrow.stall_rom_port == 16 * 2
    one_port = count_load(WRITE_BOUND._replace(ports=1, write_ticks=1))  # 16 ticks of ROM, 8 of writing
    assert one_port.ticks == 1 + 16 * 16 - 1 + 2 + 8 and one_port.stall_index == 1


def test_uncoded_weights_pass_at_the_speed_of_the_index():
    job = WRITE_BOUND._replace(latency=0, ports=16, index_width=128, write_ticks=1, block_rows=1)
    assert count_load(job).ticks == 16 + 1  # one block a tick, after the first word


@pytest.mark.parametrize(
    ("count", "job", "field"),
    [(count_mvm, ISAAC, "adcs"), (count_mvm, ISAAC, "read_ticks"), (count_load, WRITE_BOUND, "ports")],
)
def test_impossible_jobs_are_refused(count, job, field):
    with pytest.raises(ValueError, match=f"{field} = 0"):
        count(job._replace(**{field: 0}))


def test_counts_are_plain_integers():
    assert all(type(n) is int for n in (*count_mvm(ISAAC), *count_load(WRITE_BOUND)))
