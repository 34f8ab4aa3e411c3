"""What quantized models need beside gradients: their own parameters, and steps outside the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qat.activations.quantizer import ActivationQuantizer
from qat.modules.attached import attached
from qat.modules.mixture import Mixture
from qat.quantizer import Quantizer
from qat.schemes.common.codebook import Codebook
from qat.schemes.vector import VectorQuantizer


def after_step(model: nn.Module, step: int) -> dict[str, float]:
    """What changes outside the gradient after a training step: averages, revival, freezing; returns its counts.

    The same for the same state and step, in every process.
    """
    found: dict[str, float] = {}
    uses: dict[Codebook, list[tuple[Tensor, Tensor]]] = {}
    for _, quantizer, weight in {id(one.quantizer): one for one in attached(model)}.values():
        _add(found, quantizer.after_step(weight.detach(), step))
        if isinstance(quantizer, VectorQuantizer) and quantizer.recipe.codebook != "frozen":
            uses.setdefault(quantizer.book, []).append(quantizer.members(weight))
    for book, parts in uses.items():
        index, vectors = zip(*parts, strict=True)
        _add(found, book.after_step(torch.cat(index), torch.cat(vectors), step))
    return found


def _add(total: dict[str, float], more: Mapping[str, float]) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + value


def quantizer_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Steps, codebooks and mixture logits: everything that quantization added, each once."""
    owners = (Quantizer, Codebook, Mixture, ActivationQuantizer)
    owned = [module for module in model.modules() if isinstance(module, owners)]
    return list({id(p): p for module in owned for p in module.parameters()}.values())


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.0, quantizer_lr: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the network's parameters, and the quantizers' without weight decay."""
    added = quantizer_parameters(model)
    ids = {id(parameter) for parameter in added}
    own = [parameter for parameter in model.parameters() if id(parameter) not in ids]
    return [
        {"params": own, "lr": lr, "weight_decay": weight_decay},
        {"params": added, "lr": lr if quantizer_lr is None else quantizer_lr, "weight_decay": 0.0},
    ]
