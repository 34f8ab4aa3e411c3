"""What each quantity of a reference means in the model: of the macro at full use, of the bill, or of a network's run.

Names take parts after a dot, joined by `+`: `energy_share.adc`, `area.adc+sample_hold`, `peak_power.tile`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import NamedTuple

from cimsim.chip.model import Chip
from cimsim.chip.reading import load_chip
from cimsim.cost.prices import total_pj
from cimsim.cost.report import CostReport
from cimsim.deploy.deployment import Layout
from cimsim.engine.planfile import read_layout, read_plan
from cimsim.engine.whole import simulate
from cimsim.validation.macro import Macro, measure
from cimsim.validation.reference import Reading, Reference
from cimsim.validation.units import UNITS
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.layer import Network
from workloads.plan import Plan
from workloads.shapes import load_network


class Subject:
    """One chip at one point, measured when first asked."""

    def __init__(self, reference: Reference, point: Reading):
        self.point = point
        self.chip: Chip = load_chip(reference.chip, dict(point.vary))
        self._folder = reference.folder

    @cached_property
    def macro(self) -> Macro:
        return measure(self.chip, self.point.operating)

    @cached_property
    def network(self) -> Network:
        """The point's network. Raises InputError without one."""
        if "network" not in self.point.run:
            raise InputError("targets", ["network: this quantity is of a network's run, and no input names one"])
        name = str(self.point.run["network"])
        return load_network(str(self._folder / name) if name.endswith((".yaml", ".yml")) else name)

    @cached_property
    def plan(self) -> Plan:
        plan = read_plan(str(self.point.run.get("plan", "linear-8")), self.network)
        return plan.model_copy(update={"sharing": self.point.run.get("sharing", plan.sharing)})

    @cached_property
    def layout(self) -> Layout | None:
        return read_layout(self._folder / str(self.point.run["layout"])) if "layout" in self.point.run else None

    @cached_property
    def report(self) -> CostReport:
        """The point's network on the chip."""
        batch = int(self.point.run.get("batch", 1))
        return simulate(self.network, self.chip, self.plan, batch=batch, layout=self.layout).report

    @property
    def bit_products(self) -> int:
        """One-bit operations in one operation of the point's widths."""
        return self.point.operating.input_bits * self.point.operating.weight_bits


class Quantity(NamedTuple):
    """`find(subject, parts)` in the units of units.py; `measures` is what its unit must measure; `test` sets the band.

    `evidence` tells what a printed figure of the chip would have to anchor for the result to rest on it.
    """

    measures: tuple[str, ...]
    test: str
    evidence: str
    find: Callable[[Subject, tuple[str, ...]], float]


def modelled(quantity: str, unit: str, subject: Subject) -> tuple[float, Quantity]:
    """The model's figure in `unit`, and what kind of quantity it is. Raises InputError for what is not known."""
    name, _, rest = quantity.partition(".")
    known = QUANTITIES.get(name)
    if known is None:
        raise InputError("targets", [f"quantity {quantity!r}: is not known (known: {', '.join(QUANTITIES)})"])
    if unit not in UNITS or UNITS[unit].measures.removesuffix("_1b") not in known.measures:
        fitting = [text for text, one in UNITS.items() if one.measures.removesuffix("_1b") in known.measures]
        raise InputError("targets", [f"{quantity}: unit {unit!r}: must be one of {', '.join(fitting)}"])
    value = known.find(subject, tuple(rest.split("+")) if rest else ())
    if UNITS[unit].measures.endswith("_1b"):
        value *= subject.bit_products
    return value / UNITS[unit].size, known


def rests_on_print(evidence: str, subject: Subject) -> bool:
    """Whether a figure rests on energies or areas that the chip's own paper printed."""
    chip = subject.chip
    parts = [part.component for part in chip.placed if evidence == "bill" or part.level_name == chip.unit.name]
    stated = [part.stated for part in parts if part.stated is not None]
    if evidence == "energy":
        return any(s.power_mw or s.energy_pj for s in stated) or any(getattr(p, "step_pj", None) for p in parts)
    return evidence in ("area", "bill") and any(s.area_mm2 or s.power_mw for s in stated)


def _energy_pj(subject: Subject, parts: Iterable[str]) -> float:
    by_part = subject.macro.energy_pj
    _known(parts, subject.macro.area_um2, subject.chip)
    return sum(sum(by_part.get(name, {}).values()) for name in parts)


def _area_um2(subject: Subject, parts: Iterable[str]) -> float:
    _known(parts, subject.macro.area_um2, subject.chip)
    return sum(subject.macro.area_um2[name] for name in parts) if parts else subject.macro.total_um2


def _bill(subject: Subject, names: tuple[str, ...], field: str) -> float:
    """Of one box of a level, or of the parts of one name in one box of theirs."""
    rows = subject.chip.bill()
    levels = {row.level: row for row in rows if row.component == "total"}
    parts = {row.component: row for row in rows if row.component != "total"}
    wanted = names or (subject.chip.root.name,)
    _known(wanted, levels | parts, subject.chip)
    return sum(getattr((levels | parts)[name], field) for name in wanted)


def _known(names: Iterable[str], known: Iterable[str], chip: Chip) -> None:
    if unknown := [name for name in names if name not in known]:
        raise InputError(chip.name, [f"{name}: no such part here (known: {', '.join(known)})" for name in unknown])


def _throughput(subject: Subject, parts: tuple[str, ...]) -> float:
    return subject.macro.ops / subject.macro.interval_ps


