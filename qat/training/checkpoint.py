"""States of training on disk, whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from workloads.errors import InputError
from workloads.store import write_atomically


class Stateful(Protocol):
    """What gives its state as tensors or numbers, to take it back later: an optimizer, a multiplier."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def store_checkpoint(
    path: Path | None, model: nn.Module, optimizer: Stateful, beside: Sequence[Stateful] = (), **progress: Any
) -> None:
    """Writes all of them and how far they are, whole or not at all; nothing without a path."""
    if path is None:
        return
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = io.BytesIO()
    torch.save({**states, "beside": [one.state_dict() for one in beside], **progress}, buffer)
    write_atomically(path, buffer.getvalue())


def restore_checkpoint(
    path: Path | None, model: nn.Module, optimizer: Stateful, beside: Sequence[Stateful] = ()
) -> dict[str, Any]:
    """How far they were; empty without a file. Raises InputError for one that cannot be read."""
    if path is None or not path.exists():
        return {}
    state = load_checkpoint(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for one, kept in zip(beside, state["beside"], strict=True):
        one.load_state_dict(kept)
    return state


def load_checkpoint(path: Path) -> dict:
    """A stored state of tensors and numbers; nothing in the file is executed."""
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        reason = f"is not a readable checkpoint ({type(error).__name__}): delete it, then run the same command again"
        raise InputError(str(path), [reason]) from None
