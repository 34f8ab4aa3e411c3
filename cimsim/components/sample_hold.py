"""What holds one column's value for its converter: a capacitor (ISAAC), or an integrator of many samples (NeuRRAM)."""

from __future__ import annotations

from typing import ClassVar, Literal

from cimsim.components.base import CheckPoint, Component, Source
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor, nominal

ISAAC_NM = 32
SAMPLE_PJ = 0.01e-3 / 1024 / 10e6 * 1e12  # 0.01 mW for 1,024, one sample each 100 ns
AREA_UM2 = 0.00004e6 / 1024  # 0.00004 mm2 for 1,024
NEURRAM_TECH = Technology(130, 1.8)
NEURRAM_PJ = {"sample": 1.2, "integrate": 0.25}
NEURRAM_UM2 = 350.0 + 350.0  # sampling and integrating


class SampleHold(Component):
    """Holds one column's value while it waits for its converter.

    A `capacitor` samples once a read, and the next read may then begin. An `integrator` takes a sample at every drive
    of the rows and adds it once per pulse, and is busy until its value is converted (unless it `overlaps`).
    """

    ACTIONS: ClassVar = ("sample", "integrate")
    ROLES: ClassVar = ("pool",)
    SOURCES: ClassVar = (
        Source(
            "A. Shafiee et al., ISCA 2016, Table I: 1,024 sample-and-holds, 0.01 mW, 0.00004 mm2, 100 ns",
            (
                CheckPoint({}, nominal(ISAAC_NM), "sample", 9.77e-4, 0.005),
                CheckPoint({}, nominal(ISAAC_NM), "area_um2", 0.039, 0.01),
            ),
        ),
        Source(
            "integrator: NeuRRAM (Nature 2022), 130 nm, 1.8 V: 1.2 pJ a sample, 0.25 pJ a step (accelergy tables)",
            (
                CheckPoint({"design": "integrator"}, NEURRAM_TECH, "sample", 1.2, 0.001),
                CheckPoint({"design": "integrator"}, NEURRAM_TECH, "integrate", 0.25, 0.001),
            ),
        ),
    )

    kind: Literal["sample_hold"] = "sample_hold"
    design: Literal["capacitor", "integrator"] = "capacitor"
    overlaps: bool | None = None

    def actions(self) -> tuple[str, ...]:
        return self.ACTIONS if self.design == "integrator" else ("sample",)

    @property
    def frees_array(self) -> bool:
        """Whether the next read may begin before this value is converted."""
        return self.design == "capacitor" if self.overlaps is None else self.overlaps

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        if self.design == "integrator":
            return NEURRAM_PJ[action] * energy_factor(NEURRAM_TECH, tech)
        return SAMPLE_PJ * energy_factor(nominal(ISAAC_NM), tech) if action == "sample" else 0.0

    def base_area_um2(self, tech: Technology) -> float:
        if self.design == "integrator":
            return NEURRAM_UM2 * area_factor(NEURRAM_TECH.node_nm, tech.node_nm)
        return AREA_UM2 * area_factor(ISAAC_NM, tech.node_nm)
