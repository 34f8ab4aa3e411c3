"""What a dataflow is asked about: one layer, its formats, a chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, log2, prod

from cimsim.chip.model import Chip
from workloads.activation import ActivationFormat
from workloads.format import WeightFormat
from workloads.layer import Layer


@dataclass(frozen=True)
class Case:
    """A layer whose weights have the format `fmt`, and whose inputs have that of `activation`, on a chip."""

    layer: Layer
    fmt: WeightFormat
    chip: Chip
    activation: ActivationFormat

    @cached_property
    def input_bits(self) -> int:
        """Bits of one operand as it is driven into the array, wider behind a rotation."""
        return self.fmt.input_bits(self.activation.driven_bits)

    @cached_property
    def sum_bits(self) -> int:
        """Width of a full dot product: input + weight + ceil(log2 of its length)."""
        return self.input_bits + self.fmt.array_bits + ceil(log2(max(2, self.layer.num_inputs)))

    @cached_property
    def map_bits(self) -> int:
        """Stored bits of the layer's whole input tensor."""
        layer = self.layer
        return layer.in_channels * prod(layer.in_size) * layer.batch * self.activation.bits

    def of(self, layer: Layer, fmt: WeightFormat) -> Case:
        """The same chip and inputs, asked about a part of the layer's work."""
        return replace(self, layer=layer, fmt=fmt)
