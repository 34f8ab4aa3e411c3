"""Arrays that hold a layer's integers and multiply: what stationary and decoded weights share once they are in."""

from __future__ import annotations

from collections import Counter

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.components.digital_array import DigitalArray
from cimsim.dataflow import digital
from cimsim.dataflow.analog import array_job, compute_actions
from cimsim.dataflow.around import deliveries, input_bits
from cimsim.dataflow.place import place
from cimsim.dataflow.work import LayerWork, mvm_timing
from workloads.format import WeightFormat
from workloads.layer import Layer


def product_work(name: str, layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int) -> LayerWork:
    """Work of dataflow `name`, in which arrays multiply, analogue or digital: all but its weight loads."""
    placement = place(layer, fmt, chip)
    if isinstance(chip.array, DigitalArray):
        timing = digital.timing(layer, fmt, placement, chip, activation_bits)
        actions = digital.actions(layer, fmt, placement, chip, activation_bits)
    else:
        job = array_job(layer, fmt, placement, chip, activation_bits)
        timing = mvm_timing(job, rates.converter_rate_hz(chip))
        actions = compute_actions(layer, fmt, placement, chip, activation_bits)
    return LayerWork(
        layer, fmt, name, placement, *timing, actions, (), fmt.bits(layer).total, Counter(),
        input_bits(layer, activation_bits), deliveries(layer, placement, chip, activation_bits),
    )  # fmt: skip
