"""Codebooks resident: each sub-vector of the input meets a whole book once, and outputs add products by their codes.

EVA (github.com/dbw6/Eva) is the published reference: multipliers, products banked by sub-vector, codes from DRAM.
"""

from __future__ import annotations

from collections import Counter
from math import ceil, log2, prod

import numpy as np

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.components.gather import Gather
from cimsim.components.product_buffer import ProductBuffer
from cimsim.dataflow import books
from cimsim.dataflow.around import deliveries, input_bits
from cimsim.dataflow.books import Met
from cimsim.dataflow.place import Unmappable
from cimsim.dataflow.work import LayerWork, OuterStream
from cimsim.records import Actions, GatherCounts, GatherJob
from cimsim.unit.gather import count_gather, in_order
from workloads.format import SCALE_BITS, WeightFormat
from workloads.layer import Layer

NEEDED = {"gather": "no gather unit", "product_buffer": "no product buffer", "index_buffer": "no index buffer"}
STEADY_ROUNDS = 3  # from then on rounds follow each other at one interval


def refusal(layer: Layer, fmt: WeightFormat, chip: Chip) -> str:
    """Why this dataflow cannot serve the layer in this format on this chip; empty if it can."""
    if fmt.kind != "vq":
        return f"{fmt.name} has no codebook whose products could be looked up"
    if missing := [lack for kind, lack in NEEDED.items() if chip.part(kind) is None]:
        return f"{chip.name} has {missing[0]}"
    if fmt.axis != "in":
        return f"{fmt.name} cuts vectors along {fmt.axis!r}: products are of vectors along inputs"
    if layer.groups > 1:
        return f"{layer.name}: groups = {layer.groups}: outputs of different groups have no products in common"
    if fmt.scale_bits and not _gather(chip).scales:
        return f"{fmt.name} has scale codes, the gather unit of {chip.name} does not multiply (scales: true)"
    return books.refusal(fmt, chip) or _memory_refusal(layer, fmt, chip)


def _memory_refusal(layer: Layer, fmt: WeightFormat, chip: Chip) -> str:
    """Without an outer memory all codes must lie in the index buffer."""
    have, need = _index_buffer_bits(chip), _code_bits(layer, fmt)
    if chip.part("dram") or need <= have:
        return ""
    return (
        f"{need} bits of codes, the index buffer of {chip.name} holds {have}, and there is no dram to stream them from"
    )


def work(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int, codes: bytes = b"") -> LayerWork:
    """Placement, timing and actions of one image and of one load of the books.

    `codes` are the layer's indices, int64 bytes of [O, sub-vectors, books]; without them they are taken as uniform.
    Raises Unmappable if arrays or the product buffer cannot hold what is needed.
    """
    met = books.meet(layer, fmt, chip, activation_bits, _subvectors(layer, fmt, chip, activation_bits))
    job, positions = gather_job(layer, fmt, chip, activation_bits, met)
    entries = _entries(codes, job, positions, layer)
    counts = count_gather(job, entries)
    steady = count_gather(job._replace(rounds=max(STEADY_ROUNDS, job.rounds)), entries).interval
    width, clock = books.widths(fmt, chip, activation_bits), chip.clocks_hz["digital"]
    stages = _stage_ticks(layer, job, counts, chip, width.input)
    interval = max(1, ceil(steady / positions), stages["operand fetch"], stages["digital"])
    head = max(0, met.latency_ticks + counts.drain - job.drain_ticks - interval * layer.num_positions)
    stream = _stream(layer, fmt, chip, job, positions, head) if _is_streamed(layer, fmt, chip, met) else None
    resident_bits = 0 if stream else _code_bits(layer, fmt) + fmt.num_scales(layer.num_outputs) * width.scale
    load = met.load_actions + Counter({("index_buffer", "", "write_bit"): resident_bits})
    return LayerWork(
        layer, fmt, "lookup", met.placement, clock, head + interval + job.drain_ticks, interval,
        {"bank_conflict": counts.stall_bank, "products": counts.stall_product}, stages,
        met.actions + _actions(layer, fmt, chip, job, stream, width),
        met.load_jobs, met.load_bits + resident_bits, load,
        input_bits(layer, activation_bits), deliveries(layer, met.placement, chip, activation_bits), stream, met.book,
    )  # fmt: skip


