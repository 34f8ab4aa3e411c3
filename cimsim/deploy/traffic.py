"""What happens outside the arrays, as actions: the input, feature maps, the mesh, weight loads, digital nodes."""

from __future__ import annotations

from collections import Counter
from math import ceil

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.dataflow import LayerWork
from cimsim.deploy.deployment import MAP_BITS, Deployment, digital_ops, digital_role
from cimsim.records import Actions
from workloads.layer import Network, Node


def input_actions(network: Network, chip: Chip) -> Actions:
    """The image comes from outer memory, or over the chip's link; unless layers fetch their inputs themselves."""
    if rates.maps_outside(chip):
        return Counter()
    channels, rows, columns = network.input_shape
    return _outer_read(chip, channels * rows * columns * MAP_BITS)


def own_actions(node: Node, work: LayerWork | None, deployment: Deployment) -> Actions:
    """Everything that a node does for one image wherever it lies: computing, and its maps in and out."""
    if work is None:
        return digital_actions(node, deployment) + map_actions(node, 1, deployment)
    chip = deployment.chip
    own = work.actions + spread_actions(work, chip) + stream_actions(work, chip) + block_actions(work, chip)
    return own + map_actions(node, work.deliveries, deployment)


def digital_actions(node: Node, deployment: Deployment) -> Actions:
    """Operations on digital lanes; each reads an operand from the tile buffer, each result is written there.

    An embedding looks its vectors up in the outer memory.
    """
    chip, operations = deployment.chip, digital_ops(node)
    operands = sum(deployment.map_bits(name) for name in node.inputs)
    count: Actions = Counter({
        ("digital", rates.digital_role(chip, digital_role(node)), "op"): operations,
        ("buffer", "tile", "read_bit"): max(operations * MAP_BITS, operands),
        ("buffer", "tile", "write_bit"): node.num_elements * MAP_BITS,
    })  # fmt: skip
    if node.op == "embedding":
        count += _outer_read(chip, node.num_elements * MAP_BITS)
    return count


def map_actions(node: Node, deliveries: int, deployment: Deployment) -> Actions:
    """Whole maps that wait between layers: each input is read for every delivery, the output written once. Those
    outside are of a layer's own stream."""
    count: Actions = Counter()
    if node.layer and deployment.stores[node.name] == "outside":
        return count
    for name in node.inputs:
        once = _store_actions(name, "read_bit", deployment) if name in deployment.stores else Counter()
        count += Counter({action: n * deliveries for action, n in once.items()})
    return count + _store_actions(node.name, "write_bit", deployment)


def _store_actions(name: str, action: str, deployment: Deployment) -> Actions:
    """One pass over a whole map where it waits. Maps in tile buffers are the layers' own accesses."""
    chip, store = deployment.chip, deployment.stores[name]
    if store in ("memory", "outside"):
        return _memory(chip, action, deployment.map_bits(name))
    if store == "buffer" and chip.part("buffer", "global") is not None:
        return Counter({("buffer", "global", action): deployment.map_bits(name)})
    return Counter()


def spread_actions(work: LayerWork, chip: Chip) -> Actions:
    """Each delivery of the input tensor passes the routers of the layer's tiles once."""
    part = chip.part("router")
    hops = ceil(work.placement.num_tiles / part.component.shared_by) if part else min(1, work.placement.num_tiles - 1)
    return Counter({mesh.hop_action(chip): work.input_bits * work.deliveries * hops})


def block_actions(work: LayerWork, chip: Chip) -> Actions:
    """What blocks draw: as many array-ps as the layer's arrays take, stalls between its positions included."""
    arrays = work.placement.num_arrays // work.placement.copies
    pace_ps = rates.instant_ps(work.interval_ticks, work.clock_hz)
    spent = arrays * work.layer.num_positions * pace_ps
    return Counter({("block", part.name, "array_ps"): spent for part in chip.parts() if part.component.kind == "block"})


def stream_actions(work: LayerWork, chip: Chip) -> Actions:
    """What a layer moves between the outer memory and its tiles while it works."""
    stream = work.stream
    if stream is None:
        return Counter()
    hops = len(mesh.mesh_path(chip, 0, work.placement.num_tiles - 1)) + (chip.num_tiles > 1)
    moved = stream.read_bits + stream.result_bits
    count = _memory(chip, "read_bit", stream.read_bits) + Counter({mesh.hop_action(chip): moved * hops})
    return count + _memory(chip, "write_bit", stream.result_bits)


def way_actions(node: Node, paths: tuple[tuple[str, ...], ...], deployment: Deployment) -> Actions:
    """Links from where a node's inputs are made to where it computes: what no node costs alone."""
    maps = zip(node.inputs, paths, strict=True)
    return Counter(
        {mesh.hop_action(deployment.chip): sum(deployment.map_bits(name) * len(path) for name, path in maps)}
    )


def load_actions(work: LayerWork, chip: Chip) -> Actions:
    """One load of a layer's weights, outer memory and the way from its port included."""
    tiles = work.placement.num_tiles
    routers = sum(len(mesh.mesh_path(chip, 0, tile)) + 1 for tile in range(tiles))
    way = Counter({mesh.hop_action(chip): work.load_bits * routers // tiles})
    return work.load_actions + _outer_read(chip, work.load_bits) + way


def _outer_read(chip: Chip, bits: int) -> Actions:
    return _memory(chip, "read_bit", bits) if chip.part("dram") else Counter({("link", "", "transfer_bit"): bits})


def _memory(chip: Chip, action: str, bits: int) -> Actions:
    """One transfer from or to the outer memory: whole bursts, and the rows that it opens."""
    part = chip.part("dram")
    assert part is not None, "nothing waits in an outer memory that is not there"
    dram = part.component
    return Counter({("dram", "", action): dram.bus_bits(bits), ("dram", "", "activate"): dram.activations(bits)})
