"""Placement: every weight once, work as the formulas say, borders cut where arrays end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.chip.model import Chip
from cimsim.chip.reading import load_chip
from cimsim.dataflow.analog import compute_actions
from cimsim.dataflow.around import deliveries
from cimsim.dataflow.place import Unmappable, place
from tests.helpers.cases import case
from workloads.format import DEFAULT_FORMATS, parse_format
from workloads.layer import Layer

CHIPS = [
    load_chip("isaac"),
    load_chip("sram-rom"),
    load_chip("sram-rom", {"crossbar.rows": 20, "crossbar.rows_on": 20, "crossbar.columns": 24}),
    load_chip("sram-rom", {"crossbar.encoding": "differential"}),
    load_chip("isaac", {"dac.bits": 2, "crossbar.cell_bits": 1, "crossbar.rows_on": 32}),
]


@st.composite
def layers(draw) -> Layer:
    groups, kernel = draw(st.sampled_from([1, 1, 2, 7, 96])), draw(st.sampled_from([1, 1, 3, 5]))
    return Layer(
        name="layer", kind="conv", groups=groups, kernel=(kernel, kernel),
        in_channels=groups * draw(st.integers(1, 70)), out_channels=groups * draw(st.integers(1, 70)),
        in_size=(draw(st.integers(5, 9)), 5), stride=(draw(st.integers(1, 2)), 1),
        padding=(draw(st.integers(0, 2)), 0),
    )  # fmt: skip


cases = (layers(), st.sampled_from(CHIPS), st.sampled_from([parse_format(name) for name in DEFAULT_FORMATS]))


@given(*cases)
def test_every_weight_is_placed_once(layer, chip, fmt):
    placement = place(case(layer, fmt, chip))
    crossbar = chip.parts.analog.crossbar
    assert sum(piece.num_weights for piece in placement.pieces) == layer.num_weights
    assert sum(piece.count for piece in placement.pieces) == placement.num_arrays
    for piece in placement.pieces:
        assert piece.rows * piece.outputs % piece.blocks == 0
        assert 1 <= piece.rows <= crossbar.rows and piece.columns <= crossbar.columns
        assert piece.columns == piece.outputs * chip.parts.cells.columns_per_output(fmt.array_bits)
        assert piece.blocks == 1 or piece.rows <= crossbar.rows_on  # one read, one group per column


@given(*cases, st.integers(1, 8))
def test_counts_are_the_layers_work(layer, chip, fmt, activation_bits):
    """Reads of cells that hold weights = MACs x slices x steps; conversions = P x steps x rows/rows_on x columns."""
    placement = place(case(layer, fmt, chip))
    counts = compute_actions(case(layer, fmt, chip, activation_bits), placement)
    steps, rows_on = -(-activation_bits // chip.parts.analog.dac.bits), chip.parts.analog.crossbar.rows_on
    reads = layer.num_positions * steps
    per_output = chip.parts.cells.columns_per_output(fmt.array_bits)
    useful = sum(reads * piece.num_weights * per_output for piece in placement.pieces)
    assert useful == layer.num_macs * per_output * steps
    assert counts["crossbar", "", "read_cell"] >= useful
    assert layer.groups > 1 or counts["crossbar", "", "read_cell"] == useful
    conversions = sum(reads * -(-piece.rows // rows_on) * piece.columns * piece.count for piece in placement.pieces)
    assert counts["adc", "", "convert"] == counts["sample_hold", "", "sample"] == conversions
    assert counts["digital", "activation", "op"] == layer.num_positions * layer.num_outputs


def array_order(layer: Layer, chip: Chip, per_output: int) -> list[tuple[int, int, int, int, int]]:
    """(group, first output, first row, rows, outputs) of each array of a tiled layer, walked one by one."""
    crossbar, order = chip.parts.analog.crossbar, []
    inputs, outputs = layer.num_inputs, layer.num_outputs // layer.groups
    for group in range(layer.groups):
        for column in range(0, outputs, crossbar.columns // per_output):
            for row in range(0, inputs, crossbar.rows):
                width = min(crossbar.columns // per_output, outputs - column)
                order.append((group, column, row, min(crossbar.rows, inputs - row), width))
    return order


@given(*cases)
def test_fetches_and_cuts_equal_a_walk_over_the_arrays(layer, chip, fmt):
    placement = place(case(layer, fmt, chip))
    if any(piece.blocks > 1 for piece in placement.pieces):
        assert placement.fetched_rows == layer.groups * layer.num_inputs  # each group has its own inputs
        assert placement.tile_cuts == placement.round_cuts == 0
        assert placement.unit_sums == layer.num_outputs
        return
    order = array_order(layer, chip, chip.parts.cells.columns_per_output(fmt.array_bits))
    per_unit, per_tile = chip.arrays_per_unit, chip.arrays_per_unit * chip.units_per_tile
    fetched = {(i // per_unit, group, row): rows for i, (group, _, row, rows, _) in enumerate(order)}
    assert placement.fetched_rows == sum(fetched.values())
    tiles = {unit // chip.units_per_tile for unit, _, _ in fetched}
    by_tile = [sum(n for (unit, _, _), n in fetched.items() if unit // chip.units_per_tile == t) for t in tiles]
    assert placement.tile_fetched_rows == max(by_tile)
    for size, cuts in (
        (per_unit, placement.unit_sums - layer.num_outputs),
        (per_tile, placement.tile_cuts),
        (per_tile * chip.num_tiles, placement.round_cuts),
    ):
        parts = {(group, column, i // size): width for i, (group, column, _, _, width) in enumerate(order)}
        whole = {(group, column): width for group, column, _, _, width in order}
        assert cuts == sum(parts.values()) - sum(whole.values())


@given(*cases)
def test_capacity_and_rounds(layer, chip, fmt):
    placement = place(case(layer, fmt, chip))
    per_tile = chip.arrays_per_unit * chip.units_per_tile
    capacity = per_tile * chip.num_tiles
    assert (placement.rounds - 1) * capacity < placement.num_arrays <= placement.rounds * capacity
    assert (placement.num_units - 1) * chip.arrays_per_unit < placement.num_arrays
    assert placement.num_arrays <= placement.num_units * chip.arrays_per_unit
    assert placement.num_tiles == min(chip.num_tiles, -(-placement.num_arrays // per_tile))
    assert placement.tile_arrays == min(per_tile, placement.num_arrays)


def test_depthwise_groups_share_an_array():
    """MobileNet-V2's depthwise 3 x 3: 14 groups of 9 rows in 128; 4 columns each at 8 bits in 2-bit cells."""
    layer = Layer(name="dw", kind="conv", in_channels=96, out_channels=96, groups=96, kernel=(3, 3), in_size=(9, 9))
    placement = place(case(layer, parse_format("linear-8"), load_chip("isaac")))
    assert [(piece.rows, piece.columns, piece.count) for piece in placement.pieces] == [(126, 56, 6), (108, 48, 1)]
    assert placement.row_tiles == 1


