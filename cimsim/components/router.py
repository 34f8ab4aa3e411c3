"""A mesh router with the link behind it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from cimsim.components.base import CheckPoint, Component, Source, band
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor, nominal

ISAAC_TECH = nominal(32)
HOP_PJ_PER_BIT = 20.74 / 256  # 256 bits through ISAAC's router (accelergy tables)
ROUTER_UM2, ROUTER_BITS, ROUTER_PORTS = 0.151e6, 32, 8
WIRE_PF_PER_MM = 0.2  # NeuroSim: 0.2 fF per um
TOGGLE_SHARE = 0.25  # random data: half the bits toggle, and half of these draw C V^2


class Router(Component):
    """Moves flits of `flit_bits`; a hop (router and link of `link_mm`) takes `hop_cycles` of `clock`."""

    ACTIONS: ClassVar = ("hop_bit",)
    SOURCES: ClassVar = (
        Source(
            "A. Shafiee et al., ISCA 2016, Table I: 8 ports of 32 bits, 0.151 mm2; accelergy: 0.081 pJ/bit",
            (
                CheckPoint(
                    {"flit_bits": 32, "ports": 8, "clock": "digital", "hop_cycles": 1, "link_mm": 0},
                    ISAAC_TECH,
                    "hop_bit",
                    0.081,
                    0.005,
                ),
                CheckPoint(
                    {"flit_bits": 32, "ports": 8, "clock": "digital", "hop_cycles": 1, "link_mm": 0},
                    ISAAC_TECH,
                    "area_um2",
                    151_000,
                    0.001,
                ),
            ),
        ),
        Source("wire capacitance 0.2 fF per um: NeuroSim V1.3 (X. Peng et al., IEDM 2019)"),
    )
    ASSUMPTIONS: ClassVar = (
        band("link_mm", 0.1, 0.5, 2.0, unit="mm", why="distance between routers: floor plans are not modelled"),
    )

    kind: Literal["router"] = "router"
    flit_bits: int = Field(ge=1)
    ports: int = Field(default=5, ge=2)
    clock: str
    hop_cycles: int = Field(ge=1)
    link_mm: float = Field(default=0.5, ge=0)

    @property
    def actions_per_access(self) -> int:
        return self.flit_bits * self.ports

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        link = WIRE_PF_PER_MM * self.link_mm * TOGGLE_SHARE * tech.supply_v**2
        return HOP_PJ_PER_BIT * energy_factor(ISAAC_TECH, tech) + link

    def base_area_um2(self, tech: Technology) -> float:
        size = self.flit_bits / ROUTER_BITS * self.ports / ROUTER_PORTS
        return ROUTER_UM2 * size * area_factor(ISAAC_TECH.node_nm, tech.node_nm)
