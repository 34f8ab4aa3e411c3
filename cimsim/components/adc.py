"""Analogue-to-digital converter: by a survey's regression over published converters, or by its architecture.

Survey: T. Andrulis et al., "Modeling analog-digital-converter energy and area for compute-in-memory accelerator
design", arXiv 2404.06553 (hwcomponents-adc 1.0.21), over B. Murmann's survey. Resolution is taken as effective
bits. Below 4 bits the fit leaves its data and rises again, so a smaller converter is priced as one of 4 bits.

By architecture, at `bits` = b:
  sar    (100 b + 0.001 4^b) fF V^2, 28 nm (ZigZag-IMC, fitted to silicon); area as ISAAC's converter at other
         resolutions, and linear in the node as the survey's: capacitors shrink less than logic
  flash  2^b - 1 comparators of NeuroSim
  ramp   one comparator of NeuroSim that decides at each of 2^b steps until the ramp crosses the input, a latch
         and, shared by `shared_counter` columns, the counter
  cco    an oscillator whose periods are counted: as many as the output code; area by the survey
"""

from __future__ import annotations

from math import exp, log, log10
from typing import Any, ClassVar, Literal, Self, TypeGuard

from pydantic import Field, model_validator

from cimsim.components.base import CheckPoint, Component, Source, band
from cimsim.components.laws.logic import (
    COMPARATOR_PJ,
    COMPARATOR_UM2,
    FLIP_FLOP_PJ,
    FLIP_FLOP_UM2,
    NEUROSIM,
    area_at,
    energy_at,
)
from cimsim.components.laws.scaling import (
    Technology,
    energy_factor,
    interpolate,
    nominal,
    nominal_supply_v,
    supply_factor,
)

FEWEST_FITTED_BITS = 4
# ISAAC's converter at other resolutions, 32 nm (accelergy tables); outside, as between the last two.
SAR_UM2: dict[float, float] = {4: 361.04, 5: 476.91, 6: 626.91, 7: 845.18, 8: 1200.0, 9: 1827.9, 10: 3002.0}
SAR_NM, AREA_PER_NODE = 32, 0.993279  # the survey's exponent of area over the node
COMPARATOR_LEAST_NM = 22  # NeuroSim's smallest; matched devices below it shrink as the survey's converters do
ZIGZAG_TECH = Technology(28, 0.9)
PS_PER_S = 10**12
MOST_BITS = 12
ROW_PS, BIT_PS = 6.53, 640.0  # ZigZag-IMC, 28 nm, per bit: settling of each row's share of the bit line, and the rest
NEURRAM_STEP = {"step_pj": 0.3, "step_nm": 130, "step_v": 1.8, "step_ps": 300_000}


def _checks(bits: int, rate_hz: int, node_nm: float, pj: float, um2: float) -> tuple[CheckPoint, CheckPoint]:
    inputs = {"bits": bits, "peak_rate_hz": rate_hz}
    return (
        CheckPoint(inputs, nominal(node_nm), "convert", pj, 0.001),
        CheckPoint(inputs, nominal(node_nm), "area_um2", um2, 0.001),
    )


def _by_architecture(architecture: str, bits: int) -> dict[str, Any]:
    return {"architecture": architecture, "law": "architecture", "bits": bits, "peak_rate_hz": 100_000_000}


