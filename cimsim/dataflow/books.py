"""Sub-vectors meet a codebook that stays: in arrays of memory cells that hold it, or in multipliers it passes."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2
from typing import NamedTuple

from cimsim.chip import mesh, rates
from cimsim.components.multiplier_array import MultiplierArray
from cimsim.dataflow import stationary
from cimsim.dataflow.around import code_store, deliveries, written_cells
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Piece, Placement, Unmappable
from cimsim.dataflow.products import product_work
from cimsim.dataflow.work import LoadJobs
from cimsim.records import Actions
from workloads.layer import Layer


class BookWidths(NamedTuple):
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


def widths(case: Case) -> BookWidths:
    """Multipliers have numbers of one width; cells multiply integers without loss."""
    fmt, array, inputs = case.fmt, case.chip.array, case.input_bits
    if isinstance(array, MultiplierArray):
        own = array.operand_bits
        return BookWidths(own, own, own, own)
    return BookWidths(inputs, fmt.entry_bits, inputs + fmt.entry_bits + ceil(log2(max(2, fmt.vector_length))), 32)


def stored_bits(case: Case) -> int:
    """Bits of all books of a layer, as this chip keeps their entries."""
    return case.fmt.codebook_bits // case.fmt.entry_bits * widths(case).entry


def refusal(case: Case) -> str:
    """Why the chip's arrays cannot multiply by these books; empty if they can."""
    fmt, chip, array = case.fmt, case.chip, case.chip.array
    if not isinstance(array, MultiplierArray):
        return "" if rates.holds_weights(chip) else f"{chip.name} has no array that a codebook could lie in"
    if fmt.entry_bits > array.operand_bits:
        return f"{fmt.name} has entries of {fmt.entry_bits} bits, {chip.name} multiplies {array.operand_bits}"
    buffer, one = chip.parts.codebook_buffer, stored_bits(case) // fmt.codes_per_vector
    if buffer is None:
        return f"{chip.name} has no buffer of role codebook"
    have = buffer.capacity_bits
    return "" if one <= have else f"a book has {one} bits, the codebook buffer of {chip.name} holds {have}"


def meet(case: Case, subvectors: int) -> Met:
    """`subvectors` of one image meet every book once. Raises Unmappable if arrays cannot hold the books."""
    if isinstance(case.chip.array, MultiplierArray):
        return _in_multipliers(case, case.chip.array, subvectors)
    return _in_cells(case, subvectors)


def _in_multipliers(case: Case, array: MultiplierArray, subvectors: int) -> Met:
    """The array holds as many sub-vectors as it has rows, and all entries of a book pass them."""
    fmt, chip, bits = case.fmt, case.chip, array.operand_bits
    d, num_books = fmt.vector_length, fmt.codes_per_vector
    at_once = array.rows * chip.arrays_per_unit
    actions: Actions = Counter({
        ("multiplier_array", "", "multiply"): subvectors * d * fmt.num_entries * num_books,
        ("buffer", "codebook", "read_bit"): ceil(subvectors / at_once) * stored_bits(case),
        ("buffer", "tile", "write_bit"): case.map_bits // case.activation.bits * bits,
        ("buffer", "tile", "read_bit"): subvectors * d * num_books * bits,
        ("bus", "", "transfer_bit"): subvectors * d * num_books * bits,
    })  # fmt: skip
    piece = Piece(d, fmt.num_entries, fmt.num_entries, chip.arrays_per_unit)
    placement = Placement(
        pieces=(piece,), row_tiles=1, column_tiles=1, num_arrays=chip.arrays_per_unit, num_units=chip.units_per_tile,
        num_tiles=1, tile_arrays=chip.arrays_per_unit, rounds=1, fetched_rows=d, tile_fetched_rows=d,
        unit_sums=0, tile_cuts=0, round_cuts=0,
    )  # fmt: skip
    return Met(
        placement=placement, subvectors=subvectors, pass_vectors=at_once,
        pass_ticks=array.pass_cycles(fmt.num_entries, d), latency_ticks=0, together=False, actions=actions,
        load_jobs=(), load_bits=0, load_actions=Counter(), book="multiplier_array",
    )  # fmt: skip


def _in_cells(case: Case, subvectors: int) -> Met:
    """Cells hold d rows x K columns of each book: a layer with one position per sub-vector and K outputs per book."""
    layer, fmt, chip = case.layer, case.fmt, case.chip
    columns = fmt.num_entries * fmt.codes_per_vector
    book = Layer(name=layer.name, kind="linear", in_channels=fmt.vector_length, out_channels=columns,
                 in_size=(subvectors, 1))  # fmt: skip
    entries = fmt._replace(array_bits=fmt.entry_bits, code_bits=fmt.entry_bits, codes_per_vector=1, scale_bits=0)
    inside = case.of(book, entries)
    found = product_work("lookup", inside)
    if found.placement.rounds > 1:
        raise Unmappable(f"{layer.name}: {fmt.name} has {found.placement.num_arrays} arrays of codebook, which "
                         f"{chip.name} does not hold at once")  # fmt: skip
    tiles = found.placement.num_tiles
    placement = found.placement._replace(num_units=tiles * chip.units_per_tile)  # a tile's gather unit serves one layer
    actions = Counter({key: n for key, n in found.actions.items() if key not in _PER_RESULT})
    sent = case.map_bits * deliveries(case, placement)
    actions["buffer", "tile", "write_bit"] += (sent - found.input_bits * found.deliveries) * tiles
    actions[mesh.hop_action(chip)] += subvectors * columns * widths(case).product // tiles * (tiles - 1)
    clock, bits = chip.clocks_hz["digital"], fmt.codebook_bits
    load: Actions = Counter({
        (*code_store(chip), "write_bit"): bits, (*code_store(chip), "read_bit"): bits,
        (chip.array.kind, "", "write_cell"): written_cells(placement),
    })  # fmt: skip
    pace_ps, first_ps = (rates.instant_ps(n, found.clock_hz) for n in (found.interval_ticks, found.first_ticks))
    return Met(
        placement=placement, subvectors=subvectors, pass_vectors=1, pass_ticks=max(1, rates.ticks(pace_ps, clock)),
        latency_ticks=rates.ticks(first_ps - pace_ps, clock), together=True, actions=actions,
        load_jobs=stationary.load_jobs(inside, placement), load_bits=bits, load_actions=load, book="",
    )  # fmt: skip


# A product is no result: it is neither rescaled nor kept for the next layer.
_PER_RESULT = {
    ("digital", "activation", "op"), ("register", "tile_output", "write_bit"), ("register", "tile_output", "read_bit"),
}  # fmt: skip
