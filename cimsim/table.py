"""CostTable: [layer, candidate format] -> energy, latency and area, what the search loss asks for."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

import numpy as np

from cimsim.engine import Densities, cost_alone, fixed_cost, layer_work
from cimsim.mapping import Unmappable, place
from cimsim.spec import Chip
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.layer import Layer, Network
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
        return (f"budget = {share}: no plan on {self.chip} needs less than {least:.4f} of the reference "
                f"{self.reference_pj() / 1e3:.4g} nJ; raise the budget or allow cheaper formats")  # fmt: skip

    def minimum_pj(self) -> float:
        """The least energy any plan has by the table."""
        return float(self.energy_pj.min(axis=1).sum()) + self.fixed_energy_pj

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> CostTable:
        """The table that `to_dict` wrote."""
        arrays = {
            name: np.array([[inf if v is None else v for v in row] for row in plain[name]], dtype=np.float64)
            for name in ("energy_pj", "latency_ns", "area_um2")
        }
        return cls(**(plain | arrays | {"layers": tuple(plain["layers"]), "formats": tuple(plain["formats"])}))

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
    resident: bool | None = None,
    held: dict[str, str] | None = None,
    activation_bits: int = 8,
    images_per_weight_load: float | None = None,
    densities: Densities | None = None,
) -> CostTable:
    """Simulate each layer alone in each format. Raises InputError if some layer has no format left.

    `resident` is the weight state assumed; by default that of the dearest format everywhere: a chip which
    holds that plan holds every other. `held` gives some layers one format, the others all of `formats`.
    """
    if resident is None:
        resident = _holds_everything(network, chip, formats)
    free, held = formats, held or {}
    formats = tuple(dict.fromkeys((*formats, *held.values())))
    layers = tuple(layer.name for layer in network.layers)
    shape = (len(layers), len(formats))
    energy, latency, area = np.full(shape, np.inf), np.full(shape, np.inf), np.full(shape, np.inf)
    masked: dict[str, str] = {}
    images = images_per_weight_load or (inf if resident else 1.0)
    for i, layer in enumerate(network.layers):
        for j, fmt in enumerate(formats):
            if fmt not in ((held[layer.name],) if layer.name in held else free):
                masked[f"{layer.name}/{fmt}"] = "the study holds this layer in another format"
                continue
            try:
                work = layer_work(layer, LayerPlan(format=fmt, activation_bits=activation_bits), chip)
            except Unmappable as refused:
                masked[f"{layer.name}/{fmt}"] = str(refused)
                continue
            measured = (densities or {}).get(layer.name)
            energy[i, j], latency[i, j], area[i, j] = cost_alone(work, chip, resident, images, measured)
    _check_coverage(network, chip, energy, masked)
    fixed_pj, fixed_ns = fixed_cost(network, chip)
    return CostTable(
        chip.name, layers, formats, energy, latency, area, fixed_pj, fixed_ns, resident, _merge(masked, layers)
    )


def _holds_everything(network: Network, chip: Chip, formats: tuple[str, ...]) -> bool:
    """Whether all layers are resident, each in the format that takes most units."""
    units = 0
    for layer in network.layers:
        sizes = [place(layer, parse_format(fmt), chip).num_units for fmt in formats if _is_held(layer, fmt, chip)]
        units += max(sizes, default=0)
    return units <= chip.num_tiles * chip.units_per_tile


def _is_held(layer: Layer, fmt: str, chip: Chip) -> bool:
    try:
        layer_work(layer, LayerPlan(format=fmt), chip)
    except Unmappable:
        return False
    return True


def _check_coverage(network: Network, chip: Chip, energy: np.ndarray, masked: dict[str, str]) -> None:
    """Every layer needs at least one format that the chip can hold."""
    problems = [
        f"{layer.name}: no format is left: " + "; ".join(sorted({r for k, r in masked.items() if k.startswith(layer.name + "/")}))
        for layer, row in zip(network.layers, energy, strict=True)
        if not np.isfinite(row).any()
    ]  # fmt: skip
    if problems:
        raise InputError(f"{network.name} on {chip.name}", problems)


def _merge(masked: dict[str, str], layers: tuple[str, ...]) -> dict[str, str]:
    """A format refused for every layer with one reason is listed once."""
    by_format: dict[str, list[str]] = {}
    for key, reason in masked.items():
        by_format.setdefault(key.partition("/")[2], []).append(reason)
    whole = {fmt: reasons[0] for fmt, reasons in by_format.items() if len(reasons) == len(layers) and len(set(reasons)) == 1}
    return whole | {key: reason for key, reason in masked.items() if key.partition("/")[2] not in whole}
