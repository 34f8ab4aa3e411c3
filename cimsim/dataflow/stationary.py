"""Weights as plain numbers: each row's integers come over the bus and are written as they are."""

from __future__ import annotations

from collections import Counter

from cimsim.chip import rates
from cimsim.dataflow.around import code_store, written_cells
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Placement
from cimsim.dataflow.products import product_work
from cimsim.dataflow.work import LayerWork, LoadJobs
from cimsim.records import Actions, LoadJob

USUAL_FOR = ("linear",)


def refusal(case: Case) -> str:
    """Why this dataflow cannot serve the case; empty if it can."""
    if not rates.holds_weights(case.chip):
        return f"{case.chip.name} has no arrays that hold weights"
    return "" if case.fmt.kind == "linear" else f"{case.fmt.name} is coded: its weights must be decoded"


def work(case: Case, codes: object = None) -> LayerWork:
    """Placement, timing and actions of one image and of one load. Raises Unmappable if the arrays cannot hold it."""
    found = product_work("stationary", case)
    return found._replace(load_jobs=load_jobs(case, found.placement), load_actions=load_actions(case, found.placement))


def load_jobs(case: Case, placement: Placement) -> LoadJobs:
    """A block is one row: one number per output, no decoder in between."""
    return tuple(
        (
            LoadJob(
                blocks=piece.rows,
                codes_per_block=piece.outputs,
                code_bits=case.fmt.code_bits,
                index_width=rates.load_width_bits(case.chip),
                ports=piece.outputs,
                latency=0,
                block_rows=1,
                write_ticks=rates.write_ticks(case.chip),
                buffers=2,
            ),
            piece.count,
        )
        for piece in placement.pieces
    )


def load_actions(case: Case, placement: Placement) -> Actions:
    """Actions of one load, beside the outer memory's."""
    bits, store = case.fmt.bits(case.layer).total, code_store(case.chip)
    count: Actions = Counter({
        (*store, "write_bit"): bits,
        (*store, "read_bit"): bits,
        (case.chip.array.kind, "", "write_cell"): written_cells(placement),
    })  # fmt: skip
    if case.fmt.group:  # each number is multiplied by its group's scale code
        count["digital", "activation", "op"] = case.layer.num_weights
    return count
