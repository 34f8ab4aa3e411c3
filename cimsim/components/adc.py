"""Analogue-to-digital converter, by regression over the published converters of B. Murmann's survey.

Model and coefficients: T. Andrulis et al., "Modeling analog-digital-converter energy and area for
compute-in-memory accelerator design", arXiv 2404.06553 (hwcomponents-adc 1.0.21). Resolution is taken as
effective bits. Below 4 bits the fit leaves its data and rises again, so a smaller converter is priced as one
of 4 bits.
"""

from __future__ import annotations

from math import exp, log, log10
from typing import ClassVar, Literal

from pydantic import Field

from cimsim.component import CheckPoint, Component, Source, band
from cimsim.scaling import Technology, nominal, nominal_supply_v, supply_factor

FEWEST_FITTED_BITS = 4


def _checks(bits: int, rate_hz: int, node_nm: float, pj: float, um2: float) -> tuple[CheckPoint, CheckPoint]:
    inputs = {"bits": bits, "peak_rate_hz": rate_hz}
    return (
        CheckPoint(inputs, nominal(node_nm), "convert", pj, 0.001),
        CheckPoint(inputs, nominal(node_nm), "area_um2", um2, 0.001),
    )


class Adc(Component):
    """One converter of `bits` bits at `peak_rate_hz` conversions a second."""

    ACTIONS: ClassVar = ("convert",)
    SOURCES: ClassVar = (
        Source(
            "T. Andrulis et al., ADC energy and area regression on B. Murmann's survey, arXiv 2404.06553",
            _checks(4, 100_000_000, 65, 3.50072, 9859.78)
            + _checks(8, 1_280_000_000, 32, 1.92921, 6469.27)
            + _checks(8, 200_000_000, 22, 0.847225, 2492.48)
            + _checks(10, 100_000_000, 65, 12.5425, 14442.7),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band("energy_scale", 0.275, 1, 3.5, "x", "one design against the survey: CiMLoop's macros (ISPASS 2024)"),
    )

    kind: Literal["adc"] = "adc"
    bits: int = Field(ge=1, le=12)
    peak_rate_hz: int = Field(gt=0, le=10**12)
    energy_scale: float = Field(default=1.0, gt=0)

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        """The regression holds at the node's usual supply; V^2 around it."""
        at_nominal = self._nominal_pj(tech.node_nm)
        return at_nominal * supply_factor(nominal_supply_v(tech.node_nm), tech.supply_v) * self.energy_scale

    def base_area_um2(self, tech: Technology) -> float:
        log_um2 = 1.346192 + 0.993279 * log(tech.node_nm) + 0.180715 * log(self.peak_rate_hz)
        return exp(log_um2 + 0.299124 * log(self._nominal_pj(tech.node_nm)))

    def _nominal_pj(self, node_nm: float) -> float:
        bits = max(self.bits, FEWEST_FITTED_BITS)
        sndr_db = 20 * log10(2) * bits + 10 * log10(1.5)  # 6.02 bits + 1.76, an ideal quantizer
        schreier_db = min(213.781 - 2.8719 * log(self.peak_rate_hz), 128.307 + 3.2205 * bits)
        spread = exp(26.04962 + 1.880037 * log(node_nm) - 2.829126 * log(bits) - 1.470202)
        return 0.5 * 10 ** ((sndr_db - schreier_db) / 10) * spread
