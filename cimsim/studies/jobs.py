"""Jobs that depend on each other, run by Dask on this machine's processes, with one progress bar."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from workloads.errors import RunError

IMAGES_PER_BYTE = 512  # the meter file grows by one byte per this many images trained on

# Dask gives freed memory back at once, which costs convolutions a sixth of their speed: keep it instead.
WORKER_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": 2_000_000_000,
    "MALLOC_MMAP_THRESHOLD_": 1_000_000_000,
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
}


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
    from dask import config
    from distributed import Client, KilledWorker, as_completed

    quiet = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False,
             "distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False,
             "distributed.scheduler.allowed-failures": 1,
             "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}  # fmt: skip
    with (
        config.set(quiet),
        _cluster(workers) as cluster,
        Client(cluster) as client,
    ):
        client.run(_prepare)
        futures: dict[str, Any] = {}
        for rank, job in enumerate(jobs):
            needs = [futures[key] for key in job.needs]
            futures[job.key] = client.submit(_call, job, meter, needs, key=job.key, priority=-rank, pure=False)
        try:
            for future in as_completed(list(futures.values())):
                future.result()
        except KilledWorker as error:
            reason = f"a worker process was killed while it did {error.task} (out of memory?)"
            raise RunError(f"{reason}: free memory or use --workers 1, then run the same command again") from None


def _cluster(workers: int) -> Any:
    """Worker processes that leave Ctrl-C to this one: they are started while it is ignored, and inherit that."""
    from distributed import LocalCluster

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        return LocalCluster(n_workers=workers, threads_per_worker=1, silence_logs=50, dashboard_address=":0")
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)


def _call(job: Job, meter: Path, needs: list[None]) -> None:
    job.run(*job.args, Meter(meter))


def _prepare() -> None:
    """One thread a process: two on two busy cores are slower, and one gives the same bytes every time."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if (torch := sys.modules.get("torch")) is not None:  # loaded already: it no longer looks at the environment
        torch.set_num_threads(1)


@contextmanager
def _progress(meter: Meter, total: int):
    """A Rich bar on standard error that follows the meter, with an estimate of the time left."""
    from rich import progress as rich
    from rich.console import Console

    log = _Log(total)
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TaskProgressColumn(),
               rich.TimeElapsedColumn(), rich.TextColumn("left"), rich.TimeRemainingColumn())  # fmt: skip
    done, console = threading.Event(), Console(stderr=True)
    with rich.Progress(
        *columns, console=console, speed_estimate_period=60, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("training", total=max(1, total))

        def follow() -> None:
            while not done.wait(0.5):
                progress.update(task, completed=min(total, meter.total()))
                if not console.is_terminal:
                    log.line(meter.total())

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
            progress.update(task, completed=total)
        finally:
            done.set()
            thread.join()


class _Log:
    """Progress where no terminal draws a bar: one line for each twentieth of the work, with an estimate."""

    def __init__(self, total: int):
        self.total, self.start_s, self.said = max(1, total), time.monotonic(), 0

    def line(self, done: int) -> None:
        part = min(20, 20 * done // self.total)
        if part > self.said:
            passed_s = time.monotonic() - self.start_s
            left_s = passed_s * (self.total - done) / max(1, done)
            print(
                f"{5 * part} % after {passed_s:.0f} s, about {max(0.0, left_s):.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self.said = part
