"""The pool dataflow: shared products, permuted, plus signs are the decoded weights; actions in closed form."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.chip.reading import load_chip
from cimsim.engine.alone import layer_work
from cimsim.engine.whole import simulate
from workloads.codec import Codes, decode_integers, error_rows, pool_parts
from workloads.errors import InputError
from workloads.format import POOL_GROUP, num_kept, parse_format
from workloads.layer import Layer
from workloads.plan import LayerPlan, Plan
from workloads.shapes import load_network

FMT = parse_format("pool-128")


def stored(outputs: int, inputs: int, seed: int) -> tuple[Codes, np.ndarray]:
    """Random codes in which no group of outputs uses a column twice, signs, multiples; and a pool [K, K] of rows."""
    rng = np.random.default_rng(seed)
    vectors = ceil(inputs / FMT.vector_length)
    groups = [
        rng.permuted(np.tile(np.arange(POOL_GROUP), (vectors, 1)), axis=1).T for _ in range(ceil(outputs / POOL_GROUP))
    ]
    codes = np.concatenate(groups)[:outputs].astype(np.int32)
    signs = rng.choice([-1, 1], (outputs, num_kept(inputs, FMT.pruned_percent)))
    pool = rng.choice([-1, 1], (FMT.num_entries, FMT.vector_length))
    return Codes(codes=codes, scale_codes=rng.integers(1, 17, 2), errors=signs), pool


@given(st.integers(1, 70), st.integers(2, 400), st.integers(0, 2**32 - 1))
def test_permuted_products_and_signs_make_the_decoded_weights(outputs, inputs, seed):
    """What the chip does, step by step: each vector of inputs meets all columns once, each output takes its column's
    product, the signs' sums join by the two multiples. Integer for integer x times the decoded weights."""
    codes, pool = stored(outputs, inputs, seed)
    x = np.random.default_rng(seed + 1).integers(0, 256, (3, inputs))
    padded = np.pad(x, ((0, 0), (0, -inputs % FMT.vector_length)))
    first = pool_parts(outputs, FMT.num_entries) * POOL_GROUP
    sums = np.zeros((3, outputs), np.int64)
    for vector in range(codes.codes.shape[1]):
        products = (
            padded[:, vector * FMT.vector_length :][:, : FMT.vector_length] @ pool.T
        )  # [N, K]: one read of the pool
        sums += products[:, first + codes.codes[:, vector]]  # the permutation
    signed = x[:, error_rows(inputs, FMT.pruned_percent)] @ codes.errors.T
    found = codes.scale_codes[0] * sums + codes.scale_codes[1] * signed
    assert np.array_equal(found, x @ decode_integers(FMT, codes, (outputs, inputs), pool).T)


def test_actions_are_counted_in_closed_form():
    """A 3 x 3 convolution of 64 channels: 576 inputs are 5 vectors of 128, the last one partly empty."""
    chip = load_chip("cimpool")
    layer = Layer(name="x", kind="conv", in_channels=64, out_channels=96, in_size=(10, 10), kernel=(3, 3))
    work, positions = layer_work(layer, LayerPlan(format="pool-128"), chip), 64
    count = work.actions
    assert work.dataflow == "pool" and work.load_bits == FMT.bits(layer).total
    assert count["crossbar", "pool", "read_cell"] == positions * 8 * 576 * 128
    assert count["adc", "pool", "convert"] == positions * 8 * 5 * 2 * 128  # two groups of 64 rows
    assert count["gather", "", "add"] == positions * 5 * 96
    assert count["index_buffer", "", "read_bit"] == positions // 8 * 5 * 96 * 5
    assert count["crossbar", "", "read_cell"] == positions * 8 * 288 * 96  # half the inputs have signs, of one bit
    assert work.load_actions["crossbar", "", "write_cell"] == 288 * 96
    pool_ticks = 5 * 8 * 2 * 8  # vectors x steps x row groups x conversions of 16 converters, at 400 MS/s
    assert work.stage_ticks["pool read"] == work.interval_ticks == pool_ticks
    assert work.stall_ticks["products"] == positions * (pool_ticks - 8 * 2 * 6)  # of 96 columns of signs


def test_the_pool_stays_and_the_rest_is_reloaded():
    network, chip = load_network("lenet5"), load_chip("cimpool")
    report = simulate(network, chip, Plan.uniform(network, "pool-128"))
    bits = sum(layer.counts.get("dram/read_bit", 0) for layer in report.layers)
    assert report.weight_load_pj > 0 and {layer.dataflow for layer in report.layers if layer.format} == {"pool"}
    assert bits >= 0
    assert {"pool_array", "pool_adc", "pool_dac"} <= set(report.energy_by_component_pj)


def test_more_converters_shorten_the_pool_until_it_no_longer_waits():
    layer = Layer(name="x", kind="linear", in_channels=512, out_channels=64)
    intervals = [
        layer_work(layer, LayerPlan(format="pool-128"), load_chip("cimpool", {"pool_adc.count": n})).interval_ticks
        for n in (4, 16, 64)
    ]
    assert intervals[0] == 4 * intervals[1] > intervals[2]


@pytest.mark.parametrize(
    ("fmt", "chip", "text"),
    [
        ("pool-128", "sram-rom", "no crossbar of role pool"),
        ("pool-32", "cimpool", "needs a pool array of 32 x 32, cimpool has 128 x 128"),
        ("vq-4x16-e4-s0", "cimpool", "no codebook ROM"),
    ],
)
def test_refusals(fmt, chip, text):
    network = load_network("lenet5")
    with pytest.raises(InputError, match=text):
        simulate(network, load_chip(chip), Plan.uniform(network, fmt))


def test_other_networks_layers_that_have_no_products_in_common_are_refused():
    network = load_network("mobilenet_v2")
    with pytest.raises(InputError, match="outputs of different groups"):
        simulate(network, load_chip("cimpool"), Plan.uniform(network, "pool-128"))


def test_the_chips_own_arrays_are_not_taken_for_the_pool():
    """Both have crossbars and converters; what asks for no role gets the chip's own."""
    chip = load_chip("cimpool")
    own, pool = chip.part("adc"), chip.part("adc", "pool")
    assert own and pool and own.level_name == "macro" and pool.level_name == "tile"
    assert chip.array.role == "" and chip.part("digital", "pool").name == "pool"
