"""Real cells: ideal ones change nothing, others have the moments of their distributions, seeds decide every byte."""

from __future__ import annotations

from math import exp, floor, log, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cimsim.arrays import noise
from cimsim.arrays.encodings import ENCODINGS, ArrayNumbers, Widths, lossless_adc_bits
from cimsim.arrays.irdrop import Wires, transfer
from cimsim.arrays.mvm import array_mvm
from cimsim.arrays.nonideal import BANDS, CELLS, Drift, Nonidealities, WireLoss, load_cells
from cimsim.arrays.programmed import BATCH, Origin, ProgrammedArrays
from cimsim.chip.cells import cells_of
from cimsim.chip.numbers import array_numbers
from cimsim.chip.reading import load_chip
from cimsim.integer.forward import accuracy_of_seeds, run
from docs.made.figures import ROOT, output
from tests.cimsim.arrays.test_functional import cases, operands
from tests.cimsim.arrays.test_noise import gaussian, within
from tests.helpers.integer_network import IMAGES, artifact_of
from tests.twins.naive_functional import is_shifted, reads
from workloads.errors import InputError

MANY = 200_000
PLAIN = ArrayNumbers(64, 64, 1, 1, 7, "offset")


def written(cells: Nonidealities, level: float = 1.0, largest: int = 1, seed: int = 0):
    return cells.written(np.full(MANY, level), largest, np.random.default_rng(seed))


# Ideal cells.


@given(cases(), st.tuples(st.integers(0, 3), st.integers(1, 7), st.booleans()), st.sampled_from([0.0, 0.2]))
@settings(max_examples=100)
def test_ideal_cells_change_nothing(case, adc, off_fraction):
    """Bit for bit the integer path, in every encoding, with converters that clip and round; the current of cells at
    level zero is subtracted by the reference."""
    numbers, x, w, *widths = case
    bits_less, adc_step, tapers = adc
    numbers = numbers._replace(adc_bits=max(numbers.adc_bits - bits_less, 1), tapers=tapers)
    cells = Nonidealities(off_fraction=off_fraction)
    assert cells.is_ideal
    arrays = ProgrammedArrays(w, numbers, Widths(*widths, adc_step), cells, Origin(0))
    assert np.array_equal(arrays.read(x), array_mvm(x, w, numbers, Widths(*widths, adc_step)))


def test_no_parameter_is_overlooked():
    """Each one alone makes cells not ideal, and changes what arrays return."""
    x, w = operands(np.random.default_rng(0), (20, 64, 10), 4, 4)
    changes = (
        {"programming_fraction": 0.2}, {"variation_fraction": 0.5}, {"read_noise_fraction": 0.2},
        {"stuck_off_probability": 0.1}, {"stuck_on_probability": 0.1},
        {"drift": Drift(exponent=0.1, time_s=1e6)}, {"wires": WireLoss(segment_ohm=5, on_ohm=1e4)},
    )  # fmt: skip
    assert {name for change in changes for name in change} | {"off_fraction"} == set(Nonidealities.model_fields)
    for change in changes:
        cells = Nonidealities(**change)
        assert not cells.is_ideal
        arrays = ProgrammedArrays(w, PLAIN, Widths(4, 4), cells, Origin(0))
        assert not np.array_equal(arrays.read(x), x @ w), change


# Moments.


@pytest.mark.parametrize("level", [2, 3])
def test_writes_err_alike_at_every_level(level):
    cells = Nonidealities(programming_fraction=0.02, off_fraction=0.1)
    within(written(cells, level, 3)[0], 0.1 + 0.9 * level / 3, 0.02)


def test_nothing_conducts_less_than_nothing():
    """A Gaussian cut at zero has mean s / sqrt(2 pi) and variance s^2 (1 / 2 - 1 / (2 pi))."""
    found, _ = written(Nonidealities(programming_fraction=0.1), 0)
    within(found, 0.1 / sqrt(2 * pi), 0.1 * sqrt(0.5 - 0.5 / pi))
    assert found.min() == 0


@pytest.mark.parametrize("spread", [0.01, 0.3, 1.0])
def test_devices_differ_by_a_lognormal_factor_of_mean_one(spread):
    found, _ = written(Nonidealities(variation_fraction=spread))
    within(np.log(found), -log(1 + spread**2) / 2, sqrt(log(1 + spread**2)))
    assert np.mean(found) == pytest.approx(1, abs=5 * spread / sqrt(MANY))


