"""Products of integers without an array, exact, on the machine's float units where these are exact."""

from __future__ import annotations

import numpy as np


def array_mvm_exact(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x [N, I] times w [I, O] as int64 [N, O]; a float GEMM where every partial sum is an exact float."""
    largest = max((abs(int(v)) for v in (x.max(initial=0), x.min(initial=0))), default=0)
    bound = largest * int(np.abs(w.astype(np.int64)).sum(axis=0).max(initial=0))
    kind = np.float32 if bound < 1 << 24 else np.float64 if bound < 1 << 53 else np.int64
    return (x.astype(kind) @ w.astype(kind)).astype(np.int64)


def group_sums(x: np.ndarray, groups: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Sums int64 [N, G] of the inputs x [N, I] of each row group (first row, end)."""
    return np.stack([x[:, start:stop].sum(axis=1, dtype=np.int64) for start, stop in zip(*groups, strict=True)], axis=1)