class Adc(Component):
    """One converter of `bits` bits at `peak_rate_hz` conversions a second.

    `step_ps` states the time of one step instead (bits of a SAR, one of a flash, 2^bits of ramps and oscillators), or
    `column_rows` the cells on its bit line: bits x (0.00653 rows + 0.64) ns, ZigZag-IMC's fit to silicon at 28 nm,
    taken at every node. The rate follows. `step_pj` states the energy of one step at `step_nm` and `step_v`.
    `tapers`: a later input step carries lower bits, and is converted with as many bits fewer as those before it
    carried (action `step`).
    """

    ACTIONS: ClassVar = ("convert", "step")
    ROLES: ClassVar = ("pool",)
    SOURCES: ClassVar = (
        Source(
            "T. Andrulis et al., ADC energy and area regression on B. Murmann's survey, arXiv 2404.06553",
            _checks(4, 100_000_000, 65, 3.50072, 9859.78)
            + _checks(8, 1_280_000_000, 32, 1.92921, 6469.27)
            + _checks(8, 200_000_000, 22, 0.847225, 2492.48)
            + _checks(10, 100_000_000, 65, 12.5425, 14442.7),
        ),
        Source(
            "by architecture, sar: J. Sun et al., ZigZag-IMC, ICCAD 2023, 28 nm, fitted to silicon",
            (
                CheckPoint(_by_architecture("sar", 4), ZIGZAG_TECH, "convert", 0.324207, 0.001),
                CheckPoint(_by_architecture("sar", 8), ZIGZAG_TECH, "convert", 0.701084, 0.001),
                CheckPoint(_by_architecture("sar", 6), ZIGZAG_TECH, "area_um2", 617.703, 0.15),
            ),
        ),
        Source(
            "by architecture, sar: area of ISAAC's 8-bit converter, scaled to 4 to 10 bits (accelergy tables), 32 nm",
            (
                CheckPoint(_by_architecture("sar", 8), nominal(32), "area_um2", 1200.0, 0.001),
                CheckPoint(_by_architecture("sar", 4), nominal(32), "area_um2", 284.375, 0.3),  # FORMS, ISCA 2021
                CheckPoint(_by_architecture("sar", 9), nominal(32), "area_um2", 1500.0, 0.25),  # Newton, 2018
            ),
        ),
        Source(
            f"by architecture, flash: multi-level sense amplifiers of {NEUROSIM}, 16 for 128 columns",
            (
                CheckPoint(_by_architecture("flash", 5), nominal(22), "convert", 0.0603763, 0.01),
                CheckPoint(_by_architecture("flash", 8), nominal(22), "convert", 0.494031, 0.01),
                CheckPoint(_by_architecture("flash", 8), nominal(32), "convert", 0.975572, 0.01),
                CheckPoint(_by_architecture("flash", 5), nominal(65), "convert", 0.335188, 0.01),
                CheckPoint(_by_architecture("flash", 5), nominal(22), "area_um2", 6683.53 / 16, 0.15),
                CheckPoint(_by_architecture("flash", 8), nominal(22), "area_um2", 70803 / 16, 0.15),
            ),
        ),
        Source(
            "stated steps: NeuRRAM (Nature 2022), 130 nm, 1.8 V, 0.3 pJ and 0.3 us each (accelergy tables)",
            (CheckPoint({"bits": 6, **NEURRAM_STEP}, Technology(130, 1.8), "convert", 1.8, 0.001),),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band(
            "energy_scale", 0.275, 1, 3.5, unit="x", why="one design against the survey: CiMLoop's macros (ISPASS 2024)"
        ),
        band("area_scale", 0.25, 1, 2, unit="x", why="low, CiMLoop's macros; high, the scatter of the survey"),
        band(
            "mean_code_fraction",
            0,
            0.5,
            1,
            unit="of 2^bits",
            why="ramp, cco: the mean output code sets how long they work",
        ),
        band(
            "decision_scale", 0.3, 1, 5, unit="x", why="ramp: NeuroSim's comparator; high, NeuRRAM's 0.3 pJ at 130 nm"
        ),
        band(
            "count_factor",
            *(2, 20, 120),
            unit="flip-flops",
            why="cco: energy of one period; low, the counter alone; high, half of HERMES' (VLSI 2021) whole energy",
        ),
    )

    kind: Literal["adc"] = "adc"
    bits: int = Field(ge=1, le=MOST_BITS)
    peak_rate_hz: int = Field(gt=0, le=10**12)
    architecture: Literal["sar", "flash", "ramp", "cco"] = "sar"
    law: Literal["survey", "architecture"] = "survey"
    step_ps: int | None = Field(default=None, gt=0)
    column_rows: int | None = Field(default=None, ge=1, le=4096)
    step_pj: float | None = Field(default=None, gt=0)
    step_nm: float | None = Field(default=None, ge=5, le=130)
    step_v: float | None = Field(default=None, gt=0)
    tapers: bool = False
    shared_counter: int = Field(default=1, ge=1)
    energy_scale: float = Field(default=1.0, gt=0)
    area_scale: float = Field(default=1.0, gt=0)
    mean_code_fraction: float = Field(default=0.5, ge=0, le=1)
    decision_scale: float = Field(default=1.0, gt=0)
    count_factor: float = Field(default=20.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _rate_follows(cls, raw: Any) -> Any:
        """With steps or rows the rate is a consequence; bad values are left for the fields to name."""
        if not isinstance(raw, dict):
            return raw
        bits, step_ps, rows = raw.get("bits"), raw.get("step_ps"), raw.get("column_rows")
        if not _is_count(bits) or bits > MOST_BITS:
            return raw
        if _is_count(step_ps):
            return raw | {"peak_rate_hz": PS_PER_S // (_num_steps(raw.get("architecture", "sar"), bits) * step_ps)}
        if _is_count(rows):
            return raw | {"peak_rate_hz": round(PS_PER_S / (bits * (ROW_PS * rows + BIT_PS)))}
        return raw

    @model_validator(mode="after")
    def _steps_are_whole(self) -> Self:
        if self.step_pj is not None and (self.step_nm is None or self.step_v is None):
            raise ValueError("step_pj: needs step_nm and step_v beside it (where that energy was measured)")
        if self.tapers and self.step_ps is None:
            raise ValueError("tapers = True: needs step_ps (fewer bits take fewer steps)")
        return self

    def num_steps(self, bits: int) -> int:
        """Steps of a conversion of so many bits."""
        return _num_steps(self.architecture, bits)

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        steps = self.num_steps(self.bits) if action == "step" else 1
        return self._convert_pj(tech) * self.energy_scale / steps

    def base_area_um2(self, tech: Technology) -> float:
        return self._design_um2(tech) * self.area_scale

    def _convert_pj(self, tech: Technology) -> float:
        if self.step_pj is not None:
            then = Technology(self.step_nm or tech.node_nm, self.step_v or tech.supply_v)
            return self.step_pj * self.num_steps(self.bits) * energy_factor(then, tech)
        if self.law == "survey":  # it holds at the node's usual supply; V^2 around it
            at_usual = self._survey_pj(tech.node_nm)
            return at_usual * supply_factor(nominal_supply_v(tech.node_nm), tech.supply_v)
        levels, worked = 2**self.bits, 2**self.bits * self.mean_code_fraction
        flip_flop_pj = energy_at(FLIP_FLOP_PJ, tech)
        if self.architecture == "sar":
            at_28nm = (0.1 * self.bits + 1e-6 * 4**self.bits) * ZIGZAG_TECH.supply_v**2
            return at_28nm * energy_factor(ZIGZAG_TECH, tech)
        if self.architecture == "flash":
            return energy_at(COMPARATOR_PJ, tech) * (levels - 1)
        if self.architecture == "cco":
            return flip_flop_pj * (self.count_factor * worked + self.bits)
        counter = 2 * levels / self.shared_counter  # a binary counter changes two bits a step
        return energy_at(COMPARATOR_PJ, tech) * self.decision_scale * worked + flip_flop_pj * (counter + self.bits)

    def _design_um2(self, tech: Technology) -> float:
        if (
            self.law == "survey" or self.architecture == "cco"
        ):  # an oscillator's mirrors and capacitor: as any converter
            log_um2 = 1.346192 + 0.993279 * log(tech.node_nm) + 0.180715 * log(self.peak_rate_hz)
            return exp(log_um2 + 0.299124 * log(self._survey_pj(tech.node_nm)))
        drawn = tech._replace(node_nm=max(tech.node_nm, COMPARATOR_LEAST_NM))
        comparator = area_at(COMPARATOR_UM2, drawn) * (tech.node_nm / drawn.node_nm) ** AREA_PER_NODE
        flip_flop = area_at(FLIP_FLOP_UM2, tech)
        if self.architecture == "sar":
            return interpolate(SAR_UM2, self.bits) * (tech.node_nm / SAR_NM) ** AREA_PER_NODE
        if self.architecture == "flash":
            return comparator * (2**self.bits - 1)
        return comparator + flip_flop * (self.bits + self.bits / self.shared_counter)

    def _survey_pj(self, node_nm: float) -> float:
        bits = max(self.bits, FEWEST_FITTED_BITS)
        sndr_db = 20 * log10(2) * bits + 10 * log10(1.5)  # 6.02 bits + 1.76, an ideal quantizer
        schreier_db = min(213.781 - 2.8719 * log(self.peak_rate_hz), 128.307 + 3.2205 * bits)
        spread = exp(26.04962 + 1.880037 * log(node_nm) - 2.829126 * log(bits) - 1.470202)
        return 0.5 * 10 ** ((sndr_db - schreier_db) / 10) * spread


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and value >= 1


def _num_steps(architecture: str, bits: int) -> int:
    return {"sar": bits, "flash": 1}.get(architecture, 1 << bits)
