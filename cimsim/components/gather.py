"""The unit that adds looked-up products: lanes that fetch one product each, and trees that add them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import LEAKAGE_SCALE, CheckPoint, Component, Source, band
from cimsim.components.laws.logic import (
    ADD_PJ,
    ADD_UM2,
    ARITHMETIC_TECH,
    HOROWITZ,
    MULTIPLY_PJ,
    MULTIPLY_UM2,
    SZE,
    leakage_uw,
)
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor


class Gather(Component):
    """`lanes` products of one output a cycle, added by one tree; a sum comes `drain_cycles` after its last products.

    `positions`: so many output positions at most share the lanes and one reading of the indices. `scales`: each lane
    can multiply its product by a scale code. `maps_in_memory`: a layer's inputs come from the outer memory, and its
    results go there; of inputs longer than `input_block` each block's sums go there too, and come back for the next.
    """

    ACTIONS: ClassVar = ("add", "scale")
    SOURCES: ClassVar = (
        Source(
            f"{HOROWITZ}: additions of fp16 0.4, int32 0.1 pJ; multiplication of fp16 1.1, int8 0.2 pJ",
            (
                CheckPoint({"lanes": 1}, ARITHMETIC_TECH, "add", 0.1, 0.001),
                CheckPoint({"lanes": 1, "number": "fp16"}, ARITHMETIC_TECH, "add", 0.4, 0.001),
                CheckPoint({"lanes": 1, "scales": True}, ARITHMETIC_TECH, "scale", 0.2, 0.001),
            ),
        ),
        Source(
            SZE,
            (CheckPoint({"lanes": 2, "number": "fp16"}, ARITHMETIC_TECH, "area_um2", 2720, 0.001),),
        ),
        Source(
            "github.com/dbw6/Eva, synthesised at 28 nm: 32 fp16 lanes in 0.0126028 mm2",
            (CheckPoint({"lanes": 32, "number": "fp16"}, Technology(28, 0.9), "area_um2", 12_602.8, 0.3),),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band("energy_scale", 1, 1, 20, unit="x", why="arithmetic alone; EVA's lanes draw 3.7 pJ a cycle at 28 nm"),
        LEAKAGE_SCALE,
    )

    kind: Literal["gather"] = "gather"
    lanes: int = Field(ge=1, le=65_536)
    number: Literal["fp16", "int32"] = "int32"
    drain_cycles: int = Field(default=0, ge=0)
    positions: int = Field(default=1, ge=1)
    scales: bool = False
    maps_in_memory: bool = False
    input_block: int | None = Field(default=None, ge=1)
    energy_scale: float = Field(default=1.0, ge=0)

    @property
    def actions_per_access(self) -> int:
        return self.lanes

    @property
    def factor(self) -> str:
        """Number format of a product that meets a scale code."""
        return "fp16" if self.number == "fp16" else "int8"

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        pj = ADD_PJ[self.number] if action == "add" else MULTIPLY_PJ[self.factor]
        return pj * energy_factor(ARITHMETIC_TECH, tech) * self.energy_scale

    def base_area_um2(self, tech: Technology) -> float:
        lane = ADD_UM2[self.number] + (MULTIPLY_UM2[self.factor] if self.scales else 0)
        return self.lanes * lane * area_factor(ARITHMETIC_TECH.node_nm, tech.node_nm)

    def base_leakage_uw(self, tech: Technology) -> float:
        return leakage_uw(self.base_area_um2(tech), tech)
