"""Free parameters of the component models, fitted jointly over chips.

A parameter multiplies one term of a figure (say the cells' share of a macro's area). Least squares on the logarithms
of modelled over published, one weight per chip and quantity, and each parameter held to its prior: log(parameter) is
normal about 0, where the literature's models stand, with the spread of that literature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from math import exp, log
from typing import Any, NamedTuple

import numpy as np

from cimsim.components.digital_array import DigitalArray
from cimsim.components.laws.memory_array import MemoryArray
from cimsim.validation.quantities import Subject, modelled
from cimsim.validation.reference import Reference, load_reference

SCATTER = 0.35  # of one chip about the model, in log: designs differ by about 1.4
Z90 = 1.645  # of a normal distribution: 90 % lie within


class Parameter(NamedTuple):
    """A free factor. `sigma` is the standard deviation of its logarithm before any chip; `adopted`: whether the
    models carry the fitted value, in a field of that name."""

    name: str
    of: str
    sigma: float
    adopted: bool


PARAMETERS = (
    Parameter("periphery_factor", "area of arrays over their cells", 0.6, True),
    Parameter("logic_factor", "area of adder trees over NeuroSim's adders", 0.6, True),
    Parameter("digital_energy", "adders, gates and registers of digital arrays", 0.6, False),
    Parameter("charge_energy", "charge on the lines and cells of an analogue array", 0.6, False),
    Parameter("sar_energy", "a conversion by the law of SAR converters", 0.6, False),
    Parameter("driver_energy", "row drivers and converters", 0.8, False),
)


class Evidence(NamedTuple):
    """A quantity of a reference that nothing measured on the chip goes into. `points`: the start of their names."""

    ref: str
    about: str  # "energy", "area" or "time"
    quantity: str
    points: str = ""
    in_fit: bool = True


EVIDENCE = (
    Evidence("jia65", "energy", "energy_per_output.adc"),
    Evidence("jia65", "energy", "energy_per_output.crossbar+dac"),
    Evidence("aimc1", "energy", "energy_per_mac"),
    Evidence("tsmc22", "energy", "energy_per_mvm"),
    Evidence("dimc1", "energy", "energy_per_mac"),
    Evidence("colonnade", "energy", "energy_per_mac"),
    Evidence("jia65", "area", "area.adc"),
    Evidence("jia65", "area", "area.crossbar+dac"),
    Evidence("aimc1", "area", "area", in_fit=False),  # repeaters and decoupling capacitors inside
    Evidence("aimc2", "area", "area"),
    Evidence("tsmc22", "area", "area"),
    Evidence("dimc1", "area", "area"),
    Evidence("dimc2", "area", "area"),
    Evidence("colonnade", "area", "area"),
    Evidence("neurram", "area", "area.crossbar", in_fit=False),  # kept to see what the fit says of it
    Evidence("aimc1", "time", "mvm_latency"),
    Evidence("aimc2", "time", "cycle_time"),
    Evidence("dimc1", "time", "cycle_time"),
    Evidence("dimc2", "time", "cycle_time"),
)
NO_EVIDENCE = {
    "isaac": "its energies and areas are its own: only their sums are tested",
    "neurram": "energy: neurons and word lines at the paper's own figures; no other chip reads voltages",
    "eva": "energy and area: its own; no other chip gathers products",
}


class Observation(NamedTuple):
    """One published figure of one piece of evidence: log(modelled / published) with all factors at 1, and the share
    of each factor's term in the modelled figure."""

    evidence: Evidence
    weight_share: float
    log_ratio: float
    shares: Mapping[str, float]


class Fitted(NamedTuple):
    """Logarithms of the factors and their standard deviations."""

    logs: Mapping[str, float]
    deviations: Mapping[str, float]

    def interval(self, name: str) -> tuple[float, float, float]:
        """Low, value and high of a factor, 90 %."""
        value, spread = self.logs[name], Z90 * self.deviations[name]
        return exp(value - spread), exp(value), exp(value + spread)


def fit(observations: Sequence[Observation], names: Sequence[str]) -> Fitted:
    """Factors `names` by Gauss-Newton; the others stay at 1."""
    prior = {parameter.name: parameter.sigma for parameter in PARAMETERS}
    logs = np.zeros(len(names))
    matrix = np.eye(len(names))
    for _ in range(50):
        rows, residuals = [], []
        for seen in observations:
            terms = np.array([seen.shares.get(name, 0.0) for name in names]) * np.exp(logs)
            whole = terms.sum() + 1 - sum(seen.shares.get(name, 0.0) for name in names)
            scale = seen.weight_share**0.5 / SCATTER
            rows.append(scale * terms / whole)
            residuals.append(scale * (seen.log_ratio + log(whole)))
        held = np.array([1 / prior[name] for name in names])
        jacobian = np.vstack([*rows, np.diag(held)])
        matrix = np.linalg.inv(jacobian.T @ jacobian)
        step = matrix @ (jacobian.T @ np.concatenate([residuals, held * logs]))
        logs = logs - step
        if np.abs(step).max() < 1e-10:
            break
    deviations = np.sqrt(np.diag(matrix))
    return Fitted(dict(zip(names, logs, strict=True)), dict(zip(names, deviations, strict=True)))


