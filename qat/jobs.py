"""Jobs that depend on each other, run by Dask on this machine's processes, with one progress bar."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

IMAGES_PER_BYTE = 512  # the meter file grows by one byte per this many images trained on


class Job(NamedTuple):
    """`run(*args, meter)` leaves its result on disk; running it again finds it there."""

    key: str
    run: Callable[..., None]
    args: tuple[Any, ...]
    needs: tuple[str, ...]
    images: int  # expected work


class Meter:
    """Counts images over all processes: each appends to one file, whose size is the total."""

    def __init__(self, path: Path):
        self.path, self.left = path, 0

    def __call__(self, images: int) -> None:
        self.left += images
        whole, self.left = divmod(self.left, IMAGES_PER_BYTE)
        if whole:
            with self.path.open("ab") as file:
                file.write(b"." * whole)

    def total(self) -> int:
        return self.path.stat().st_size * IMAGES_PER_BYTE if self.path.exists() else 0


def run_jobs(jobs: Sequence[Job], workers: int, folder: Path) -> None:
    """Run every job after those it needs. Results do not depend on `workers`."""
    meter = Meter(folder / "progress")
    meter.path.write_bytes(b"")
    with _progress(meter, sum(job.images for job in jobs)):
        if workers == 1:
            _prepare()
            for job in jobs:
                job.run(*job.args, Meter(meter.path))
        else:
            _run_on_dask(jobs, workers, meter.path)
    meter.path.unlink(missing_ok=True)


def _run_on_dask(jobs: Sequence[Job], workers: int, meter: Path) -> None:
    import dask
    from distributed import Client, LocalCluster, as_completed

    quiet = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False,
             "distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False,
             "distributed.scheduler.allowed-failures": 1}  # fmt: skip
    with (
        dask.config.set(quiet),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        client.run(_prepare)
        futures: dict[str, Any] = {}
        for rank, job in enumerate(jobs):
            needs = [futures[key] for key in job.needs]
            futures[job.key] = client.submit(_call, job, meter, needs, key=job.key, priority=-rank, pure=False)
        for future in as_completed(list(futures.values())):
            future.result()


def _call(job: Job, meter: Path, needs: list[None]) -> None:
    job.run(*job.args, Meter(meter))


def _prepare() -> None:
    """One thread a process: two on two busy cores are slower, and one gives the same bytes every time."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


@contextmanager
def _progress(meter: Meter, total: int):
    """A Rich bar on standard error that follows the meter, with an estimate of the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    done = threading.Event()
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=60) as progress:
        task = progress.add_task("codesign", total=max(1, total))

        def follow() -> None:
            while not done.wait(0.5):
                progress.update(task, completed=min(total, meter.total()))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
            progress.update(task, completed=total)
        finally:
            done.set()
            thread.join()
