"""Digital arrays: adders counted one by one, steps in closed form, and a published macro from its parameters."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.arrays.encodings import Widths, lossless_adc_bits
from cimsim.arrays.exact import array_mvm_exact
from cimsim.arrays.mvm import array_mvm
from cimsim.chip.numbers import array_numbers
from cimsim.chip.reading import load_chip
from cimsim.components.digital_array import DigitalArray, tree_adders
from cimsim.components.laws.scaling import Technology
from cimsim.engine.alone import layer_work
from cimsim.engine.whole import simulate
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.layer import Layer
from workloads.plan import LayerPlan, Plan
from workloads.shapes import load_network

TSMC = {
    "rows": 256, "columns": 256, "rows_on": 256, "weight_bits": 4, "step_bits": 1, "reduction": "adder_tree",
    "write_ps": 1000, "cell_bits": 1, "encoding": "twos_complement",
}  # fmt: skip


def slow_tree(widths: list[int]) -> int:
    """Adders of a tree, built pair by pair: as many as the wider operand has bits."""
    adders = 0
    while len(widths) > 1:
        pairs = [widths[i : i + 2] for i in range(0, len(widths), 2)]
        adders += sum(max(pair) for pair in pairs if len(pair) == 2)
        widths = [max(pair) + 1 for pair in pairs]  # an operand left over goes up a level
    return adders


@given(st.integers(1, 300), st.integers(1, 20))
def test_tree_adders_equal_a_tree_built_by_hand(operands, width):
    assert tree_adders(operands, width) == slow_tree([width] * operands)


def test_a_tree_of_four_and_of_one():
    assert tree_adders(4, 8) == 2 * 8 + 9 and tree_adders(1, 8) == 0 and tree_adders(2, 3) == 3


@pytest.mark.parametrize("step_bits", [1, 2, 4])
@pytest.mark.parametrize("rows_on", [16, 128])
@pytest.mark.parametrize("outputs_on", [None, 1, 8])
def test_an_image_takes_digits_times_row_groups_times_turns(step_bits, rows_on, outputs_on):
    vary = {"digital_array.step_bits": step_bits, "digital_array.rows_on": rows_on, "bus.width_bits": 65_536}
    vary |= {"digital_array.outputs_on": outputs_on, "activation.lanes": 4096}
    chip = load_chip("sram-digital", vary)
    layer = Layer(name="x", kind="conv", in_channels=8, out_channels=32, in_size=(9, 9), kernel=(3, 3))
    work = layer_work(layer, LayerPlan(format="linear-4"), chip)
    piece = work.placement.widest
    steps = ceil(8 / step_bits) * ceil(piece.rows / rows_on) * ceil(piece.outputs / (outputs_on or 32))
    assert work.interval_ticks == steps == work.stage_ticks["array step"]
    products = layer.num_macs * 4 * 8
    assert work.actions["digital_array", "", "multiply_bit"] == products


def test_wider_weights_take_whole_groups_of_columns():
    """Eight bits on trees of four: two trees an output; with an adder in each cell every width fits."""
    tree = DigitalArray(**TSMC)
    assert tree.columns_per_output(3) == 4 and tree.columns_per_output(8) == 8 and tree.columns_per_output(9) == 12
    cells = DigitalArray(**TSMC | {"reduction": "cell_adders", "sum_columns": 7})
    assert cells.columns_per_output(8) == 15 and cells.columns_per_output(1) == 8


def test_what_passes_a_digital_array_is_exact():
    numbers = array_numbers(load_chip("sram-digital"))
    assert numbers.adc_bits >= lossless_adc_bits(numbers)
    rng = np.random.default_rng(0)
    x, w = rng.integers(0, 256, (20, 300)), rng.integers(-8, 8, (300, 7))
    assert (array_mvm(x, w, numbers, Widths(4, 8), shortcut=False) == array_mvm_exact(x, w)).all()


def test_a_published_macro_from_its_parameters():
    """TSMC's 22 nm macro (Chih et al., ISSCC 2021, 16.4): 89 TOPS/W and 16.3 TOPS/mm2 at 4 x 4 bits and 0.72 V. Its
    activity is not printed; at ours the energy is within a factor of 1.5, as is the area of array and logic."""
    array, tech = DigitalArray(**TSMC), Technology(22, 0.72)
    full_mvm_pj = 4 * array.peak_energy_pj(tech)  # four steps of one input bit
    assert 1 / 1.5 < full_mvm_pj / (2 * 256 * 64 / 89) < 1.5
    assert 1 / 1.6 < array.area_um2(tech) / 202_000 < 1.6


def test_impossible_logic_is_refused():
    for change, text in (
        ({"booth": True}, "must be 2 with booth"),
        ({"reduction": "cell_adders", "step_bits": 2}, "must be 1 with cell_adders"),
        ({"sum_columns": 7}, "only with cell_adders"),
        ({"rows_on": 300}, "must be <= rows"),
    ):
        with pytest.raises(ValueError, match=text):
            DigitalArray(**TSMC | change)


@pytest.mark.parametrize("fmt", ["linear-4", "vq-8x256-e4-s0", "e8-q4"])
def test_weights_are_stored_or_decoded_as_in_analogue_arrays(fmt):
    """The same bits from outer memory, the same codes through the ROM or the decoder."""
    network = load_network("lenet5")
    digital, analogue = (simulate(network, load_chip(name), Plan.uniform(network, fmt))
                         for name in ("sram-digital", "sram-rom"))  # fmt: skip
    reads = [report.energy_by_component_pj["dram"]["read_bit"] for report in (digital, analogue)]
    assert reads[0] == pytest.approx(reads[1], rel=0.2)  # columns of a whole tree: fewer or more rounds
    assert parse_format(fmt).kind == "linear" or digital.energy_by_component_pj.keys() & {
        "codebook_rom",
        "lattice_decoder",
    }


def test_a_unit_has_one_kind_of_array():
    with pytest.raises(InputError, match="no such field"):
        load_chip("sram-digital", {"digital_array.read_ps": 5})