def predicted(seen: Observation, logs: Mapping[str, float]) -> float:
    """Log(modelled / published) with these factors."""
    return seen.log_ratio + log(sum(share * exp(logs.get(name, 0.0)) for name, share in seen.shares.items()))


class LeftOut(NamedTuple):
    """Geometric mean ratios of one piece of evidence: literature alone, fitted to all chips, fitted to the others;
    and the typical factor either way of the last."""

    ref: str
    about: str
    quantity: str
    num_points: int
    literature_ratio: float
    fitted_ratio: float
    left_out_ratio: float
    factor: float
    in_fit: bool


def leave_one_out(adopted: bool = True) -> list[LeftOut]:
    """Each chip predicted by what the others say. With `adopted` those parameters that the models carry, else all."""
    names = [parameter.name for parameter in PARAMETERS if parameter.adopted or not adopted]
    seen = observations()
    whole = fit([one for one in seen if one.evidence.in_fit], names)
    found = []
    for evidence in EVIDENCE:
        own = [one for one in seen if one.evidence == evidence]
        others = fit([one for one in seen if one.evidence.in_fit and one.evidence.ref != evidence.ref], names)
        literature, fitted, left = (
            exp(_mean(predicted(one, logs) for one in own)) for logs in ({}, whole.logs, others.logs)
        )
        factor = mean_factor(exp(predicted(one, others.logs)) for one in own)
        found.append(
            LeftOut(evidence.ref, evidence.about, evidence.quantity, len(own), literature, fitted, left, factor,
                    evidence.in_fit)
        )  # fmt: skip
    return found


def parameters() -> list[tuple[Parameter, tuple[float, float, float], tuple[str, ...]]]:
    """Every free parameter with its 90 % interval and the chips that inform it."""
    seen = [one for one in observations() if one.evidence.in_fit]
    found = fit(seen, [parameter.name for parameter in PARAMETERS])
    result = []
    for parameter in PARAMETERS:
        chips = tuple(dict.fromkeys(o.evidence.ref for o in seen if o.shares.get(parameter.name, 0) > 0.1))
        result.append((parameter, found.interval(parameter.name), chips))
    return result


def mean_factor(ratios: Iterable[float]) -> float:
    """Typical factor either way: exp of the mean absolute logarithm."""
    return exp(_mean(abs(log(ratio)) for ratio in ratios))


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


@cache
def observations() -> tuple[Observation, ...]:
    """All evidence, modelled with every factor at 1."""
    return tuple(one for evidence in EVIDENCE for one in _observe(evidence, load_reference(evidence.ref)))


def _observe(evidence: Evidence, reference: Reference) -> list[Observation]:
    targets = [t for t in reference.targets if t.quantity == evidence.quantity and t.point.startswith(evidence.points)]
    found = []
    for target in targets:
        subject = Subject(reference, reference.points[target.point])
        value, _ = modelled(target.quantity, target.unit, subject)
        terms = _terms(evidence, subject)
        whole = sum(terms.values())
        plain = sum(term / _carried(name) for name, term in terms.items())  # with factors that models carry taken out
        shares = {name: term / _carried(name) / plain for name, term in terms.items()}
        log_ratio = log(value / target.value * plain / whole)
        found.append(Observation(evidence, 1 / len(targets), log_ratio, shares))
    return found


def _carried(name: str) -> float:
    """What the models multiply a term by already."""
    holder: dict[str, Any] = {"periphery_factor": MemoryArray, "logic_factor": DigitalArray}
    return holder[name].model_fields[name].default if name in holder else 1.0


def _terms(evidence: Evidence, subject: Subject) -> dict[str, float]:
    """The modelled figure cut into terms, each under the name of its factor ("" for none)."""
    if evidence.about == "time":
        return {"": 1.0}
    parts = {part.name: part.component for part in subject.chip.placed}
    _, _, rest = evidence.quantity.partition(".")
    terms: dict[str, float] = {}
    for name in rest.split("+") if rest else subject.macro.area_um2:
        cut = _energy_terms if evidence.about == "energy" else _area_terms
        for factor, value in cut(name, parts[name], subject).items():
            terms[factor] = terms.get(factor, 0.0) + value
    return terms


def _energy_terms(name: str, part: Any, subject: Subject) -> dict[str, float]:
    factor = {"digital_array": "digital_energy", "crossbar": "charge_energy", "adc": "sar_energy",
              "dac": "driver_energy"}.get(part.kind, "")  # fmt: skip
    return {factor: sum(subject.macro.energy_pj.get(name, {}).values())}


def _area_terms(name: str, part: Any, subject: Subject) -> dict[str, float]:
    whole, tech = subject.macro.area_um2[name], subject.chip.technology
    if part.kind == "crossbar":
        return {"periphery_factor": whole}
    if part.kind != "digital_array":
        return {"": whole}
    cells = part.cells_um2(part.cell_f2, tech) / part.base_area_um2(tech) * whole
    return {"periphery_factor": cells, "logic_factor" if part.reduction == "adder_tree" else "": whole - cells}
