"""States of training on disk, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workloads.errors import InputError
from workloads.store import write_atomically


def store_checkpoint(path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, **progress: Any) -> None:
    """Writes both and how far they are, whole or not at all; nothing without a path."""
    if path is None:
        return
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), **progress}, buffer)
    write_atomically(path, buffer.getvalue())


def restore_checkpoint(path: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """How far they were; empty without a file. Raises InputError for one that cannot be read."""
    if path is None or not path.exists():
        return {}
    state = load_checkpoint(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state


def load_checkpoint(path: Path) -> dict:
    """A stored state of tensors and numbers; nothing in the file is executed."""
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        reason = (
            f"is not a readable checkpoint ({type(error).__name__}): delete it and {path.stem}.done, then run again"
        )
        raise InputError(str(path), [reason]) from None
