"""The gather kernel against its tick-by-tick twin, EVA's closed form, and what bank conflicts must do."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimsim.records import GatherJob
from cimsim.unit.gather import STATED, count_gather, in_order, stated_entries
from tests.twins import naive_gather

EVA = GatherJob(
    rounds=1, vectors=512, new_vectors=512, group_vectors=128, books=2, outputs=4096, lanes=128, banks=128, by_entry=0,
    pass_vectors=32, pass_ticks=256 + 40, buffers=2, drain_ticks=6,
)  # fmt: skip


def random_job(random: Random) -> GatherJob:
    vectors = random.randint(1, 12)
    return GatherJob(
        rounds=random.randint(1, 4), vectors=vectors, new_vectors=random.choice([vectors, random.randint(0, vectors)]),
        group_vectors=random.randint(1, 8), books=random.randint(1, 3), outputs=random.randint(1, 6),
        lanes=random.randint(1, 6), banks=random.randint(1, 8), by_entry=random.randint(0, 1),
        pass_vectors=random.randint(1, 5), pass_ticks=random.randint(1, 9), buffers=random.randint(1, 2),
        drain_ticks=random.randint(0, 3),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_kernel_equals_its_twin(seed):
    random = Random(seed)
    for _ in range(700):
        job = random_job(random)
        entries = [random.randrange(16) for _ in range(random.randint(1, 40))]
        found = count_gather(job, np.array(entries, np.int64).tobytes())
        assert found == naive_gather.gather(job, entries), job
        assert found.drain - job.drain_ticks - found.first_step == (
            found.steps + found.stall_bank + found.stall_product
        )


def closed_form(inputs: int, outputs: int, books: int) -> int:
    """EVA at batch 1, without conflicts: four passes, then the slower of gathering and multiplying per row group."""
    groups = -(-inputs // 1024)
    last_passes = -(-(-(-inputs // 8) - (groups - 1) * 128) // 32)
    passes = [1184] * (groups - 1) * books + [last_passes * 296] * books
    return passes[0] + sum(max(next_, outputs) for next_ in passes[1:]) + outputs + 6


@pytest.mark.parametrize("books", [1, 2, 3])
@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 4096), (4096, 11008), (11008, 4096), (1024, 1184)])
def test_evas_cycles_per_layer(inputs, outputs, books):
    """1,184 + C ceil(I / 1,024) O + 6 for O >= 1,184 (artifact of EVA, github.com/dbw6/Eva)."""
    job = EVA._replace(vectors=inputs // 8, new_vectors=inputs // 8, outputs=outputs, books=books)
    assert (
        count_gather(job).drain
        == 1184 + books * -(-inputs // 1024) * outputs + 6
        == closed_form(inputs, outputs, books)
    )


@pytest.mark.parametrize(("inputs", "outputs"), [(4096, 1000), (11008, 64), (4096, 1), (900, 300)])
def test_below_1184_outputs_the_products_set_the_pace(inputs, outputs):
    vectors = -(-inputs // 8)
    counts = count_gather(EVA._replace(vectors=vectors, new_vectors=vectors, outputs=outputs))
    assert counts.drain == closed_form(inputs, outputs, 2)
    assert counts.stall_product > 0


def test_the_seven_layers_of_llama_2_7b_take_405642_cycles():
    shapes = [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
    jobs = [EVA._replace(vectors=i // 8, new_vectors=i // 8, outputs=o) for i, o in shapes]
    assert sum(count_gather(job).drain for job in jobs) == 405_642


@settings(max_examples=60)
@given(st.integers(1, 16), st.integers(1, 16))
def test_banks_by_subvector_do_not_collide_if_there_is_one_for_each_lane(lanes, banks):
    job = EVA._replace(outputs=8, lanes=lanes, banks=banks, group_vectors=16, vectors=16, new_vectors=16)
    assert (count_gather(job).stall_bank == 0) == (banks >= lanes)


def test_equal_indices_wait_for_each_other_and_spread_ones_do_not():
    job = EVA._replace(outputs=10, by_entry=1)
    same, spread = np.zeros(1, np.int64), np.arange(128)
    assert count_gather(job, same.tobytes()).stall_bank == 127 * count_gather(job).steps
    assert count_gather(job, spread.tobytes()).stall_bank == 0


def test_uniform_indices_wait_as_long_as_balls_in_bins():
    """The fullest of B bins with L balls, by simulation with other numbers; and a skewed histogram is worse."""
    job = EVA._replace(outputs=4096, lanes=16, banks=16, by_entry=1)
    counts = count_gather(job)
    thrown = np.random.default_rng(5).integers(0, 16, (20_000, 16))
    fullest = np.mean([np.bincount(row, minlength=16).max() for row in thrown])
    assert 1 + counts.stall_bank / counts.steps == pytest.approx(fullest, rel=0.02)
    skewed = stated_entries(tuple(1 / (e + 1) for e in range(256)))
    assert count_gather(job, skewed).stall_bank > counts.stall_bank
    assert len(stated_entries()) == len(skewed) == 8 * STATED


def test_codes_are_taken_in_the_order_of_lookups():
    codes = np.arange(3 * 5 * 2).reshape(3, 5, 2)  # outputs, sub-vectors, books
    found = np.frombuffer(in_order(codes, 2), np.int64)
    expected = [
        codes[o, v, book] for start in (0, 2, 4) for book in range(2) for o in range(3)
        for v in range(start, min(start + 2, 5))
    ]  # fmt: skip
    assert found.tolist() == expected
    twice = np.frombuffer(in_order(codes, 2, copies=2), np.int64)
    assert twice[:4].tolist() == [codes[0, 0, 0], codes[0, 1, 0]] * 2


@pytest.mark.parametrize("change", [{"lanes": 0}, {"buffers": 3}, {"new_vectors": 600}, {"drain_ticks": -1}])
def test_impossible_jobs_are_refused(change):
    with pytest.raises(ValueError, match="GatherJob"):
        count_gather(EVA._replace(**change))
