"""One layer with the chip to itself: what cost tables ask."""

from __future__ import annotations

from functools import lru_cache

from cimsim.chip.model import Chip
from cimsim.cost import accounts
from cimsim.cost.prices import Prices, leakage_pj, total_pj
from cimsim.dataflow import LayerWork
from cimsim.deploy import traffic
from cimsim.deploy.deployment import Deployment, is_resident
from cimsim.deploy.loads import buffer_chunks
from cimsim.deploy.tasks import alone_tasks, fixed_ps
from cimsim.engine.choose import case_of, cheapest, possible_works
from cimsim.events import Task, run
from workloads.layer import Layer, Node
from workloads.plan import LayerPlan


def layer_work(layer: Layer, choice: LayerPlan, chip: Chip) -> LayerWork:
    """One layer's placement, timing and actions. Raises Unmappable with the reason."""
    choices = possible_works(case_of(layer, choice, chip), choice.dataflow)
    return cheapest(choices, chip, reloads=not is_resident({layer.name: choices[0]}, chip))


def cost_alone(
    node: Node, work: LayerWork, deployment: Deployment, prices: Prices, images: float
) -> tuple[float, float]:
    """Energy (pJ, leakage included) and latency (ns) of one layer with the chip to itself, with half of all data on."""
    tasks = tuple(task._replace(name="") for task in alone_tasks(deployment, node, work))
    latency_ps = _alone_ps(tasks, deployment.pipelined, buffer_chunks(deployment.chip))
    shares = deployment.network.batch / images
    energy = accounts.node_energy(traffic.own_actions(node, work, deployment), work, prices, shares)
    return total_pj(energy) + leakage_pj(deployment.chip, latency_ps), latency_ps / 1000


@lru_cache(maxsize=1 << 14)
def _alone_ps(tasks: tuple[Task, ...], pipelined: bool, chunks: int) -> int:
    """Time of tasks without names: layers of one shape, in one network or several, wait alike."""
    return run(list(tasks), pipelined=pipelined, buffer_chunks=chunks, trace=False).latency_ps


def fixed_cost(deployment: Deployment, prices: Prices) -> tuple[float, float]:
    """Energy (pJ) and time (ns) that every plan pays: the input and the digital nodes."""
    network, chip, duration_ps = deployment.network, deployment.chip, fixed_ps(deployment)
    actions = traffic.input_actions(network, chip)
    for node in network.nodes:
        if node.layer is None:
            actions += traffic.own_actions(node, None, deployment)
    return total_pj(prices.price(actions)) + leakage_pj(chip, duration_ps), duration_ps / 1000
