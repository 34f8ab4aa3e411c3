"""Row driver or digital-to-analogue converter of one word line: by amplitude, by count or by width of pulses."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from cimsim.components.base import REFERENCE, Activity, CheckPoint, Component, Source, band
from cimsim.components.laws.logic import NEUROSIM
from cimsim.components.laws.scaling import Technology, area_factor, energy_factor, nominal

ZIGZAG_TECH = Technology(28, 0.9)
CAPACITANCE_FF_PER_BIT = 50.0  # ZigZag-IMC, 28 nm, fitted to silicon: (50 fF x bits) V^2 per conversion
# A driver of one bit is a chain of inverters, each a quarter of the next: together a third of the line it drives
# (N. Weste and D. Harris, CMOS VLSI Design, 4th ed., 2011), the line itself being the array's.
CHAIN_SHARE = 1 / 3
USUAL_LINE_FF, LINE_NM = 128 * 0.35, 28  # of an array of 128 columns, where no array is around
ROW_DRIVER_UM2, ROW_DRIVER_NM = 417.138 / 128, 22  # NeuroSim V1.3, row drivers of a 128 x 128 SRAM array
BRAHMS_UM2, BRAHMS_NM, BRAHMS_BITS = 438.0, 40, 8  # BRAHMS 8-bit DAC
TIMELY_PJ, TIMELY_UM2, TIMELY_NM, TIMELY_BITS = 0.0375, 240.0, 65, 8  # TIMELY, 8-bit digital-to-time converter


class Dac(Component):
    """Drives one row for one input step of at most `bits` bits.

    `design`: `amplitude` (a driver, or a capacitive converter of several bits), `resistor_ladder` (`hold_ps` under
    its static current), `pulse_count` (2^b - 1 pulses for b bits) or `pwm` (one pulse of up to 2^b units). With
    `holds` a pulse count goes bit by bit: the line is driven once for bit i and integrated 2^i times.
    An input of more bits takes several steps, most significant first, `max_steps` at most: the last takes the rest.
    A `bipolar` driver gives either sign, so that a signed input's sign is no bit of the step.
    `load_ff`, swung by `swing_v` from a rail of `rail_v` (the supply unless stated), states the line's own energy: of
    lines whose input is on, or of all if the line is driven `always` (a row's select line).
    `line_ff` is the line that a driver of one bit is sized for: its array's, unless stated.
    """

    ACTIONS: ClassVar = ("drive",)
    ROLES: ClassVar = ("pool",)
    SOURCES: ClassVar = (
        Source(
            "J. Sun et al., ZigZag-IMC, ICCAD 2023, 28 nm: converters of 50 fF per bit, fitted to silicon",
            (CheckPoint({"bits": 8}, ZIGZAG_TECH, "drive", 0.324, 0.001),),
        ),
        Source(
            "one bit: N. Weste and D. Harris, CMOS VLSI Design, 2011: a chain of inverters has a third of its load;"
            " with its line 17 fJ at 22 nm and 128 columns, where NeuroSim V1.3's row driver has 8.2",
            (CheckPoint({"bits": 1}, Technology(28, 0.9), "drive", 44.8e-3 / 6 * 0.81, 0.001),),
        ),
        Source(
            f"area, linear in bits: row driver of {NEUROSIM}; 8-bit DAC of BRAHMS (accelergy tables)",
            (
                CheckPoint({"bits": 1}, Technology(22, 0.85), "area_um2", 417.138 / 128, 0.001),
                CheckPoint({"bits": 8}, Technology(40, 0.9), "area_um2", 438.0, 0.001),
            ),
        ),
        Source(
            "pwm, linear in bits: TIMELY, ISCA 2020, 65 nm, 8-bit digital-to-time converter (accelergy tables)",
            (
                CheckPoint({"bits": 8, "design": "pwm"}, nominal(65), "drive", 0.0375, 0.001),
                CheckPoint({"bits": 8, "design": "pwm"}, nominal(65), "area_um2", 240.0, 0.001),
            ),
        ),
    )
    ASSUMPTIONS: ClassVar = (
        band(
            "energy_scale",
            0.07,
            1,
            10,
            unit="x",
            why="one design against another: low, MNSIM's 1-bit driver; high, ISAAC's",
        ),
        band("ladder_ohm", 1_000, 20_000, 200_000, unit="ohm", why="resistor ladder, end to end: no published figure"),
    )

    kind: Literal["dac"] = "dac"
    bits: int = Field(ge=1, le=8)
    design: Literal["amplitude", "resistor_ladder", "pulse_count", "pwm"] = "amplitude"
    holds: bool = False
    max_steps: int | None = Field(default=None, ge=1)
    bipolar: bool = False
    hold_ps: int | None = Field(default=None, gt=0)
    ladder_ohm: float = Field(default=20_000, gt=0)
    load_ff: float | None = Field(default=None, ge=0)
    swing_v: float | None = Field(default=None, gt=0)
    rail_v: float | None = Field(default=None, gt=0)
    always: bool = False
    line_ff: float | None = Field(default=None, gt=0)
    energy_scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _design_is_whole(self) -> Self:
        if self.design == "resistor_ladder" and self.hold_ps is None:
            raise ValueError("hold_ps: this key is required with design: resistor_ladder (its current flows so long)")
        if self.holds and self.design != "pulse_count":
            raise ValueError("holds = True: needs design: pulse_count")
        if self.always and self.load_ff is None:
            raise ValueError("always = True: needs load_ff (what is driven, whatever the input)")
        return self

    def step_bits(self, input_bits: int) -> tuple[int, ...]:
        """Bits of each step of an input of `input_bits` bits (its sign, if the driver is bipolar, among them)."""
        left = max(1, input_bits - 1) if self.bipolar else input_bits
        steps: list[int] = []
        while left > 0:
            is_last = self.max_steps is not None and len(steps) + 1 == self.max_steps
            steps.append(left if is_last else min(self.bits, left))
            left -= steps[-1]
        return tuple(steps)

    def pulses(self, bits: int) -> int:
        """Time units in which cells conduct in a step of so many bits, each of one pulse's length."""
        return {"pulse_count": (1 << bits) - 1, "pwm": 1 << bits}.get(self.design, 1)

    def drives(self, bits: int) -> int:
        """How often the line is driven in a step of so many bits."""
        if self.design != "pulse_count":
            return 1
        return bits if self.holds else (1 << bits) - 1

    def base_energy_pj(self, action: str, tech: Technology) -> float:
        """One drive of the line, half the inputs on."""
        return self.drive_pj(tech, REFERENCE.input_density)

    def data_factor(self, action: str, tech: Technology, activity: Activity) -> float:
        return self.drive_pj(tech, activity.input_density) / self.drive_pj(tech, REFERENCE.input_density)

    def drive_pj(self, tech: Technology, input_density: float) -> float:
        """Energy of one drive in pJ at a mean input level (0 to 1). The fits hold at half."""
        if self.load_ff is not None:
            on = 1.0 if self.always else input_density
            line_pj = on * self.load_ff * 1e-3 * (self.swing_v or tech.supply_v) * (self.rail_v or tech.supply_v)
        else:
            line_pj = input_density / REFERENCE.input_density * self._fitted_pj(tech)
        ladder_pj = tech.supply_v**2 / self.ladder_ohm * (self.hold_ps or 0)
        return (line_pj + (ladder_pj if self.design == "resistor_ladder" else 0.0)) * self.energy_scale

    def _fitted_pj(self, tech: Technology) -> float:
        if self.design == "pwm":
            return TIMELY_PJ * self.bits / TIMELY_BITS * energy_factor(nominal(TIMELY_NM), tech)
        if self.bits == 1 or self.design == "pulse_count":
            line_ff = self.line_ff or USUAL_LINE_FF * tech.node_nm / LINE_NM
            return REFERENCE.input_density * CHAIN_SHARE * line_ff * tech.supply_v**2 * 1e-3
        at_28nm = CAPACITANCE_FF_PER_BIT * self.bits * ZIGZAG_TECH.supply_v**2 * 1e-3
        return at_28nm * energy_factor(ZIGZAG_TECH, tech)

    def base_area_um2(self, tech: Technology) -> float:
        one = ROW_DRIVER_UM2 * area_factor(ROW_DRIVER_NM, tech.node_nm)
        if self.design == "pulse_count":
            return one
        if self.design == "pwm":
            return TIMELY_UM2 * self.bits / TIMELY_BITS * area_factor(TIMELY_NM, tech.node_nm)
        eight = BRAHMS_UM2 * area_factor(BRAHMS_NM, tech.node_nm)
        return one + (eight - one) * (self.bits - 1) / (BRAHMS_BITS - 1)
