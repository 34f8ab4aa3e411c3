"""Array ticks per second of the MVM machine on one core, beside the plainest state machine's steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import numba

from cimsim.records import ArrayJob
from cimsim.unit.mvm import count_mvm

NUM_TICKS = 200_000_000
# From rare to frequent events: ISAAC's pipeline (Shafiee et al., ISCA 2016) has one every 128 ticks, the
# small array, with four columns a converter, one almost every second tick.
JOBS = {
    "ISAAC, 128 columns an ADC": ArrayJob(1, 16, 128, 1, 128, 1, 128, 256, 128, 128),
    "16 columns an ADC": ArrayJob(1, 8, 64, 4, 16, 1, 16, 8, 16, 16),
    "4 columns an ADC": ArrayJob(1, 4, 8, 2, 3, 1, 2, 3, 2, 2),
}


@numba.njit
def xorshift_machine(num_steps: int) -> int:
    """A scalar state machine with one xorshift draw a step (Marsaglia 2003): the yardstick."""
    word, state, count = numba.uint64(88172645463325252), 0, 0
    for _ in range(num_steps):
        word ^= word << numba.uint64(13)
        word ^= word >> numba.uint64(7)
        word ^= word << numba.uint64(17)
        state = (state + 1) & 3 if word & numba.uint64(1) else state
        count += state == 3
    return count


def best_rate(run: Callable[[], int], repeats: int = 3) -> float:
    """Steps per second of the fastest of a few runs; `run` returns its number of steps."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        steps = run()
        rates.append(steps / (time.perf_counter() - start))
    return max(rates)


def run_yardstick() -> int:
    xorshift_machine(NUM_TICKS)
    return NUM_TICKS


def run_array(job: ArrayJob) -> int:
    """Every tick of about NUM_TICKS, without the memo."""
    interval = count_mvm(job._replace(vectors=1000)).interval
    return count_mvm.__wrapped__(job._replace(vectors=NUM_TICKS // interval), fast_forward=False).drain


def main() -> None:
    xorshift_machine(1)
    yardstick = best_rate(run_yardstick)
    print(f"{'xorshift machine':28s} {yardstick / 1e6:6.0f} M steps/s")
    for name, job in JOBS.items():
        rate = best_rate(lambda job=job: run_array(job))
        print(f"{name:28s} {rate / 1e6:6.0f} M ticks/s  {rate / yardstick:.2f} of the xorshift machine")


if __name__ == "__main__":
    main()
