"""How weights that are not resident reach the arrays: chunks, tiles, rounds."""

from __future__ import annotations

from functools import cache, partial
from math import ceil

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.dataflow import LayerWork
from cimsim.deploy.traffic import Transfer, tile_arrays, tile_transfers
from cimsim.events import Load
from cimsim.unit.load import count_load


def weight_loads(work: LayerWork, chip: Chip) -> tuple[tuple[Load, ...], ...]:
    """For each round, one load per tile that takes part. Each array has the mean share of bits and of
    filling time; a tile fills its arrays one after the other."""
    ticks = sum(count_load(job).ticks * count for job, count in work.load_jobs)
    num_arrays, load = work.placement.num_arrays, cache(partial(_tile_load, chip))  # most are alike
    return tuple(
        tuple(
            load(tile, transfer, ticks * last // num_arrays - ticks * first // num_arrays)
            for tile, (transfer, (first, last)) in enumerate(zip(transfers, arrays, strict=True))
        )
        for transfers, arrays in zip(tile_transfers(work, chip), tile_arrays(work, chip), strict=True)
    )


def _tile_load(chip: Chip, tile: int, transfer: Transfer, ticks: int) -> Load:
    clock, path, memory = chip.clocks_hz["digital"], mesh.mesh_path(chip, 0, tile), chip.parts.dram
    return Load(
        tile=tile,
        chunks=transfer.num_chunks,
        fetch_ps=transfer.chunk_ps(chip),
        fetch_rest_ps=transfer.last_ps(chip),
        fill_ps=rates.instant_ps(ceil(ticks * transfer.chunk_bits / transfer.bits), clock),
        fill_rest_ps=rates.instant_ps(ceil(ticks * transfer.last_bits / transfer.bits), clock),
        first_ps=memory.latency_ps if memory else 0,
        path=path,
        hop_ps=mesh.transfer_ps(chip, transfer.chunk_bits, len(path)),
    )


def buffer_chunks(chip: Chip) -> int:
    """Chunks that a tile has room for ahead of its writer."""
    index = chip.parts.index_buffer
    return index.prefetch_blocks if index is not None else 2
