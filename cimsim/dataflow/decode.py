"""Weights as codes: index buffer -> codebook ROM or lattice decoder -> assembly buffer -> word lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.dataflow.around import code_store, written_cells
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Piece, Placement
from cimsim.dataflow.products import product_work
from cimsim.dataflow.work import LayerWork, LoadJobs
from cimsim.records import Actions, LoadJob
from workloads.format import WeightFormat, weight_shape

USUAL_FOR = ("vq", "lattice")


def refusal(case: Case) -> str:
    """Why this dataflow cannot serve the case; empty if it can."""
    fmt, chip, rom = case.fmt, case.chip, case.chip.parts.rom
    if fmt.kind == "linear":
        return f"{fmt.name} has no codes to decode"
    if fmt.kind == "pool":
        return f"{fmt.name} keeps a pool in arrays of its own: there is nothing to decode"
    if not rates.holds_weights(chip):
        return f"{chip.name} has no arrays that hold weights"
    if fmt.kind == "lattice":
        return _lattice_refusal(fmt, chip)
    if rom is None:
        return f"{chip.name} has no codebook ROM"
    if rom.capacity_bits < fmt.codebook_bits:
        return f"the codebook has {fmt.codebook_bits} bits, the ROM holds {rom.capacity_bits}"
    return ""


def _lattice_refusal(fmt: WeightFormat, chip: Chip) -> str:
    if chip.parts.decoder is None:
        return f"{chip.name} has no lattice decoder"
    known = chip.parts.decoder.lattices
    return "" if fmt.lattice in known else f"the lattice decoder knows {', '.join(known)}, not {fmt.lattice}"


def work(case: Case, codes: NDArray | None = None) -> LayerWork:
    """Placement, timing and actions of one image and of one load. Raises Unmappable if the arrays cannot hold it.

    `codes` are the layer's real indices (`WeightFormat.code_shape`, and books), whose conflicts in a banked ROM are
    then counted; without them, of grouped layers, and of vectors cut through the whole tensor they are uniform.
    """
    found = product_work("decode", case)
    jobs = load_jobs(case, found.placement)
    if codes is not None and jobs[0][0].banks and case.layer.groups == 1 and case.fmt.axis != "flat":
        jobs = tuple(_real_jobs(jobs, case, codes))
    return found._replace(load_jobs=jobs, load_actions=load_actions(case, found.placement))


def load_jobs(case: Case, placement: Placement) -> LoadJobs:
    """Blocks of rows that are written together, and the codes that make one, times a scale code if there is one."""
    fmt, chip = case.fmt, case.chip
    decoder = chip.parts.decoder if fmt.kind == "lattice" else chip.parts.rom
    assert decoder is not None, "refusal() was asked first"
    return tuple(
        (
            LoadJob(
                **_blocks(fmt, piece)._asdict(),
                code_bits=fmt.vector_bits + fmt.scale_bits,
                index_width=rates.load_width_bits(chip),
                ports=decoder.ports,
                latency=decoder.latency_cycles + (fmt.scale_bits > 0),
                write_ticks=rates.write_ticks(chip),
                buffers=2,
                lookups=fmt.codes_per_vector,
                banks=getattr(decoder, "banks", 0),
            ),
            piece.count,
        )
        for piece in placement.pieces
    )


class _Blocks(NamedTuple):
    """Blocks of one array, the codes of each, and its rows."""

    blocks: int
    codes_per_block: int
    block_rows: int


def _blocks(fmt: WeightFormat, piece: Piece) -> _Blocks:
    """Along inputs a block is d rows: one code per output gives d weights down a column. Along outputs it is one row,
    of which a code gives d. Kernels lie in rows that follow each other (operands are fetched in that order, at no
    cost); vectors through the whole tensor too, but begin anywhere, so that one more may touch an array's rows."""
    d = fmt.vector_length
    if fmt.axis == "out":
        return _Blocks(piece.rows, ceil(piece.outputs / d), 1)
    rows = piece.rows + (d - 1 if fmt.axis == "flat" else 0)
    return _Blocks(ceil(rows / d), piece.outputs, min(d, piece.rows))


def _real_jobs(jobs: LoadJobs, case: Case, codes: NDArray) -> Iterator[tuple[LoadJob, int]]:
    """Each array's job with its own indices: block after block, in a block code after code, all books of a code."""
    layer, fmt, cells = case.layer, case.fmt, case.chip.parts.cells
    d = fmt.vector_length
    outputs = cells.columns // cells.columns_per_output(fmt.array_bits)
    shapes = {(job.blocks, job.codes_per_block): job for job, _ in jobs}
    along_outputs = fmt.axis == "out"
    stored = np.asarray(codes, np.int64).reshape(*fmt.code_shape(weight_shape(layer)), fmt.codes_per_vector)
    for first_row in range(0, layer.num_inputs, cells.rows):
        for first in range(0, layer.num_outputs, outputs):
            stop_row, stop = min(first_row + cells.rows, layer.num_inputs), min(first + outputs, layer.num_outputs)
            if along_outputs:
                own = stored[first_row:stop_row, first // d : ceil(stop / d)]
            else:
                own = stored[first:stop, first_row // d : ceil(stop_row / d)].swapaxes(0, 1)
            job = shapes.get(own.shape[:2]) or jobs[0][0]._replace(blocks=own.shape[0], codes_per_block=own.shape[1])
            yield job._replace(entries=np.ascontiguousarray(own).tobytes()), 1


def load_actions(case: Case, placement: Placement) -> Actions:
    """Actions of one load, beside the outer memory's. Each code is looked up once per array that needs it."""
    fmt, bits, store = case.fmt, case.fmt.bits(case.layer).total, code_store(case.chip)
    shapes = [(_blocks(fmt, piece), piece.count) for piece in placement.pieces]
    codes = sum(shape.blocks * shape.codes_per_block * count for shape, count in shapes)
    values = codes * fmt.vector_length
    count: Actions = Counter({
        (*store, "write_bit"): bits,
        (*store, "read_bit"): bits,
        ("register", "assembly", "write_bit"): values * fmt.array_bits,
        ("register", "assembly", "read_bit"): values * fmt.array_bits,
        (case.chip.array.kind, "", "write_cell"): written_cells(placement),
    })  # fmt: skip
    if fmt.kind == "lattice":
        count["lattice_decoder", "", "decode"] = codes * fmt.codes_per_vector
    else:
        count["codebook_rom", "", "read_bit"] = values * fmt.entry_bits * fmt.codes_per_vector
    adds = (fmt.codes_per_vector - 1) + (fmt.scale_bits > 0)  # of books or digits, and the scale code's product
    if adds:
        count["digital", "activation", "op"] = values * adds
    return count
