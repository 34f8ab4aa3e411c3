"""What dataflows are asked in tests."""

from __future__ import annotations

from cimsim.chip.model import Chip
from cimsim.dataflow.case import Case
from workloads.activation import whole_number
from workloads.format import WeightFormat
from workloads.layer import Layer


def case(layer: Layer, fmt: WeightFormat, chip: Chip, activation_bits: int = 8) -> Case:
    return Case(layer, fmt, chip, whole_number(activation_bits))
