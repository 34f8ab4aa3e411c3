"""What a compiler leaves as it is: it would fuse and reorder arithmetic whose every bit is stored."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_T = TypeVar("_T")


def outside_graphs(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """The function, which torch.compile calls from between its graphs instead of compiling it."""
    # As torch.compiler.disable, but without importing the compiler, which takes seconds, until something is compiled.
    called = torch._disable_dynamo(function)  # pyright: ignore[reportPrivateImportUsage]

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return (called if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return call


def refuse_export(what: str) -> None:
    """Raises ValueError while torch.export traces."""
    if torch.compiler.is_exporting():
        raise ValueError(f"{what}: cannot be exported: qat.freeze the model first")
