"""Speed of numbers through the array: a large layer, and LeNet-5, against a plain float32 GEMM in the same run.

Run with one thread: OMP_NUM_THREADS=1 python benchmarks/functional.py
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import numpy as np

from cimsim.functional import ArrayNumbers, array_mvm

# One dot product per row: positions per image, inputs, outputs (LeCun et al., 1998, with 28 x 28 input padded).
LENET = {
    "conv1": (784, 25, 6),
    "conv2": (100, 150, 16),
    "fc1": (1, 400, 120),
    "fc2": (1, 120, 84),
    "fc3": (1, 84, 10),
}
LENET_ARRAY = ArrayNumbers(rows=64, rows_on=64, cell_bits=1, dac_bits=1, adc_bits=6, encoding="twos_complement")
LARGE_ARRAY = ArrayNumbers(rows=256, rows_on=256, cell_bits=1, dac_bits=1, adc_bits=6, encoding="twos_complement")


def seconds_of(work: Callable[[], object], repeats: int = 3) -> float:
    """Processor time of the fastest of `repeats` runs, compilation excluded."""
    work()
    times = []
    for _ in range(repeats):
        start = process_time()
        work()
        times.append(process_time() - start)
    return min(times)


def operands(num_vectors: int, shape: tuple[int, int], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform inputs [N, I] and weights [I, O] of `bits` bits."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << bits, (num_vectors, shape[0]), np.uint8)
    return x, rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape, np.int8)


def large_layer() -> None:
    """1024 x 1024, 7-bit inputs over 7 one-bit weight planes, an ADC that clips for every 256 rows."""
    x, w = operands(4096, (1024, 1024), 7)
    seconds = seconds_of(lambda: array_mvm(x, w, LARGE_ARRAY, 7, 7))
    x_float, w_float = x.astype(np.float32), w.astype(np.float32)
    gemm = seconds_of(lambda: x_float @ w_float)
    print(f"1024x1024, 7x7 bit planes: {len(x) / seconds:,.0f} MVM/s ({seconds / gemm:.1f} x a float32 GEMM)")


def lenet(num_images: int) -> None:
    """All products of LeNet-5, 8-bit inputs and weights, one-bit cells, 64 rows on, 6-bit ADC."""
    total = total_gemm = 0.0
    for name, (positions, num_inputs, num_outputs) in LENET.items():
        x, w = operands(positions * num_images, (num_inputs, num_outputs), 8)
        seconds = seconds_of(lambda x=x, w=w: array_mvm(x, w, LENET_ARRAY, 8, 8), 1)
        x_float, w_float = x.astype(np.float32), w.astype(np.float32)
        gemm = seconds_of(lambda x=x_float, w=w_float: x @ w, 1)
        print(f"  {name}: {seconds:.2f} s, float32 GEMM {gemm:.3f} s")
        total, total_gemm = total + seconds, total_gemm + gemm
    print(f"LeNet-5, {num_images:,} images: {total:.2f} s ({total / total_gemm:.1f} x a float32 GEMM)")


if __name__ == "__main__":
    large_layer()
    lenet(10_000)
