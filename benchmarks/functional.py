"""Speed of numbers through the array, beside a plain float32 GEMM in the same run: ideal cells, real ones, LeNet-5.

Run as OMP_NUM_THREADS=1 python -m benchmarks.functional. Rates are of wall time: the machine must be idle.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from cimsim.arrays.adc_range import FULL_RANGE, adc_step
from cimsim.arrays.encodings import ArrayNumbers, Widths
from cimsim.arrays.mvm import array_mvm
from cimsim.arrays.nonideal import Nonidealities
from cimsim.arrays.programmed import Origin, ProgrammedArrays

SIZE = 1024
# One dot product per row: positions per image, inputs, outputs (LeCun et al., 1998, with 28 x 28 input padded).
LENET = {
    "conv1": (784, 25, 6),
    "conv2": (100, 150, 16),
    "fc1": (1, 400, 120),
    "fc2": (1, 120, 84),
    "fc3": (1, 84, 10),
}
LENET_ARRAY = ArrayNumbers(rows=64, rows_on=64, cell_bits=1, dac_bits=1, adc_bits=6, encoding="twos_complement")
SERIAL_ARRAY = ArrayNumbers(rows=256, rows_on=256, cell_bits=1, dac_bits=1, adc_bits=6, encoding="twos_complement")
MULTILEVEL_ARRAY = ArrayNumbers(rows=256, rows_on=256, cell_bits=2, dac_bits=8, adc_bits=8, encoding="offset")
NOISY = Nonidealities(programming_fraction=0.05, read_noise_fraction=0.01)


def seconds_of(works: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, float]:
    """Wall time of the fastest run of each work; works take turns, and the first round, with compilation, is not
    counted."""
    best = dict.fromkeys(works, float("inf"))
    for turn in range(repeats + 1):
        for name, work in works.items():
            start = perf_counter()
            work()
            best[name] = min(best[name], perf_counter() - start) if turn else best[name]
    return best


def operands(num_vectors: int, shape: tuple[int, int], bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Uniform inputs [N, I] and weights [I, O] of `bits` bits."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << bits, (num_vectors, shape[0]), np.uint8)
    return x, rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape, np.int8)


def bit_serial() -> None:
    """1024 x 1024, 7-bit inputs over 7 one-bit weight planes, ADCs that clip for every 256 rows."""
    x, w = operands(8192, (SIZE, SIZE), 7)
    x_float, w_float = x.astype(np.float32), w.astype(np.float32)
    works = {
        f"ADC {bits} bits, {threads} thread{'s' * (threads > 1)}": lambda bits=bits, threads=threads: array_mvm(
            x, w, SERIAL_ARRAY._replace(adc_bits=bits), Widths(7, 7), threads=threads
        )
        for bits, threads in ((6, 1), (6, 2), (4, 1))
    }
    seconds = seconds_of(works | {"GEMM": lambda: x_float @ w_float})
    print(f"1024x1024, 7x7 bit planes, 256 rows an ADC; a float32 GEMM: {len(x) / seconds['GEMM']:,.0f} MVM/s")
    for name in works:
        print(
            f"  {name}: {len(x) / seconds[name]:,.0f} MVM/s ({seconds[name] / seconds['GEMM']:.1f} x the GEMM's time)"
        )


def with_noise() -> None:
    """1024 x 1024, four slices of 2-bit cells written with error, whole 8-bit inputs, every conversion with noise."""
    x, w = operands(4096, (SIZE, SIZE), 8)
    step = adc_step(FULL_RANGE, x[:64], w, MULTILEVEL_ARRAY, (8, 8, False))
    arrays = ProgrammedArrays(w, MULTILEVEL_ARRAY, Widths(8, 8, False, step), NOISY, Origin(0))
    x_float, w_float = x.astype(np.float32), w.astype(np.float32)
    slices = range(8 // MULTILEVEL_ARRAY.cell_bits)
    works = {"array": lambda: arrays.read(x), "GEMM": lambda: [x_float @ w_float for _ in slices]}
    seconds = seconds_of(works)
    share = seconds["GEMM"] / seconds["array"]
    print(f"1024x1024, 4 slices of noisy 2-bit cells: {len(x) / seconds['array']:,.0f} MVM/s,", end=" ")
    print(f"{share:.0%} of the rate of four float32 GEMMs")


def lenet(num_images: int) -> None:
    """All products of LeNet-5, 8-bit inputs and weights, one-bit cells, 64 rows on, 6-bit ADC."""
    total = total_gemm = 0.0
    for name, (positions, num_inputs, num_outputs) in LENET.items():
        x, w = operands(positions * num_images, (num_inputs, num_outputs), 8)
        x_float, w_float = x.astype(np.float32), w.astype(np.float32)
        works = {
            "array": lambda x=x, w=w: array_mvm(x, w, LENET_ARRAY, Widths(8, 8)),
            "GEMM": lambda x=x_float, w=w_float: x @ w,
        }
        seconds = seconds_of(works, 1)
        print(f"  {name}: {seconds['array']:.2f} s, float32 GEMM {seconds['GEMM']:.3f} s")
        total, total_gemm = total + seconds["array"], total_gemm + seconds["GEMM"]
    print(f"LeNet-5, {num_images:,} images: {total:.2f} s ({total / total_gemm:.1f} x a float32 GEMM)")


if __name__ == "__main__":
    bit_serial()
    with_noise()
    lenet(10_000)
