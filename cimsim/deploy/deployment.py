"""A network laid out on a chip: who computes where, and where feature maps wait between layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.dataflow import LayerWork
from workloads.layer import Frozen, Network, Node

MAP_BITS = 8  # feature maps are stored as bytes, whatever part of them a layer streams in

Store = Literal["consumer", "buffer", "memory", "outside"]
Order = Literal["row_major", "snake"]  # of the tiles that layers fill


class Deployment(NamedTuple):
    """`resident`: every layer has arrays of its own. `stores`: where each node's output waits for its readers.

    `consumer`: row by row in the tile buffers of the next layers. `buffer`: whole, in the global buffer
    (in the tile buffers without one). `memory`: whole, in the outer memory. `outside`: there too, where layers read
    and write them as part of their own streams.
    """

    network: Network
    chip: Chip
    works: Mapping[str, LayerWork]
    resident: bool
    stores: dict[str, Store]
    order: Order = "row_major"

    @property
    def pipelined(self) -> bool:
        return is_pipelined(self.chip, self.resident)

    @property
    def schedule(self) -> str:
        return "pipelined" if self.pipelined else "layer_by_layer"

    def map_bits(self, name: str) -> int:
        """Stored bits of the feature map that this node (or `input`) makes."""
        channels, rows, columns = self.shape(name)
        return channels * rows * columns * MAP_BITS

    def shape(self, name: str) -> tuple[int, int, int]:
        return self.network.input_shape if name == "input" else self.network.node(name).out_shape


def deploy(
    network: Network, chip: Chip, works: Mapping[str, LayerWork], resident: bool, order: Order = "row_major"
) -> Deployment:
    stores = _stores(network, chip, is_pipelined(chip, resident))
    return Deployment(network, chip, works, resident, stores, order)


def is_pipelined(chip: Chip, resident: bool) -> bool:
    """Layers that are reloaded, or whose sets of weights share arrays, take turns whatever the chip would like."""
    return resident and chip.schedule == "pipelined" and rates.weight_sets(chip) == 1


def is_resident(works: Mapping[str, LayerWork], chip: Chip) -> bool:
    """Whether all layers have cells of their own, each starting on a fresh unit; but layers that take turns need the
    arrays of one book once."""
    return holds(list(own_units(works, chip).values()), chip)


def own_units(works: Mapping[str, LayerWork], chip: Chip) -> dict[str, int]:
    """Units of each layer; none if, where layers take turns, an earlier one's arrays hold the same book."""
    seen: set[str] = set()
    units = {}
    for name, work in works.items():
        is_shared = work.book in seen and chip.schedule == "layer_by_layer"
        units[name] = 0 if is_shared else work.placement.num_units
        seen |= {work.book} - {""}
    return units


def holds(layer_units: Sequence[int], chip: Chip) -> bool:
    """Whether the chip has cells for layers of so many units at once, each within one set of weights."""
    units = chip.num_tiles * chip.units_per_tile
    places = first_places(layer_units, units)
    end = places[-1] + layer_units[-1] if places else 0
    return max(layer_units, default=0) <= units and end <= units * rates.weight_sets(chip)


def first_places(layer_units: Sequence[int], units: int) -> list[int]:
    """Where layers start that follow each other through sets of `units` units; none is cut by a set's end."""
    places, after = [], 0
    for needed in layer_units:
        start = after if after % units + needed <= units else ceil(after / units) * units
        places.append(start)
        after = start + needed
    return places


def _stores(network: Network, chip: Chip, pipelined: bool) -> dict[str, Store]:
    """Layer by layer whole maps wait: in the buffer while they fit, else in the outer memory (on a chip
    without one, in the buffer all the same). Maps that layers read, perhaps many times, go first; then
    those that wait shortest."""
    nodes = network.nodes
    if rates.maps_outside(chip):
        return dict.fromkeys(("input", *(node.name for node in nodes)), "outside")
    if pipelined:
        return {node.name: "consumer" for node in nodes}
    room = rates.map_buffer_bits(chip) if chip.parts.dram else inf
    place = {node.name: i for i, node in enumerate(nodes)}
    last_use = {name: place[node.name] for node in nodes for name in node.inputs}
    waits = [range(i, last_use.get(node.name, i) + 1) for i, node in enumerate(nodes)]
    stores: dict[str, Store] = {}
    held_bits = [0] * len(nodes)
    read_by_layers = Counter(name for node in nodes if node.layer for name in node.inputs)
    for i in sorted(range(len(nodes)), key=lambda i: (-read_by_layers[nodes[i].name], len(waits[i]), i)):
        bits = nodes[i].num_elements * MAP_BITS
        fits = all(held_bits[step] + bits <= room for step in waits[i])
        stores[nodes[i].name] = "buffer" if fits else "memory"
        for step in waits[i] if fits else ():
            held_bits[step] += bits
    return stores


def homes(deployment: Deployment) -> dict[str, int]:
    """First tile of each node. Resident layers follow each other; reloaded ones all start at tile 0, where
    the outer memory's port is; digital nodes run where their first input is made."""
    per_tile, works = deployment.chip.units_per_tile, deployment.works
    units, named = deployment.chip.num_tiles * per_tile, [node.name for node in deployment.network.nodes if node.layer]
    own = own_units(works, deployment.chip)
    needed = [own[name] for name in named] if deployment.resident else [0] * len(named)
    places = dict(zip(named, first_places(needed, units), strict=True))
    holders: dict[str, str] = {}
    for name in named:
        first = holders.setdefault(works[name].book or name, name)
        places[name] = places[name] if own[name] or not deployment.resident else places[first]
    tiles = {"input": 0}
    for node in deployment.network.nodes:
        if node.layer is None:
            tiles[node.name] = tiles[node.inputs[0]]
            continue
        tiles[node.name] = _tile_at(places[node.name] % units // per_tile, deployment)
    return tiles


def _tile_at(place: int, deployment: Deployment) -> int:
    """The tile at this place of the order; tiles of one router stay neighbours."""
    chip = deployment.chip
    part = chip.parts.router
    if deployment.order == "row_major" or chip.mesh is None or part is None:
        return place
    router, columns = mesh.router_of(chip, place), mesh.router_columns(chip)
    row, column = divmod(router, columns)
    turned = row * columns + columns - 1 - column if row % 2 else router
    return place + (turned - router) * part.shared_by


def paths(deployment: Deployment) -> dict[str, tuple[tuple[str, ...], ...]]:
    """Mesh links from each input of a node to its home, for every node."""
    at = homes(deployment)
    return {
        node.name: tuple(mesh.mesh_path(deployment.chip, at[name], at[node.name]) for name in node.inputs)
        for node in deployment.network.nodes
    }


def digital_role(node: Node) -> str:
    """Which lanes do a digital node's operations."""
    if node.op in ("max_pool", "relu"):
        return "pool"
    return "alu" if node.op in ("add", "mul", "avg_pool") else "activation"


def digital_ops(node: Node) -> int:
    """Operations of a digital node: softmax and norms take three passes (reduce, spread, scale), as does rope
    (two products and their sum)."""
    return node.num_digital_ops * (3 if node.op in ("softmax", "layer_norm", "rms_norm", "rope") else 1)


class Layout(Frozen):
    """Choices of placement that change no number: how often layers lie on the chip, and the tiles' order.

    Layers fill tiles in network order: row by row of the mesh, or (`snake`) every other row backwards, so that
    neighbours in the order are neighbours on the mesh.
    """

    copies: dict[str, Annotated[int, Field(ge=1, le=2**16)]] = {}
    order: Literal["row_major", "snake"] = "row_major"
