"""Decoding codes into arrays: vectors along every axis, and the real indices of a layer in a banked ROM."""

from __future__ import annotations

from collections import Counter
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.chip.reading import load_chip
from cimsim.engine.choose import possible_works
from cimsim.engine.whole import simulate
from cimsim.unit.load import count_load
from tests.helpers.cases import case
from tests.twins import naive
from workloads.codec import to_vectors
from workloads.format import parse_format, weight_shape
from workloads.layer import Layer
from workloads.plan import Plan
from workloads.shapes import load_network

BANKED = {"codebook_rom.banks": 4, "codebook_rom.ports": 4}


def decoded(layer: Layer, fmt: str, codes=None, **vary):
    chip = load_chip("sram-rom", vary)
    works = possible_works(case(layer, parse_format(fmt), chip), "decode", codes)
    return works[0], chip


def touching(shape: tuple[int, ...], fmt: str, rows: int, outputs: int) -> int:
    """Pairs of an array and a vector that lies in it at least in part, from the weight's own indices; rows of the array
    in the order in which vectors run (channel, kernel) where they are cut along kernels."""
    parsed, count = parse_format(fmt), int(np.prod(shape))
    place = to_vectors(np.arange(count).reshape(shape) + 1, parsed.vector_length, parsed.axis) - 1  # -1: padding
    inputs, pairs = count // shape[0], set()
    for vector, members in enumerate(place.reshape(-1, parsed.vector_length)):
        for index in members[members >= 0]:
            output, at = divmod(int(index), inputs)
            if parsed.axis in ("in", "out"):
                channel, *kernel = np.unravel_index(at, shape[1:])
                at = int(np.ravel_multi_index((*kernel, channel), (*shape[2:], shape[1])))
            pairs.add((at // rows, output // outputs, vector))
    return len(pairs)


@pytest.mark.parametrize("axis", ["", "-out", "-kernel"])
@pytest.mark.parametrize(("channels", "outputs", "kernel"), [(16, 40, 3), (64, 96, 1), (40, 8, 5)])
def test_each_vector_is_looked_up_once_in_each_array_that_it_touches(axis, channels, outputs, kernel):
    """Vectors of four, arrays of 128 rows: ROM reads are those pairs times the entry's bits, exactly."""
    fmt = f"vq-4x16-e4-s0{axis}"
    layer = Layer(name="x", kind="conv", in_channels=channels, out_channels=outputs, in_size=(8, 8),
                  kernel=(kernel, kernel))  # fmt: skip
    work, chip = decoded(layer, fmt)
    array = chip.parts.cells
    pairs = touching(weight_shape(layer), fmt, array.rows, array.columns // array.columns_per_output(4))
    assert work.load_actions["codebook_rom", "", "read_bit"] == pairs * 4 * 4
    assert sum(count_load(job).rom_reads * count for job, count in work.load_jobs) == pairs


def test_vectors_through_the_whole_tensor_touch_one_more_block_at_most():
    layer = Layer(name="x", kind="linear", in_channels=130, out_channels=24)  # 130 = 32 x 4 + 2: vectors cross outputs
    work, chip = decoded(layer, "vq-4x16-e4-s0-flat")
    array = chip.parts.cells
    pairs = touching(weight_shape(layer), "vq-4x16-e4-s0-flat", array.rows, array.columns // 4)
    counted = work.load_actions["codebook_rom", "", "read_bit"] // 16
    assert pairs <= counted <= pairs + 2 * 24


def test_rows_are_written_once_whatever_the_axis():
    layer = Layer(name="x", kind="linear", in_channels=200, out_channels=40)
    written = {
        axis: sum(count_load(job).rows_written * n for job, n in decoded(layer, f"vq-4x16-e4-s0{axis}")[0].load_jobs)
        for axis in ("", "-out", "-kernel")
    }
    assert written["-out"] == 2 * 200  # two column tiles of 32 outputs
    assert written[""] == written["-kernel"] == 2 * 200


@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_real_indices_reach_the_rom_in_order(inputs, outputs, seed):
    """Each array's job against the plain machine, fed with the codes that a loop over its blocks picks."""
    layer = Layer(name="x", kind="linear", in_channels=inputs, out_channels=outputs)
    codes = np.random.default_rng(seed).integers(0, 16, (outputs, ceil(inputs / 4)))
    work, chip = decoded(layer, "vq-4x16-e4-s0", codes, **BANKED)
    array, wide = chip.parts.cells, chip.parts.cells.columns // 4
    wanted = Counter()
    for row in range(0, inputs, array.rows):
        for first in range(0, outputs, wide):
            entries = [
                int(codes[output, block])
                for block in range(row // 4, ceil(min(row + array.rows, inputs) / 4))
                for output in range(first, min(first + wide, outputs))
            ]
            wanted[tuple(entries)] += 1
    found = Counter({tuple(np.frombuffer(job.entries, np.int64)): 0 for job, _ in work.load_jobs})
    for job, count in work.load_jobs:
        found[tuple(np.frombuffer(job.entries, np.int64))] += count
    assert found == wanted
    job = work.load_jobs[0][0]
    assert count_load(job) == naive.load(job, np.frombuffer(job.entries, np.int64).tolist())


def test_indices_that_all_ask_for_one_bank_wait_for_it():
    """Four ports, four banks: equal codes are answered one a tick, codes in turn four."""
    network, layer = load_network("lenet5"), "fc1"
    plan = Plan.uniform(network, "vq-4x16-e4-s0")
    shape = parse_format("vq-4x16-e4-s0").code_shape(weight_shape(next(x for x in network.layers if x.name == layer)))
    turns = np.arange(np.prod(shape)).reshape(shape[::-1]).T % 4  # the outputs of a block take turns
    chip = load_chip("sram-rom", BANKED)
    reports = {
        name: simulate(network, chip, plan, codes={layer: codes} if codes is not None else None)
        for name, codes in (("equal", np.zeros(shape, int)), ("turns", turns), ("uniform", None))
    }
    stalls = {name: report.stall_cycles["bank_conflict"] for name, report in reports.items()}
    assert stalls["turns"] < stalls["uniform"] < stalls["equal"]


def test_a_rom_without_banks_does_not_ask_which_entry():
    layer = Layer(name="x", kind="linear", in_channels=64, out_channels=32)
    plain, _ = decoded(layer, "vq-4x16-e4-s0")
    real, _ = decoded(layer, "vq-4x16-e4-s0", np.zeros((32, 16), int))
    assert real.load_jobs == plain.load_jobs
