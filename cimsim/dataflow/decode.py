"""Weights as codes: index buffer -> codebook ROM or lattice decoder -> assembly buffer -> word lines."""

from __future__ import annotations

from collections import Counter
from math import ceil

from cimsim import rates
from cimsim.dataflow.products import product_work
from cimsim.dataflow.work import Actions, LayerWork, LoadJobs, code_store, written_cells
from cimsim.mapping import Placement
from cimsim.records import LoadJob
from cimsim.spec import Chip
from workloads.format import WeightFormat
from workloads.layer import Layer


def refusal(layer: Layer, fmt: WeightFormat, chip: Chip) -> str:
    """Why this dataflow cannot serve the layer in this format on this chip; empty if it can."""
    if fmt.kind == "linear":
        return f"{fmt.name} has no codes to decode"
    if fmt.kind == "pool":
        return f"{fmt.name} keeps a pool in arrays of its own: there is nothing to decode"
    if not rates.holds_weights(chip):
        return f"{chip.name} has no arrays that hold weights"
    if fmt.axis != "in":
        return f"{fmt.name} cuts vectors along {fmt.axis!r}: the assembly buffer gathers them along inputs only"
    if fmt.kind == "lattice":
        return _lattice_refusal(fmt, chip)
    rom = chip.part("codebook_rom")
    if rom is None:
        return f"{chip.name} has no codebook ROM"
    if rom.component.capacity_bits < fmt.codebook_bits:
        return f"the codebook has {fmt.codebook_bits} bits, the ROM holds {rom.component.capacity_bits}"
    return ""


def _lattice_refusal(fmt: WeightFormat, chip: Chip) -> str:
    decoder = chip.part("lattice_decoder")
    if decoder is None:
        return f"{chip.name} has no lattice decoder"
    known = decoder.component.lattices
    return "" if fmt.lattice in known else f"the lattice decoder knows {', '.join(known)}, not {fmt.lattice}"


def work(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int) -> LayerWork:
    """Placement, timing and actions of one image and of one load. Raises Unmappable if the arrays cannot hold it."""
    found = product_work("decode", layer, fmt, chip, activation_bits)
    return found._replace(
        load_jobs=load_jobs(fmt, found.placement, chip), load_actions=load_actions(layer, fmt, found.placement, chip)
    )


def load_jobs(fmt: WeightFormat, placement: Placement, chip: Chip) -> LoadJobs:
    """A block is d rows: one code per output gives d weights down a column, times its scale code if it has one."""
    part = chip.part("lattice_decoder" if fmt.kind == "lattice" else "codebook_rom")
    assert part is not None, "refusal() was asked first"
    return tuple(
        (
            LoadJob(
                blocks=ceil(piece.rows / fmt.vector_length),
                codes_per_block=piece.outputs,
                code_bits=fmt.vector_bits + fmt.scale_bits,
                index_width=rates.load_width_bits(chip),
                ports=part.component.ports,
                latency=part.component.latency_cycles + (fmt.scale_bits > 0),
                block_rows=min(fmt.vector_length, piece.rows),
                write_ticks=rates.write_ticks(chip),
                buffers=2,
                lookups=fmt.codes_per_vector,
                banks=getattr(part.component, "banks", 0),
            ),
            piece.count,
        )
        for piece in placement.pieces
    )


def load_actions(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip) -> Actions:
    """Actions of one load, beside the outer memory's. Each code is looked up once per array that needs it."""
    bits = fmt.bits(layer).total
    codes = sum(ceil(piece.rows / fmt.vector_length) * piece.outputs * piece.count for piece in placement.pieces)
    values = codes * fmt.vector_length
    count: Actions = Counter({
        (*code_store(chip), "write_bit"): bits,
        (*code_store(chip), "read_bit"): bits,
        ("register", "assembly", "write_bit"): values * fmt.array_bits,
        ("register", "assembly", "read_bit"): values * fmt.array_bits,
        (chip.array.kind, "", "write_cell"): written_cells(placement),
    })  # fmt: skip
    if fmt.kind == "lattice":
        count["lattice_decoder", "", "decode"] = codes * fmt.codes_per_vector
    else:
        count["codebook_rom", "", "read_bit"] = values * fmt.entry_bits * fmt.codes_per_vector
    adds = (fmt.codes_per_vector - 1) + (fmt.scale_bits > 0)  # of books or digits, and the scale code's product
    if adds:
        count["digital", "activation", "op"] = values * adds
    return count
