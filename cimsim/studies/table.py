"""CostTable: [layer, candidate format] -> energy, latency and area, what the search loss asks for."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.cost.prices import Prices
from cimsim.dataflow import LayerWork
from cimsim.dataflow.place import Unmappable
from cimsim.deploy.deployment import deploy, holds
from cimsim.engine.alone import cost_alone, fixed_cost, layer_work
from cimsim.engine.whole import images_of
from workloads.errors import InputError
from workloads.layer import Network
from workloads.plan import LayerPlan


class CostTable(NamedTuple):
    """Costs of each layer in each format, alone on the chip. Masked entries are +inf, with a reason.

    Arrays are float64 [layers, formats]. `fixed_*` is what every plan pays: input, digital nodes.
    The table is additive and the chip is not: `resident` is the weight state it assumes.
    """

    chip: str
    layers: tuple[str, ...]
    formats: tuple[str, ...]
    energy_pj: np.ndarray
    latency_ns: np.ndarray
    area_um2: np.ndarray  # of the arrays in use
    fixed_energy_pj: float
    fixed_latency_ns: float
    resident: bool
    masked: dict[str, str]  # format, or layer/format -> reason

    @property
    def allowed(self) -> np.ndarray:
        return np.isfinite(self.energy_pj)

    def cost_of(self, formats: dict[str, str]) -> tuple[float, float, float]:
        """Energy (pJ), latency (ns) and area (um2) of a plan by the table."""
        pick = [self.formats.index(formats[name]) for name in self.layers]
        rows = np.arange(len(self.layers))
        energy, latency, area = (a[rows, pick].sum() for a in (self.energy_pj, self.latency_ns, self.area_um2))
        return energy + self.fixed_energy_pj, latency + self.fixed_latency_ns, area

    def candidates(self) -> dict[str, list[str]]:
        """Layer -> the formats that are not masked."""
        return {
            layer: [fmt for fmt, is_allowed in zip(self.formats, row, strict=True) if is_allowed]
            for layer, row in zip(self.layers, self.allowed, strict=True)
        }

    def reference_pj(self) -> float:
        """What budgets are shares of: the dearest allowed format in every layer (8-bit linear, as a rule)."""
        return float(np.where(self.allowed, self.energy_pj, 0.0).max(axis=1).sum()) + self.fixed_energy_pj

    def budget_problem(self, share: float) -> str:
        """Why no plan keeps an energy budget of `share` of the reference; empty if one does."""
        least = self.minimum_pj() / self.reference_pj()
        if share >= least:
            return ""
        shown = ceil(least * 1e4) / 1e4  # rounded up: the number printed is one that works
        return (f"budget = {share}: no plan on {self.chip} needs less than {shown:.4f} of the reference "
                f"{self.reference_pj() / 1e3:.4g} nJ; raise the budget or allow cheaper formats")  # fmt: skip

    def minimum_pj(self) -> float:
        """The least energy any plan has by the table."""
        return float(self.energy_pj.min(axis=1).sum()) + self.fixed_energy_pj

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> CostTable:
        """The table that `to_dict` wrote."""
        own: dict[str, Any] = {name: tuple(plain[name]) for name in ("layers", "formats")}
        for name in ("energy_pj", "latency_ns", "area_um2"):
            own[name] = np.array([[inf if v is None else v for v in row] for row in plain[name]], dtype=np.float64)
        return cls(**(plain | own))

    def to_dict(self) -> dict[str, Any]:
        plain = self._asdict()
        for name in ("energy_pj", "latency_ns", "area_um2"):
            plain[name] = [[None if v == np.inf else v for v in row] for row in plain[name].tolist()]
        return plain


def build_table(
    network: Network,
    chip: Chip,
    formats: tuple[str, ...],
    *,
    fixed_formats: Mapping[str, str] | None = None,
    activation: str = "int8",
    images_per_weight_load: float | None = None,
) -> CostTable:
    """Simulate each layer alone in each format. Raises InputError if some layer has no format left.

    `fixed_formats` gives some layers one format, the others all of `formats`. The weight state is that of the plan
    with the dearest format in every layer: a chip which holds that plan holds every other. Within a process the same
    question gets the same table, whose arrays cannot be written.
    """
    fixed = fixed_formats or {}
    question = (network.model_dump_json(), chip.content_hash(), formats, tuple(sorted(fixed.items())),
                activation, images_per_weight_load)  # fmt: skip
    if question not in _ANSWERS:
        if len(_ANSWERS) >= MOST_ANSWERS:
            _ANSWERS.pop(next(iter(_ANSWERS)))
        _ANSWERS[question] = _build(
            network, chip, formats, fixed=fixed, activation=activation, images_per_weight_load=images_per_weight_load
        )
    return _ANSWERS[question]


MOST_ANSWERS = 64  # tables kept, the oldest go first
_ANSWERS: dict[tuple, CostTable] = {}


def _build(
    network: Network, chip: Chip, formats: tuple[str, ...], *, fixed: Mapping[str, str], activation: str,
    images_per_weight_load: float | None,
) -> CostTable:  # fmt: skip
    names = tuple(dict.fromkeys((*formats, *fixed.values())))
    choices = {layer.name: formats for layer in network.layers} | {name: (fmt,) for name, fmt in fixed.items()}
    works, masked = _works(network, chip, names, choices, activation)
    _check_coverage(network, chip, works, masked)
    resident = _holds_dearest(works, chip)
    images, prices = images_of(images_per_weight_load, resident), Prices(chip)
    deployment = deploy(network, chip, {}, resident)
    unit_um2, units = rates.unit_area_um2(chip), chip.num_tiles * chip.units_per_tile
    layers = tuple(layer.name for layer in network.layers)
    shape = (len(layers), len(names))
    energy, latency, area = np.full(shape, np.inf), np.full(shape, np.inf), np.full(shape, np.inf)
    for (name, fmt), work in works.items():
        at = layers.index(name), names.index(fmt)
        energy[at], latency[at] = cost_alone(network.node(name), work, deployment, prices, images)
        area[at] = min(work.placement.num_units, units) * unit_um2
    fixed_pj, fixed_ns = fixed_cost(deployment, prices)
    for array in (energy, latency, area):
        array.flags.writeable = False
    return CostTable(
        chip.name, layers, names, energy, latency, area, fixed_pj, fixed_ns, resident, _merge(masked, layers)
    )


Works = dict[tuple[str, str], LayerWork]  # (layer, format) -> work


def _works(
    network: Network, chip: Chip, names: tuple[str, ...], choices: Mapping[str, tuple[str, ...]], activation: str
) -> tuple[Works, dict[str, str]]:
    """The work of each allowed choice, and why the others are not allowed."""
    works: Works = {}
    masked: dict[str, str] = {}
    for layer in network.layers:
        for fmt in names:
            if fmt not in choices[layer.name]:
                masked[f"{layer.name}/{fmt}"] = "the study holds this layer in another format"
                continue
            try:
                works[layer.name, fmt] = layer_work(layer, LayerPlan(format=fmt, activation=activation), chip)
            except Unmappable as refused:
                masked[f"{layer.name}/{fmt}"] = str(refused)
    return works, masked


def _holds_dearest(works: Works, chip: Chip) -> bool:
    """Whether all layers are resident, each in the format that takes most units."""
    units: dict[str, int] = {}
    for (name, _), work in works.items():
        units[name] = max(units.get(name, 0), work.placement.num_units)
    return holds(list(units.values()), chip)


def _check_coverage(network: Network, chip: Chip, works: Works, masked: dict[str, str]) -> None:
    """Every layer needs at least one format that the chip can hold."""
    covered = {name for name, _ in works}
    problems = [
        f"{name}: no format is left: " + "; ".join(sorted({r for k, r in masked.items() if k.startswith(name + "/")}))
        for name in (layer.name for layer in network.layers)
        if name not in covered
    ]
    if problems:
        raise InputError(f"{network.name} on {chip.name}", problems)


def _merge(masked: dict[str, str], layers: tuple[str, ...]) -> dict[str, str]:
    """A format refused for every layer with one reason is listed once."""
    by_format: dict[str, list[str]] = {}
    for key, reason in masked.items():
        by_format.setdefault(key.partition("/")[2], []).append(reason)
    one_reason = {fmt: set(reasons) for fmt, reasons in by_format.items() if len(reasons) == len(layers)}
    whole = {fmt: reasons.pop() for fmt, reasons in one_reason.items() if len(reasons) == 1}
    return whole | {key: reason for key, reason in masked.items() if key.partition("/")[2] not in whole}
