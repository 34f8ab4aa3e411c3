"""Codebooks resident: each sub-vector of the input meets a whole book once, and outputs add products by their codes.

EVA (github.com/dbw6/Eva) is the published reference: multipliers, products banked by sub-vector, codes from DRAM.
"""

from __future__ import annotations

from collections import Counter
from math import ceil, log2, prod

import numpy as np
from numpy.typing import NDArray

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.components.gather import Gather
from cimsim.components.product_buffer import ProductBuffer
from cimsim.dataflow import books
from cimsim.dataflow.around import deliveries
from cimsim.dataflow.books import Met
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Unmappable
from cimsim.dataflow.work import LayerWork, OuterStream
from cimsim.records import Actions, GatherCounts, GatherJob
from cimsim.unit.gather import count_gather, in_order
from workloads.format import SCALE_BITS
from workloads.layer import Layer

NEEDED = {"gather": "gather unit", "product_buffer": "product buffer", "index_buffer": "index buffer"}
STEADY_ROUNDS = 3  # from then on rounds follow each other at one interval


USUAL_FOR = ()


def refusal(case: Case) -> str:
    """Why this dataflow cannot serve the case; empty if it can."""
    layer, fmt, chip = case.layer, case.fmt, case.chip
    if fmt.kind != "vq":
        return f"{fmt.name} has no codebook whose products could be looked up"
    if missing := [name for name in NEEDED if getattr(chip.parts, name) is None]:
        return f"{chip.name} has no {NEEDED[missing[0]]}"
    if fmt.axis != "in":
        return f"{fmt.name} cuts vectors along {fmt.axis!r}: products are of vectors along inputs"
    if layer.groups > 1:
        return f"{layer.name}: groups = {layer.groups}: outputs of different groups have no products in common"
    if fmt.scale_bits and not _gather(chip).scales:
        return f"{fmt.name} has scale codes, the gather unit of {chip.name} does not multiply (scales: true)"
    return books.refusal(case) or _memory_refusal(case)


def _memory_refusal(case: Case) -> str:
    """Without an outer memory all codes must lie in the index buffer."""
    have, need = _index_buffer_bits(case.chip), _code_bits(case)
    if case.chip.parts.dram or need <= have:
        return ""
    holds = f"the index buffer of {case.chip.name} holds {have}"
    return f"{need} bits of codes, {holds}, and there is no dram to stream them from"


def work(case: Case, codes: NDArray | None = None) -> LayerWork:
    """Placement, timing and actions of one image and of one load of the books.

    `codes` are the layer's indices [O, sub-vectors, books]; without them they are taken as uniform.
    Raises Unmappable if arrays or the product buffer cannot hold what is needed.
    """
    layer, fmt, chip = case.layer, case.fmt, case.chip
    met = books.meet(case, _subvectors(case))
    job, positions = gather_job(case, met)
    entries = _entries(codes, job, positions, layer)
    counts = count_gather(job, entries)
    steady = count_gather(job._replace(rounds=max(STEADY_ROUNDS, job.rounds)), entries).interval
    width, clock = books.widths(case), chip.clocks_hz["digital"]
    stages = _stage_ticks(layer, job, counts, chip, width.input)
    interval = max(1, ceil(steady / positions), stages["operand fetch"], stages["digital"])
    head = max(0, met.latency_ticks + counts.drain - job.drain_ticks - interval * layer.num_positions)
    stream = _stream(case, job, positions, head) if _is_streamed(case, met) else None
    resident_bits = 0 if stream else _code_bits(case) + fmt.num_scales(layer.num_outputs) * width.scale
    load = met.load_actions + Counter({("index_buffer", "", "write_bit"): resident_bits})
    return LayerWork(
        layer=layer, format=fmt, dataflow="lookup", placement=met.placement, clock_hz=clock,
        first_ticks=head + interval + job.drain_ticks, interval_ticks=interval,
        stall_ticks={"bank_conflict": counts.stall_bank, "products": counts.stall_product}, stage_ticks=stages,
        actions=met.actions + _actions(case, job, stream), load_jobs=met.load_jobs,
        load_bits=met.load_bits + resident_bits, load_actions=load, input_bits=case.map_bits,
        deliveries=deliveries(case, met.placement), stream=stream, book=met.book,
    )  # fmt: skip


def gather_job(case: Case, met: Met) -> tuple[GatherJob, int]:
    """The job of a tile's gather unit, and how many positions share a round: its lanes, its room for products and a
    reading of the codes. Where a sub-vector meets all books together, their products are one row group's."""
    layer, fmt = case.layer, case.fmt
    gather, buffer = _gather(case.chip), _products(case.chip)
    positions = 1 << (min(layer.num_positions, gather.positions).bit_length() - 1)
    together = fmt.codes_per_vector if met.together else 1
    of_one = ceil(layer.num_inputs / fmt.vector_length)
    each = fmt.num_entries * together * books.widths(case).product
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
    assert chip.parts.gather is not None, "refusal() was asked first"
    return chip.parts.gather


