"""Optimizers made before a model was quantized: they would leave steps and codebooks untrained, so they fail loudly."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

from workloads.errors import InputError

# Latent weight -> weak references to what must be trained with it.
_companions: WeakIdKeyDictionary = WeakIdKeyDictionary()
# Parameters whose place in their model others have taken.
_replaced: WeakIdKeyDictionary = WeakIdKeyDictionary()

REMEDY = "pass optimizer= to quantize and unquantize, or make the optimizer after them (qat.parameter_groups)"


def watch(parameter: nn.Parameter, companions: Iterable[nn.Parameter]) -> None:
    """From now on an optimizer that trains `parameter` must train its companions too, if they need gradients."""
    _companions[parameter] = [weakref.ref(companion) for companion in companions]


def forget(parameter: nn.Parameter) -> None:
    """The parameter is an ordinary one again."""
    _companions.pop(parameter, None)


def adopt(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Adds parameters that the optimizer does not have, as a group without weight decay."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    new = [parameter for parameter in parameters if id(parameter) not in known]
    if new:
        optimizer.add_param_group({"params": new, "weight_decay": 0.0})


def replace(
    pairs: Mapping[nn.Parameter, Sequence[nn.Parameter]], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Parameters of a model gave way to others (old -> new): in their groups too, without their state.

    Any other optimizer that still has an old one fails at its next step.
    """
    for old, new in pairs.items():
        _replaced[old] = True
        for parameter in new:
            _replaced.pop(parameter, None)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        parts = [pairs.get(parameter, [parameter]) for parameter in group["params"]]
        group["params"] = list(dict.fromkeys(parameter for part in parts for parameter in part))
    for old in pairs:
        optimizer.state.pop(old, None)


def _check(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    if not len(_companions) and not len(_replaced):
        return
    trained = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    wanted = [reference() for p in trained.values() for reference in _companions.get(p) or ()]
    missing = {id(p) for p in wanted if p is not None and p.requires_grad} - set(trained)
    problems = [f"lacks {len(missing)} steps or codebooks of the weights that it trains"] if missing else []
    stale = sum(p in _replaced for p in trained.values())
    problems += [f"has {stale} parameters that are no longer in their model"] if stale else []
    if problems:
        raise InputError(type(optimizer).__name__, [f"{problem}: {REMEDY}" for problem in problems])


register_optimizer_step_pre_hook(_check)
