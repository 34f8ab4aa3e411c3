"""Sample-and-hold of one column, from the group totals of ISAAC."""

from __future__ import annotations

from typing import ClassVar, Literal

from cimsim.component import CheckPoint, Component, Source
from cimsim.scaling import Technology, area_factor, energy_factor, nominal

ISAAC_NM = 32
SAMPLE_PJ = 0.01e-3 / 1024 / 10e6 * 1e12  # 0.01 mW for 1,024, one sample each 100 ns
AREA_UM2 = 0.00004e6 / 1024  # 0.00004 mm2 for 1,024


class SampleHold(Component):
    """Holds one column's current while it waits for its converter."""

    ACTIONS: ClassVar = ("sample",)
    SOURCES: ClassVar = (
        Source(
            "A. Shafiee et al., ISCA 2016, Table I: 1,024 sample-and-holds, 0.01 mW, 0.00004 mm2, 100 ns",
            (
                CheckPoint({}, nominal(ISAAC_NM), "sample", 9.77e-4, 0.005),
                CheckPoint({}, nominal(ISAAC_NM), "area_um2", 0.039, 0.01),
            ),
        ),
    )

    kind: Literal["sample_hold"] = "sample_hold"

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        return SAMPLE_PJ * energy_factor(nominal(ISAAC_NM), tech)

    def base_area_um2(self, tech: Technology) -> float:
        return AREA_UM2 * area_factor(ISAAC_NM, tech.node_nm)
