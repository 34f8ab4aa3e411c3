"""How far the energy of arrays depends on data: each layer by exact counts, by histograms, and at half of all on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cimsim.arrays.activity import exact, from_histograms, histogram
from cimsim.arrays.encodings import Widths
from cimsim.chip.model import Chip
from cimsim.chip.numbers import array_numbers
from cimsim.components.base import REFERENCE, Activity
from cimsim.engine.alone import layer_work
from cimsim.integer.artifact import Artifact
from cimsim.integer.forward import operands

DRIVEN = ("crossbar", "dac", "digital_array")  # converters and buffers hardly depend on data and would hide the rest


class LayerEnergy(NamedTuple):
    """Energy of one layer's arrays and drivers for one image, in pJ, by what is known of its data."""

    layer: str
    exact_pj: float
    histogram_pj: float
    fixed_pj: float

    @property
    def histogram_ratio(self) -> float:
        return self.histogram_pj / self.exact_pj

    @property
    def fixed_ratio(self) -> float:
        return self.fixed_pj / self.exact_pj


def by_layer(artifact: Artifact, x: NDArray[np.uint8], chip: Chip) -> list[LayerEnergy]:
    """Layers of an artifact with the activations of images x [N, C, H, W] (uint8), on this chip."""
    numbers, rows = array_numbers(chip), []
    for name, grid, groups in operands(artifact, x):
        choice = artifact.plan.layers[name]
        widths = Widths(choice.weight_format.array_bits, grid.bits, grid.signed)
        counted = [exact(x_MI, w_IO, numbers, widths) for x_MI, w_IO in groups]
        inputs, weights = (np.concatenate([pair[i].ravel() for pair in groups]) for i in (0, 1))
        guessed = from_histograms(histogram(inputs), histogram(weights), numbers, widths)
        layer = next(one for one in artifact.network.layers if one.name == name)
        actions = layer_work(layer, choice, chip).actions
        known = Activity(*np.mean(counted, axis=0).tolist()), guessed, REFERENCE
        rows.append(LayerEnergy(name, *(_driven_pj(actions, chip, one) for one in known)))
    return rows


def _driven_pj(actions: dict[tuple[str, str, str], int], chip: Chip, activity: Activity) -> float:
    """Of parts that data drive."""
    spent_pj = 0.0
    for (kind, role, action), count in actions.items():
        part = chip.part(kind, role) if kind in DRIVEN else None
        if part is not None:
            price_pj = part.component.energy_pj(action, chip.technology)
            spent_pj += count * price_pj * part.component.data_factor(action, chip.technology, activity)
    return spent_pj
