"""One layer's work on the arrays, the same for every dataflow once the weights are in: job and actions."""

from __future__ import annotations

from collections import Counter
from math import ceil, log2, prod
from typing import NamedTuple

from cimsim import rates
from cimsim.kernels import count_mvm
from cimsim.mapping import Placement, Unmappable
from cimsim.records import ArrayJob, LoadJob
from cimsim.spec import Chip
from workloads.format import WeightFormat
from workloads.layer import Layer

Actions = Counter  # (kind, role, action) -> how often
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


def sum_bits(layer: Layer, fmt: WeightFormat, activation_bits: int) -> int:
    """Width of a full dot product: input + weight + ceil(log2 of its length)."""
    return fmt.input_bits(activation_bits) + fmt.array_bits + ceil(log2(max(2, layer.num_inputs)))


def input_bits(layer: Layer, activation_bits: int) -> int:
    return layer.in_channels * prod(layer.in_size) * layer.batch * activation_bits


def deliveries(layer: Layer, placement: Placement, chip: Chip, activation_bits: int) -> int:
    """How often the input tensor must be sent to the tiles.

    Once if the tile buffer holds all of it. If it holds the kernel's rows only, each round gets the channels
    that its rows touch; with less room each line comes again for every kernel row that touches it.
    """
    room, whole = rates.tile_buffer_bits(chip), input_bits(layer, activation_bits)
    if whole <= room:
        return 1
    lines = whole // layer.batch // layer.in_size[0] * min(layer.kernel[0], layer.in_size[0])
    round_arrays = min(ceil(placement.num_arrays / placement.rounds), placement.row_tiles)
    touched = min(1.0, round_arrays * placement.widest.rows * layer.groups / layer.in_channels)
    return max(1, ceil(placement.rounds * touched)) * (1 if lines <= room else layer.kernel[0])


def array_job(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int) -> ArrayJob:
    """The job of the busiest unit, in the busiest tile: all units of a layer run in lockstep on one position.

    Adders are taken to keep pace with the converters that feed them; they cost latency, not throughput. Input steps
    that differ in length (pulse counts, tapering converters) count as one read that is as long as all of them.
    Raises Unmappable if the arrays cannot be rewritten and the layer does not fit.
    """
    crossbar, pace = rates.crossbar(chip), placement.widest
    if placement.rounds > 1 and not crossbar.is_writable:
        raise Unmappable(
            f"{layer.name}: needs {placement.num_arrays} arrays at once, {chip.name} cannot rewrite its {crossbar.cell}"
        )
    rate, adcs = rates.converter_rate_hz(chip), rates.adcs_per_array(chip)
    steps = rates.input_steps(chip, fmt.input_bits(activation_bits))
    together = steps if len({(step.read_ps, step.convert_ticks) for step in steps}) > 1 else steps[:1]
    waiting = ceil(pace.columns / crossbar.joined_columns) * rates.arrays_per_adc(chip, placement.num_arrays)
    turn_ticks = sum(step.convert_ticks for step in together)
    stage = stage_ticks_around(layer, fmt, placement, chip, activation_bits, rate)
    read_ticks = rates.ticks(sum(step.read_ps for step in together), rate)
    conversions = waiting if turn_ticks == 1 else ceil(waiting / adcs) * adcs * turn_ticks
    if read_ticks == 0:  # the conversion is the read
        read_ticks, conversions = ceil(conversions / adcs), 0
    return ArrayJob(
        vectors=layer.num_positions,
        reads=len(steps) // len(together) * crossbar.phases * ceil(pace.rows / crossbar.rows_on),
        conversions=conversions,
        adcs=adcs,
        read_ticks=read_ticks,
        sample_hold=int(rates.frees_array(chip)),
        fetch_ticks=stage["fetch"],
        shift_add_ticks=stage["shift_add"],
        digital_ticks=stage["digital"],
        write_ticks=stage["write"],
    )


def stage_ticks_around(
    layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int, rate: int
) -> dict[str, int]:
    """Ticks of the stages around the arrays for one position: fetch, shift_add, digital, write."""
    stage = {name: rates.ticks(duration, rate) for name, duration in rates.pipeline_ps(chip).items()}
    fetch_ps = rates.bus_ps(chip, placement.tile_fetched_rows * fmt.input_bits(activation_bits))
    sums = ceil(placement.unit_sums * placement.tile_arrays / placement.num_arrays)
    outputs = min(layer.num_outputs, ceil(placement.tile_arrays / placement.row_tiles) * placement.widest.outputs)
    finish_ps = max(
        rates.digital_ps(chip, "activation", outputs),
        rates.bus_ps(chip, sums * sum_bits(layer, fmt, activation_bits)),
    )
    return stage | {
        "fetch": max(stage["fetch"], rates.ticks(fetch_ps, rate)),
        "digital": max(stage["digital"], rates.ticks(finish_ps, rate)),
    }


