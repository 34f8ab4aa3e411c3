"""Training for real cells: accuracy on drawn ReRAM arrays over the noise that weights bore in fine-tuning."""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from cimsim.arrays.encodings import ArrayNumbers
from cimsim.arrays.nonideal import CELLS, Nonidealities
from cimsim.integer.forward import accuracy, accuracy_of_seeds, calibrate_adc
from cimsim.studies.study import Training
from qat import capture, export, tune
from qat.training.data import training_data
from qat.training.loop import train_float
from reports.style import PALETTE
from workloads.data.datasets import load
from workloads.plan import Plan

tuned_images, num_seeds, num_draws = map(int, sys.argv[1:4]) if len(sys.argv) > 3 else (60_000, 3, 5)
NOISE = (0.0, 0.1, 0.2, 0.3)
OF_CELLS = {"errors of writing, a tenth": Nonidealities(programming_fraction=0.1), "reram": CELLS["reram"]}
ARRAY = ArrayNumbers(rows=128, rows_on=128, cell_bits=2, dac_bits=1, adc_bits=8, encoding="offset", column_flip=True)

data = load("digits")
x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
test = data.test_x, data.test_y


def trained(seed: int) -> nn.Module:
    """A float network."""
    torch.manual_seed(seed)
    convolution = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    net = nn.Sequential(*convolution, nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
    return train_float(net, training_data("digits"), Training(float_epochs=15, batch=64), seed)


def measured(net: nn.Module, noise: float, seed: int) -> dict[str, float]:
    """Accuracy in percent of ideal arrays and of each kind of cells, tuned with this noise."""
    plan = Plan.uniform(capture(net, x[:1] / 255, "digits"), "linear-4")
    tuned = tune(net, plan, x, y, images=tuned_images, weight_noise_fraction=noise, seed=seed)
    stored = calibrate_adc(export(tuned.model, plan, x[:1] / 255), data.train_x[:256], ARRAY)
    drawn = {name: accuracy_of_seeds(stored, test, ARRAY, cells, range(num_draws)) for name, cells in OF_CELLS.items()}
    return {"ideal arrays": 100 * accuracy(stored, *test, ARRAY)} | {
        name: 100 * found.mean_accuracy for name, found in drawn.items()
    }


nets = [trained(seed) for seed in range(num_seeds)]
found = {noise: [measured(net, noise, seed) for seed, net in enumerate(nets)] for noise in NOISE}
figure = Figure(figsize=(5.6, 3.6), layout="constrained")
axes = figure.subplots()
print(f"accuracy (%) over training noise: mean and standard error of {num_seeds} networks, {num_draws} draws each")
for colour, name in zip(PALETTE, ["ideal arrays", *OF_CELLS], strict=False):
    values = np.array([[one[name] for one in found[noise]] for noise in NOISE])
    means, errors = values.mean(axis=1), values.std(axis=1, ddof=1) / len(nets) ** 0.5
    axes.errorbar(NOISE, means, errors, color=colour, marker="o", ms=4, capsize=2, label=name)
    print(f"{name:28}", "  ".join(f"{n:g}: {m:.1f} ± {e:.1f}" for n, m, e in zip(NOISE, means, errors, strict=True)))
axes.set(xlabel="noise in fine-tuning (part of a layer's largest weight)", ylabel="accuracy (%)")
axes.grid(color="#EBECEE", lw=0.8)
axes.set_axisbelow(True)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/noise_training.png", dpi=140)