def _efficiency(subject: Subject, parts: tuple[str, ...]) -> float:
    spent_pj = _energy_pj(subject, parts) if parts else subject.macro.total_pj
    return subject.macro.ops / spent_pj


def _storage(subject: Subject, parts: tuple[str, ...]) -> float:
    """Bits of weights in cells per mm2 of the chip."""
    array, chip = subject.chip.array, subject.chip
    cells = array.num_cells * array.copies * chip.num_arrays
    return cells * array.cell_bits / (_bill(subject, (), "area_mm2") * chip.root.count)


def _run_energy_pj(subject: Subject, parts: tuple[str, ...]) -> float:
    report = subject.report
    if not parts:
        return report.energy_pj / report.batch
    by_part = report.energy_by_component_pj
    _known(parts, by_part, subject.chip)
    return sum(total_pj({name: by_part[name]}) for name in parts) / report.batch


def _run_energy_share(subject: Subject, parts: tuple[str, ...]) -> float:
    return _run_energy_pj(subject, parts) / (subject.report.dynamic_pj / subject.report.batch)


def _utilization(subject: Subject, parts: tuple[str, ...]) -> float:
    """Share of the cells of the arrays in use that hold a weight's slice."""
    array, layers, plan = subject.chip.array, subject.network.layers, subject.plan
    used = sum(layer.arrays for layer in subject.report.layers) * array.num_cells
    copies = subject.layout.copies if subject.layout else {}
    per_weight = {
        name: array.columns_per_output(parse_format(one.format).array_bits) for name, one in plan.layers.items()
    }
    return sum(one.num_weights * per_weight[one.name] * copies.get(one.name, 1) for one in layers) / used


def _dram_bits(subject: Subject, parts: tuple[str, ...]) -> float:
    ways = ("dram/read_bit", "dram/write_bit")
    return sum(layer.counts.get(way, 0) for layer in subject.report.layers for way in ways)


QUANTITIES: dict[str, Quantity] = {
    "throughput": Quantity(("throughput",), "time", "time", _throughput),
    "energy_efficiency": Quantity(("efficiency",), "energy", "energy", _efficiency),
    "energy_per_mac": Quantity(
        ("energy",), "energy", "energy", lambda s, p: (_energy_pj(s, p) if p else s.macro.total_pj) / s.macro.macs
    ),
    "energy_per_op": Quantity(
        ("energy",), "energy", "energy", lambda s, p: (_energy_pj(s, p) if p else s.macro.total_pj) / s.macro.ops
    ),
    "energy_per_mvm": Quantity(
        ("energy",), "energy", "energy", lambda s, p: (_energy_pj(s, p) if p else s.macro.total_pj) / s.macro.units
    ),
    "energy_per_output": Quantity(
        ("energy",), "energy", "energy", lambda s, p: (_energy_pj(s, p) if p else s.macro.total_pj) / s.macro.outputs
    ),
    "energy_share": Quantity(
        ("ratio",), "share", "energy", lambda s, p: _energy_pj(s, p) / _energy_pj(s, s.macro.area_um2)
    ),
    "power": Quantity(
        ("power",), "energy", "energy", lambda s, p: s.macro.total_pj / s.macro.interval_ps * 1e3
    ),
    "area": Quantity(("area",), "area", "area", _area_um2),
    "area_share": Quantity(("ratio",), "share", "area", lambda s, p: _area_um2(s, p) / s.macro.total_um2),
    "chip_area": Quantity(("area",), "area", "bill", lambda s, p: s.chip.area_um2()),
    "compute_density": Quantity(
        ("density",), "area", "area", lambda s, p: _throughput(s, ()) / (s.macro.total_um2 * 1e-6)
    ),
    "cycle_time": Quantity(("time",), "time", "time", lambda s, p: s.macro.step_ps * 1e-3),
    "mvm_latency": Quantity(("time",), "time", "time", lambda s, p: s.macro.latency_ps * 1e-3),
    "mvm_interval": Quantity(("time",), "time", "time", lambda s, p: s.macro.interval_ps * 1e-3),
    "peak_power": Quantity(("power",), "bill", "bill", lambda s, p: _bill(s, p, "power_mw")),
    "peak_area": Quantity(("area",), "bill", "bill", lambda s, p: _bill(s, p, "area_mm2") * 1e6),
    "power_efficiency": Quantity(
        ("efficiency",), "bill", "bill", lambda s, p: _throughput(s, ()) / _bill(s, p, "power_mw") * 1e3
    ),
    "area_efficiency": Quantity(
        ("density",), "bill", "bill", lambda s, p: _throughput(s, ()) / _bill(s, p, "area_mm2")
    ),
    "storage_density": Quantity(("storage",), "area", "bill", _storage),
    "energy_per_image": Quantity(("energy",), "energy", "bill", _run_energy_pj),
    "image_energy_share": Quantity(("ratio",), "share", "bill", _run_energy_share),
    "latency_per_image": Quantity(("time",), "time", "time", lambda s, p: s.report.latency_ns),
    "interval_per_image": Quantity(("time",), "time", "time", lambda s, p: s.report.interval_ns),
    "cycles": Quantity(("count",), "cycles", "time", lambda s, p: float(s.report.latency_cycles)),
    "stall_cycles": Quantity(("count",), "cycles", "time", lambda s, p: float(sum(s.report.stall_cycles.values()))),
    "dram_traffic": Quantity(("count",), "cycles", "time", _dram_bits),
    "memory_utilization": Quantity(("ratio",), "share", "time", _utilization),
    "leakage_per_image": Quantity(
        ("energy",), "energy", "bill", lambda s, p: s.report.leakage_pj / s.report.batch
    ),
}  # fmt: skip
