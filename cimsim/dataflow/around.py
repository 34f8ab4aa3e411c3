"""What happens around the arrays of a layer: operands, stages, sums, results."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import NamedTuple

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Placement
from cimsim.records import Actions


class StageTicks(NamedTuple):
    """What the stages around the arrays take for one position, named as in `ArrayJob`."""

    fetch_ticks: int
    shift_add_ticks: int
    digital_ticks: int
    write_ticks: int


def deliveries(case: Case, placement: Placement) -> int:
    """How often the input tensor must be sent to the tiles.

    Once if the tile buffer holds all of it. If it holds the kernel's rows only, each round gets the channels
    that its rows touch; with less room each line comes again for every kernel row that touches it.
    """
    layer, room = case.layer, case.chip.parts.tile_buffer.capacity_bits
    if case.map_bits <= room:
        return 1
    lines = case.map_bits // layer.batch // layer.in_size[0] * min(layer.kernel[0], layer.in_size[0])
    round_arrays = min(ceil(placement.num_arrays / placement.rounds), placement.row_tiles)
    touched = min(1.0, round_arrays * placement.widest.rows * layer.groups / layer.in_channels)
    return max(1, ceil(placement.rounds * touched)) * (1 if lines <= room else layer.kernel[0])


def stage_ticks_around(case: Case, placement: Placement, rate_hz: int) -> StageTicks:
    """Ticks of a clock of `rate_hz`; a stage takes at least what the chip's pipeline gives it."""
    chip, pipeline_ps = case.chip, rates.pipeline_ps(case.chip)
    fetch_ps = rates.bus_ps(chip, placement.tile_fetched_rows * case.input_bits)
    sums = ceil(placement.unit_sums * placement.tile_arrays / placement.num_arrays)
    outputs = min(case.layer.num_outputs, ceil(placement.tile_arrays / placement.row_tiles) * placement.widest.outputs)
    finish_ps = max(rates.digital_ps(chip, "activation", outputs), rates.bus_ps(chip, sums * case.sum_bits))
    return StageTicks(
        fetch_ticks=rates.ticks(max(pipeline_ps["fetch"], fetch_ps), rate_hz),
        shift_add_ticks=rates.ticks(pipeline_ps["shift_add"], rate_hz),
        digital_ticks=rates.ticks(max(pipeline_ps["digital"], finish_ps), rate_hz),
        write_ticks=rates.ticks(pipeline_ps["write"], rate_hz),
    )


def count_around(case: Case, placement: Placement) -> Actions:
    """How often registers, buffers, buses and adders of the layer's tiles act for one image."""
    count: Actions = Counter()
    layer, positions = case.layer, case.layer.num_positions
    sent = case.map_bits * deliveries(case, placement)
    count["buffer", "tile", "write_bit"] += sent * placement.num_tiles
    _count_operands(count, positions * placement.fetched_rows * case.input_bits)
    if case.fmt.rotation:  # a fast Hadamard transform adds log2(block) times per operand, as it is fetched
        count["digital", "activation", "op"] += (
            positions * placement.fetched_rows * (case.fmt.rotation.bit_length() - 1)
        )
    _count_sums(count, case, placement)
    count[mesh.hop_action(case.chip)] += positions * placement.tile_cuts * case.sum_bits
    _count_results(count, positions * layer.num_outputs, case.activation.bits)
    return count


def _count_operands(count: Actions, fetched_bits: int) -> None:
    """im2col is not free: each position's operands leave the tile buffer and cross the tile's bus."""
    count["buffer", "tile", "read_bit"] += fetched_bits
    count["bus", "", "transfer_bit"] += fetched_bits
    count["register", "input", "write_bit"] += fetched_bits
    count["register", "input", "read_bit"] += fetched_bits


def _count_sums(count: Actions, case: Case, placement: Placement) -> None:
    """A unit adds up its own row tiles while it converts; the sums of several units meet in the tile.

    Sums that wait for a round are spilled to the tile buffer.
    """
    positions, width = case.layer.num_positions, case.sum_bits
    sums = positions * placement.unit_sums
    count["register", "output", "write_bit"] += sums * width
    count["register", "output", "read_bit"] += sums * width
    count["bus", "", "transfer_bit"] += sums * width
    count["shift_add", "tile", "add"] += sums - positions * case.layer.num_outputs
    for action in ("write_bit", "read_bit"):
        count["buffer", "tile", action] += positions * placement.round_cuts * width


def _count_results(count: Actions, outputs: int, stored_bits: int) -> None:
    """Each output is rescaled, activated and requantized once, and kept until the tile sends it on."""
    count["digital", "activation", "op"] += outputs
    count["register", "tile_output", "write_bit"] += outputs * stored_bits
    count["register", "tile_output", "read_bit"] += outputs * stored_bits


def written_cells(placement: Placement) -> int:
    """Cells programmed by one load, the zeros between groups included."""
    return sum(piece.rows * piece.columns * piece.count for piece in placement.pieces)


def code_store(chip: Chip) -> tuple[str, str]:
    """Kind and role of the buffer through which weights and codes reach the arrays."""
    return ("index_buffer", "") if chip.parts.index_buffer else ("buffer", "tile")
