"""CPU seconds to simulate ResNet-18, from the command line and in a running process, and event-layer jobs a second."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from cimsim.chip.reading import load_chip
from cimsim.deploy.deployment import deploy, is_resident
from cimsim.deploy.loads import buffer_chunks
from cimsim.deploy.tasks import build_tasks
from cimsim.engine.whole import layer_works, simulate
from cimsim.events import Task, run
from workloads.plan import Plan
from workloads.shapes import load_network

CHIPS = ("isaac", "sram-rom")


def cpu_s(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def best_cpu_s(work: Callable[[], Any], repeats: int = 5) -> float:
    return min(cpu_s(work) for _ in range(repeats))


def first_cpu_s(chip: str) -> float:
    """The first simulation of a process, imports left out: compiled kernels are read from their cache."""
    program = f"""
from benchmarks.resnet18 import cpu_s, load_chip, load_network, simulate
network, chip = load_network("resnet18"), load_chip("{chip}")
print(cpu_s(lambda: simulate(network, chip)))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return float(done.stdout)


def command_cpu_s(chip: str) -> float:
    """`cimsim simulate resnet18 --chip CHIP --json` as a process of its own, imports included."""
    program = [sys.executable, "-m", "cimsim", "simulate", "resnet18", "--chip", chip, "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def num_jobs(tasks: list[Task]) -> int:
    """Row blocks computed and chunks of weights loaded."""
    chunks = sum(load.chunks for task in tasks for tiles in task.loads for load in tiles)
    return chunks + sum(task.blocks * task.rounds for task in tasks)


def main() -> None:
    network = load_network("resnet18")
    print(f"{'chip':10s} {'command':>10s} {'first':>10s} {'again':>10s} {'events':>10s} {'jobs':>8s} {'jobs/s':>10s}")
    for name in CHIPS:
        chip = load_chip(name)
        works = layer_works(network, chip, Plan.uniform(network, "linear-8"))
        deployment = deploy(network, chip, works, is_resident(works, chip))
        tasks, chunks = build_tasks(deployment), buffer_chunks(chip)
        again_s = best_cpu_s(lambda chip=chip: simulate(network, chip))
        events_s = best_cpu_s(
            lambda tasks=tasks, deployment=deployment, chunks=chunks: run(
                tasks, pipelined=deployment.pipelined, buffer_chunks=chunks, trace=False
            )
        )
        jobs = num_jobs(tasks)
        print(f"{name:10s} {command_cpu_s(name):8.2f} s {first_cpu_s(name):8.3f} s {again_s:8.3f} s {events_s:8.3f} s "
              f"{jobs:8,d} {jobs / events_s:10,.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
