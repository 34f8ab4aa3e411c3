"""A DigitsNet trained for a moment on the 8x8 digits, and hand-made prices: what the training tests start from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from cimsim.studies.study import Training
from cimsim.studies.table import CostTable
from qat.training.data import training_data
from qat.training.loop import train_float
from workloads.layer import Network
from workloads.networks.zoo import build
from workloads.shapes import load_network

torch.set_num_threads(1)

DATA = training_data("digits")
LAYERS = ("conv1", "conv2", "fc")
FORMATS = ("linear-8", "linear-4", "linear-2")
SETTINGS = Training(float_epochs=2, batch=40, float_lr=1e-2, tune_images=1_600, calibration_images=128, test_images=100)


def network() -> Network:
    return load_network("digitsnet")


@cache
def _state() -> dict[str, Tensor]:
    return train_float(build("digitsnet", 0), DATA, SETTINGS, seed=0).state_dict()


def trained() -> nn.Module:
    """A fresh copy of the same trained float network."""
    model = build("digitsnet", 0)
    model.load_state_dict(_state())
    return model


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules hold the same names and, bit by bit, the same numbers."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def prices(energy_pj: Sequence[Sequence[float]], fixed_pj: float = 0.0, formats: Sequence[str] = FORMATS) -> CostTable:
    """A cost table with these energies, [layers, formats]; latency and area are as many ns and um2."""
    array = np.array(energy_pj, dtype=np.float64)
    layers = LAYERS[: len(array)] if len(array) <= len(LAYERS) else tuple(f"layer{i}" for i in range(len(array)))
    fixed_ns = 0.0
    return CostTable("paper", layers, tuple(formats), array, array, array, fixed_pj, fixed_ns, True, {})
