"""A binary pool that stays in arrays of its own, shared by all layers, beside arrays of each layer's error signs.

Each vector of K inputs meets all K columns of the pool once per input step; outputs add the products of their columns
(within a group no column twice, so the products are permuted), and the signs' sums join by two multiples (structure
after CIMPool, arXiv 2503.22044). The pool is written once, when the chip is made ready, and never again.
"""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import NamedTuple

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.components.crossbar import Crossbar
from cimsim.dataflow import stationary
from cimsim.dataflow.around import code_store, deliveries
from cimsim.dataflow.case import Case
from cimsim.dataflow.products import product_work
from cimsim.dataflow.work import LayerWork
from cimsim.records import Actions
from workloads.format import WeightFormat, num_kept
from workloads.layer import Layer

SIGNS = WeightFormat("error signs", "linear", 1, 1, 1)
ROLE = "pool"
NEEDED = {("crossbar", ROLE): "no crossbar of role pool", ("adc", ROLE): "no adc of role pool",
          ("gather", ""): "no gather unit that permutes products", ("index_buffer", ""): "no index buffer"}  # fmt: skip
JOINING_OPS = 2  # of an output: each sum meets its multiple


class PoolPass(NamedTuple):
    """A tile's pool: its array, what it takes for one vector in ps, its converters' groups of rows."""

    array: Crossbar
    vector_ps: int
    num_steps: int
    row_groups: int


USUAL_FOR = ("pool",)


def refusal(case: Case) -> str:
    """Why this dataflow cannot serve the case; empty if it can."""
    layer, fmt, chip = case.layer, case.fmt, case.chip
    if fmt.kind != "pool":
        return f"{fmt.name} has no pool"
    if missing := [lack for key, lack in NEEDED.items() if chip.part(*key) is None]:
        return f"{chip.name} has {missing[0]}"
    assert chip.parts.pool is not None, "its array and its converter are there"
    array = chip.parts.pool.crossbar
    if (array.rows, array.columns) != (fmt.vector_length, fmt.num_entries):
        shape = f"{fmt.vector_length} x {fmt.num_entries}"
        return f"{fmt.name} needs a pool array of {shape}, {chip.name} has {array.rows} x {array.columns}"
    if layer.groups > 1:
        return f"{layer.name}: groups = {layer.groups}: outputs of different groups have no products in common"
    return "" if num_kept(layer.num_inputs, fmt.pruned_percent) else f"{fmt.name} leaves {layer.name} no error signs"


def work(case: Case, codes: object = None) -> LayerWork:
    """Placement, timing and actions of one image and of one load. Raises Unmappable if the arrays cannot hold it."""
    layer, fmt, chip = case.layer, case.fmt, case.chip
    kept = num_kept(layer.num_inputs, fmt.pruned_percent)
    signs = Layer(name=layer.name, kind="linear", in_channels=kept, out_channels=layer.num_outputs,
                  in_size=(layer.num_positions, 1))  # fmt: skip
    inside = case.of(signs, SIGNS)
    found = product_work("pool", inside)
    pool, vectors = _pool(case), ceil(layer.num_inputs / fmt.vector_length)
    stages = {"pool read": rates.ticks(vectors * pool.vector_ps, found.clock_hz),
              "gather": rates.ticks(_permute_ps(vectors * layer.num_outputs, chip), found.clock_hz)}  # fmt: skip
    interval = max(found.interval_ticks, *stages.values())
    waits = (interval - found.interval_ticks) * layer.num_positions
    times = deliveries(case, found.placement)
    sent = case.map_bits * times
    around = Counter({
        ("buffer", "tile", "write_bit"): (sent - found.input_bits * found.deliveries) * found.placement.num_tiles
    })  # fmt: skip
    return found._replace(
        layer=layer, format=fmt, first_ticks=found.first_ticks + interval - found.interval_ticks,
        interval_ticks=interval, stall_ticks=found.stall_ticks | {"products": waits},
        stage_ticks=found.stage_ticks | stages,
        actions=found.actions + _pool_actions(case, pool) + around,
        load_jobs=stationary.load_jobs(inside, found.placement), load_bits=fmt.bits(layer).total,
        load_actions=_load_actions(case, inside, found),
        input_bits=case.map_bits,
        deliveries=times,
    )  # fmt: skip


def _pool(case: Case) -> PoolPass:
    assert case.chip.parts.pool is not None, "refusal() was asked first"
    array, adc, dac = case.chip.parts.pool
    groups, num_steps = ceil(array.rows / array.rows_on), ceil(case.input_bits / dac.bits)
    convert_ps = rates.instant_ps(ceil(array.columns / adc.count), adc.rate_hz)
    return PoolPass(array, num_steps * groups * max(array.read_ps or 0, convert_ps), num_steps, groups)


def _permute_ps(values: int, chip: Chip) -> int:
    """Time to add so many products to the sums of their outputs."""
    gather = chip.parts.gather
    assert gather is not None, "refusal() was asked first"
    return rates.instant_ps(ceil(values / (gather.lanes * gather.count)), chip.clocks_hz["digital"])


def _pool_actions(case: Case, pool: PoolPass) -> Actions:
    """Of one image, beside the error signs' own: the pool's reads, the permutation, and inputs that have no signs."""
    layer, fmt, gather = case.layer, case.fmt, case.chip.parts.gather
    positions, vectors = layer.num_positions, ceil(layer.num_inputs / fmt.vector_length)
    assert gather is not None, "refusal() was asked first"
    reads = positions * pool.num_steps
    unsigned = layer.num_inputs - num_kept(layer.num_inputs, fmt.pruned_percent)
    fetched = positions * unsigned * case.input_bits
    readings = ceil(positions / gather.positions)
    return Counter({
        ("crossbar", ROLE, "read_cell"): reads * layer.num_inputs * pool.array.columns,
        ("dac", ROLE, "drive"): reads * layer.num_inputs,
        ("adc", ROLE, "convert"): reads * vectors * pool.row_groups * pool.array.columns,
        ("shift_add", "tile", "add"): reads * vectors * pool.row_groups * pool.array.columns,
        ("gather", "", "add"): positions * vectors * layer.num_outputs,
        ("index_buffer", "", "read_bit"): readings * vectors * layer.num_outputs * fmt.code_bits,
        ("digital", "activation", "op"): JOINING_OPS * positions * layer.num_outputs,
        ("buffer", "tile", "read_bit"): fetched,
        ("bus", "", "transfer_bit"): fetched,
        ("register", "input", "write_bit"): fetched,
        ("register", "input", "read_bit"): fetched,
    })  # fmt: skip


def _load_actions(case: Case, signs: Case, found: LayerWork) -> Actions:
    """Actions of one load, beside the outer memory's: the signs into their arrays, the codes into their buffer."""
    codes = case.fmt.num_codes(case.layer) * case.fmt.code_bits
    return stationary.load_actions(signs, found.placement) + Counter({(*code_store(case.chip), "write_bit"): codes})
