"""What real cells are: written with error, unlike each other, stuck, drifting, noisy, behind resistive wires.

Conductances are parts of the largest one. A cell of level d up to D is meant to have off + (1 - off) d / D; what the
level zero conducts is subtracted by a reference column, so that ideal cells give exact sums. In this order:

  write     Gaussian error of one standard deviation at every level; nothing conducts less than nothing
  vary      each cell times its own lognormal factor of mean one
  stick     cells that stay at level zero or at the largest level, whatever was written
  drift     other cells times (t / t0) ^ -nu, nu Gaussian over cells (M. Le Gallo et al., Adv. Electron. Mater. 4, 2018)
  wires     transfer conductances of each array (`cimsim.arrays.irdrop`), only driven rows conducting
  read      Gaussian noise of every cell in every read

All is drawn from seeds by numpy's generators: the same seed gives the same cells, on any number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from cimsim.arrays.irdrop import Wires, transfer, transfer_by_ladders
from cimsim.components.base import Assumption, band
from workloads.errors import InputError, problems_of
from workloads.layer import Frozen
from workloads.yamlfile import read_mapping

RERAM = "HfOx ReRAM of W. Wan et al., NeuRRAM, Nature 608, 2022: 1 to 40 uS"
PCM = "PCM of S. R. Nandakumar et al., ICECS 2019, and V. Joshi et al., Nat. Commun. 11, 2020: up to 25 uS"
STUCK = "MNSIM 2.0's default; high, the frequent kind in a first 4 Mb HfO2 chip (C.-Y. Chen et al., TC 64(1), 2015)"


class Drift(Frozen):
    """Conductance falls as (time_s / reference_s) ^ -nu; nu has mean `exponent` and standard deviation `sigma`.

    With `compensated` readings are scaled by what the whole matrix has lost (Joshi et al., 2020).
    """

    exponent: float = Field(ge=0, le=1)
    sigma: float = Field(default=0.0, ge=0, le=1)
    time_s: float = Field(gt=0)
    reference_s: float = Field(default=20.0, gt=0)
    compensated: bool = False


class WireLoss(Frozen):
    """Resistance of each segment of wire (the crossbar's `segment_ohm` tells a node's) beside cells of `on_ohm` at the
    largest level; see `cimsim.arrays.irdrop`. `ladders` err by at most half the square of what a column loses."""

    segment_ohm: float = Field(gt=0)
    on_ohm: float = Field(gt=0)
    method: Literal["ladders", "exact"] = "ladders"


class Nonidealities(Frozen):
    """What keeps cells from being what was written; all zero by default. Fractions are of the largest conductance, but
    `variation_fraction`, which is of each cell's own (its coefficient of variation)."""

    programming_fraction: float = Field(default=0.0, ge=0, le=1)
    variation_fraction: float = Field(default=0.0, ge=0, le=10)
    read_noise_fraction: float = Field(default=0.0, ge=0, le=1)
    off_fraction: float = Field(default=0.0, ge=0, lt=1)
    stuck_off_probability: float = Field(default=0.0, ge=0, le=1)
    stuck_on_probability: float = Field(default=0.0, ge=0, le=1)
    drift: Drift | None = None
    wires: WireLoss | None = None

    @model_validator(mode="after")
    def _cells_are_stuck_once(self) -> Self:
        if self.stuck_off_probability + self.stuck_on_probability > 1:
            raise ValueError(
                f"stuck_off_probability + stuck_on_probability = {self.stuck_off_probability} + "
                f"{self.stuck_on_probability}: must be <= 1"
            )
        return self

    @property
    def is_ideal(self) -> bool:
        """Whether every cell is what was written and every read the same; a compensated off-current changes nothing."""
        return self == Nonidealities(off_fraction=self.off_fraction)

    def written(self, levels: np.ndarray, largest: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Conductances (of the largest) of cells meant to hold `levels` up to `largest`, and their sum before drift.

        Each effect has a generator of its own, so that the others change nothing of what it draws.
        """
        writing, varying, drifting, sticking = rng.spawn(4)
        found = self.off_fraction + (1 - self.off_fraction) / largest * levels
        if self.programming_fraction:
            found += self.programming_fraction * writing.standard_normal(levels.shape)
            np.maximum(found, 0.0, out=found)
        if self.variation_fraction:
            spread = np.log1p(self.variation_fraction**2)
            found *= np.exp(np.sqrt(spread) * varying.standard_normal(levels.shape) - spread / 2)
        chance = sticking.random(levels.shape) if self.stuck_off_probability or self.stuck_on_probability else None
        self._stick(found, chance)
        before = float(found.sum())
        if self.drift:
            nu = self.drift.exponent + self.drift.sigma * drifting.standard_normal(levels.shape)
            found *= (self.drift.time_s / self.drift.reference_s) ** -nu
            self._stick(found, chance)
        return found, before

    def _stick(self, conductances: np.ndarray, chance: np.ndarray | None) -> None:
        """Puts stuck cells where they stay."""
        if chance is not None:
            conductances[chance < self.stuck_off_probability] = self.off_fraction
            conductances[chance >= 1 - self.stuck_on_probability] = 1.0

    def gain(self, before: float, after: float) -> float:
        """What readings are scaled by, for the sums of all conductances before drift and now."""
        return before / after if self.drift and self.drift.compensated and after else 1.0

    def behind_wires(self, conductances: np.ndarray, rows_below: int) -> np.ndarray:
        """What cells [R, C] of one array conduct in place, with so many rows that do not between them and the sense
        nodes."""
        if self.wires is None:
            return conductances
        solve = transfer if self.wires.method == "exact" else transfer_by_ladders
        whole = np.pad(conductances / self.wires.on_ohm, ((0, rows_below), (0, 0)))
        lost = solve(whole, Wires(self.wires.segment_ohm, self.wires.segment_ohm))
        return lost[: len(conductances)] * self.wires.on_ohm

    def as_levels(self, conductances: np.ndarray, largest: int) -> np.ndarray:
        """Conductances as levels, the reference column's share taken off."""
        return (conductances - self.off_fraction) / (1 - self.off_fraction) * largest


CELLS: Mapping[str, Nonidealities] = {
    "reram": Nonidealities(
        programming_fraction=0.05,
        variation_fraction=0.01,
        read_noise_fraction=0.01,
        off_fraction=0.025,
        stuck_off_probability=0.001,
        stuck_on_probability=0.001,
    ),
    "pcm": Nonidealities(
        programming_fraction=0.036,
        read_noise_fraction=0.03,
        drift=Drift(exponent=0.05, sigma=0.01, time_s=86_400, compensated=True),
    ),
}

BANDS: Mapping[str, tuple[Assumption, ...]] = {
    "reram": (
        band(
            "programming_fraction",
            0.025,
            0.05,
            0.1,
            unit="x",
            why=f"{RERAM}; after relaxation; low, the window of its writes",
        ),
        band(
            "variation_fraction",
            0,
            0.01,
            0.3,
            unit="x",
            why="low, verified writes; MNSIM 2.0's default; high, none verified",
        ),
        band(
            "read_noise_fraction",
            0,
            0.01,
            0.03,
            unit="x",
            why="random telegraph noise: no figure that holds for all cells",
        ),
        band("off_fraction", 0.01, 0.025, 0.25, unit="x", why=f"{RERAM}; high, its cells of 250 kohm and 1 Mohm"),
        band("stuck_off_probability", 0, 0.001, 0.0904, unit="x", why=STUCK),
        band("stuck_on_probability", 0, 0.001, 0.0904, unit="x", why=STUCK),
    ),
    "pcm": (
        band(
            "programming_fraction", 0.011, 0.036, 0.043, unit="x", why=f"{PCM}; low, level zero; high, near the largest"
        ),
        band(
            "read_noise_fraction", 0, 0.03, 0.037, unit="x", why=f"{PCM}; high, the largest level 20 s after its write"
        ),
        band("drift.exponent", 0.049, 0.05, 0.1, unit="", why=f"{PCM}; low, high levels; high, low ones"),
        band("drift.sigma", 0.008, 0.01, 0.045, unit="", why=f"{PCM}; low, high levels; high, low ones"),
    ),
}


def load_cells(name_or_path: str | Path) -> Nonidealities:
    """The named cells (see CELLS), or those of a YAML file with the keys of `Nonidealities`.

    Raises InputError that lists every problem.
    """
    if str(name_or_path) in CELLS:
        return CELLS[str(name_or_path)]
    path = Path(name_or_path)
    if not path.is_file():
        raise InputError(str(name_or_path), [f"no such file of cells, nor a name (known: {', '.join(CELLS)})"])
    try:
        return Nonidealities.model_validate(read_mapping(path, "programming_fraction, drift, wires, ..."))
    except ValidationError as error:
        raise InputError(str(path), problems_of(error, Nonidealities)) from None
