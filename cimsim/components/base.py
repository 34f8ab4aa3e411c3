"""The record of a priced part: what it costs per action, per area and at rest, and who says so."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator

from cimsim.components.laws.scaling import Technology
from workloads.errors import problems_of
from workloads.layer import Frozen


class Activity(NamedTuple):
    """How much of a layer's data switches: mean level of an input step, mean level of a cell, both as parts of the
    largest, and the mean of their product where a step meets a cell (`joint`: cells and inputs of one row may go
    together). Unit energies are stated at REFERENCE."""

    input_density: float
    cell_density: float
    joint_density: float

    @classmethod
    def of_means(cls, input_density: float, cell_density: float) -> Activity:
        """Inputs and cells that know nothing of each other."""
        return cls(input_density, cell_density, input_density * cell_density)


REFERENCE = Activity.of_means(0.5, 0.5)


class CheckPoint(NamedTuple):
    """A published figure that the model must meet: `inputs` are fields of the part.

    `output` is an action (value in pJ) or `area_um2` or `leakage_uw`; `tolerance` is relative.
    """

    inputs: dict[str, Any]
    technology: Technology
    output: str
    value: float
    tolerance: float


class Source(NamedTuple):
    """A citation and the figures of it that the model is held to."""

    citation: str
    checks: tuple[CheckPoint, ...] = ()


class Assumption(Frozen):
    """A value the literature does not settle, with its band. In a model, `name` is the field to vary."""

    name: str
    why: str
    low: float
    nominal: float
    high: float
    unit: str

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.nominal <= self.high:
            raise ValueError(f"nominal = {self.nominal}: must lie in its band {self.low} to {self.high}")
        return self

    def __str__(self) -> str:
        band = f"{self.nominal:g} ({self.low:g} to {self.high:g}) {self.unit}".strip()
        return f"assumed {self.name} = {band}: {self.why}"


class Stated(Frozen):
    """Figures printed in the chip's paper for a group of `of` instances; `energy_pj` is of one action each. Zero says
    that another part's figure has it inside.

    They anchor the model: price = stated x model now / model at the values `at` (fields of the part,
    `node_nm`, `supply_v`; what is not named there is as it is now). So a sweep moves a printed figure by
    the model's law.
    """

    power_mw: float | None = Field(default=None, ge=0)
    area_mm2: float | None = Field(default=None, ge=0)
    leakage_mw: float | None = Field(default=None, gt=0)
    energy_pj: dict[str, float] = {}
    of: int = Field(ge=1)
    at: dict[str, int | float | str | bool | None] = {}
    source: str


def band(name: str, low: float, nominal: float, high: float, *, unit: str, why: str) -> Assumption:
    """An assumption of a model; `name` is the field that holds it."""
    return Assumption(name=name, low=low, nominal=nominal, high=high, unit=unit, why=why)


LEAKAGE_SCALE = band(
    "leakage_scale",
    1,
    1,
    130,
    unit="x",
    why="low-standby-power devices; Aladdin's 40 nm adder leaks 130 times this per area",
)


class Component(Frozen, ABC):
    """One priced part; its YAML block is this record. All prices are per instance.

    `count` parts sit in each enclosing level (`per: row` or `column`: per word line or bit line of its
    crossbars); one instance serves `shared_by` of these levels. `peak_rate_hz` counts accesses of
    `actions_per_access` main actions each. The main action is the first of `ACTIONS`.
    """

    ACTIONS: ClassVar[tuple[str, ...]]
    ROLES: ClassVar[tuple[str, ...]] = ()  # it may play, beside none
    STATED_ACTIONS: ClassVar[tuple[str, ...] | None] = None  # what a stated power pays for; None: every action
    SOURCES: ClassVar[tuple[Source, ...]] = ()
    ASSUMPTIONS: ClassVar[tuple[Assumption, ...]] = ()
    OFF_CHIP: ClassVar[bool] = False
    IS_ARRAY: ClassVar[bool] = False  # what computes on weights: exactly one part of the innermost level

    kind: str
    count: int = Field(default=1, ge=1)
    shared_by: int = Field(default=1, ge=1)
    per: Literal["level", "row", "column"] = "level"
    role: str = ""
    peak_rate_hz: int | None = Field(default=None, gt=0, le=10**12)
    leakage_scale: float = Field(default=1.0, ge=0)
    stated: Stated | None = None
    assumptions: tuple[Assumption, ...] = ()

    @model_validator(mode="after")
    def _role_is_known(self) -> Self:
        if self.role not in ("", *self.ROLES):
            raise ValueError(f"role = {self.role!r}: must be {' or '.join(self.ROLES) or 'left out'}")
        return self

    @model_validator(mode="after")
    def _stated_is_usable(self) -> Self:
        if self.stated is None:
            return self
        if self.stated.power_mw is not None and self.peak_rate_hz is None:
            raise ValueError("peak_rate_hz: required beside stated.power_mw (energy = power / rate)")
        if unpriced := sorted(set(self.stated.energy_pj) - set(self.ACTIONS)):
            raise ValueError(f"stated.energy_pj: no such actions {unpriced} (known: {', '.join(self.ACTIONS)})")
        known = {*type(self).model_fields, "node_nm", "supply_v"} - {"stated"}
        if unknown := sorted(set(self.stated.at) - known):
            raise ValueError(f"stated.at: no such fields {unknown} (known: {', '.join(sorted(known))})")
        if not self.stated.at:
            return self
        try:
            self._as_stated(Technology(1.0, 1.0))
        except ValidationError as error:
            raise ValueError(f"stated.at: {'; '.join(problems_of(error))}") from None
        return self

    @abstractmethod
    def base_energy_pj(self, action: str, tech: Technology) -> float:
        """The model's dynamic energy of one action of this part, in pJ, before any stated figure."""

    @abstractmethod
    def base_area_um2(self, tech: Technology) -> float:
        """The model's area in um2, before any stated figure."""

    def base_leakage_uw(self, tech: Technology) -> float:
        """The model's static power in uW; 0 where the model's figures are whole powers."""
        return 0.0

    @property
    def actions_per_access(self) -> int:
        """Main actions in one access at `peak_rate_hz`."""
        return 1

    def actions(self) -> tuple[str, ...]:
        return self.ACTIONS

    @property
    def rate_hz(self) -> int:
        """`peak_rate_hz` of a part of a loaded chip."""
        assert self.peak_rate_hz is not None, "load_chip refuses a part without a rate"
        return self.peak_rate_hz

    def energy_pj(self, action: str, tech: Technology) -> float:
        """Dynamic energy of one action in pJ. Raises KeyError for an unknown action."""
        if action not in self.ACTIONS:
            raise KeyError(f"{self.kind} has no action {action!r}; known: {', '.join(self.ACTIONS)}")
        return self.base_energy_pj(action, tech) * self._power_anchor(action, tech)

    def data_factor(self, action: str, tech: Technology, activity: Activity) -> float:
        """Energy of an action with these data over that at REFERENCE; 1 where it does not depend on data."""
        return 1.0

    def area_um2(self, tech: Technology) -> float:
        """Area of one instance in um2."""
        if self.stated is None or self.stated.area_mm2 is None:
            return self.base_area_um2(tech)
        part, then = self._as_stated(tech)
        return self.base_area_um2(tech) * self.stated.area_mm2 * 1e6 / self.stated.of / part.base_area_um2(then)

    def leakage_uw(self, tech: Technology) -> float:
        """Static power of one instance in uW; 0 beside a stated power, which has its static share inside."""
        if self.stated is not None and self.stated.leakage_mw is not None:
            part, then = self._as_stated(tech)
            ratio = self.base_leakage_uw(tech) / part.base_leakage_uw(then)
            return self.stated.leakage_mw * 1e3 / self.stated.of * ratio * self.leakage_scale
        if self.stated is not None and self.stated.power_mw is not None:
            return 0.0
        return self.base_leakage_uw(tech) * self.leakage_scale

    def peak_energy_pj(self, tech: Technology) -> float:
        """Energy of one access in pJ."""
        return self.energy_pj(self.ACTIONS[0], tech) * self.actions_per_access

    def peak_power_mw(self, tech: Technology) -> float:
        """Power of one instance, accessed at `peak_rate_hz` (leakage alone without a rate), in mW."""
        dynamic_mw = self.peak_energy_pj(tech) * (self.peak_rate_hz or 0) * 1e-9
        return dynamic_mw + self.leakage_uw(tech) * 1e-3 + self.always_on_mw(tech)

    def always_on_mw(self, tech: Technology) -> float:
        """Power that one instance draws whatever it does, in mW; never part of an action's energy."""
        return 0.0

    def evidence(self) -> tuple[str, ...]:
        """Citations and assumptions behind this part's prices, the stated figure first."""
        stated = (f"stated: {self.stated.source}",) if self.stated else ()
        models = tuple(source.citation for source in self.SOURCES)
        return stated + models + tuple(str(item) for item in (*self.assumptions, *self.ASSUMPTIONS))

    def _as_stated(self, tech: Technology) -> tuple[Self, Technology]:
        """This part and its technology at the values where the stated figure holds."""
        at = dict(self.stated.at) if self.stated else {}
        then = Technology(float(at.pop("node_nm", 0) or tech.node_nm), float(at.pop("supply_v", 0) or tech.supply_v))
        return type(self).model_validate(self.model_dump(exclude={"stated"}) | at), then

    def _power_anchor(self, action: str, tech: Technology) -> float:
        """Stated energy of this or the main action over the model's; 1 where nothing is stated."""
        paid = self.STATED_ACTIONS or self.ACTIONS
        if self.stated is not None and action in self.stated.energy_pj:
            part, then = self._as_stated(tech)
            return self.stated.energy_pj[action] / part.base_energy_pj(action, then)
        if self.stated is None or self.stated.power_mw is None or action not in paid:
            return 1.0
        part, then = self._as_stated(tech)
        rate = (part.peak_rate_hz or 1) * part.actions_per_access
        stated_pj = self.stated.power_mw * 1e9 / self.stated.of / rate
        return stated_pj / part.base_energy_pj(self.ACTIONS[0], then)
