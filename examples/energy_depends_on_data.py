"""Array and driver energy of a trained network, layer by layer: exact counts, histograms, half of all data on."""

import sys

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

from cimsim import load_chip
from cimsim.studies.data_energy import by_layer
from qat import capture, export, tune
from workloads.data.datasets import load
from workloads.plan import Plan

images = int(sys.argv[1]) if len(sys.argv) > 1 else 6_000  # of fine-tuning
data = load("digits")
x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
    nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(net.parameters(), 3e-3)
for _ in range(400):
    batch = torch.randint(len(y), (64,))
    optimizer.zero_grad()
    F.cross_entropy(net(x[batch] / 255), y[batch]).backward()
    optimizer.step()

plan = Plan.uniform(capture(net, x[:1] / 255, "small"), "linear-4")
stored = export(tune(net, plan, x, y, images=images).model, plan, x[:1] / 255)
chips = ("isaac", "sram-rom", "sram-digital")
figure = Figure(figsize=(9, 3), layout="constrained")
for axis, name in zip(figure.subplots(1, len(chips), sharey=True), chips, strict=True):
    rows = by_layer(stored, data.test_x[:200], load_chip(name))
    axis.axhline(1, color="#888888", linewidth=0.8)
    axis.plot([row.layer for row in rows], [row.histogram_ratio for row in rows], "o", label="histograms")
    axis.plot([row.layer for row in rows], [row.fixed_ratio for row in rows], "s", label="half of all data on")
    axis.set(title=name, ylim=(0, None), xlabel="layer")
    for row in rows:
        print(f"{name:13} layer {row.layer}: exact {row.exact_pj:9.1f} pJ, histograms {row.histogram_ratio:.3f} of it, "
              f"half on {row.fixed_ratio:.2f}")  # fmt: skip
figure.axes[0].set_ylabel("energy over the exact count")
figure.axes[0].legend(frameon=False)
figure.savefig("runs/energy_depends_on_data.png", dpi=130)
