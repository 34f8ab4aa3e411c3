"""A part that a paper prints but no model here derives: control, an instruction memory, a vector unit, a whole unit."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from cimsim.components.base import CheckPoint, Component, Source
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor, nominal

BUS = {"power_mw": 7, "area_mm2": 0.090, "of": 1, "source": "ISAAC, Table I"}


class Block(Component):
    """Draws its stated power as long as arrays under it work, in proportion to how many do; `always_on`: all the time.

    Area and power are the stated ones; where `stated.at` names a node or a supply, the usual laws move them.
    """

    ACTIONS: ClassVar = ("array_ps",)  # all arrays under one block at work for one ps
    SOURCES: ClassVar = (
        Source(
            "what is stated for the block; as a bus of 7 mW and 0.090 mm2 (A. Shafiee et al., ISCA 2016, Table I)",
            (
                CheckPoint({"stated": BUS}, nominal(32), "array_ps", 0.007, 1e-9),
                CheckPoint({"stated": BUS}, nominal(32), "area_um2", 90_000, 1e-9),
            ),
        ),
    )

    kind: Literal["block"] = "block"
    peak_rate_hz: int | None = 10**12
    always_on: bool = False

    @model_validator(mode="after")
    def _all_stated(self) -> Self:
        if self.stated is None or self.stated.power_mw is None or self.stated.area_mm2 is None:
            raise ValueError("stated: a block has no model, so stated.power_mw and stated.area_mm2 are required")
        if self.peak_rate_hz != 10**12:
            raise ValueError("peak_rate_hz: a block's power is stated, so it has no rate")
        return self

    def _as_stated(self, tech: Technology) -> tuple[Self, Technology]:
        at = self.stated.at if self.stated else {}
        return self, Technology(float(at.get("node_nm") or tech.node_nm), float(at.get("supply_v") or tech.supply_v))

    def energy_pj(self, action: str, tech: Technology) -> float:
        """Zero for a block that is always on: its power is charged by time."""
        working = super().energy_pj(action, tech)
        return 0.0 if self.always_on else working

    def always_on_mw(self, tech: Technology) -> float:
        return super().energy_pj("array_ps", tech) * 1e3 if self.always_on else 0.0

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return energy_factor(nominal(32), tech)  # what is stated sets the level, this the laws

    def base_area_um2(self, tech: Technology) -> float:
        return area_factor(32, tech.node_nm)
