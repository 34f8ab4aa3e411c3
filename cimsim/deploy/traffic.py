"""What is moved outside the arrays: each transfer with its time beside the actions that it is charged for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.components.dram import Dram
from cimsim.dataflow import LayerWork
from cimsim.dataflow.work import OuterStream
from cimsim.deploy.deployment import MAP_BITS, Deployment, digital_ops, digital_role
from cimsim.records import Actions
from workloads.layer import Network, Node

READ, WRITE = "read_bit", "write_bit"


class Transfer(NamedTuple):
    """Bits on the outer memory's channel, or on the chip's link where that is the source: `chunk_bits` at a time (the
    last time what is left), each chunk in whole bursts with the rows that it opens."""

    bits: int
    chunk_bits: int
    action: str  # READ or WRITE

    @classmethod
    def at_once(cls, bits: int, action: str) -> Transfer:
        return cls(bits, bits, action)

    @property
    def num_chunks(self) -> int:
        return ceil(self.bits / self.chunk_bits) if self.bits else 0

    @property
    def last_bits(self) -> int:
        return self.bits - (self.num_chunks - 1) * self.chunk_bits if self.bits else 0

    def chunk_ps(self, chip: Chip) -> int:
        return channel_ps(chip, self.chunk_bits)

    def last_ps(self, chip: Chip) -> int:
        return channel_ps(chip, self.last_bits)

    def actions(self, chip: Chip) -> Actions:
        """What it is charged for; nothing where there is neither memory nor link."""
        dram = chip.parts.dram
        if dram is None:
            return Counter({("link", "", "transfer_bit"): self.bits})
        whole = max(0, self.num_chunks - 1)
        moved = whole * dram.bus_bits(self.chunk_bits) + dram.bus_bits(self.last_bits)
        opened = whole * opened_rows(dram, self.chunk_bits) + opened_rows(dram, self.last_bits)
        return Counter({("dram", "", self.action): moved, ("dram", "", "activate"): opened})


def channel_ps(chip: Chip, *chunks: int) -> int:
    """Time of chunks of so many bits that follow each other on the channel."""
    dram = chip.parts.dram
    if dram is None:
        return rates.memory_ps(chip, sum(chunks))
    moved = sum(dram.bus_bits(bits) for bits in chunks)
    return dram.transfer_ps(moved, sum(opened_rows(dram, bits) for bits in chunks))


def opened_rows(dram: Dram, bits: int) -> int:
    """Rows of the memory that a chunk opens: it lies in a row of addresses."""
    return ceil(bits / dram.row_bits)


class StreamTransfers(NamedTuple):
    """Of what a layer moves while it works: before it, along with it, and its results."""

    opening: Transfer
    body: Transfer
    results: Transfer


def input_transfer(network: Network) -> Transfer:
    """The image, row by row."""
    channels, rows, columns = network.input_shape
    return Transfer(channels * rows * columns * MAP_BITS, channels * columns * MAP_BITS, READ)


def map_transfer(name: str, action: str, deployment: Deployment) -> Transfer:
    """One pass over a whole map in the outer memory, row by row."""
    bits = deployment.map_bits(name)
    return Transfer(bits, ceil(bits / deployment.shape(name)[1]), action)


def stream_transfers(stream: OuterStream) -> StreamTransfers:
    """Chunks of one stream follow each other in a row of addresses: it is one transfer."""
    return StreamTransfers(
        Transfer.at_once(stream.opening_bits, READ), Transfer.at_once(stream.index_bits + stream.other_bits, READ),
        Transfer.at_once(stream.result_bits, WRITE),
    )  # fmt: skip


def tile_transfers(work: LayerWork, chip: Chip) -> Iterator[list[Transfer]]:
    """One load of a layer's weights: for each round, a transfer per tile that takes part. Each array has the mean share
    of the bits."""
    num_arrays = work.placement.num_arrays
    for tiles in tile_arrays(work, chip):
        yield [
            Transfer(bits, min(load_chunk_bits(chip), bits), READ)
            for first, last in tiles
            for bits in [work.load_bits * last // num_arrays - work.load_bits * first // num_arrays]
        ]


def tile_arrays(work: LayerWork, chip: Chip) -> Iterator[list[tuple[int, int]]]:
    """For each round, the arrays [first, last) of each tile that takes part."""
    per_tile, num_arrays = chip.arrays_per_unit * chip.units_per_tile, work.placement.num_arrays
    in_round = per_tile * chip.num_tiles
    for start in range(0, num_arrays, in_round):
        end = min(start + in_round, num_arrays)
        yield [(first, min(first + per_tile, num_arrays)) for first in range(start, end, per_tile)]


def load_chunk_bits(chip: Chip) -> int:
    """Bits fetched at once: one prefetch block of the index buffer, or half the tile buffer without one."""
    index = chip.parts.index_buffer
    return index.capacity_bits // index.prefetch_blocks if index else chip.parts.tile_buffer.capacity_bits // 2


def input_actions(network: Network, chip: Chip) -> Actions:
    """The image comes from outer memory, or over the chip's link; unless layers fetch their inputs themselves."""
    if rates.maps_outside(chip):
        return Counter()
    return input_transfer(network).actions(chip)


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
        count += Transfer.at_once(node.num_elements * MAP_BITS, READ).actions(chip)
    return count