def test_cells_drift_by_a_power_law():
    """exp(-nu L) with L = ln(t / t0) is lognormal: mean exp(-m L + s^2 L^2 / 2)."""
    drift = Drift(exponent=0.05, sigma=0.02, time_s=20 * exp(10))
    found, before = written(Nonidealities(drift=drift))
    within(np.log(found), -0.5, 0.2)
    assert before == MANY and Nonidealities(drift=drift).gain(before, found.sum()) == 1
    assert np.mean(found) == pytest.approx(exp(-0.5 + 0.02), rel=0.01)
    at_once, _ = written(Nonidealities(drift=drift.model_copy(update={"time_s": 20.0})))
    assert (at_once == 1).all()


def test_compensation_restores_the_sum():
    drift = Drift(exponent=0.05, sigma=0.02, time_s=1e6, compensated=True)
    cells = Nonidealities(drift=drift)
    found, before = written(cells)
    gain = cells.gain(before, found.sum())
    assert gain > 1 and gain * found.sum() == pytest.approx(MANY)
    alike = Nonidealities(drift=drift.model_copy(update={"sigma": 0.0}))
    x, w = operands(np.random.default_rng(0), (20, 64, 10), 4, 4)
    assert np.array_equal(ProgrammedArrays(w, PLAIN, Widths(4, 4), alike, Origin(0)).read(x), x @ w)


def test_cells_stick_as_often_as_stated():
    found, _ = written(Nonidealities(off_fraction=0.1, stuck_off_probability=0.09, stuck_on_probability=0.02), 1, 2)
    shares = [float(np.mean(found == value)) for value in (0.1, 1.0, 0.55)]
    assert shares == pytest.approx([0.09, 0.02, 0.89], abs=5 * sqrt(0.09 / MANY))
    both = Nonidealities(stuck_on_probability=0.3, drift=Drift(exponent=0.05, time_s=1e6))
    assert np.mean(written(both)[0] == 1) == pytest.approx(0.3, abs=0.01)  # what is stuck does not drift
    all_on = Nonidealities(stuck_on_probability=1.0)
    x, w = operands(np.random.default_rng(0), (3, 64, 5), 4, 4)
    numbers = PLAIN._replace(adc_bits=20)
    full = ProgrammedArrays(w, numbers, Widths(4, 4), all_on, Origin(0)).read(x)
    assert np.array_equal(full, np.repeat(x.sum(axis=1, keepdims=True) * (15 - 8), 5, axis=1))


