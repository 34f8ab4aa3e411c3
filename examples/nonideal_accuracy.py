"""What real cells cost in accuracy: errors of writing in three encodings, and ADC bits under ReRAM and drifting PCM."""

import sys
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from cimsim.arrays.encodings import ArrayNumbers
from cimsim.arrays.nonideal import CELLS, Nonidealities
from cimsim.integer.artifact import Artifact
from cimsim.integer.forward import accuracy_of_seeds, calibrate_adc
from qat import capture, export, tune
from reports.style import PALETTE
from workloads.data.datasets import load
from workloads.plan import Plan

tuned_images, test_images, num_seeds = map(int, sys.argv[1:4]) if len(sys.argv) > 3 else (20_000, 360, 8)
ERRORS, ADC_BITS = (0.0, 0.02, 0.05, 0.1, 0.2), (3, 4, 5, 6, 8)
ENCODINGS = {"offset": "o", "differential": "s", "sign_magnitude": "^"}
OF_CELLS = {"ideal": Nonidealities(), "reram": CELLS["reram"], "pcm": CELLS["pcm"]}
ARRAY = ArrayNumbers(rows=128, rows_on=128, cell_bits=2, dac_bits=1, adc_bits=9, encoding="differential")

data = load("digits")
x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
test = data.test_x[:test_images], data.test_y[:test_images]
torch.manual_seed(0)
convolution = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
net = nn.Sequential(*convolution, nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), 3e-3)
for _ in range(300):
    batch = torch.randint(len(y), (64,))
    optimizer.zero_grad()
    F.cross_entropy(net(x[batch] / 255), y[batch]).backward()
    optimizer.step()
plan = Plan.uniform(capture(net, x[:1] / 255, "digits"), "linear-4")
stored = export(tune(net, plan, x, y, images=tuned_images).model, plan, x[:1] / 255)


@cache
def calibrated(numbers: ArrayNumbers) -> Artifact:
    """With converter steps chosen on training images."""
    return calibrate_adc(stored, data.train_x[:256], numbers)


def measured(numbers: ArrayNumbers, cells: Nonidealities) -> tuple[float, float]:
    """Mean accuracy over arrays written anew, in percent, and half its 95 % interval."""
    found = accuracy_of_seeds(calibrated(numbers), test, numbers, cells, range(num_seeds))
    return 100 * found.mean_accuracy, 100 * found.half_accuracy


def draw(axes, points: list[tuple[float, tuple[float, float]]], label: str, **style) -> None:
    """A line with its intervals, also printed."""
    axes.errorbar([p[0] for p in points], [p[1][0] for p in points], [p[1][1] for p in points], label=label, **style)
    print(f"{label:15}", "  ".join(f"{place:g}: {mean:.1f} ± {half:.1f} %" for place, (mean, half) in points))


figure = Figure(figsize=(8.4, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
print("accuracy over the error of writing, as a part of the largest conductance")
for colour, (encoding, marker) in zip(PALETTE, ENCODINGS.items(), strict=False):
    numbers = ARRAY._replace(encoding=encoding)
    points = [(error, measured(numbers, Nonidealities(programming_fraction=error))) for error in ERRORS]
    draw(left, points, encoding, color=colour, marker=marker, ms=4, capsize=2)
print("accuracy over ADC bits, differential cells")
for colour, (name, cells) in zip(PALETTE[3:], OF_CELLS.items(), strict=False):
    points = [(bits, measured(ARRAY._replace(adc_bits=bits), cells)) for bits in ADC_BITS]
    draw(right, points, name, color=colour, marker="o", ms=4, capsize=2)
left.set(xlabel="error of writing (part of the largest conductance)", ylabel="accuracy (%)")
right.set(xlabel="ADC bits", xticks=ADC_BITS)
for axes in (left, right):
    axes.grid(color="#EBECEE", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/nonideal_accuracy.png", dpi=140)
