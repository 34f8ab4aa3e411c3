"""The buffer that streams codes to the codebook ROM or the lattice decoder."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Source
from cimsim.components.laws.scaling import Technology
from cimsim.components.laws.sram_table import CACTI, SramPriced


class IndexBuffer(SramPriced):
    """SRAM of codes: `width_bits` read per cycle, `prefetch_blocks` blocks requested ahead."""

    SOURCES: ClassVar = (
        Source(
            CACTI,
            (
                CheckPoint(
                    {"capacity_bits": 16_384, "width_bits": 64, "prefetch_blocks": 2},
                    Technology(22, 0.8),
                    "read_bit",
                    0.648284 / 64,
                    0.001,
                ),
            ),
        ),
    )
    ASSUMPTIONS: ClassVar = (LEAKAGE_SCALE,)

    kind: Literal["index_buffer"] = "index_buffer"
    prefetch_blocks: int = Field(ge=1)
