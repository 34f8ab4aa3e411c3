"""Products by arrays that hold a layer's integers: what stationary and decoded weights share once they are in."""

from __future__ import annotations

from collections import Counter

from cimsim.chip import rates
from cimsim.components.digital_array import DigitalArray
from cimsim.dataflow import analog, digital
from cimsim.dataflow.around import deliveries
from cimsim.dataflow.case import Case
from cimsim.dataflow.place import place
from cimsim.dataflow.work import LayerWork, mvm_timing


def product_work(name: str, case: Case) -> LayerWork:
    """Work of dataflow `name`, in which arrays multiply, analogue or digital: all but its weight loads."""
    placement = place(case)
    if isinstance(case.chip.array, DigitalArray):
        timing, actions = digital.timing(case, placement), digital.actions(case, placement)
    else:
        timing = mvm_timing(analog.array_job(case, placement), rates.converter_rate_hz(case.chip))
        actions = analog.compute_actions(case, placement)
    return LayerWork(
        layer=case.layer, format=case.fmt, dataflow=name, placement=placement, **timing._asdict(), actions=actions,
        load_jobs=(), load_bits=case.fmt.bits(case.layer).total, load_actions=Counter(), input_bits=case.map_bits,
        deliveries=deliveries(case, placement),
    )  # fmt: skip
