"""Optimizers made before a model was quantized: they would leave steps and codebooks untrained, so they fail loudly."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

# Parameter -> weak references to the parameters that must be trained with it; empty: it is used no longer.
_companions: WeakIdKeyDictionary = WeakIdKeyDictionary()

REMEDY = "pass optimizer= to quantize, or make the optimizer after it (qat.parameter_groups)"


def watch(parameter: nn.Parameter, companions: Iterable[nn.Parameter]) -> None:
    """From now on an optimizer that trains `parameter` must train its companions too, if they need gradients."""
    _companions[parameter] = [weakref.ref(companion) for companion in companions]


def forget(parameter: nn.Parameter) -> None:
    """The parameter is an ordinary one again."""
    _companions.pop(parameter, None)


def adopt(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], weight_decay: float | None) -> None:
    """Adds parameters that the optimizer does not have; `weight_decay` None takes the optimizer's own."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = [parameter for parameter in parameters if id(parameter) not in known]
    if new:
        group: dict[str, Any] = {"params": new}
        optimizer.add_param_group(group if weight_decay is None else {**group, "weight_decay": weight_decay})


def drop(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Takes parameters out of the optimizer, with their state."""
    gone = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]
    for parameter in [parameter for parameter in optimizer.state if id(parameter) in gone]:
        del optimizer.state[parameter]


def _check(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if not len(_companions):
        return
    trained = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    for parameter in trained.values():
        if parameter not in _companions:
            continue
        wanted = [companion for reference in _companions[parameter] if (companion := reference()) is not None]
        missing = [p for p in wanted if p.requires_grad and id(p) not in trained]
        if missing or not _companions[parameter]:
            what = f"lacks {len(missing)} steps or codebooks of" if missing else "holds weights that were replaced in"
            raise RuntimeError(f"{type(optimizer).__name__} {what} a quantized model: {REMEDY}")


register_optimizer_step_pre_hook(_check)
