"""One layer's work on the arrays, the same for every dataflow once the weights are in: job and actions."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2
from typing import NamedTuple

from cimsim import rates
from cimsim.mapping import Placement
from cimsim.records import ArrayJob, LoadJob
from cimsim.spec import Chip
from workloads.format import WeightFormat
from workloads.layer import Layer

Actions = Counter  # (kind, role, action) -> how often


class LayerWork(NamedTuple):
    """What a layer asks of the chip: compute for one image, and one load of its weights.

    `load_jobs` are (job for one array, number of such arrays). `load_bits` come from outer memory.
    """

    layer: Layer
    format: WeightFormat
    dataflow: str
    placement: Placement
    array_job: ArrayJob
    actions: Actions
    load_jobs: tuple[tuple[LoadJob, int], ...]
    load_bits: int
    load_actions: Actions
    input_bits: int  # of the layer's whole input tensor
    output_bits: int  # of its whole output tensor


def sum_bits(layer: Layer, fmt: WeightFormat, activation_bits: int) -> int:
    """Width of a full dot product: input + weight + ceil(log2 of its length)."""
    return activation_bits + fmt.array_bits + ceil(log2(max(2, layer.num_inputs)))


def array_job(layer: Layer, placement: Placement, chip: Chip, activation_bits: int) -> ArrayJob:
    """The job of the busiest unit; all units of a layer run in lockstep on one position."""
    crossbar, pace = rates.crossbar(chip), placement.widest
    rate = rates.converter_rate_hz(chip)
    steps = ceil(activation_bits / rates.dac_bits(chip))
    stage = {name: rates.ticks(duration, rate) for name, duration in rates.pipeline_ps(chip).items()}
    fetch_bits = ceil(placement.fetched_rows / placement.num_tiles / placement.rounds) * activation_bits
    outputs = ceil(layer.num_outputs / placement.num_tiles)
    return ArrayJob(
        vectors=layer.num_positions,
        reads=steps * ceil(pace.rows / crossbar.rows_on),
        conversions=pace.columns * rates.arrays_per_adc(chip),
        adcs=rates.adcs_per_array(chip),
        read_ticks=rates.ticks(crossbar.read_ps, rate),
        sample_hold=int(chip.part("sample_hold") is not None),
        fetch_ticks=max(stage["fetch"], rates.ticks(rates.bus_ps(chip, fetch_bits), rate)),
        shift_add_ticks=stage["shift_add"],
        digital_ticks=max(stage["digital"], rates.ticks(rates.activation_ps(chip, outputs), rate)),
        write_ticks=stage["write"],
    )


def compute_actions(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int) -> Actions:
    """How often each part acts for one image: arrays and converters, registers, buffers, partial sums."""
    positions, steps = layer.num_positions, ceil(activation_bits / rates.dac_bits(chip))
    reads = positions * steps
    rows_on = rates.crossbar(chip).rows_on
    count: Actions = Counter()
    for piece in placement.pieces:
        conversions = reads * ceil(piece.rows / rows_on) * piece.columns * piece.count
        count["crossbar", "", "read_cell"] += reads * piece.rows * piece.columns * piece.count
        count["dac", "", "drive"] += reads * piece.rows * piece.count
        count["sample_hold", "", "sample"] += conversions
        count["adc", "", "convert"] += conversions
        count["shift_add", "unit", "add"] += conversions
    _count_operands(count, layer, placement, positions, activation_bits)
    _count_sums(count, layer, placement, positions, sum_bits(layer, fmt, activation_bits))
    _count_results(count, layer, positions, activation_bits)
    return count


def _count_operands(count: Actions, layer: Layer, placement: Placement, positions: int, activation_bits: int) -> None:
    """im2col is not free: each position's operands leave the tile buffer and cross the tile's bus."""
    fetched = positions * placement.fetched_rows * activation_bits
    tensor = layer.in_channels * layer.in_size[0] * layer.in_size[1] * activation_bits
    count["buffer", "tile", "write_bit"] += tensor * placement.num_tiles
    count["buffer", "tile", "read_bit"] += fetched
    count["bus", "", "transfer_bit"] += fetched
    count["register", "input", "write_bit"] += fetched
    count["register", "input", "read_bit"] += fetched


def _count_sums(count: Actions, layer: Layer, placement: Placement, positions: int, width: int) -> None:
    """Row tiles are added up; sums that cross a tile take a hop, sums that wait for a round are spilled."""
    partial = positions * layer.num_outputs * placement.row_tiles
    count["shift_add", "tile", "add"] += positions * layer.num_outputs * (placement.row_tiles - 1)
    count["register", "output", "write_bit"] += partial * width
    count["register", "output", "read_bit"] += partial * width
    count["router", "", "hop_bit"] += positions * placement.tile_cuts * width
    for action in ("write_bit", "read_bit"):
        count["buffer", "tile", action] += positions * placement.round_cuts * width


def _count_results(count: Actions, layer: Layer, positions: int, activation_bits: int) -> None:
    """Each output is rescaled, activated and requantized once, then leaves by the bus."""
    outputs = positions * layer.num_outputs
    count["digital", "activation", "op"] += outputs
    count["bus", "", "transfer_bit"] += outputs * activation_bits
    count["register", "tile_output", "write_bit"] += outputs * activation_bits
    count["register", "tile_output", "read_bit"] += outputs * activation_bits


def written_cells(placement: Placement) -> int:
    """Cells programmed by one load."""
    return sum(piece.rows * piece.columns * piece.count for piece in placement.pieces)
