"""A small search over layouts: how often each layer lies on the chip, and in which order layers fill the tiles.

The default (every layer once, in network order) is the base that a found layout is compared with, by whole
simulations with contention. Copies are chosen by rules that are optimal for what they look at:

- pipelined: the steady interval is that of the slowest stage. For a target interval each layer needs
  ceil(its time / target) copies, so the least target whose copies fit is found exactly, by bisection; digital
  nodes and links, which copies do not help, bound it from below.
- layer by layer, resident: latency is a sum over layers; copies go one by one to where a unit saves most time.
- reloaded: a layer has the chip to itself. More copies compute faster and are written more often; powers of two
  are tried, each layer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import Literal, NamedTuple

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.cost.prices import Prices
from cimsim.cost.report import CostReport
from cimsim.dataflow import LayerWork
from cimsim.dataflow.work import duplicated
from cimsim.deploy.deployment import Deployment, Layout, deploy
from cimsim.engine.alone import cost_alone
from cimsim.engine.whole import Simulation, images_of, simulate
from cimsim.events import Timeline
from workloads.layer import Network
from workloads.plan import Plan

Objective = Literal["energy_delay", "latency", "interval", "energy"]

SCORES: dict[str, Callable[[CostReport], float]] = {
    "energy_delay": lambda report: report.energy_pj * report.latency_ns,
    "latency": lambda report: report.latency_ns,
    "interval": lambda report: report.interval_ns,
    "energy": lambda report: report.energy_pj,
}


class Found(NamedTuple):
    """The best layout seen, its simulation, and that of the default layout."""

    layout: Layout
    report: CostReport
    default: CostReport

    def gain(self, objective: str) -> float:
        """Score of the default over that of the found layout: 1 where nothing is won."""
        return SCORES[objective](self.default) / SCORES[objective](self.report)


def search_layout(
    network: Network, chip: Chip, plan: Plan | None = None, *, batch: int = 1, objective: Objective = "energy_delay"
) -> Found:
    """The layout with the least objective among the default and those with copies, in both orders.

    Raises InputError as `simulate` does.
    """
    network = network.batched(batch) if batch > 1 else network
    plan = plan or Plan.uniform(network, "linear-8")
    default = simulate(network, chip, plan)
    copies = _copies(default, objective)
    layouts = [Layout(copies=chosen, order=order) for order in ("row_major", "snake") for chosen in ({}, copies)]
    tried = [
        (layout, simulate(network, chip, plan, layout=layout).report) for layout in layouts[1:] if layout != Layout()
    ]
    best = min([(Layout(), default.report), *tried], key=lambda pair: SCORES[objective](pair[1]))
    return Found(*best, default.report)


def _copies(default: Simulation, objective: Objective) -> dict[str, int]:
    deployment = default.deployment
    network, chip, works = deployment.network, deployment.chip, deployment.works
    units = chip.num_tiles * chip.units_per_tile
    if not deployment.resident:
        return _alone(network, chip, works, objective)
    if deployment.pipelined:
        found = _balanced(works, units, _least_interval_ps(network, default.timeline))
    else:
        found = _shortest(works, units)
    return {name: count for name, count in found.items() if count > 1}


def compute_ps(work: LayerWork) -> int:
    """Time of one copy for all positions, were nothing in the way."""
    return rates.instant_ps(work.interval_ticks * work.layer.num_positions, work.clock_hz)


def _least_interval_ps(network: Network, timeline: Timeline) -> int:
    """What no copies of layers make shorter: the busiest digital node, link or channel."""
    digital = [t.busy_ps for node, t in zip(network.nodes, timeline.tasks[1:], strict=True) if node.layer is None]
    return max(timeline.tasks[0].busy_ps, timeline.memory_busy_ps, *timeline.link_busy_ps.values(), *digital)


def _balanced(works: Mapping[str, LayerWork], units: int, least_ps: int) -> dict[str, int]:
    """Copies for the least interval, not below `least_ps`, that fits into `units`."""

    def needed(interval_ps: int) -> dict[str, int]:
        wanted = {name: ceil(compute_ps(work) / interval_ps) for name, work in works.items()}
        return {name: min(count, works[name].layer.num_positions) for name, count in wanted.items()}

    high = max(compute_ps(work) for work in works.values())  # fits: every layer once
    low = min(max(1, least_ps), high) - 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = sum(count * works[name].placement.num_units for name, count in needed(middle).items()) <= units
        low, high = (low, middle) if fits else (middle, high)
    return needed(high)


def _shortest(works: Mapping[str, LayerWork], units: int) -> dict[str, int]:
    """Copies for the least sum of times, by the largest saving for a unit, one copy after the other."""
    copies = dict.fromkeys(works, 1)
    spare = units - sum(work.placement.num_units for work in works.values())

    def saving(name: str) -> float:
        count, work = copies[name], works[name]
        if work.placement.num_units > spare or count >= work.layer.num_positions:
            return -inf
        return compute_ps(work) * (1 / count - 1 / (count + 1)) / work.placement.num_units

    while (best := max(works, key=saving)) and saving(best) > 0:
        copies[best] += 1
        spare -= works[best].placement.num_units
    return copies


def _alone(network: Network, chip: Chip, works: Mapping[str, LayerWork], objective: Objective) -> dict[str, int]:
    """For each layer with the chip to itself, the power of two that is best for the objective."""
    deployment, prices = deploy(network, chip, {}, resident=False), Prices(chip)
    room = chip.num_tiles * chip.units_per_tile
    return {
        name: best
        for name, work in works.items()
        if (best := _best_alone(work, room // work.placement.num_units, deployment, prices, objective)) > 1
    }


def _best_alone(work: LayerWork, most: int, deployment: Deployment, prices: Prices, objective: Objective) -> int:
    node, images = deployment.network.node(work.layer.name), images_of(None, False, deployment.network.batch)

    def score(copies: int) -> float:
        energy_pj, latency_ns = cost_alone(node, duplicated(work, copies, deployment.chip), deployment, prices, images)
        return {"energy_delay": energy_pj * latency_ns, "energy": energy_pj}.get(objective, latency_ns)

    powers = [2**k for k in range(max(1, most).bit_length()) if 2**k <= min(most, work.layer.num_positions)]
    return min(powers or [1], key=score)
