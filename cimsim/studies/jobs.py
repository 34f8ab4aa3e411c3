"""The runner of all work that is long: jobs that need each other, on one process or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cimsim.studies.meter import Meter, shown
from cimsim.studies.pools import Pool, as_one_thread, cluster, processes


class Job(NamedTuple):
    """`run(*args, meter)` leaves `results` on disk, the last file last; these are all that tells that it is done."""

    key: str
    needs: tuple[str, ...]
    images: int  # expected work
    run: Callable[..., None]
    args: tuple[Any, ...]
    results: tuple[Path, ...]

    @property
    def is_done(self) -> bool:
        return all(path.exists() for path in self.results)


def to_do(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that are not done, without those that only done ones need. `jobs`: each after what it needs."""
    needed = {key for job in jobs for key in job.needs}
    wanted: set[str] = set()
    left: list[Job] = []
    for job in reversed(jobs):
        if (job.key in wanted or job.key not in needed) and not job.is_done:
            wanted.update(job.needs)
            left.append(job)
    return left[::-1]


def run_jobs(
    jobs: Sequence[Job], workers: int, folder: Path, *, title: str = "training", scheduler: str | None = None
) -> None:
    """Do what is not done yet, each job after those it needs, the first listed first.

    On `workers` processes of this machine, or on those of the Dask scheduler with this address: they must see this
    folder under its name. Results depend on neither. Raises what a job raises, and RunError when a process dies.
    """
    left = to_do(jobs)
    if not left:
        return
    meter = folder / "progress"
    with shown(meter, sum(job.images for job in left), title):
        if scheduler:
            with cluster(scheduler) as pool:
                _run_on(pool, left, meter)
        elif workers == 1 or len(left) == 1:
            for job in left:
                do(job, meter)
        else:
            with processes(min(workers, len(left))) as pool:
                _run_on(pool, left, meter)


def do(job: Job, meter: Path) -> None:
    """What a process does."""
    as_one_thread()
    job.run(*job.args, Meter(meter))


def _run_on(pool: Pool, jobs: Sequence[Job], meter: Path) -> None:
    """Jobs go to the pool when what they need is done, never more than it has room for: so that order counts."""
    waiting = dict(enumerate(jobs))
    left = {job.key for job in jobs}
    under_way: dict[Any, Job] = {}
    while left:
        ready = (rank for rank, job in waiting.items() if left.isdisjoint(job.needs))
        for rank in list(islice(ready, max(0, pool.room() - len(under_way)))):
            job = waiting.pop(rank)
            under_way[pool.submit(do, job, meter)] = job
        for future in pool.wait(list(under_way), return_when="FIRST_COMPLETED").done:
            left.discard(under_way.pop(future).key)
            future.result()