@pytest.mark.parametrize(("encoding", "devices"), [("differential", 1), ("xnor", 2), ("sign_magnitude", 1)])
@pytest.mark.parametrize("group_columns", [1, 2])
def test_read_noise_of_a_column_is_that_of_its_cells(encoding, devices, group_columns):
    """Variance: per read the squares of levels times the squares of cells' weights, times the square of the fraction;
    with one fine conversion per output the sum shows it. xnor's sums count twice the product."""
    numbers = ArrayNumbers(64, 64, 1, 3, 40, encoding, group_columns=group_columns, pair_conversions=1)
    x, w = np.full((MANY // 50, 64), 5), np.zeros((64, 50), int)
    weight_bits, scale = group_columns, 1 << 12
    cells = Nonidealities(read_noise_fraction=0.05, off_fraction=0.5)
    arrays = ProgrammedArrays(w, numbers, Widths(weight_bits, 3), cells, Origin(0))
    arrays.digits = [digits * scale for digits in arrays.digits]  # finer than a unit, to see the noise
    arrays.planes = arrays.planes[0], arrays.planes[1] * scale
    arrays.linear, arrays.constant = 0 * arrays.linear, 0 * arrays.constant
    values = arrays.read(x)
    pair = 2 if encoding == "differential" else 1
    levels = 64 * (25 + (4 if devices == 2 else 0))
    of_cells = pair * sum(4**i for i in range(group_columns))
    expected = 0.05 / 0.5 * sqrt(levels * of_cells) * scale / (2 if encoding == "xnor" else 1)
    within((values - values.mean()).ravel(), 0, expected)


def test_errors_of_cells_add_up_in_a_column():
    """Rows of level one, cells of the same level: the sum of R errors has R times their variance."""
    numbers = ArrayNumbers(256, 256, 4, 1, 40, "sign_magnitude")
    cells = Nonidealities(programming_fraction=0.5 / 15)  # half a level
    x, w = np.ones((1, 256), int), np.full((256, 4000), 7)
    found = ProgrammedArrays(w, numbers, Widths(4, 1), cells, Origin(3)).read(x)[0]
    within(found, 256 * 7, sqrt(256 * 0.25 + 1 / 12))  # rounding to whole units adds a twelfth


def test_effects_draw_apart():
    """Errors of writing are the same cells' errors, whether or not cells are stuck, vary or drift besides."""
    alone, _ = written(Nonidealities(programming_fraction=0.1), 0.5)
    stuck, _ = written(Nonidealities(programming_fraction=0.1, variation_fraction=1e-9, stuck_on_probability=0.5), 0.5)
    assert np.allclose(stuck[stuck != 1], alone[stuck != 1])


# The twin, wires, seeds.


@given(cases(3, 30, 4), st.integers(0, 3), st.sampled_from([1, 4]))
@settings(max_examples=60)
def test_equals_a_plain_twin(case, bits_less, adc_step):
    """Noisy reads of varied cells, one conversion at a time; only the cells and the noise are taken over."""
    numbers, x, w, *sizes = case
    numbers, widths = numbers._replace(adc_bits=max(numbers.adc_bits - bits_less, 1)), Widths(*sizes, adc_step)
    if is_shifted(numbers, widths):
        x, widths = x + (1 << (widths.input_bits - 1)), widths._replace(input_signed=False)
    cells = Nonidealities(programming_fraction=0.1, read_noise_fraction=0.05, variation_fraction=0.1)
    arrays = ProgrammedArrays(w, numbers, widths, cells, Origin(7))
    one_code = np.abs(arrays.worths).max() * max(abs(step.weight) for step in arrays.steps)
    assert np.abs(arrays.read(x) - plain_read(arrays, x, numbers, widths)).max(initial=0) <= one_code


def plain_read(arrays, x, numbers, widths):
    """In double precision, so that a sum on the edge of two codes may fall on the other side."""
    num_outputs, (ranges, noises) = arrays.worths.shape[2], arrays.planes
    out = np.zeros((len(x), num_outputs), np.int64)
    for group, (start, stop) in enumerate(zip(*arrays.groups, strict=True)):
        num_reads = len(list(reads(x[0, start:stop].tolist(), numbers, widths))) if len(x) else 0
        for step in range(num_reads):
            keys = noise.read_keys(arrays.noise_seed, 0, len(x), group * num_reads + step)
            for n in range(len(x)):
                levels, worth, bits, taper = list(reads(x[n, start:stop].tolist(), numbers, widths))[step]
                if numbers.encoding == "xnor":
                    levels = levels + [(1 << bits) - 1 - level for level in levels]
                for p, o in np.ndindex(len(noises), num_outputs):
                    column = p * num_outputs + o
                    total = sum(a * float(b) for a, b in zip(levels, arrays.digits[group][:, column], strict=True))
                    total += sqrt(sum(a * a for a in levels)) * float(noises[p]) * gaussian(int(keys[n]), column)
                    low, high = floor(ranges[p, 0] / 2**taper), floor(ranges[p, 1] / 2**taper)
                    code = min(max(floor(total / (widths.adc_step << taper) + 0.5), low), high) << taper
                    out[n, o] += code * worth * arrays.worths[group, p, o]
        out += x[:, start:stop].sum(axis=1, keepdims=True) * arrays.linear[group]
    out += arrays.constant
    return out >> 1 if numbers.encoding == "xnor" else out


@pytest.mark.parametrize("method", ["ladders", "exact"])
def test_wires_take_the_place_of_cells(method):
    """Two arrays of 8 columns, 16 of 32 rows on: what columns return is what Kirchhoff's law says, rounded."""
    numbers = ArrayNumbers(32, 16, 4, 4, 40, "offset", columns=8)
    x, w = operands(np.random.default_rng(0), (9, 40, 14), 4, 4)
    wires = WireLoss(segment_ohm=2, on_ohm=50_000, method=method)
    found = ProgrammedArrays(w, numbers, Widths(4, 4), Nonidealities(wires=wires), Origin(0)).read(x)
    expected = -8.0 * x.sum(axis=1, keepdims=True) + np.zeros((1, 14))
    for start, stop, below in ((0, 16, 16), (16, 32, 0), (32, 40, 24)):
        for first in (0, 8):
            cells = np.pad((w[start:stop, first : first + 8] + 8) / 15 / 50_000, ((0, below), (0, 0)))
            matrix = transfer(cells, Wires(2, 2))[: stop - start]
            expected[:, first : first + 8] += x[:, start:stop] @ matrix * 15 * 50_000
    slack = 1.51 if method == "exact" else 1.51 + 0.02 * np.abs(x @ (w + 8)).max()  # three roundings
    assert np.abs(found - expected).max() < slack
    assert np.abs(found - x @ w).max() > 3


def test_a_seed_decides_every_byte_whatever_the_batches():
    x, w = operands(np.random.default_rng(0), (3 * BATCH // 2, 64, 10), 4, 4)
    cells = CELLS["reram"]

    def outputs(origin, parts):
        arrays, first, found = ProgrammedArrays(w, PLAIN, Widths(4, 4), cells, origin), 0, []
        for part in parts:
            found.append(arrays.read(x[first : first + part], first))
            first += part
        return np.concatenate(found)

    once = outputs(Origin(1, (2,)), [len(x)])
    assert np.array_equal(once, outputs(Origin(1, (2,)), [100, 1, 200, len(x) - 301]))
    assert not np.array_equal(once, outputs(Origin(2, (2,)), [len(x)]))
    assert not np.array_equal(once, outputs(Origin(1, (3,)), [len(x)]))
    again = ProgrammedArrays(w, PLAIN, Widths(4, 4), cells, Origin(1, (2,)))
    assert not np.array_equal(again.read(x[:9], 0), again.read(x[:9], 9))  # noise goes on


@given(cases(1, 150, 10))
@settings(max_examples=60)
def test_sums_are_exact_in_any_order(case):
    """Digits are multiples of a power of two of which no sum has more than the mantissa holds: a GEMM by any number of
    threads gives the same bits."""
    numbers, _, w, *widths = case
    cells = Nonidealities(programming_fraction=0.1, variation_fraction=0.1)
    arrays = ProgrammedArrays(w, numbers, Widths(*widths), cells, Origin(0))
    for digits in arrays.digits:
        scaled = (np.ldexp(digits.astype(np.float64), bits) for bits in range(31))
        whole = next(values for values in scaled if (values == np.rint(values)).all())
        level = 1 << max(step.bits for step in arrays.steps)
        assert level * np.abs(whole).sum(axis=0).max() <= 2.0 ** (24 if digits.dtype == np.float32 else 53)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_more_variation_is_more_error(encoding):
    numbers = ArrayNumbers(64, 64, 1, 1, 9, encoding)
    assert numbers.adc_bits >= lossless_adc_bits(numbers)
    x, w = operands(np.random.default_rng(0), (100, 64, 30), 6, 6)
    errors = [
        np.square(ProgrammedArrays(w, numbers, Widths(6, 6), cells, Origin(0)).read(x) - x @ w).mean()
        for cells in (Nonidealities(programming_fraction=s) for s in (0, 0.03, 0.1, 0.3))
    ]
    assert errors[0] == 0 and errors == sorted(errors) and errors[1] < errors[2] < errors[3]


# A network.


def test_a_network_through_real_cells():
    """Ideal cells are the ideal arrays; real ones are the same for a seed, whatever the batch, and cost accuracy."""
    artifact, images = artifact_of(("linear-8", "vq-4x16-e4-s2")), np.concatenate([IMAGES, IMAGES[::-1]])
    numbers = PLAIN._replace(adc_bits=8)
    ideal = run(artifact, images, numbers)
    assert np.array_equal(run(artifact, images, numbers, cells=Nonidealities(), seed=3), ideal)
    cells = CELLS["reram"]
    found = run(artifact, images, numbers, cells=cells, seed=3)
    assert np.array_equal(run(artifact, images, numbers, batch=1, cells=cells, seed=3), found)
    assert not np.array_equal(run(artifact, images, numbers, cells=cells, seed=4), found)
    assert not np.array_equal(found, ideal)
    labels = ideal.argmax(1)
    seeds = accuracy_of_seeds(artifact, (images, labels), numbers, Nonidealities(stuck_on_probability=0.5), (0, 1, 2))
    assert seeds.mean_accuracy == np.mean(seeds.of_seed_accuracy) < 1
    spread = np.std(seeds.of_seed_accuracy, ddof=1)
    assert seeds.half_accuracy == pytest.approx(4.3027 * spread / sqrt(3), rel=1e-4)
    one = accuracy_of_seeds(artifact, (images, labels), numbers, Nonidealities(), (0,))
    assert one.mean_accuracy == 1 and np.isnan(one.half_accuracy)


# The record.


def test_named_cells_lie_in_their_bands():
    assert CELLS.keys() == BANDS.keys()
    for name, bands in BANDS.items():
        for item in bands:
            value = CELLS[name]
            for part in item.name.split("."):
                value = getattr(value, part)
            assert value == item.nominal and item.low <= item.nominal <= item.high, (name, item.name)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"programing_fraction": 0.1}, "Extra inputs are not permitted"),
        ({"programming_fraction": -0.1}, "greater than or equal to 0"),
        ({"stuck_off_probability": 0.6, "stuck_on_probability": 0.5}, "must be <= 1"),
        ({"drift": {"exponent": 0.05}}, "time_s"),
        ({"wires": {"segment_ohm": 0, "on_ohm": 1}}, "greater than 0"),
    ],
)
def test_wrong_entries_are_refused(entry, message):
    with pytest.raises(ValidationError, match=message):
        Nonidealities(**entry)