def gather_job(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int, met: Met) -> tuple[GatherJob, int]:
    """The job of a tile's gather unit, and how many positions share a round: its lanes, its room for products and a
    reading of the codes. Where a sub-vector meets all books together, their products are one row group's."""
    gather, buffer = _gather(chip), _products(chip)
    positions = 1 << (min(layer.num_positions, gather.positions).bit_length() - 1)
    together = fmt.codes_per_vector if met.together else 1
    of_one = ceil(layer.num_inputs / fmt.vector_length)
    each = fmt.num_entries * together * books.widths(fmt, chip, activation_bits).product
    at_once = buffer.capacity_bits // (buffer.groups * each * positions)
    if not at_once:
        raise Unmappable(f"{layer.name}: products of one sub-vector take {each * positions * buffer.groups} bits in "
                         f"{buffer.groups} groups, the product buffer holds {buffer.capacity_bits}")  # fmt: skip
    rounds = ceil(layer.num_positions / positions)
    vectors = positions * of_one * together
    job = GatherJob(
        rounds=rounds, vectors=vectors, new_vectors=min(vectors, ceil(met.subvectors * together / rounds)),
        group_vectors=positions * min(at_once, of_one) * together, books=fmt.codes_per_vector // together,
        outputs=layer.num_outputs, lanes=gather.lanes * gather.count, banks=buffer.banks * buffer.count,
        by_entry=int(buffer.banking == "by_entry"), pass_vectors=met.pass_vectors * together,
        pass_ticks=met.pass_ticks, buffers=buffer.groups, drain_ticks=gather.drain_cycles,
    )  # fmt: skip
    return job, positions


def keeps_books(work: LayerWork) -> LayerWork:
    """The same on a chip whose codebook buffer holds all books of the plan at once: they need not come again."""
    if work.stream is None or not work.stream.book_bits:
        return work
    stream = work.stream
    kept = stream._replace(
        opening_bits=stream.opening_bits - stream.opening_book_bits, book_bits=0, opening_book_bits=0,
        other_bits=stream.other_bits - stream.book_bits + stream.opening_book_bits,
    )  # fmt: skip
    written = Counter({("buffer", "codebook", "write_bit"): stream.book_bits})
    return work._replace(stream=kept, actions=work.actions - written, load_actions=written, load_bits=stream.book_bits)


def _gather(chip: Chip) -> Gather:
    part = chip.part("gather")
    assert part is not None, "refusal() was asked first"
    return part.component


def _products(chip: Chip) -> ProductBuffer:
    part = chip.part("product_buffer")
    assert part is not None, "refusal() was asked first"
    return part.component


def _index_buffer_bits(chip: Chip) -> int:
    part = chip.part("index_buffer")
    assert part is not None, "asked for chips with an index buffer only"
    return part.component.capacity_bits


def _code_bits(layer: Layer, fmt: WeightFormat) -> int:
    """Stored bits of a layer's codes and scale codes, float scales apart."""
    return fmt.bits(layer).total - fmt.num_scales(layer.num_outputs) * SCALE_BITS