def compute_actions(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int) -> Actions:
    """How often arrays and converters act for one image, and everything around them.

    Cells conduct for every pulse; where lines are only charged they act once per drive. Phases convert again, but
    each cell conducts in one of them.
    """
    crossbar, steps = rates.crossbar(chip), rates.input_steps(chip, fmt.input_bits(activation_bits))
    drives, pulses = (layer.num_positions * sum(getattr(s, name) for s in steps) for name in ("drives", "pulses"))
    count: Actions = Counter()
    for piece in placement.pieces:
        each = ceil(piece.columns / crossbar.joined_columns) * piece.count * ceil(piece.rows / crossbar.rows_on)
        each *= crossbar.phases
        cells = piece.rows * piece.columns * piece.count
        count["crossbar", "", "read_cell"] += cells * (pulses if crossbar.reading == "current" else drives)
        count["dac", "", "drive"] += drives * piece.rows * piece.count
        count["shift_add", "unit", "add"] += layer.num_positions * len(steps) * each
        _count_conversions(count, layer.num_positions * each, steps, chip)
    return count + count_around(layer, fmt, placement, chip, activation_bits)


def _count_conversions(count: Actions, values: int, steps: tuple[rates.InputStep, ...], chip: Chip) -> None:
    """Samples and conversions of `values` column values in each step."""
    sample_hold, adc = chip.part("sample_hold"), chip.part("adc")
    if sample_hold is not None and sample_hold.component.design == "integrator":
        count["sample_hold", "", "sample"] += values * sum(step.drives for step in steps)
        count["sample_hold", "", "integrate"] += values * sum(step.pulses for step in steps)
    else:
        count["sample_hold", "", "sample"] += values * len(steps)
    if adc is not None and adc.component.tapers:
        count["adc", "", "step"] += values * sum(adc.component.num_steps(step.converted_bits) for step in steps)
    else:
        count["adc", "", "convert"] += values * len(steps)


def count_around(layer: Layer, fmt: WeightFormat, placement: Placement, chip: Chip, activation_bits: int) -> Actions:
    """How often registers, buffers, buses and adders of the layer's tiles act for one image."""
    count: Actions = Counter()
    positions = layer.num_positions
    sent = input_bits(layer, activation_bits) * deliveries(layer, placement, chip, activation_bits)
    count["buffer", "tile", "write_bit"] += sent * placement.num_tiles
    _count_operands(count, positions * placement.fetched_rows * fmt.input_bits(activation_bits))
    if fmt.rotation:  # a fast Hadamard transform adds log2(block) times per operand, as it is fetched
        count["digital", "activation", "op"] += positions * placement.fetched_rows * (fmt.rotation.bit_length() - 1)
    _count_sums(count, placement, positions, layer.num_outputs, sum_bits(layer, fmt, activation_bits))
    count[rates.hop_action(chip)] += positions * placement.tile_cuts * sum_bits(layer, fmt, activation_bits)
    _count_results(count, positions * layer.num_outputs, activation_bits)
    return count


def _count_operands(count: Actions, fetched_bits: int) -> None:
    """im2col is not free: each position's operands leave the tile buffer and cross the tile's bus."""
    count["buffer", "tile", "read_bit"] += fetched_bits
    count["bus", "", "transfer_bit"] += fetched_bits
    count["register", "input", "write_bit"] += fetched_bits
    count["register", "input", "read_bit"] += fetched_bits


def _count_sums(count: Actions, placement: Placement, positions: int, num_outputs: int, width: int) -> None:
    """A unit adds up its own row tiles while it converts; the sums of several units meet in the tile.

    Sums that wait for a round are spilled to the tile buffer.
    """
    sums = positions * placement.unit_sums
    count["register", "output", "write_bit"] += sums * width
    count["register", "output", "read_bit"] += sums * width
    count["bus", "", "transfer_bit"] += sums * width
    count["shift_add", "tile", "add"] += sums - positions * num_outputs
    for action in ("write_bit", "read_bit"):
        count["buffer", "tile", action] += positions * placement.round_cuts * width


def _count_results(count: Actions, outputs: int, activation_bits: int) -> None:
    """Each output is rescaled, activated and requantized once, and kept until the tile sends it on."""
    count["digital", "activation", "op"] += outputs
    count["register", "tile_output", "write_bit"] += outputs * activation_bits
    count["register", "tile_output", "read_bit"] += outputs * activation_bits


def written_cells(placement: Placement) -> int:
    """Cells programmed by one load, the zeros between groups included."""
    return sum(piece.rows * piece.columns * piece.count for piece in placement.pieces)


def code_store(chip: Chip) -> tuple[str, str]:
    """Kind and role of the buffer through which weights and codes reach the arrays."""
    return ("index_buffer", "") if chip.part("index_buffer") else ("buffer", "tile")
