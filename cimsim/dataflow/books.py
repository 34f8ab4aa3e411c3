"""Sub-vectors meet a codebook that stays: in arrays of memory cells that hold it, or in multipliers it passes."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2
from typing import NamedTuple

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.components.multiplier_array import MultiplierArray
from cimsim.dataflow import stationary
from cimsim.dataflow.around import code_store, deliveries, input_bits, written_cells
from cimsim.dataflow.place import Piece, Placement, Unmappable
from cimsim.dataflow.products import product_work
from cimsim.dataflow.work import LoadJobs
from cimsim.records import Actions
from workloads.format import WeightFormat
from workloads.layer import Layer


class Widths(NamedTuple):
    """Bits of an input, a codebook entry, a product of two vectors, and a float scale, as this chip keeps them."""

    input: int
    entry: int
    product: int
    scale: int


class Met(NamedTuple):
    """How sub-vectors meet the books. `pass_vectors` of them take `pass_ticks` of the digital clock for one book, or
    for all if they meet `together`; their products come `latency_ticks` later. `book`: whose arrays are shared."""

    placement: Placement
    subvectors: int
    pass_vectors: int
    pass_ticks: int
    latency_ticks: int
    together: bool
    actions: Actions
    load_jobs: LoadJobs
    load_bits: int
    load_actions: Actions
    book: str


def widths(fmt: WeightFormat, chip: Chip, activation_bits: int) -> Widths:
    """Multipliers have numbers of one width; cells multiply integers without loss."""
    if isinstance(chip.array, MultiplierArray):
        own = chip.array.operand_bits
        return Widths(own, own, own, own)
    inputs = fmt.input_bits(activation_bits)
    return Widths(inputs, fmt.entry_bits, inputs + fmt.entry_bits + ceil(log2(max(2, fmt.vector_length))), 32)


def stored_bits(fmt: WeightFormat, chip: Chip) -> int:
    """Bits of all books of a layer, as this chip keeps their entries."""
    return fmt.codebook_bits // fmt.entry_bits * widths(fmt, chip, 8).entry


def refusal(fmt: WeightFormat, chip: Chip) -> str:
    """Why the chip's arrays cannot multiply by these books; empty if they can."""
    array = chip.array
    if not isinstance(array, MultiplierArray):
        return "" if rates.holds_weights(chip) else f"{chip.name} has no array that a codebook could lie in"
    if fmt.entry_bits > array.operand_bits:
        return f"{fmt.name} has entries of {fmt.entry_bits} bits, {chip.name} multiplies {array.operand_bits}"
    buffer, one = chip.part("buffer", "codebook"), stored_bits(fmt, chip) // fmt.codes_per_vector
    if buffer is None:
        return f"{chip.name} has no buffer of role codebook"
    have = buffer.component.capacity_bits
    return "" if one <= have else f"a book has {one} bits, the codebook buffer of {chip.name} holds {have}"


def meet(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int, subvectors: int) -> Met:
    """`subvectors` of one image meet every book once. Raises Unmappable if arrays cannot hold the books."""
    if isinstance(chip.array, MultiplierArray):
        return _in_multipliers(layer, fmt, chip, chip.array, subvectors)
    return _in_cells(layer, fmt, chip, activation_bits, subvectors)


def _in_multipliers(layer: Layer, fmt: WeightFormat, chip: Chip, array: MultiplierArray, subvectors: int) -> Met:
    """The array holds as many sub-vectors as it has rows, and all entries of a book pass them."""
    bits, d, num_books = array.operand_bits, fmt.vector_length, fmt.codes_per_vector
    at_once = array.rows * chip.arrays_per_unit
    actions: Actions = Counter({
        ("multiplier_array", "", "multiply"): subvectors * d * fmt.num_entries * num_books,
        ("buffer", "codebook", "read_bit"): ceil(subvectors / at_once) * stored_bits(fmt, chip),
        ("buffer", "tile", "write_bit"): input_bits(layer, bits),
        ("buffer", "tile", "read_bit"): subvectors * d * num_books * bits,
        ("bus", "", "transfer_bit"): subvectors * d * num_books * bits,
    })  # fmt: skip
    piece = Piece(d, fmt.num_entries, fmt.num_entries, chip.arrays_per_unit)
    placement = Placement(
        (piece,), row_tiles=1, column_tiles=1, num_arrays=chip.arrays_per_unit, num_units=chip.units_per_tile,
        num_tiles=1, tile_arrays=chip.arrays_per_unit, rounds=1, fetched_rows=d, tile_fetched_rows=d,
        unit_sums=0, tile_cuts=0, round_cuts=0,
    )  # fmt: skip
    pass_ticks = array.pass_cycles(fmt.num_entries, d)
    return Met(placement, subvectors, at_once, pass_ticks, 0, False, actions, (), 0, Counter(), "multiplier_array")


def _in_cells(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int, subvectors: int) -> Met:
    """Cells hold d rows x K columns of each book: a layer with one position per sub-vector and K outputs per book."""
    columns = fmt.num_entries * fmt.codes_per_vector
    book = Layer(name=layer.name, kind="linear", in_channels=fmt.vector_length, out_channels=columns,
                 in_size=(subvectors, 1))  # fmt: skip
    entries = fmt._replace(array_bits=fmt.entry_bits, code_bits=fmt.entry_bits, codes_per_vector=1, scale_bits=0)
    found = product_work("lookup", book, entries, chip, activation_bits)
    if found.placement.rounds > 1:
        raise Unmappable(f"{layer.name}: {fmt.name} has {found.placement.num_arrays} arrays of codebook, which "
                         f"{chip.name} does not hold at once")  # fmt: skip
    tiles = found.placement.num_tiles
    placement = found.placement._replace(num_units=tiles * chip.units_per_tile)  # a tile's gather unit serves one layer
    actions = Counter({key: n for key, n in found.actions.items() if key not in _PER_RESULT})
    sent = input_bits(layer, activation_bits) * deliveries(layer, placement, chip, activation_bits)
    actions["buffer", "tile", "write_bit"] += (sent - found.input_bits * found.deliveries) * tiles
    actions[mesh.hop_action(chip)] += (
        subvectors * columns * widths(fmt, chip, activation_bits).product // tiles * (tiles - 1)
    )
    clock, bits = chip.clocks_hz["digital"], fmt.codebook_bits
    load: Actions = Counter({
        (*code_store(chip), "write_bit"): bits, (*code_store(chip), "read_bit"): bits,
        (chip.array.kind, "", "write_cell"): written_cells(placement),
    })  # fmt: skip
    pace_ps, first_ps = (rates.instant_ps(n, found.clock_hz) for n in (found.interval_ticks, found.first_ticks))
    return Met(
        placement, subvectors, 1, max(1, rates.ticks(pace_ps, clock)), rates.ticks(first_ps - pace_ps, clock), True,
        actions, stationary.load_jobs(entries, placement, chip), bits, load, "",
    )  # fmt: skip


# A product is no result: it is neither rescaled nor kept for the next layer.
_PER_RESULT = {
    ("digital", "activation", "op"), ("register", "tile_output", "write_bit"), ("register", "tile_output", "read_bit"),
}  # fmt: skip
