"""The bottom of the house: records of integers that pass between the rooms of the simulator."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

Actions = Counter  # (kind, role, action) -> how often
EnergyPj = dict[str, dict[str, float]]  # component -> action -> pJ


class ArrayJob(NamedTuple):
    """Matrix-vector products on one group of arrays that share input and converters.

    All durations are ticks of the converter clock (one tick = one conversion of one ADC).
    One vector takes `reads` array reads: input steps x row groups. After each read `conversions`
    column values wait for `adcs` converters. With `sample_hold` the next read overlaps the
    conversion; without it the array must hold its currents until the last value is converted.
    Operands are fetched into a two-place input register; results pass shift-add (pipelined),
    a digital stage and a write stage (each holds one vector).
    """

    vectors: int
    reads: int
    conversions: int
    adcs: int
    read_ticks: int
    sample_hold: int
    fetch_ticks: int
    shift_add_ticks: int
    digital_ticks: int
    write_ticks: int


class Counts(NamedTuple):
    """What an ArrayJob did. Ticks count from the job's start; `first_result` is the first write's end.

    `interval` separates the last two results (0 for one vector). The next job may enter after `occupancy`;
    `drain` is when the last result is written. Stalls are ticks in which the array could not start or
    continue reading, by cause; they exclude the fill before the first read.
    """

    first_result: int
    interval: int
    occupancy: int
    drain: int
    reads: int
    conversions: int
    stall_adc: int
    stall_output: int
    stall_fetch: int


class LoadJob(NamedTuple):
    """Writing one array's weights from codes: unpack -> ROM or decoder -> assembly buffer -> word lines.

    Ticks are cycles of the tile's digital clock. A block is `block_rows` rows (the vector length d);
    it needs `codes_per_block` codes (one per output in the array) of `code_bits` bits, unpacked from
    words of `index_width` bits, one word a tick. A code is `lookups` entries (one per book) that are read
    one after the other. The decoder accepts `ports` lookups a tick and answers `latency` ticks later; with
    `banks` (0: none) entry e lies in bank e mod `banks`, which answers one lookup a tick. `latency = 0` and
    `ports = codes_per_block` for uncoded weights. `entries` are the indices that lookups ask for, in order, as int64
    bytes; they repeat if they are fewer, and matter to banks only. Without any they are uniform and independent.
    Each row is written in `write_ticks`; `buffers` assembly buffers (1 or 2) overlap the two.
    """

    blocks: int
    codes_per_block: int
    code_bits: int
    index_width: int
    ports: int
    latency: int
    block_rows: int
    write_ticks: int
    buffers: int
    lookups: int = 1
    banks: int = 0
    entries: bytes = b""


class LoadCounts(NamedTuple):
    """What a LoadJob did: ticks until the last row is written, actions, and the writer's idle ticks by cause."""

    ticks: int
    index_words: int
    rom_reads: int
    rows_written: int
    stall_index: int
    stall_rom_port: int
    stall_bank_conflict: int


class GatherJob(NamedTuple):
    """Outputs as sums of looked-up products. A row group of sub-vectors meets one book, its products go to a buffer,
    and for each output one product of every sub-vector is added.

    Ticks are cycles of the gather unit's clock. A round has `vectors` sub-vectors, of which `new_vectors` are met now
    (the others' products are there from earlier rounds): so many at a time as `pass_vectors`, in `pass_ticks`. A row
    group is `group_vectors` of them (the last may be smaller) and one of `books`, books running fastest; `buffers`
    groups have room for their products. An output takes steps of at most `lanes` products, one a tick from each of
    `banks`: sub-vector v of a group lies in bank v mod `banks`, with `by_entry` its entry e in bank e mod `banks`.
    A result comes `drain_ticks` after its last step.
    """

    rounds: int
    vectors: int
    new_vectors: int
    group_vectors: int
    books: int
    outputs: int
    lanes: int
    banks: int
    by_entry: int
    pass_vectors: int
    pass_ticks: int
    buffers: int
    drain_ticks: int


class GatherCounts(NamedTuple):
    """What a GatherJob did. Ticks count from the job's start: `first_step` is the first product's gathering,
    `first_result` the end of the first round, `drain` of the last; `interval` separates the last two rounds (0 for
    one). Stalls are ticks between the first and the last step in which banks answer lanes that had to wait, or in
    which products are not made yet; steps + stalls fill that time."""

    first_step: int
    first_result: int
    interval: int
    drain: int
    passes: int
    steps: int
    gathered: int
    stall_bank: int
    stall_product: int