def test_an_output_wider_than_an_array_is_refused():
    layer = Layer(name="fc", kind="linear", in_channels=4, out_channels=4)
    with pytest.raises(Unmappable, match="needs 8 columns per output, an array has 4"):
        place(case(layer, parse_format("linear-8"), load_chip("sram-rom", {"crossbar.columns": 4})))


@pytest.mark.parametrize(
    ("size", "kernel", "channels", "times"),
    [
        pytest.param(8, 3, 64, 1, id="all of it fits"),
        pytest.param(32, 3, 128, 9, id="three lines fit: once for each of 9 rounds"),
        pytest.param(128, 3, 128, 9 * 3, id="one line fits: once a round and kernel row"),
        pytest.param(8, 1, 4096, 8, id="each of 32 rounds touches a quarter of the channels"),
    ],
)
def test_deliveries_of_the_input(size, kernel, channels, times):
    """16 KB of tile buffer and 8 arrays on sram-rom; 128 outputs at 8 bits are 8 columns of arrays."""
    chip, fmt = load_chip("sram-rom"), parse_format("linear-8")
    layer = Layer(
        name="conv", kind="conv", in_channels=channels, out_channels=128, kernel=(kernel, kernel), in_size=(size, size)
    )
    placement = place(case(layer, fmt, chip))
    assert deliveries(case(layer, fmt, chip, 8), placement) == times
    sent = compute_actions(case(layer, fmt, chip, 8), placement)["buffer", "tile", "write_bit"]
    spilled = layer.num_positions * placement.round_cuts * case(layer, fmt, chip, 8).sum_bits
    assert sent == case(layer, fmt, chip, 8).map_bits * times * placement.num_tiles + spilled
