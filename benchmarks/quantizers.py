"""Speed of assignment and lattice kernels, and of quantizer calls at ResNet-18 sizes, against a GEMM and peers.

Run with one thread: OMP_NUM_THREADS=1 python -m benchmarks.quantizers
Processor time; the sides of a pair take turns. vector-quantize-pytorch is timed where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import gemm, gemm_flops, interleaved, ratio
from qat.kernels.assign import best_match
from qat.kernels.e8 import e8_code, encode_e8
from qat.kernels.nearest import nearest_d4, nearest_e8
from qat.quantizer import Quantizer
from qat.recipe import Recipe
from qat.schemes import make_quantizer
from qat.schemes.common.codebook import Codebook
from workloads.format import parse_format
from workloads.lattices import lattice_code
from workloads.shapes import load_network

NUM_VECTORS, NUM_ENTRIES, LENGTH = 1_400_000, 256, 8
NUM_WEIGHTS = 2_800_000  # of the lattice kernels: ResNet-18's largest layer has 2.4 M
CHUNK = 16_384  # vectors that the peer sees at a time: it holds all distances

VQ, DKM = "VQ(8, 256)", "DKM(8, 256), iterations: {}"
CALLS: dict[str, tuple[str, Recipe]] = {
    "LSQ, 4 bits": ("linear-4", Recipe()),
    VQ: ("vq-8x256-e8-s0", Recipe()),
    **{DKM.format(n): ("vq-8x256-e8-s0", Recipe(vector="dkm", iterations=n, temperature=1e-2)) for n in (1, 5)},
}


def assignment() -> None:
    """1.4 M vectors to 256 entries: operations a second against the GEMM's, vectors a second against the peer's."""
    x, book = torch.randn(NUM_VECTORS, LENGTH), torch.randn(NUM_ENTRIES, LENGTH)
    works = {"assignment": partial(best_match, x, book), "gemm": gemm()}
    if has_peer := find_spec("vector_quantize_pytorch") is not None:
        works["peer"] = _peer(x[: NUM_VECTORS // 10], book)
    seconds = interleaved(works, 7)
    flops = 2 * NUM_VECTORS * NUM_ENTRIES * LENGTH
    share = flops / gemm_flops() / ratio(seconds["assignment"], seconds["gemm"])
    print(f"{'assignment':26s}{flops / min(seconds['assignment']) / 1e9:8.1f} GFLOP/s {share:8.2f} of the GEMM's rate")
    if has_peer:
        times = 10 * ratio(seconds["peer"], seconds["assignment"])
        print(f"{'':26s}{times:8.1f} x vector-quantize-pytorch, {CHUNK:,} vectors at a time")
    else:
        print(f"{'':26s}vector-quantize-pytorch is not installed")


def _peer(x: Tensor, book: Tensor) -> Callable[[], object]:
    from vector_quantize_pytorch import VectorQuantize  # pyright: ignore[reportMissingImports] (optional)

    peer = VectorQuantize(dim=book.shape[1], codebook_size=len(book)).eval()

    def run() -> None:
        with torch.no_grad():
            for chunk in x.split(CHUNK):
                peer(chunk[None])

    return run


def lattices() -> None:
    """Gaussian blocks through the kernels, codes at the scale that is best for them: weights a second."""
    blocks = torch.randn(NUM_WEIGHTS // 8, 8).numpy()
    works: dict[str, Callable[[], object]] = {
        "nearest point of D4": partial(nearest_d4, blocks.reshape(-1, 4)),
        "nearest point of E8": partial(nearest_e8, blocks),
    }
    for radix in (2, 3, 4):
        sigma = np.float32(lattice_code(f"e8-q{radix}").sigma)
        works[f"codes of e8-q{radix}"] = partial(encode_e8, sigma * blocks, e8_code(radix))
    works["same, 1 % overload"] = partial(encode_e8, np.float32(0.7) * blocks, e8_code(4))
    seconds = interleaved({**works, "gemm": gemm()}, 15)
    for name in works:
        flops = gemm_flops() * ratio(seconds[name], seconds["gemm"]) / NUM_WEIGHTS
        rate = NUM_WEIGHTS / min(seconds[name]) / 1e6
        print(f"{name:26s}{rate:8.0f} M weights/s {flops:5.0f} GEMM operations a weight")


def resnet18_weights() -> list[Tensor]:
    """A random weight for each convolution of ResNet-18, 11.2 M in all, in the layout of training."""
    layers = [layer for layer in load_network("resnet18").layers if layer.kind == "conv"]
    weights = [0.05 * torch.randn(layer.out_channels, layer.in_channels, *layer.kernel) for layer in layers]
    return [w.contiguous(memory_format=torch.channels_last).requires_grad_() for w in weights]


def call(name: str, weights: list[Tensor]) -> Callable[[], None]:
    """All weights forward, then all backward, through the quantizers of this name; codebooks have random entries.

    Gradients are returned, not accumulated: in training the one that comes in belongs to nobody else and becomes the
    weight's without a copy, which a list of them here would force.
    """
    fmt, recipe = parse_format(CALLS[name][0]), CALLS[name][1]
    entries = torch.randn(NUM_ENTRIES, LENGTH)
    books = [Codebook(fmt, entries, recipe=recipe) if fmt.has_codebook else None for _ in weights]
    modules = [make_quantizer(fmt, w, book, recipe) for w, book in zip(weights, books, strict=True)]
    grads = [torch.randn_like(w) for w in weights]
    return partial(_forward_backward, modules, weights, grads)


def _forward_backward(modules: list[Quantizer], weights: list[Tensor], grads: list[Tensor]) -> None:
    values = [module(w) for module, w in zip(modules, weights, strict=True)]
    trained = [parameter for module in modules for parameter in module.trained()]
    torch.autograd.grad(values, [*weights, *trained], grads)


def calls() -> None:
    """Seconds and peak memory of a quantizer call, forward and backward, over all weights of ResNet-18."""
    weights = resnet18_weights()
    quick, slow = list(CALLS)[:2], list(CALLS)[2:]
    seconds = interleaved({name: call(name, weights) for name in quick}, 7)
    for name in slow:
        seconds |= interleaved({name: call(name, weights)}, 1)
    base_s, base_mb = min(seconds[VQ]), peak_mb(VQ)
    for name, taken in seconds.items():
        own_s, own_mb = min(taken), peak_mb(name)
        print(f"{name:26s}{own_s:8.3f} s {own_s / base_s:6.1f} x VQ   {own_mb:6.0f} MB {own_mb / base_mb:5.1f} x VQ")


def peak_mb(name: str) -> float:
    """Memory that one call takes at most above what it starts with, in a process of its own (Linux)."""
    program = f"from benchmarks.quantizers import print_peak; print_peak({name!r})"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(done.stdout)


def print_peak(name: str) -> None:
    """What the process of `peak_mb` does."""
    torch.set_num_threads(1)
    weights = resnet18_weights()
    call(name, weights[:1])()  # compilers stay in memory
    run = call(name, weights)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = _status_kb("VmRSS")
    run()
    print((_status_kb("VmHWM") - before) / 1024)


def _status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    assignment()
    lattices()
    calls()


if __name__ == "__main__":
    main()
