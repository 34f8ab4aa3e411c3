"""Weights as plain numbers: each row's integers come over the bus and are written as they are."""

from __future__ import annotations

from collections import Counter

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.dataflow.around import code_store, written_cells
from cimsim.dataflow.place import Placement
from cimsim.dataflow.products import product_work
from cimsim.dataflow.work import LayerWork, LoadJobs
from cimsim.records import Actions, LoadJob
from workloads.format import WeightFormat
from workloads.layer import Layer


def refusal(layer: Layer, fmt: WeightFormat, chip: Chip) -> str:
    """Why this dataflow cannot serve the layer in this format on this chip; empty if it can."""
    if not rates.holds_weights(chip):
        return f"{chip.name} has no arrays that hold weights"
    return "" if fmt.kind == "linear" else f"{fmt.name} is coded: its weights must be decoded"


def work(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int) -> LayerWork:
    """Placement, timing and actions of one image and of one load. Raises Unmappable if the arrays cannot hold it."""
    found = product_work("stationary", layer, fmt, chip, activation_bits)
    return found._replace(
        load_jobs=load_jobs(fmt, found.placement, chip), load_actions=load_actions(layer, fmt, found.placement, chip)
    )


def load_jobs(fmt: WeightFormat, placement: Placement, chip: Chip) -> LoadJobs:
    """A block is one row: one number per output, no decoder in between."""
    return tuple(
        (
            LoadJob(
                blocks=piece.rows,
                codes_per_block=piece.outputs,
                code_bits=fmt.code_bits,
                index_width=rates.load_width_bits(chip),
                ports=piece.outputs,
                latency=0,
                block_rows=1,
                write_ticks=rates.write_ticks(chip),
                buffers=2,
            ),
            piece.count,
        )
        for piece in placement.pieces
    )


def load_actions(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip) -> Actions:
    """Actions of one load, beside the outer memory's."""
    bits = fmt.bits(layer).total
    count: Actions = Counter({
        (*code_store(chip), "write_bit"): bits,
        (*code_store(chip), "read_bit"): bits,
        (chip.array.kind, "", "write_cell"): written_cells(placement),
    })  # fmt: skip
    if fmt.group:  # each number is multiplied by its group's scale code
        count["digital", "activation", "op"] = layer.num_weights
    return count
