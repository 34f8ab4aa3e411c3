"""Data-dependent energy: exact counts against loops over every cell, independent data, and a trained network."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.arrays.activity import exact, from_histograms, histogram
from cimsim.arrays.encodings import ArrayNumbers, Widths
from cimsim.chip.reading import load_chip
from cimsim.components.base import REFERENCE, Activity
from cimsim.components.crossbar import Crossbar
from cimsim.components.dac import Dac
from cimsim.components.digital_array import DigitalArray
from cimsim.components.laws.scaling import Technology
from cimsim.studies.data_energy import by_layer
from qat.storage.export import export
from qat.training.tune import tune
from tests.helpers.trained_digits import DATA, SETTINGS, trained
from workloads.data.datasets import load
from workloads.plan import Plan
from workloads.shapes import load_network

TECH = Technology(28, 0.9)


def digits_of(value: int, bits: int, width: int) -> list[int]:
    """Base-2^width digits of an integer in two's complement, least significant first."""
    value &= (1 << bits) - 1
    return [(value >> shift) & ((1 << width) - 1) for shift in range(0, bits, width)]


def slow(x, w, numbers: ArrayNumbers, weight_bits: int, input_bits: int) -> Activity:
    """Every read of every cell, one by one: offset, two's complement and xnor store bits; differential has pairs."""
    reads = []
    for vector in x:
        for row, value in enumerate(vector):
            for weight in w[row]:
                if numbers.encoding == "differential":
                    parts = [max(int(weight), 0), max(-int(weight), 0)]
                else:
                    shift = 0 if numbers.encoding == "twos_complement" else 1 << (weight_bits - 1)
                    parts = [int(weight) + shift]
                for digit in digits_of(int(value), input_bits, numbers.dac_bits):
                    for part in parts:
                        for cell in digits_of(part, weight_bits, numbers.cell_bits):
                            reads.append((digit / ((1 << numbers.dac_bits) - 1), cell / ((1 << numbers.cell_bits) - 1)))
    levels, cells = np.array(reads).T
    return Activity(levels.mean(), cells.mean(), (levels * cells).mean())


@given(
    st.sampled_from(["offset", "twos_complement", "differential", "xnor"]),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
)
def test_counts_are_those_of_every_cell(encoding, width, seed):
    rng = np.random.default_rng(seed)
    cell_bits = 1 if encoding in ("twos_complement", "xnor") else 2
    numbers = ArrayNumbers(4, 4, cell_bits, width, 8, encoding)
    x, w = rng.integers(0, 16, (3, 5)), rng.integers(-8, 8, (5, 2))
    assert exact(x, w, numbers, Widths(4, 4)) == pytest.approx(slow(x, w, numbers, 4, 4))


def test_independent_data_need_no_more_than_histograms():
    """Many uniform numbers: the three ways agree, at one half each in offset."""
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (400, 300)), rng.integers(-8, 8, (300, 64))
    numbers = ArrayNumbers(512, 512, 1, 1, 16, "offset")
    found = exact(x, w, numbers, Widths(4, 8))
    assert from_histograms(histogram(x), histogram(w), numbers, Widths(4, 8)) == pytest.approx(found, rel=0.01)
    assert found == pytest.approx(REFERENCE, rel=0.01)


def test_rows_that_go_together_are_seen_by_exact_counts_only():
    """Half the rows have all inputs and all cells on, half have none: the product is twice what means say."""
    x = np.tile([15, 0], (6, 4))
    w = np.tile([[7], [-8]], (4, 3))
    numbers = ArrayNumbers(8, 8, 1, 1, 8, "offset")
    assert exact(x, w, numbers, Widths(4, 4)) == pytest.approx(Activity(0.5, 0.5, 0.5))
    assert from_histograms(histogram(x), histogram(w), numbers, Widths(4, 4)) == pytest.approx(Activity(0.5, 0.5, 0.25))


@pytest.mark.parametrize("activity", [Activity(0.3, 0.6, 0.25), Activity(0.0, 0.5, 0.0), REFERENCE])
def test_factors_are_ratios_of_the_parts_own_energies(activity):
    shape = {"rows": 4, "rows_on": 4, "columns": 4, "cell_bits": 1, "write_ps": 1, "read_ps": 1000}
    for cell, encoding in (("sram_8t1c", "xnor"), ("sram", "offset"), ("reram", "differential")):
        part = Crossbar.model_validate(shape | {"cell": cell, "encoding": encoding})
        wanted = part.read_pj(TECH, activity) / part.read_pj(TECH, REFERENCE)
        assert part.data_factor("read_cell", TECH, activity) == pytest.approx(wanted)
        assert part.data_factor("write_cell", TECH, activity) == 1
    driver = Dac(bits=1)
    assert driver.data_factor("drive", TECH, activity) == pytest.approx(activity.input_density / 0.5)
    always = Dac(bits=1, load_ff=10, always=True)
    assert always.data_factor("drive", TECH, activity) == 1
    tree = DigitalArray(rows=4, rows_on=4, columns=4, weight_bits=4, reduction="adder_tree", write_ps=1)
    assert tree.data_factor("add_bit", TECH, activity) == pytest.approx(activity.joint_density / 0.25)


def test_xnor_cells_answer_where_bits_agree():
    """All inputs and weights equal: every cell answers; all opposite: none; the line is driven either way."""
    part = Crossbar.model_validate({"rows": 4, "rows_on": 4, "columns": 4, "cell_bits": 1, "cell": "sram_8t1c",
                                    "encoding": "xnor", "write_ps": 1, "cell_f2": 400, "word_line_ff": 1.0,
                                    "bit_line_ff": 0.5, "cell_ff": 2.0})  # fmt: skip
    agree, differ = part.read_pj(TECH, Activity(1, 1, 1)), part.read_pj(TECH, Activity(1, 0, 0))
    assert agree == pytest.approx(3.5 * 0.81e-3) and differ == pytest.approx(1.0 * 0.81e-3)


# --- a trained network ---


@cache
def artifact():
    model, plan = trained(), Plan.uniform(load_network("digitsnet"), "linear-4")
    tune(model, plan, DATA, SETTINGS, 0)
    return export(model.eval(), plan, DATA.train.images(slice(0, 1)))


@pytest.mark.parametrize("chip", ["isaac", "sram-rom", "sram-digital"])
def test_histograms_come_close_on_a_trained_network(chip):
    """Array and driver energy of each layer: histograms within 3 % in the mean and 8 % at most of the exact count; half
    of all on is further off."""
    rows = by_layer(artifact(), load("digits").test_x[:100], load_chip(chip))
    guessed, fixed = (np.array([abs(ratio - 1) for ratio in ratios]) for ratios in zip(
        *((row.histogram_ratio, row.fixed_ratio) for row in rows), strict=True))  # fmt: skip
    assert guessed.mean() < 0.03 and guessed.max() < 0.08
    assert fixed.mean() > 3 * guessed.mean()


def test_signed_inputs_of_several_bits_a_step_are_driven_shifted():
    """Two's complement in steps of two bits would need a negative level: -8 .. 7 are driven as 0 .. 15."""
    numbers = ArrayNumbers(8, 8, 1, 2, 8, "offset")
    x, w = np.full((2, 8), -8), np.full((8, 2), -8)
    assert exact(x, w, numbers, Widths(4, 4, input_signed=True)).input_density == 0
    assert exact(-x - 1, w, numbers, Widths(4, 4, input_signed=True)).input_density == 1
