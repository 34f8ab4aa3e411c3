"""The plan: which format, activation width and dataflow each layer of a network gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from workloads.format import WeightFormat, parse_format
from workloads.layer import Frozen, Network

DataflowName = Literal["auto", "stationary", "decode"]


class LayerPlan(Frozen):
    """One layer's choices. `adc_step` is the converter's step, frozen by calibration (None: step 1)."""

    format: str
    activation_bits: int = Field(default=8, ge=1, le=8)
    dataflow: DataflowName = "auto"
    adc_step: int | None = Field(default=None, ge=1)

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        parse_format(name)
        return name

    @property
    def weight_format(self) -> WeightFormat:
        return parse_format(self.format)


class Plan(Frozen):
    """Layer name -> choices, for every weight layer of `network`."""

    network: str
    layers: dict[str, LayerPlan]
    sharing: Literal["network", "layer"] = "network"  # who shares a codebook

    @classmethod
    def uniform(cls, network: Network, fmt: str, skip: dict[str, str] | None = None, **choices) -> Plan:
        """Every layer in `fmt`, except `skip`: layer name -> its own format."""
        own = skip or {}
        unknown = sorted(set(own) - {layer.name for layer in network.layers})
        if unknown:
            raise ValueError(f"skip names unknown layers {unknown}")
        layers = {layer.name: LayerPlan(format=own.get(layer.name, fmt), **choices) for layer in network.layers}
        return cls(network=network.name, layers=layers)

    def format_of(self, layer_name: str) -> WeightFormat:
        return self.layers[layer_name].weight_format

    def codebooks(self) -> dict[str, WeightFormat]:
        """Distinct codebooks of the plan: id -> format. A shared book's id is its format's name."""
        books: dict[str, WeightFormat] = {}
        for name, choice in self.layers.items():
            if choice.weight_format.has_codebook:
                books[self.book_id(name)] = choice.weight_format
        return books

    def book_id(self, layer_name: str) -> str:
        fmt = self.layers[layer_name].format
        return fmt if self.sharing == "network" else f"{layer_name}.{fmt}"

    def bits(self, network: Network) -> PlanBits:
        """Stored bits of the whole network; shared codebooks are counted once."""
        parts = [self.format_of(layer.name).bits(layer) for layer in network.layers]
        books = sum((fmt.codebook_bits + 7) // 8 * 8 for fmt in self.codebooks().values())
        return PlanBits(
            sum(part.index for part in parts), books, sum(part.scale for part in parts),
            sum(part.padding for part in parts), network.num_weights,
        )  # fmt: skip

    def check(self, network: Network) -> None:
        """Raises ValueError unless the plan names exactly the layers of `network`."""
        have, want = set(self.layers), {layer.name for layer in network.layers}
        problems = [f"layers.{name}: missing" for name in sorted(want - have)]
        problems += [f"layers.{name}: not a layer of {network.name}" for name in sorted(have - want)]
        if problems:
            raise ValueError("; ".join(problems))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n")


class PlanBits(NamedTuple):
    """Bits of a stored network, by purpose."""

    index: int
    codebook: int
    scale: int
    padding: int
    num_weights: int

    @property
    def total(self) -> int:
        return self.index + self.codebook + self.scale + self.padding

    @property
    def bits_per_weight(self) -> float:
        return self.total / self.num_weights
