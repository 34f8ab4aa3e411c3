"""The buffer in which products of sub-vectors with a codebook wait for the lanes that gather them."""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Source
from cimsim.components.laws.scaling import Technology
from cimsim.components.laws.sram_table import CACTI, SramFigures, SramPriced, sram_figures

EVA_BANKS = {"capacity_bits": 1_048_576, "width_bits": 2_048, "banks": 128, "banking": "by_subvector"}


class ProductBuffer(SramPriced):
    """`banks` memories that each give one product a cycle, together `width_bits`.

    `by_subvector`: the products of sub-vector v lie in bank v mod `banks`. `by_entry`: those of entry e in bank e mod
    `banks`, so that lanes which ask for entries of one bank wait. `groups` (1 or 2) row groups have room: with two,
    one is gathered while the next is multiplied. `line_bits` more keep the products of the rows of a convolution's
    window, so that each input position is multiplied once for all taps.
    """

    SOURCES: ClassVar = (
        Source(
            f"{CACTI}: each bank a memory of its own",
            (
                CheckPoint(
                    {"capacity_bits": 131_072, "width_bits": 512, "banks": 8, "banking": "by_entry"},
                    Technology(22, 0.8),
                    "read_bit",
                    0.648284 / 64,
                    0.001,
                ),
            ),
        ),
        Source(
            "github.com/dbw6/Eva, 28 nm memory compiler: 17.10 fJ per bit read and 25.33 written, sizes not printed",
            (
                CheckPoint(EVA_BANKS, Technology(28, 0.9), "read_bit", 0.0171028, 0.4),
                CheckPoint(EVA_BANKS, Technology(28, 0.9), "write_bit", 0.0253279, 0.6),
            ),
        ),
    )
    ASSUMPTIONS: ClassVar = (LEAKAGE_SCALE,)

    kind: Literal["product_buffer"] = "product_buffer"
    banks: int = Field(ge=1, le=65_536)
    banking: Literal["by_subvector", "by_entry"]
    groups: Literal[1, 2] = 2
    line_bits: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _banks_have_a_width(self) -> Self:
        if self.width_bits < self.banks:
            raise ValueError(f"width_bits = {self.width_bits}: must be >= banks = {self.banks}")
        return self

    def figures(self, tech: Technology) -> SramFigures:
        """All banks together."""
        size = ceil((self.capacity_bits + self.line_bits) / self.banks)
        one = sram_figures(max(64, size), self.width_bits // self.banks, tech)
        return SramFigures(*(self.banks * figure for figure in one))
