"""One layer's work on the arrays, the same for every dataflow once the weights are in: job and actions."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import NamedTuple

from cimsim.chip.model import Chip
from cimsim.dataflow.place import Placement, Unmappable
from cimsim.records import Actions, ArrayJob, LoadJob
from cimsim.unit.mvm import count_mvm
from workloads.format import WeightFormat
from workloads.layer import Layer

LoadJobs = tuple[tuple[LoadJob, int], ...]  # (job for one array, number of such arrays)


class OuterStream(NamedTuple):
    """What a layer moves to and from the outer memory for one image (or batch) while it works, in bits.

    `opening_bits` must be there before any work. `index_bits` are codes, of all their readings; `other_bits` come along
    with them, `result_bits` go back. `readings`: of `rounds` groups of positions so many read the codes from the outer
    memory (one if the index buffer keeps them, else all). The last `1 / parts` of a round's work makes its results.
    `book_bits`, and of the opening `opening_book_bits`, are codebooks, which need not come if the chip keeps them.
    """

    opening_bits: int
    index_bits: int
    other_bits: int
    result_bits: int
    readings: int
    rounds: int
    positions: int  # of a round
    parts: int
    head_ticks: int  # work before the first code is needed
    drain_ticks: int
    book_bits: int = 0
    opening_book_bits: int = 0

    @property
    def read_bits(self) -> int:
        return self.opening_bits + self.index_bits + self.other_bits


class LayerWork(NamedTuple):
    """What a layer asks of the chip: compute for one image, and one load of its weights.

    Ticks are of a clock of `clock_hz`, in the busiest unit: `first_ticks` until the first position's result,
    `interval_ticks` from one position to the next, `stall_ticks` by cause over all positions, `stage_ticks` each
    stage has to work for one position. `load_jobs` are (job for one array, number of such arrays). `load_bits`
    come from outer memory; `stream` is what comes for every image. Layers with the same `book` use the same arrays
    when they take turns. `why` tells how the dataflow was chosen, if the plan left it open.
    """

    layer: Layer
    format: WeightFormat
    dataflow: str
    placement: Placement
    clock_hz: int
    first_ticks: int
    interval_ticks: int
    stall_ticks: dict[str, int]
    stage_ticks: dict[str, int]
    actions: Actions
    load_jobs: LoadJobs
    load_bits: int
    load_actions: Actions
    input_bits: int  # of the layer's whole input tensor
    deliveries: int  # times that tensor is sent to the tiles
    stream: OuterStream | None = None
    book: str = ""
    why: str = ""


class Timing(NamedTuple):
    """When an image's positions leave the busiest unit, as `LayerWork` has it."""

    clock_hz: int
    first_ticks: int
    interval_ticks: int
    stall_ticks: dict[str, int]
    stage_ticks: dict[str, int]


def mvm_timing(job: ArrayJob, clock_hz: int) -> Timing:
    """Timing of matrix-vector products: all stalls of the array under its three causes (digital arrays wait for no
    converter)."""
    counts = count_mvm(job)
    interval = count_mvm(job._replace(vectors=max(2, job.vectors))).interval  # the same between any two
    stalls = {"adc": counts.stall_adc, "output": counts.stall_output, "fetch": counts.stall_fetch}
    reading = "array read" if job.conversions else "array step"
    stages = {reading: job.read_ticks * job.reads, "adc": ceil(job.conversions / job.adcs) * job.reads,
              "operand fetch": job.fetch_ticks, "digital": job.digital_ticks, "write": job.write_ticks}  # fmt: skip
    return Timing(clock_hz, counts.first_result, interval, stalls, stages)


def duplicated(work: LayerWork, copies: int, chip: Chip) -> LayerWork:
    """The layer `copies` times on the chip. Each copy gets the whole input and takes its share of the positions.

    Raises Unmappable if the chip cannot hold all copies at once.
    """
    if copies == 1:
        return work
    one = work.placement
    units, room = one.num_units * copies, chip.num_tiles * chip.units_per_tile
    if units > room:
        raise Unmappable(f"{copies} copies need {units} units, {chip.name} has {room}")
    tiles = ceil(units / chip.units_per_tile)
    placement = one._replace(copies=copies, num_arrays=one.num_arrays * copies, num_units=units, num_tiles=tiles)
    sent = work.input_bits * work.deliveries * (tiles - one.num_tiles)
    return work._replace(
        placement=placement,
        stall_ticks={cause: ticks // copies for cause, ticks in work.stall_ticks.items()},
        actions=work.actions + Counter({("buffer", "tile", "write_bit"): sent}),
        load_jobs=tuple((job, count * copies) for job, count in work.load_jobs),
        load_bits=work.load_bits * copies,
        load_actions=Counter({key: n * copies for key, n in work.load_actions.items()}),
    )