def _subvectors(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int) -> int:
    """Sub-vectors that meet the book for one image: those of every window; or, if the product buffer keeps the lines
    of a window and no vector lies across two taps, those of every input position once."""
    d, (rows, columns) = fmt.vector_length, layer.in_size
    of_windows = layer.num_positions * ceil(layer.num_inputs / d)
    if layer.in_channels % d or prod(layer.kernel) == 1:
        return of_windows
    each = fmt.num_entries * fmt.codes_per_vector * books.widths(fmt, chip, activation_bits).product
    line_bits = layer.kernel[0] * columns * (layer.in_channels // d) * each
    once = rows * columns * layer.batch * layer.in_channels // d
    return min(of_windows, once) if _products(chip).line_bits >= line_bits else of_windows


def _entries(codes: bytes, job: GatherJob, positions: int, layer: Layer) -> bytes:
    """The order in which a round looks the layer's codes up."""
    if not codes or not job.by_entry:
        return b""
    indices = np.frombuffer(codes, np.int64).reshape(layer.num_outputs, job.vectors // positions, job.books)
    return in_order(indices, job.group_vectors // positions, positions)


def _stage_ticks(layer: Layer, job: GatherJob, counts: GatherCounts, chip: Chip, operand_bits: int) -> dict[str, int]:
    """Ticks that each stage works for one position."""
    clock, positions = chip.clocks_hz["digital"], layer.num_positions
    fetched = ceil(layer.num_inputs * job.new_vectors / job.vectors) * operand_bits
    return {
        "products": ceil(counts.passes * job.pass_ticks / positions),
        "gather": ceil((counts.steps + counts.stall_bank) / positions),
        "operand fetch": rates.ticks(rates.bus_ps(chip, fetched), clock),
        "digital": rates.ticks(rates.digital_ps(chip, "activation", layer.num_outputs), clock),
    }


def _actions(
    layer: Layer, fmt: WeightFormat, chip: Chip, job: GatherJob, stream: OuterStream | None, width: books.Widths
) -> Actions:
    """One image behind the products: they are kept, looked up, scaled and added, and sums kept until they are whole."""
    lookups = job.rounds * job.vectors * job.outputs * job.books
    made = job.rounds * job.new_vectors * job.books * fmt.num_entries
    results, visits = layer.num_positions * layer.num_outputs, ceil(job.vectors / job.group_vectors) * job.books
    is_whole = width.product == width.entry  # numbers of one width stay so; integers grow with what is added
    sum_bits = width.product + (0 if is_whole else ceil(log2(max(2, job.vectors * job.books))))
    kept = results * visits * sum_bits
    sums = "output" if chip.part("buffer", "output") else "tile"
    count: Actions = Counter({
        ("product_buffer", "", "write_bit"): made * width.product,
        ("product_buffer", "", "read_bit"): lookups * width.product,
        ("index_buffer", "", "read_bit"): job.rounds * _code_bits(layer, fmt),
        ("gather", "", "add"): lookups,
        ("gather", "", "scale"): lookups * (fmt.scale_bits > 0),
        ("digital", "activation", "op"): results,
        ("buffer", sums, "write_bit"): kept,
        ("buffer", sums, "read_bit"): kept,
    })  # fmt: skip
    if stream is not None:
        count["index_buffer", "", "write_bit"] += stream.index_bits
        count["buffer", "codebook", "write_bit"] += stream.book_bits
        come_back = max(0, stream.result_bits - results * width.product)  # sums of earlier blocks of inputs
        count["buffer", sums, "write_bit"] += come_back
        count["buffer", sums, "read_bit"] += stream.result_bits
    return +count


def _is_streamed(layer: Layer, fmt: WeightFormat, chip: Chip, met: Met) -> bool:
    """Whether codes come from the outer memory for every image: layers that take turns share the index buffer."""
    if chip.part("dram") is None:
        return False
    is_own = chip.schedule == "pipelined"
    return not is_own or _code_bits(layer, fmt) > _index_buffer_bits(chip) * met.placement.num_tiles


def _stream(
    layer: Layer, fmt: WeightFormat, chip: Chip, job: GatherJob, positions: int, head_ticks: int
) -> OuterStream:
    """Codes, scales and books of the layer; its inputs and results too, on a chip that keeps its maps outside."""
    gather, width = _gather(chip), books.widths(fmt, chip, 8)
    codes = _code_bits(layer, fmt)
    readings = 1 if codes <= _index_buffer_bits(chip) else job.rounds
    own_books = 0 if rates.holds_weights(chip) else books.stored_bits(fmt, chip)
    opening = first_book = own_books // fmt.codes_per_vector
    other = own_books - first_book + fmt.num_scales(layer.num_outputs) * width.scale
    results = 0
    if gather.maps_in_memory:
        inputs = input_bits(layer, width.input)
        first = min(job.group_vectors * fmt.vector_length * width.input, inputs)
        blocks = ceil(layer.num_inputs * positions / (gather.input_block or layer.num_inputs * positions))
        sums = layer.num_positions * layer.num_outputs * width.product
        opening, other, results = opening + first, other + inputs - first + (blocks - 1) * sums, blocks * sums
    return OuterStream(
        opening_bits=opening, index_bits=codes * readings, other_bits=other, result_bits=results, readings=readings,
        rounds=job.rounds, positions=positions, parts=ceil(job.vectors / job.group_vectors) * job.books,
        head_ticks=head_ticks, drain_ticks=job.drain_ticks, book_bits=own_books, opening_book_bits=first_book,
    )  # fmt: skip
