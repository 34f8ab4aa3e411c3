"""Two simulated runs side by side: by which components, layers, actions and stalls their energy and time differ."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workloads.errors import InputError

TOTALS = ("energy_pj", "dynamic_pj", "leakage_pj", "weight_load_pj", "latency_ns", "interval_ns", "area_um2")
NEEDED = {"network", "chip", "plan", "layers", "energy_by_component_pj", "stall_cycles", "clocks_hz", *TOTALS}


class Change(NamedTuple):
    """One quantity in both runs; `share` is its part of the whole difference (0 where the wholes are equal)."""

    name: str
    before: float
    after: float
    share: float

    @property
    def difference(self) -> float:
        return self.after - self.before


class Difference(NamedTuple):
    """All changes, the largest first in each list. The first three sum to the difference of their total."""

    names: tuple[str, str]
    totals: tuple[Change, ...]
    energy_by_component: tuple[Change, ...]  # pJ, leakage as a component of its own
    energy_by_layer: tuple[Change, ...]  # pJ, dynamic
    stalls_by_cause: tuple[Change, ...]  # ns, over all layers
    latency_by_layer: tuple[Change, ...]  # ns; of layers that overlap the sum is not the whole latency
    actions: tuple[Change, ...]  # how often, over all layers

    def to_dict(self) -> dict[str, Any]:
        lists = {name: [change._asdict() for change in changes] for name, changes in self._asdict().items()
                 if name != "names"}  # fmt: skip
        return {"before": self.names[0], "after": self.names[1], **lists}


def read_report(path: Path) -> dict[str, Any]:
    """A report that `simulate --json` printed, or a file of a run's costs/. Raises InputError."""
    if path.is_dir():
        found = sorted(path.glob("costs/*.json")) or sorted(path.glob("*.json"))
        if len(found) != 1:
            names = ", ".join(str(one.relative_to(path)) for one in found[:5]) or "none"
            raise InputError(str(path), [f"holds {len(found)} reports ({names} ...): name one of them"])
        path = found[0]
    try:
        plain = json.loads(path.read_text())
    except OSError as error:
        raise InputError(str(path), [f"(whole file): cannot be read: {error.strerror}"]) from None
    except ValueError as error:
        raise InputError(str(path), [f"(whole file): is no JSON: {error}"]) from None
    missing = sorted(NEEDED - set(plain)) if isinstance(plain, dict) else sorted(NEEDED)
    if missing:
        raise InputError(
            str(path), [f"{name}: missing: a report of `cimsim simulate --json` has it" for name in missing]
        )
    return plain


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference:
    """What moved from one report to the other."""
    return Difference(
        (_title(before), _title(after)),
        tuple(Change(name, before[name], after[name], 0.0) for name in TOTALS),
        _changes(before, after, _by_component),
        _changes(before, after, lambda report: {layer["name"]: layer["energy_pj"] for layer in report["layers"]}),
        _changes(before, after, _stalls_ns),
        _changes(before, after, lambda report: {layer["name"]: layer["latency_ns"] for layer in report["layers"]}),
        _changes(before, after, _actions),
    )


def _title(report: Mapping[str, Any]) -> str:
    return f"{report['network']} on {report['chip']}, {report['plan']}"


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], view: Callable[[Mapping[str, Any]], Mapping[str, float]]
) -> tuple[Change, ...]:
    """Every quantity that a view has in either run and that differs, the largest difference first."""
    old, new = view(before), view(after)
    whole = sum(new.values()) - sum(old.values())
    found = [
        Change(
            name, old.get(name, 0), new.get(name, 0), (new.get(name, 0) - old.get(name, 0)) / whole if whole else 0.0
        )
        for name in dict.fromkeys((*old, *new))
    ]
    return tuple(sorted((c for c in found if c.difference), key=lambda c: (-abs(c.difference), c.name)))


def _by_component(report: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {"leakage": report["leakage_pj"]}
    return found | {name: sum(actions.values()) for name, actions in report["energy_by_component_pj"].items()}


def _stalls_ns(report: Mapping[str, Any]) -> dict[str, float]:
    period_ns = 1e9 / report["clocks_hz"][report["latency_clock"]]
    return {cause: cycles * period_ns for cause, cycles in report["stall_cycles"].items()}


def _actions(report: Mapping[str, Any]) -> Counter[str]:
    count: Counter[str] = Counter()
    for layer in report["layers"]:
        count.update(layer["counts"])
    return count
