"""The memory cells that analogue arrays are made of: area, capacitance or resistance, and writing, with bands.

Every figure is an assumption with a band, under the name of the crossbar's field that replaces it: a chip's paper
often prints its own. `f2` is the square of the node's name. Figures are per cell, `2T2R` counting both devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from cimsim.components.base import Assumption, band

# NeuroSim V1.4, cell of a dense SRAM, in F2: fins make it larger in units of the node's name.
SRAM_6T_F2: dict[float, float] = {5: 840, 7: 551, 10: 400, 14: 326, 22: 280}


class CellType(NamedTuple):
    """One kind of cell. `family` decides how it is written and leaks; `readout` is the usual one.

    `devices`: programmable devices; a cell of two holds a differential pair. `bands` name crossbar fields.
    """

    family: Literal["sram", "resistive", "field", "rom"]
    readout: Literal["charge", "current"]
    max_bits: int
    devices: int
    bands: tuple[Assumption, ...]

    def nominal(self, field: str) -> float | None:
        """The table's value of a crossbar field; None if this kind of cell has none."""
        return next((item.nominal for item in self.bands if item.name == field), None)


def _ohmic(on_ohm: tuple[float, float, float], off_ohm: tuple[float, float, float], who: str) -> tuple[Assumption, ...]:
    """Bands of a cell's two resistances."""
    return (band("r_on_ohm", *on_ohm, unit="ohm", why=who), band("r_off_ohm", *off_ohm, unit="ohm", why=who))


def _reram(cell_f2: tuple[float, float, float], area_why: str) -> tuple[Assumption, ...]:
    return (
        band("cell_f2", *cell_f2, unit="F2", why=area_why),
        band("r_on_ohm", 1_333, 250_000, 250_000, unit="ohm", why="NeuRRAM's cell; ISAAC prints none"),
        band("r_off_ohm", 20_000, 1_000_000, 1_000_000, unit="ohm", why="NeuRRAM's cell; RAELLA's is the low end"),
        band("read_v", 0.1, 0.5, 0.55, unit="V", why="NeuRRAM reads at 0.5 V, ISAAC-like models at 0.2 V"),
        band("set_v", 1.75, 1.75, 2.0, unit="V", why="NeuRRAM sets at 1.75 V, NeuroSim at 2 V"),
    )


_MULTIPLE = "one 6T cell's area for every six transistors; low, 6T; high, the largest published cell in CIM"

CELLS: Mapping[str, CellType] = {
    "sram": CellType("sram", "charge", 1, 1, (
        band("cell_f2", 80, 280, 426, unit="F2",
             why="6T: NeuroSim's 22 nm cell; low, a dense one; high, Jia's (JSSC 2020)"),
    )),
    "sram_8t": CellType("sram", "charge", 1, 1, (
        band("cell_f2", 130, 364, 560, unit="F2",
             why="6T and about 30 % for the read port (L. Chang et al., JSSC 43(4), 2008)"),
    )),
    "sram_8t1c": CellType("sram", "charge", 1, 1, (
        band("cell_f2", 280, 426, 1_080, unit="F2", why="Jia (JSSC 2020), 65 nm; capacitors lie above the transistors"),
        band("cell_ff", 1.2, 2.0, 4.0, unit="fF", why="Jia (JSSC 2020); low, H. Valavi et al. (JSSC 54(6), 2019)"),
    )),
    "sram_12t": CellType("sram", "charge", 1, 1, (band("cell_f2", 280, 560, 1_080, unit="F2", why=_MULTIPLE),)),
    "reram": CellType("resistive", "current", 4, 1, _reram(
        (4, 48, 126), "1T1R: NeuroSim's; low, a cross-point; high, NeuRRAM's")),
    "reram_2t2r": CellType("resistive", "current", 4, 2, _reram(
        (8, 96, 252), "2T2R: twice the cell of one device")),
    "pcm": CellType("resistive", "current", 4, 1, (
        band("cell_f2", 16, 48, 126, unit="F2", why="1T1R like ReRAM: the selector sets the area"),
        *_ohmic((10_000, 40_000, 100_000), (500_000, 2_000_000, 10_000_000),
                "conductances up to about 25 uS (M. Le Gallo et al., Nat. Electron. 6, 2023)"),
        band("read_v", 0.1, 0.2, 0.3, unit="V", why="no disturbance below about 0.3 V"),
        band("write_pj", 5, 30, 300, unit="pJ", why="100 to 400 uA at 1.5 to 2 V for 50 ns, repeated until verified"),
    )),
    "fefet": CellType("field", "current", 2, 1, (
        band("cell_f2", 10, 52, 60, unit="F2", why="0.025 um2 at 22 nm (S. Duenkel et al., IEDM 2017)"),
        *_ohmic((10_000, 100_000, 1_000_000), (1_000_000, 100_000_000, 1_000_000_000),
                "an on-current of about 1 uA, limited in series; off: a transistor's leakage"),
        band("read_v", 0.05, 0.1, 1.0, unit="V", why="drain voltage of a read"),
        band("write_pj", 0.001, 0.005, 0.1, unit="pJ",
             why="no current flows: a gate of 0.1 to 1 fF at about 4 V, and its line"),
    )),
    "rom": CellType("rom", "charge", 4, 1, (
        band("cell_f2", 10, 22.7, 45, unit="F2",
             why="0.096 um2 per bit at 65 nm (Yin et al., JSSC 2024); low, dense mask ROM"),
    )),
}  # fmt: skip
