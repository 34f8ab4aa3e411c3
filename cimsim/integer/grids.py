"""On which grid each tensor lies: its reader's quantizer decides, through what runs in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cimsim.integer.artifact import Grid
from workloads.errors import InputError
from workloads.layer import Network, Node


def grids_of(network: Network, given: Mapping[str, Grid], logits_grid: Callable[[Node], Grid]) -> dict[str, Grid]:
    """Node name (or `input`) -> grid. `given` are the grids of tensors that layers and additions read.

    What only a max pool reads lies on the pool's grid, for taking the maximum commutes with rounding.
    What only an average pool or a ReLU reads lies on a finer one: single values exceed their mean.
    The network's output, from its last layer on, lies on `logits_grid` of that layer.
    Raises InputError if the network does not end in a layer (and pools).
    """
    grids = dict(given)
    chain = _output_chain(network)
    grids |= dict.fromkeys((node.name for node in chain), logits_grid(chain[-1]))
    for name in ["input", *(node.name for node in network.nodes)][::-1]:
        if name not in grids:
            reader = next(node for node in network.nodes if name in node.inputs)
            grid = grids[reader.name]
            grids[name] = grid if reader.op == "max_pool" else grid.finer()
    return grids


def _output_chain(network: Network) -> list[Node]:
    """The last layer and what follows it, last first."""
    chain = [network.nodes[-1]]
    while chain[-1].op != "layer":
        if chain[-1].op == "add" or chain[-1].inputs[0] == "input":
            raise InputError(network.name, [f"nodes.{chain[-1].name}: the output must come from a layer"])
        chain.append(network.node(chain[-1].inputs[0]))
    return chain