def _products(chip: Chip) -> ProductBuffer:
    assert chip.parts.product_buffer is not None, "refusal() was asked first"
    return chip.parts.product_buffer


def _index_buffer_bits(chip: Chip) -> int:
    assert chip.parts.index_buffer is not None, "asked for chips with an index buffer only"
    return chip.parts.index_buffer.capacity_bits


def _code_bits(case: Case) -> int:
    """Stored bits of a layer's codes and scale codes, float scales apart."""
    return case.fmt.bits(case.layer).total - case.fmt.num_scales(case.layer.num_outputs) * SCALE_BITS


def _subvectors(case: Case) -> int:
    """Sub-vectors that meet the book for one image: those of every window; or, if the product buffer keeps the lines
    of a window and no vector lies across two taps, those of every input position once."""
    layer, fmt = case.layer, case.fmt
    d, (rows, columns) = fmt.vector_length, layer.in_size
    of_windows = layer.num_positions * ceil(layer.num_inputs / d)
    if layer.in_channels % d or prod(layer.kernel) == 1:
        return of_windows
    each = fmt.num_entries * fmt.codes_per_vector * books.widths(case).product
    line_bits = layer.kernel[0] * columns * (layer.in_channels // d) * each
    once = rows * columns * layer.batch * layer.in_channels // d
    return min(of_windows, once) if _products(case.chip).line_bits >= line_bits else of_windows


def _entries(codes: NDArray | None, job: GatherJob, positions: int, layer: Layer) -> bytes:
    """The order in which a round looks the layer's codes up."""
    if codes is None or not job.by_entry:
        return b""
    indices = np.asarray(codes, np.int64).reshape(layer.num_outputs, job.vectors // positions, job.books)
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


def _actions(case: Case, job: GatherJob, stream: OuterStream | None) -> Actions:
    """One image behind the products: they are kept, looked up, scaled and added, and sums kept until they are whole."""
    layer, fmt, width = case.layer, case.fmt, books.widths(case)
    lookups = job.rounds * job.vectors * job.outputs * job.books
    made = job.rounds * job.new_vectors * job.books * fmt.num_entries
    results, visits = layer.num_positions * layer.num_outputs, ceil(job.vectors / job.group_vectors) * job.books
    is_whole = width.product == width.entry  # numbers of one width stay so; integers grow with what is added
    sum_bits = width.product + (0 if is_whole else ceil(log2(max(2, job.vectors * job.books))))
    kept = results * visits * sum_bits
    sums = "output" if case.chip.parts.output_buffer else "tile"
    count: Actions = Counter({
        ("product_buffer", "", "write_bit"): made * width.product,
        ("product_buffer", "", "read_bit"): lookups * width.product,
        ("index_buffer", "", "read_bit"): job.rounds * _code_bits(case),
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


def _is_streamed(case: Case, met: Met) -> bool:
    """Whether codes come from the outer memory for every image: layers that take turns share the index buffer."""
    if case.chip.parts.dram is None:
        return False
    is_own = case.chip.schedule == "pipelined"
    return not is_own or _code_bits(case) > _index_buffer_bits(case.chip) * met.placement.num_tiles


def _stream(case: Case, job: GatherJob, positions: int, head_ticks: int) -> OuterStream:
    """Codes, scales and books of the layer; its inputs and results too, on a chip that keeps its maps outside."""
    layer, fmt, chip = case.layer, case.fmt, case.chip
    gather, width = _gather(chip), books.widths(case)
    codes = _code_bits(case)
    readings = 1 if codes <= _index_buffer_bits(chip) else job.rounds
    own_books = 0 if rates.holds_weights(chip) else books.stored_bits(case)
    opening = first_book = own_books // fmt.codes_per_vector
    other = own_books - first_book + fmt.num_scales(layer.num_outputs) * width.scale
    results = 0
    if gather.maps_in_memory:
        inputs = case.map_bits // case.activation.bits * width.input
        first = min(job.group_vectors * fmt.vector_length * width.input, inputs)
        blocks = ceil(layer.num_inputs * positions / (gather.input_block or layer.num_inputs * positions))
        sums = layer.num_positions * layer.num_outputs * width.product
        opening, other, results = opening + first, other + inputs - first + (blocks - 1) * sums, blocks * sums
    return OuterStream(
        opening_bits=opening, index_bits=codes * readings, other_bits=other, result_bits=results, readings=readings,
        rounds=job.rounds, positions=positions, parts=ceil(job.vectors / job.group_vectors) * job.books,
        head_ticks=head_ticks, drain_ticks=job.drain_ticks, book_bits=own_books, opening_book_bits=first_book,
    )  # fmt: skip