def map_actions(node: Node, deliveries: int, deployment: Deployment) -> Actions:
    """Whole maps that wait between layers: each input is read for every delivery, the output written once. Those
    outside are of a layer's own stream."""
    count: Actions = Counter()
    if node.layer and deployment.stores[node.name] == "outside":
        return count
    for name in node.inputs:
        once = _store_actions(name, READ, deployment) if name in deployment.stores else Counter()
        count += Counter({action: n * deliveries for action, n in once.items()})
    return count + _store_actions(node.name, WRITE, deployment)


def _store_actions(name: str, action: str, deployment: Deployment) -> Actions:
    """One pass over a whole map where it waits. Maps in tile buffers are the layers' own accesses."""
    chip, store = deployment.chip, deployment.stores[name]
    if store in ("memory", "outside"):
        return map_transfer(name, action, deployment).actions(chip)
    if store == "buffer" and chip.parts.global_buffer is not None:
        return Counter({("buffer", "global", action): deployment.map_bits(name)})
    return Counter()


def spread_actions(work: LayerWork, chip: Chip) -> Actions:
    """Each delivery of the input tensor passes the routers of the layer's tiles once."""
    tiles, router = work.placement.num_tiles, chip.parts.router
    hops = ceil(tiles / router.shared_by) if router else min(1, tiles - 1)
    return Counter({mesh.hop_action(chip): work.input_bits * work.deliveries * hops})


def block_actions(work: LayerWork, chip: Chip) -> Actions:
    """What blocks draw: as many array-ps as the layer's arrays take, stalls between its positions included."""
    arrays = work.placement.num_arrays // work.placement.copies
    pace_ps = rates.instant_ps(work.interval_ticks, work.clock_hz)
    spent = arrays * work.layer.num_positions * pace_ps
    return Counter({("block", name, "array_ps"): spent for name in chip.parts.blocks})


def stream_actions(work: LayerWork, chip: Chip) -> Actions:
    """What a layer moves between the outer memory and its tiles while it works."""
    stream = work.stream
    if stream is None:
        return Counter()
    hops = len(mesh.mesh_path(chip, 0, work.placement.num_tiles - 1)) + (chip.num_tiles > 1)
    moved = stream.read_bits + stream.result_bits
    count: Actions = Counter({mesh.hop_action(chip): moved * hops})
    for transfer in stream_transfers(stream):
        count += transfer.actions(chip)
    return count


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
    fetched: Actions = Counter()
    for transfer, count in Counter(t for in_round in tile_transfers(work, chip) for t in in_round).items():
        fetched.update({action: n * count for action, n in transfer.actions(chip).items()})
    return work.load_actions + fetched + way
