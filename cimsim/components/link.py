"""A link to another chip."""

from __future__ import annotations

from typing import ClassVar, Literal

from cimsim.components.base import CheckPoint, Component, Source
from cimsim.components.laws.scaling import Technology, nominal

PJ_PER_BIT = 2600 / 51.2  # one HyperTransport link of ISAAC: 2.6 W at 6.4 GB/s
LINK_UM2 = 22.88e6 / 4


class Link(Component):
    """Carries `peak_rate_hz` bits a second. `always_on`: it draws its power whatever it carries."""

    ACTIONS: ClassVar = ("transfer_bit",)
    SOURCES: ClassVar = (
        Source(
            "A. Shafiee et al., ISCA 2016, Table I: 4 HyperTransport links, 6.4 GB/s each, 10.4 W, 22.88 mm2",
            (
                CheckPoint({"always_on": False}, nominal(32), "transfer_bit", 50.78, 0.001),
                CheckPoint({"always_on": False}, nominal(32), "area_um2", 5_720_000, 0.001),
            ),
        ),
    )

    kind: Literal["link"] = "link"
    always_on: bool = True

    def energy_pj(self, action: str, tech: Technology) -> float:
        """Zero for an always-on link: its power is charged by time."""
        on_demand = super().energy_pj(action, tech)
        return 0.0 if self.always_on else on_demand

    def always_on_mw(self, tech: Technology) -> float:
        if not self.always_on:
            return 0.0
        return super().energy_pj("transfer_bit", tech) * (self.peak_rate_hz or 0) * 1e-9

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return PJ_PER_BIT  # pads and protocol, not scaled with the chip's node

    def base_area_um2(self, tech: Technology) -> float:
        return LINK_UM2
