"""Which dataflow a layer gets where the plan leaves it open."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from numpy.typing import NDArray

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.cost import accounts
from cimsim.cost.prices import Prices, leakage_pj, total_pj
from cimsim.dataflow import DATAFLOWS, LayerWork, lookup
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import Unmappable
from cimsim.deploy import traffic
from cimsim.unit.load import count_load
from workloads.layer import Layer
from workloads.plan import LayerPlan, Plan


def case_of(layer: Layer, choice: LayerPlan, chip: Chip) -> Case:
    """What a plan says of a layer, as dataflows are asked."""
    return Case(layer, choice.weight_format, chip, choice.activation_format)


def possible_works(case: Case, dataflow: str = "auto", codes: NDArray | None = None) -> list[LayerWork]:
    """The layer in the dataflow of this name, or (`auto`) in each that its format and the chip allow, the format's
    usual one first. `codes` are its indices [O, sub-vectors, books]. Raises Unmappable with the reason if there is
    none."""
    fmt, num_inputs = case.fmt, case.layer.num_inputs
    if fmt.rotation and num_inputs % fmt.rotation:
        raise Unmappable(f"{fmt.name} rotates blocks of {fmt.rotation} inputs, which do not divide {num_inputs}")
    works, refused = [], []
    for name in _usual_first(fmt.kind) if dataflow == "auto" else [dataflow]:
        if reason := DATAFLOWS[name].refusal(case):
            refused.append(reason)
            continue
        try:
            works.append(DATAFLOWS[name].work(case, codes))
        except Unmappable as reason:
            refused.append(str(reason))
    if not works:
        raise Unmappable(refused[0])
    return works


@cache
def _usual_first(kind: str) -> tuple[str, ...]:
    return tuple(sorted(DATAFLOWS, key=lambda name: kind not in DATAFLOWS[name].USUAL_FOR))


def cheapest(works: Sequence[LayerWork], chip: Chip, reloads: bool) -> LayerWork:
    """The work with the least energy x time of its own, as if nothing else ran (the first among equals).

    Energy is that of its actions, and time that of its positions; with `reloads` one load is in both. What comes from
    the outer memory takes its channel's time, if that is longer.
    """
    if len(works) == 1:
        return works[0]
    prices = Prices(chip)
    products = [_energy_delay(work, prices, reloads) for work in works]
    best = min(range(len(works)), key=lambda i: products[i])
    others = (f"{products[i] / products[best]:.3g} x for {works[i].dataflow}" for i in range(len(works)) if i != best)
    return works[best]._replace(why=f"least energy x time: {', '.join(others)}")


def _energy_delay(work: LayerWork, prices: Prices, reloads: bool) -> float:
    chip, stream = prices.chip, work.stream
    compute_ps = rates.instant_ps(
        work.first_ticks + work.interval_ticks * (work.layer.num_positions - 1), work.clock_hz
    )
    moved_bits = stream.read_bits + stream.result_bits if stream else 0
    time_ps = max(compute_ps, rates.memory_ps(chip, moved_bits) if moved_bits else 0)
    energy_pj = total_pj(prices.price(work.actions + traffic.stream_actions(work, chip)))
    if reloads and work.load_bits:
        energy_pj += total_pj(accounts.load_energy(work, prices))
        fill_ticks = sum(count_load(job).ticks * count for job, count in work.load_jobs)
        time_ps += max(rates.instant_ps(fill_ticks, chip.clocks_hz["digital"]), rates.memory_ps(chip, work.load_bits))
    return (energy_pj + leakage_pj(chip, time_ps)) * time_ps


def with_book(work: LayerWork, book: str) -> LayerWork:
    """The work with the id of the codebook that its arrays hold, if they hold one."""
    return work._replace(book=work.book or book) if work.dataflow == "lookup" else work


def with_kept_books(works: dict[str, LayerWork], plan: Plan, chip: Chip) -> dict[str, LayerWork]:
    """On a chip with a codebook buffer that has room for every book of the plan, none needs to come again."""
    buffer = chip.parts.codebook_buffer
    bits = {plan.book_id(name): work.stream.book_bits for name, work in works.items() if work.stream}
    if buffer is None or sum(bits.values()) > buffer.capacity_bits:
        return works
    return {name: lookup.keeps_books(work) for name, work in works.items()}