def test_cells_come_by_name_or_from_a_file(tmp_path):
    assert load_cells("pcm") is CELLS["pcm"]
    path = tmp_path / "cells.yaml"
    path.write_text("programming_fraction: 0.05\ndrift: {exponent: 0.06, time_s: 3600}\n")
    drift = Drift(exponent=0.06, time_s=3600)
    assert load_cells(path) == Nonidealities(programming_fraction=0.05, drift=drift)
    path.write_text("programing_fraction: 0.05\ndrift: {exponent: 2, time_s: 1}\n")
    with pytest.raises(InputError, match=r"programing_fraction: unknown key \(known: programming_fraction, ") as told:
        load_cells(path)
    assert "drift.exponent = 2" in str(told.value)
    with pytest.raises(InputError, match=r"flash: no such file of cells, nor a name \(known: reram, pcm\)"):
        load_cells("flash")


def test_a_chip_has_cells_of_its_kind():
    """Wires where currents are read: ISAAC's lose a little of every product; SRAM is ideal; NeuRRAM reads voltages."""
    isaac = load_chip("isaac")
    cells, numbers = cells_of(isaac), array_numbers(isaac)._replace(adc_bits=30)
    assert cells.model_copy(update={"wires": None}) == CELLS["reram"] == cells_of(load_chip("neurram"))
    assert cells.wires and cells.wires.segment_ohm == pytest.approx(isaac.array.segment_ohm(isaac.technology))
    assert cells_of(load_chip("sram-rom")).is_ideal and cells_of(load_chip("sram-digital")).is_ideal
    x, w = np.full((1, 128), 255), np.full((128, 4), 127)
    only_wires = Nonidealities(wires=cells.wires)
    found = ProgrammedArrays(w, numbers._replace(column_flip=False), Widths(8, 8), only_wires, Origin(0)).read(x)
    lost = 1 - (found + 128 * x.sum()) / ((127 + 128) * x.sum())
    assert (lost > 0).all() and (lost < 0.1).all()


def test_the_example_of_real_cells(tmp_path):
    """On fewer images and seeds than it draws by itself."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shown = output("python examples/nonideal_accuracy.py 320 30 2", tmp_path)
    assert shown.count("±") >= 8 and "reram" in shown
    assert (tmp_path / "runs/nonideal_accuracy.png").stat().st_size > 10_000


def test_a_dictionary_is_enough():
    entry = {"programming_fraction": 0.05, "drift": {"exponent": 0.05, "time_s": 3600}}
    assert Nonidealities(**entry) == Nonidealities(**Nonidealities(**entry).model_dump())
