"""A chip's own cells as they are: the named cells of their kind, behind the wires of the chip's node."""

from __future__ import annotations

from cimsim.arrays.nonideal import CELLS, Nonidealities, WireLoss
from cimsim.chip.model import Chip
from cimsim.components.crossbar import Crossbar

KINDS = {"reram": "reram", "reram_2t2r": "reram", "pcm": "pcm"}  # what cells are called in a chip, and in CELLS


def cells_of(chip: Chip) -> Nonidealities:
    """ReRAM and PCM as CELLS has them, other cells ideal, for no figures are held of them. Wires lose voltage where
    currents are read, beside cells of the chip's on-resistance; charge and voltage settle."""
    array = chip.array
    if not isinstance(array, Crossbar) or array.cell not in KINDS:
        return Nonidealities()
    cells = CELLS[KINDS[array.cell]]
    on_ohm = array.r_on_ohm or array.cell_type.nominal("r_on_ohm")
    if array.reading != "current" or on_ohm is None:
        return cells
    wires = WireLoss(segment_ohm=array.segment_ohm(chip.technology), on_ohm=on_ohm)
    return cells.model_copy(update={"wires": wires})
