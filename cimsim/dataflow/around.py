"""What happens around the arrays of a layer: operands, stages, sums, results."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2, prod

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.dataflow.place import Placement
from cimsim.records import Actions
from workloads.format import WeightFormat
from workloads.layer import Layer


def sum_bits(layer: Layer, fmt: WeightFormat, activation_bits: int) -> int:
    """Width of a full dot product: input + weight + ceil(log2 of its length)."""
    return fmt.input_bits(activation_bits) + fmt.array_bits + ceil(log2(max(2, layer.num_inputs)))


def input_bits(layer: Layer, activation_bits: int) -> int:
    return layer.in_channels * prod(layer.in_size) * layer.batch * activation_bits


def deliveries(layer: Layer, placement: Placement, chip: Chip, activation_bits: int) -> int:
    """How often the input tensor must be sent to the tiles.

    Once if the tile buffer holds all of it. If it holds the kernel's rows only, each round gets the channels
    that its rows touch; with less room each line comes again for every kernel row that touches it.
    """
    room, whole = rates.tile_buffer_bits(chip), input_bits(layer, activation_bits)
    if whole <= room:
        return 1
    lines = whole // layer.batch // layer.in_size[0] * min(layer.kernel[0], layer.in_size[0])
    round_arrays = min(ceil(placement.num_arrays / placement.rounds), placement.row_tiles)
    touched = min(1.0, round_arrays * placement.widest.rows * layer.groups / layer.in_channels)
    return max(1, ceil(placement.rounds * touched)) * (1 if lines <= room else layer.kernel[0])


def stage_ticks_around(
    layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int, rate: int
) -> dict[str, int]:
    """Ticks of the stages around the arrays for one position: fetch, shift_add, digital, write."""
    stage = {name: rates.ticks(duration, rate) for name, duration in rates.pipeline_ps(chip).items()}
    fetch_ps = rates.bus_ps(chip, placement.tile_fetched_rows * fmt.input_bits(activation_bits))
    sums = ceil(placement.unit_sums * placement.tile_arrays / placement.num_arrays)
    outputs = min(layer.num_outputs, ceil(placement.tile_arrays / placement.row_tiles) * placement.widest.outputs)
    finish_ps = max(
        rates.digital_ps(chip, "activation", outputs),
        rates.bus_ps(chip, sums * sum_bits(layer, fmt, activation_bits)),
    )
    return stage | {
        "fetch": max(stage["fetch"], rates.ticks(fetch_ps, rate)),
        "digital": max(stage["digital"], rates.ticks(finish_ps, rate)),
    }


def count_around(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int) -> Actions:
    """How often registers, buffers, buses and adders of the layer's tiles act for one image."""
    count: Actions = Counter()
    positions = layer.num_positions
    sent = input_bits(layer, activation_bits) * deliveries(layer, placement, chip, activation_bits)
    count["buffer", "tile", "write_bit"] += sent * placement.num_tiles
    _count_operands(count, positions * placement.fetched_rows * fmt.input_bits(activation_bits))
    if fmt.rotation:  # a fast Hadamard transform adds log2(block) times per operand, as it is fetched
        count["digital", "activation", "op"] += positions * placement.fetched_rows * (fmt.rotation.bit_length() - 1)
    _count_sums(count, placement, positions, layer.num_outputs, sum_bits(layer, fmt, activation_bits))
    count[mesh.hop_action(chip)] += positions * placement.tile_cuts * sum_bits(layer, fmt, activation_bits)
    _count_results(count, positions * layer.num_outputs, activation_bits)
    return count


def _count_operands(count: Actions, fetched_bits: int) -> None:
    """im2col is not free: each position's operands leave the tile buffer and cross the tile's bus."""
    count["buffer", "tile", "read_bit"] += fetched_bits
    count["bus", "", "transfer_bit"] += fetched_bits
    count["register", "input", "write_bit"] += fetched_bits
    count["register", "input", "read_bit"] += fetched_bits


def _count_sums(count: Actions, placement: Placement, positions: int, num_outputs: int, width: int) -> None:
    """A unit adds up its own row tiles while it converts; the sums of several units meet in the tile.

    Sums that wait for a round are spilled to the tile buffer.
    """
    sums = positions * placement.unit_sums
    count["register", "output", "write_bit"] += sums * width
    count["register", "output", "read_bit"] += sums * width
    count["bus", "", "transfer_bit"] += sums * width
    count["shift_add", "tile", "add"] += sums - positions * num_outputs
    for action in ("write_bit", "read_bit"):
        count["buffer", "tile", action] += positions * placement.round_cuts * width


def _count_results(count: Actions, outputs: int, activation_bits: int) -> None:
    """Each output is rescaled, activated and requantized once, and kept until the tile sends it on."""
    count["digital", "activation", "op"] += outputs
    count["register", "tile_output", "write_bit"] += outputs * activation_bits
    count["register", "tile_output", "read_bit"] += outputs * activation_bits


def written_cells(placement: Placement) -> int:
    """Cells programmed by one load, the zeros between groups included."""
    return sum(piece.rows * piece.columns * piece.count for piece in placement.pieces)


def code_store(chip: Chip) -> tuple[str, str]:
    """Kind and role of the buffer through which weights and codes reach the arrays."""
    return ("index_buffer", "") if chip.part("index_buffer") else ("buffer", "tile")
