"""Your own module on your own chip: quantized within three energy budgets, simulated, and drawn as a front."""

import sys

import torch
from torch import nn
from torch.nn import functional as F

from cimsim import load_chip, simulate
from cimsim.chip.numbers import array_numbers
from cimsim.integer.forward import accuracy, calibrate_adc
from qat import capture, export, search, tune
from reports import plot_front
from workloads.data.datasets import load

images = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000  # seen by each search and each fine-tuning
data = load("digits")
x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)  # uint8 [N, 1, 8, 8] and int64 [N]
torch.manual_seed(0)
convolution = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
net = nn.Sequential(*convolution, nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(net.parameters(), 3e-3)
for _ in range(300):  # your float training
    batch = torch.randint(len(y), (64,))
    optimizer.zero_grad()
    F.cross_entropy(net(x[batch] / 255), y[batch]).backward()
    optimizer.step()

# From here on: `net` is your trained module, `x` and `y` are its training images and labels.
chip = load_chip("examples/own_chip.yaml")
shapes, numbers = capture(net, x[:1] / 255, "mine"), array_numbers(chip)
rows = []
for budget in (0.25, 0.35, 0.8):
    plan = search(net, x, y, chip, budget=budget, images=images)
    tuned = tune(net, plan, x, y, images=images)
    stored = calibrate_adc(export(tuned.model, plan, x[:1] / 255), data.train_x[:512], numbers)
    array_accuracy = accuracy(stored, data.test_x, data.test_y, numbers)
    energy_pj = simulate(shapes, chip, plan).energy_pj
    rows.append({"label": f"budget {budget}", "energy_pj": energy_pj, "array_accuracy": array_accuracy})
    formats = ", ".join(choice.format for choice in plan.layers.values())
    print(f"budget {budget:.2f}: {energy_pj / 1e3:4.0f} nJ per image, accuracy {array_accuracy:.3f}: {formats}")
plot_front(rows, "runs/own_module.png")
