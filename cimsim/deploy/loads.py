"""How weights that are not resident reach the arrays: chunks, tiles and rounds."""

from __future__ import annotations

from functools import cache, partial
from math import ceil

from cimsim.chip import mesh, rates
from cimsim.chip.model import Chip
from cimsim.dataflow import LayerWork
from cimsim.events import Load
from cimsim.unit.load import count_load


def weight_loads(work: LayerWork, chip: Chip) -> tuple[tuple[Load, ...], ...]:
    """For each round, one load per tile that takes part. Each array has the mean share of bits and of
    filling time; a tile fills its arrays one after the other."""
    per_tile = chip.arrays_per_unit * chip.units_per_tile
    ticks = sum(count_load(job).ticks * count for job, count in work.load_jobs)
    num_arrays, in_round = work.placement.num_arrays, per_tile * chip.num_tiles
    load = cache(partial(_tile_load, chip))  # most are alike
    return tuple(
        tuple(
            load((first - start) // per_tile, *(
                total * min(first + per_tile, num_arrays) // num_arrays - total * first // num_arrays
                for total in (work.load_bits, ticks)
            ))
            for first in range(start, min(start + in_round, num_arrays), per_tile)
        )
        for start in range(0, num_arrays, in_round)
    )  # fmt: skip


def _tile_load(chip: Chip, tile: int, bits: int, ticks: int) -> Load:
    chunk = min(chunk_bits(chip), bits)
    chunks = ceil(bits / chunk)
    rest = bits - (chunks - 1) * chunk
    clock, path, memory = chip.clocks_hz["digital"], mesh.mesh_path(chip, 0, tile), chip.part("dram")
    fill_ps = rates.instant_ps(ceil(ticks * chunk / bits), clock)
    fill_rest_ps = rates.instant_ps(ceil(ticks * rest / bits), clock)
    return Load(
        tile, chunks, rates.memory_ps(chip, chunk), rates.memory_ps(chip, rest), fill_ps, fill_rest_ps,
        memory.component.latency_ps if memory else 0, path, mesh.transfer_ps(chip, chunk, len(path)),
    )  # fmt: skip


def chunk_bits(chip: Chip) -> int:
    """Bits fetched at once: one prefetch block of the index buffer, or half the tile buffer without one."""
    index = chip.part("index_buffer")
    if index is not None:
        return index.component.capacity_bits // index.component.prefetch_blocks
    return rates.tile_buffer_bits(chip) // 2


def buffer_chunks(chip: Chip) -> int:
    index = chip.part("index_buffer")
    return index.component.prefetch_blocks if index is not None else 2
