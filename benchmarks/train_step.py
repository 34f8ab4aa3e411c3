"""What quantization adds to a training step: ResNet-20 and LeNet-5, batch 128, in turns with the float network.

Run with one thread: OMP_NUM_THREADS=1 python -m benchmarks.train_step
Ratios are medians over rounds of processor time: forward, loss, backward, optimizer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from benchmarks.timing import interleaved, ratio
from qat.modules.attach import quantize
from qat.modules.mixture import Mixture, relax
from qat.modules.upkeep import parameter_groups
from qat.planning.nas import ARCH_EVERY
from qat.recipe import DEFAULT, Recipe
from workloads.format import DEFAULT_FORMATS
from workloads.networks.zoo import NETWORKS, build
from workloads.plan import Plan, weight_layers

BATCH = 128
VQ = "vq-8x256-e8-s0"
DKM = Recipe(vector="dkm", iterations=5, temperature=1e-2)


def stepper(name: str, change: Callable[[nn.Module], object] = lambda model: None) -> Callable[[], None]:
    """One training step on random images of the network of this name, after `change` put quantizers on it."""
    model = build(name, seed=0)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    change(model)
    optimizer = torch.optim.AdamW(parameter_groups(model.train(), lr=1e-4))
    x = torch.randn(BATCH, *NETWORKS[name].input_shape).contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def quantized(fmt: str, recipe: Recipe = DEFAULT, skip: tuple[str, ...] = ()) -> Callable[[nn.Module], object]:
    """Puts one format on all weight layers but those to skip."""
    return lambda model: quantize(model, Plan.uniform(model, fmt, skip=skip), recipe=recipe)


def supernet(model: nn.Module) -> None:
    """All default formats on every layer."""
    relax(model, dict.fromkeys(weight_layers(model), DEFAULT_FORMATS))


def searching(name: str) -> Callable[[], None]:
    """ARCH_EVERY steps of a search: one sampled format per layer; in the first all formats give their probabilities'
    gradient."""
    held: dict[str, Mixture] = {}

    def relaxed(model: nn.Module) -> None:
        held.update(relax(model, dict.fromkeys(weight_layers(model), DEFAULT_FORMATS)))

    step = stepper(name, relaxed)

    def some() -> None:
        for number in range(ARCH_EVERY):
            for mixture in held.values():
                mixture.sample(number)
                mixture.alpha.requires_grad_(number == 0)
            step()

    return some


def repeated(step: Callable[[], None]) -> Callable[[], None]:
    """ARCH_EVERY of these steps."""

    def some() -> None:
        for _ in range(ARCH_EVERY):
            step()

    return some


def report(title: str, steps: dict[str, Callable[[], None]], repeats: int) -> None:
    """Prints each step's time and its ratio to `float`."""
    seconds = interleaved(steps, repeats)
    for name, taken in seconds.items():
        print(f"{title:10s}{name:26s}{1e3 * min(taken):8.1f} ms {ratio(taken, seconds['float']):6.3f} x float")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = {
        "float": stepper("resnet20"),
        "LSQ, 4 bits": stepper("resnet20", quantized("linear-4", skip=("fc",))),
        "VQ(8, 256)": stepper("resnet20", quantized(VQ, skip=("fc",))),
        "E8, q = 4": stepper("resnet20", quantized("e8-q4", skip=("fc",))),
        "DKM(8, 256), 5 iterations": stepper("resnet20", quantized(VQ, DKM, skip=("fc",))),
    }
    report("ResNet-20", steps, 11)
    steps = {
        "float": stepper("lenet5"),
        "LSQ, 4 bits": stepper("lenet5", quantized("linear-4")),
        "VQ(8, 256)": stepper("lenet5", quantized(VQ)),
        "supernet of 8 formats": stepper("lenet5", supernet),
    }
    report("LeNet-5", steps, 31)
    report(f"{ARCH_EVERY} steps", {"float": repeated(steps["float"]), "a search": searching("lenet5")}, 15)


if __name__ == "__main__":
    main()
