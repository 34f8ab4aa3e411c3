"""The plan: which formats each layer of a network gets, in which dataflow."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator

from workloads.activation import ActivationFormat, ActivationName, parse_activation
from workloads.format import WeightFormat, parse_format
from workloads.layer import Frozen, Network

DataflowName = Literal["auto", "stationary", "decode", "lookup"]


class LayerPlan(Frozen):
    """One layer's choices. `adc_step` is the converter's step, frozen by calibration (None: step 1)."""

    format: str
    activation: ActivationName = "int8"
    dataflow: DataflowName = "auto"
    adc_step: int | None = Field(default=None, ge=1)

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        return parse_format(name).name

    @property
    def weight_format(self) -> WeightFormat:
        return parse_format(self.format)

    @property
    def activation_format(self) -> ActivationFormat:
        return parse_activation(self.activation)


# The torch modules whose `weight` can have a format, by class name: this room has no torch.
LAYER_KINDS = (
    "Linear", "Embedding", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
)  # fmt: skip


def weight_layers(model: Any) -> list[str]:
    """Names of the weight layers of a Network, or of a torch module: those of LAYER_KINDS.

    An nn.MultiheadAttention counts as its `q_proj`, `k_proj`, `v_proj` and `out_proj`.
    """
    if isinstance(model, Network):
        return [layer.name for layer in model.layers]
    names = []
    for name, module in model.named_modules():
        kinds = {kind.__name__ for kind in type(module).__mro__}
        if "MultiheadAttention" in kinds and not hasattr(module, "q_proj"):
            names += [f"{name}.{part}".lstrip(".") for part in ("q_proj", "k_proj", "v_proj")]
        if not kinds.isdisjoint(LAYER_KINDS):
            names.append(name)
    return names


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


class Plan(Frozen):
    """Layer name -> choices, for every weight layer of `network`."""

    network: str
    layers: dict[str, LayerPlan]
    sharing: Literal["network", "layer"] = "network"  # who shares a codebook

    @classmethod
    def uniform(
        cls,
        model: Any,
        fmt: str,
        skip: Sequence[str] = (),
        rules: Mapping[str, str] = MappingProxyType({}),
        **choices: Any,
    ) -> Plan:
        """Every weight layer in `fmt`, but those that match a pattern of `rules` (pattern -> format, the last wins).

        `model` is a Network or a torch module; layers that match a pattern of `skip` stay float, and are missing.
        Patterns are as in file names (`layer4.*`). Raises ValueError for a pattern that matches no layer.
        """
        if isinstance(skip, str | Mapping):
            raise ValueError(f"skip = {skip!r}: must be a list of patterns")
        names = weight_layers(model)
        unmatched = [pattern for pattern in (*skip, *rules) if not _matching(names, pattern)]
        if unmatched:
            raise ValueError(f"patterns {unmatched}: must match one of the layers {names}")
        skipped = {name for pattern in skip for name in _matching(names, pattern)}
        formats = {name: fmt for name in names if name not in skipped}
        for pattern, own in rules.items():
            formats |= dict.fromkeys(_matching(formats, pattern), own)
        layers = {name: LayerPlan(format=own, **choices) for name, own in formats.items()}
        return cls(network=model.name if isinstance(model, Network) else type(model).__name__.lower(), layers=layers)

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
