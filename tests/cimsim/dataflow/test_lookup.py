"""Codebooks that stay in arrays: what is counted, when it pays, whose indices conflict, and what is refused."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from cimsim.chip.reading import load_chip
from cimsim.engine.alone import layer_work
from cimsim.engine.whole import simulate
from workloads.errors import InputError
from workloads.layer import Layer, Network, Node
from workloads.plan import LayerPlan, Plan
from workloads.shapes import load_network

FMT = "vq-8x256-e4-s0"
BY_ENTRY = {"product_buffer.banking": "by_entry"}


def dense(inputs: int = 256, outputs: int = 64, positions: int = 1, **fields) -> Layer:
    return Layer(name="x", kind="linear", in_channels=inputs, out_channels=outputs, in_size=(positions, 1), **fields)


def looked_up(layer: Layer, fmt: str = FMT, **vary):
    return layer_work(layer, LayerPlan(format=fmt, dataflow="lookup"), load_chip("sram-lookup", vary))


def alone(layer: Layer) -> Network:
    node = Node(name=layer.name, op="layer", out_shape=(layer.num_outputs, *layer.out_size), layer=layer)
    return Network(name="alone", input_shape=(layer.in_channels, *layer.in_size), nodes=(node,))


@pytest.mark.parametrize(("inputs", "outputs", "positions"), [(256, 64, 1), (250, 300, 7), (1024, 1000, 16)])
@pytest.mark.parametrize("fmt", [FMT, "vq-8x128x2-e4-s0"])
def test_each_sub_vector_meets_each_book_once_and_each_output_adds_one_product_of_it(inputs, outputs, positions, fmt):
    """I K books products for a position, whatever the outputs; and (I / d) O books additions."""
    work = looked_up(dense(inputs, outputs, positions), fmt)
    books, sub_vectors = 2 if fmt.startswith("vq-8x128x2") else 1, positions * ceil(inputs / 8)
    steps, slices, columns = 8, 4, 256  # entries of all books, in both formats
    assert work.actions["crossbar", "", "read_cell"] == sub_vectors * 8 * columns * steps * slices
    assert work.actions["adc", "", "convert"] == sub_vectors * columns * steps * slices
    rounds = ceil(positions / (1 << (min(positions, 8).bit_length() - 1)))
    shared = ceil(positions / rounds)
    assert work.actions["gather", "", "add"] == rounds * shared * ceil(inputs / 8) * outputs * books
    assert work.actions["digital", "activation", "op"] == positions * outputs


def test_more_outputs_make_lookup_pay():
    """Products do not grow with the outputs, weights do. One position of many outputs pays, few outputs do not."""
    few, many = (looked_up(dense(1024, outputs)) for outputs in (64, 4096))
    assert few.actions["adc", "", "convert"] == many.actions["adc", "", "convert"]
    layer, chip = dense(1024, 4096), load_chip("sram-lookup")
    decoded = layer_work(layer, LayerPlan(format=FMT, dataflow="decode"), chip)
    assert many.actions["adc", "", "convert"] < decoded.actions["adc", "", "convert"]
    report = simulate(alone(layer), chip, Plan.uniform(alone(layer), FMT))
    (row,) = [row for row in report.layers if row.name == "x"]
    assert row.dataflow == "lookup" and "for decode" in row.dataflow_reason
    small = simulate(alone(dense(1024, 64)), chip, Plan.uniform(alone(dense(1024, 64)), FMT))
    assert small.layers[1].dataflow == "decode" and "for lookup" in small.layers[1].dataflow_reason


def test_the_automatic_choice_is_never_worse_than_either_by_its_own_measure():
    network, chip = load_network("lenet5"), load_chip("sram-lookup")
    runs = {
        name: simulate(network, chip, Plan.uniform(network, FMT, dataflow=name))
        for name in ("auto", "decode", "lookup")
    }
    product = {name: report.energy_pj * report.latency_ns for name, report in runs.items()}
    assert product["auto"] <= 1.02 * min(product["decode"], product["lookup"])  # layers are compared alone


def test_conflicts_come_from_the_real_codes():
    """Banked by entry: codes in turn never meet, equal codes all meet in one bank; without codes they are uniform."""
    layer, chip = dense(256, 64), load_chip("sram-lookup", BY_ENTRY)
    network = alone(layer)
    plan = Plan.uniform(network, FMT, dataflow="lookup")
    turns = np.tile(np.arange(32), (64, 1))[..., None]  # 32 sub-vectors on 32 banks
    reports = {
        name: simulate(network, chip, plan, codes=codes and {"x": codes[0]})
        for name, codes in {"turns": (turns,), "alike": (np.zeros_like(turns),), "uniform": None}.items()
    }
    stalls = {name: report.stall_cycles["bank_conflict"] for name, report in reports.items()}
    assert stalls["turns"] == 0 < stalls["uniform"] < stalls["alike"]
    tick = load_chip("sram-lookup").clocks_hz["digital"] // load_chip("sram-lookup").clocks_hz["array"]
    assert stalls["alike"] == pytest.approx(64 * 31 / tick, abs=1)  # 31 of 32 lanes wait, for each output
    assert {name: report.dynamic_pj for name, report in reports.items()} == pytest.approx(
        dict.fromkeys(reports, reports["turns"].dynamic_pj)
    )


def test_window_products_are_shared_where_lines_are_kept():
    layer = Layer(name="x", kind="conv", in_channels=16, out_channels=32, in_size=(10, 10), kernel=(3, 3))
    plain, kept = looked_up(layer), looked_up(layer, **{"product_buffer.line_bits": 2**20})
    assert plain.actions["adc", "", "convert"] == 64 * 18 * 256 * 8 * 4  # 64 windows of 18 sub-vectors
    assert kept.actions["adc", "", "convert"] == 100 * 2 * 256 * 8 * 4  # 100 positions of 2
    assert kept.actions["gather", "", "add"] == plain.actions["gather", "", "add"]


def test_codes_come_from_memory_and_books_do_not():
    """A layer that is looked up costs its codes for every image, and its book once."""
    network, chip = load_network("lenet5"), load_chip("sram-lookup")
    report = simulate(network, chip, Plan.uniform(network, FMT, dataflow="lookup"))
    assert "codes of looked-up layers come from outer memory" in report.weight_state
    for layer in network.layers:
        (row,) = [row for row in report.layers if row.name == layer.name]
        codes = ceil(layer.num_inputs / 8) * layer.num_outputs * 8
        assert row.counts["index_buffer/write_bit"] == codes
        assert row.counts["dram/read_bit"] >= codes
        assert sum(row.stall_cycles.values()) <= row.latency_cycles + len(row.stall_cycles)


@pytest.mark.parametrize(
    ("layer", "fmt", "vary", "reason"),
    [
        (dense(), "linear-4", {}, "no codebook whose products could be looked up"),
        (dense(), "e8-q4", {}, "no codebook whose products could be looked up"),
        (dense(), "vq-8x256-e4-s1", {}, "the gather unit of sram-lookup does not multiply"),
        (dense(), "vq-8x256-e4-s0-out", {}, "products are of vectors along inputs"),
        (Layer(name="x", kind="conv", in_channels=8, out_channels=8, groups=2), FMT, {}, "groups = 2"),
        (dense(), FMT, {"product_buffer.capacity_bits": 4096}, "the product buffer holds 4096"),
    ],
)
def test_what_cannot_be_looked_up_says_why(layer, fmt, vary, reason):
    network = alone(layer)
    with pytest.raises(InputError, match=reason):
        simulate(network, load_chip("sram-lookup", vary), Plan.uniform(network, fmt, dataflow="lookup"))


def test_a_chip_without_the_parts_says_which():
    network = alone(dense())
    with pytest.raises(InputError, match="sram-rom has no gather unit"):
        simulate(network, load_chip("sram-rom"), Plan.uniform(network, FMT, dataflow="lookup"))
