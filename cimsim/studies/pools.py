"""Pools of processes: those of this machine, or those that a Dask scheduler has; both as `concurrent.futures` has them.

Dask is imported only where the address of a scheduler is given.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from workloads.errors import InputError, RunError

# Of processes while they start: libraries look at these once. Memory that is given back at once costs convolutions a
# sixth of their speed; two threads on a busy core are slower than one, and one gives the same bytes every time.
ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
JOBS_PER_THREAD = 2  # that a scheduler has at a time: the next one is there when one ends
ANSWER_S = 10.0  # in which a scheduler must answer
DIED = "a process died, perhaps for lack of memory: run the same command again with fewer --workers"


class Pool(NamedTuple):
    """`submit(function, *args)` gives a future, `wait(futures, return_when=...)` those that are done."""

    submit: Callable[..., Any]
    wait: Callable[..., Any]
    room: Callable[[], int]  # jobs that it is given at a time, now


def as_one_thread() -> None:
    """This process calculates on one thread from now on."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if (torch := sys.modules.get("torch")) is not None:  # loaded already: it no longer looks at the environment
        torch.set_num_threads(1)


@contextmanager
def processes(count: int) -> Iterator[Pool]:
    """Of this machine. They leave Ctrl-C to this one, and end at once when it fails or is killed."""
    context = get_context("spawn")  # a forked process would share locks with the thread that draws progress
    ear, mouth = context.Pipe(duplex=False)  # closes when this process ends, however it does
    pool = futures.ProcessPoolExecutor(count, context, initializer=_listen, initargs=(ear,))

    def submit(*call: Any) -> Any:
        with _starting():
            return pool.submit(*call)

    try:
        yield Pool(submit, futures.wait, lambda: count)
    except BrokenProcessPool:
        raise RunError(DIED) from None
    except BaseException:
        mouth.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        mouth.close()
        ear.close()


def _listen(ear: Connection) -> None:
    """Ends this process when nobody holds the other end any more, in the midst of its work."""

    def wait() -> None:
        ear.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _starting() -> Iterator[None]:
    """A process that is started inherits the environment, and that Ctrl-C is held back."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextmanager
def cluster(scheduler: str) -> Iterator[Pool]:
    """Of the Dask scheduler with this address. Raises InputError when none answers."""
    from distributed import Client, KilledWorker, wait

    try:
        client: Any = Client(scheduler, timeout=ANSWER_S)
    except (OSError, ValueError) as error:
        problem = f"no Dask scheduler answers ({type(error).__name__}): start one with `dask scheduler`"
        raise InputError("--scheduler", [f"{scheduler}: {problem}"]) from None

    def submit(*call: Any) -> Any:
        return client.submit(_in_folder, Path.cwd(), *call, pure=False)

    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it prints the traceback of what is told below
    with client:
        try:
            yield Pool(submit, wait, lambda: max(1, JOBS_PER_THREAD * sum(client.nthreads().values())))
        except KilledWorker:
            raise RunError(f"{scheduler}: lost a process: run the same command again") from None
        except futures.CancelledError:
            raise RunError(f"{scheduler}: no longer answers: start it, then run the same command again") from None


def _in_folder(folder: Path, call: Callable[..., None], *args: Any) -> None:
    """Paths mean the same as where the command was given."""
    os.chdir(folder)
    call(*args)
