"""The quantized layers of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from qat.modules.layers import Turned, output_first
from qat.quantizer import Encoded, Quantizer


class Attached(NamedTuple):
    """One quantized layer: its name, its quantizer and its latent weight, with outputs first."""

    name: str
    quantizer: Quantizer
    weight: Tensor


def quantizer_of(module: nn.Module) -> Quantizer | None:
    """The quantizer of this layer's weight, if it has one."""
    if "parametrizations" not in module._modules or not parametrize.is_parametrized(module, "weight"):
        return None
    chain = getattr(module.parametrizations, "weight")  # noqa: B009
    return quantizer_in(chain)


def quantizer_in(chain: ParametrizationList) -> Quantizer | None:
    first = chain[0].quantizer if isinstance(chain[0], Turned) else chain[0]
    return first if isinstance(first, Quantizer) else None


def attached(model: nn.Module) -> Iterator[Attached]:
    """Every quantized layer; layers that share a weight come each."""
    for name, module in model.named_modules(remove_duplicate=False):
        if (quantizer := quantizer_of(module)) is not None:
            latent = getattr(module.parametrizations, "weight").original  # noqa: B009
            yield Attached(name, quantizer, output_first(module, latent))


def quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Layer name -> the quantizer of its weight."""
    return {name: quantizer for name, quantizer, _ in attached(model)}


def encode_model(model: nn.Module) -> dict[str, Encoded]:
    """Layer name -> its stored weight, which decodes to exactly the weight of the forward pass."""
    return {name: quantizer.encode(weight) for name, quantizer, weight in attached(model)}
