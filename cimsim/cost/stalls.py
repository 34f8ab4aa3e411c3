"""What a layer's time was lost to."""

from __future__ import annotations

from math import ceil

from cimsim.chip import rates
from cimsim.cost.account import Account
from cimsim.dataflow import LayerWork
from cimsim.deploy.deployment import Deployment
from cimsim.events import TaskTimes
from cimsim.records import Actions
from cimsim.unit.load import count_load

# What kernels count; the rest is waiting between tiles.
ARRAY_CAUSES = ("index", "rom_port", "bank_conflict", "products", "adc", "output", "fetch")


def roofline(actions: Actions, work: LayerWork | None, times: TaskTimes, account: Account) -> tuple[float, str]:
    """Least time in ns that compute or outer memory allow, and which of them is longer."""
    chip = account.deployment.chip
    outer_bits = sum(n for (kind, _, action), n in actions.items() if kind in ("dram", "link") and action != "activate")
    compute_ps = times.busy_ps if work is None else 0
    if work is not None:
        placement, rounds = work.placement, 1 if account.deployment.resident else work.placement.rounds
        pace = work.layer.num_positions * max(work.stage_ticks.values()) * rounds // placement.copies
        compute_ps = rates.instant_ps(pace, work.clock_hz)
        outer_bits += 0 if account.deployment.resident else work.load_bits
    memory_ps = rates.memory_ps(chip, outer_bits) if outer_bits else 0
    return max(compute_ps, memory_ps) / 1000, "compute" if compute_ps >= memory_ps else "outer memory"


def stalls_ps(work: LayerWork | None, times: TaskTimes, deployment: Deployment) -> dict[str, int]:
    """Time lost by cause, as `LayerCost` defines the causes; they overlap neither each other nor work."""
    lost = {
        "dependency": times.dependency_ps, "mesh": times.mesh_ps, "dram": times.memory_ps + times.queued_ps,
        "index_starvation": times.starved_ps + times.stream_ps,
    } | dict.fromkeys(ARRAY_CAUSES, 0)  # fmt: skip
    if work is None:
        return lost
    rounds = 1 if deployment.resident else work.placement.rounds
    for cause, ticks in work.stall_ticks.items():
        lost[cause] = rates.instant_ps(ticks * rounds, work.clock_hz)
    loads = [(count_load(job), count) for job, count in work.load_jobs]
    ticks = max(1, sum(load.ticks * count for load, count in loads))
    for cause in ("index", "rom_port", "bank_conflict"):  # the writer's share of idle ticks while it fills arrays
        idle = sum(getattr(load, f"stall_{cause}") * count for load, count in loads)
        lost[cause] += times.fill_ps * idle // ticks
    return lost


def bottleneck(work: LayerWork | None, times: TaskTimes) -> str:
    """What this layer spends most time on: its weights (and why), or the slowest stage of its arrays."""
    if work is None:
        return "digital" if times.busy_ps >= times.memory_ps else "outer memory"
    stages = work.stage_ticks
    spent = {max(stages, key=lambda name: stages[name]): times.busy_ps, "weight write": times.fill_ps,
             "outer memory": times.starved_ps + times.queued_ps + times.memory_ps + times.stream_ps}  # fmt: skip
    return max(spent, key=lambda name: spent[name])


def interval_ps(account: Account) -> int:
    """Steady completion interval of one image. Pipelined it is that of the busiest task, link or channel; layer by
    layer the whole latency, of which the images of one load share the loading."""
    timeline, batch = account.timeline, account.deployment.network.batch
    if account.deployment.pipelined:
        shared = (*timeline.link_busy_ps.values(), timeline.memory_busy_ps)
        return ceil(max(*(times.busy_ps for times in timeline.tasks), *shared) / batch)
    loading_ps = sum(times.fill_ps + times.starved_ps + times.queued_ps for times in timeline.tasks)
    return ceil((timeline.latency_ps - loading_ps) / batch) + ceil(loading_ps / account.images_per_load)
