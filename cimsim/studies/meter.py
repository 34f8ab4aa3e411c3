"""The meter of a run: how many images its jobs have done, as a bar or as lines on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGES_PER_BYTE = 512  # the meter file grows by one byte per this many images


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


@contextmanager
def shown(path: Path, total: int, title: str) -> Iterator[None]:
    """While it lasts, a Rich bar on standard error follows the meter file, with an estimate of the time left."""
    from rich import progress as rich
    from rich.console import Console

    meter, log = Meter(path), _Log(total, title)
    meter.path.write_bytes(b"")
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.TaskProgressColumn(),
               rich.TimeElapsedColumn(), rich.TextColumn("left"), rich.TimeRemainingColumn())  # fmt: skip
    done, console = threading.Event(), Console(stderr=True)
    with rich.Progress(
        *columns, console=console, speed_estimate_period=60, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(title, total=max(1, total))

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
    meter.path.unlink(missing_ok=True)


class _Log:
    """Progress where no terminal draws a bar: one line for each twentieth of the work, with an estimate."""

    def __init__(self, total: int, title: str):
        self.total, self.title, self.start_s, self.said = max(1, total), title, time.monotonic(), 0

    def line(self, done: int) -> None:
        part = min(20, 20 * done // self.total)
        if part > self.said:
            passed_s = time.monotonic() - self.start_s
            left_s = max(0.0, passed_s * (self.total - done) / max(1, done))
            text = f"{self.title}: {5 * part} % after {passed_s:.0f} s, about {left_s:.0f} s left"
            print(text, file=sys.stderr, flush=True)
            self.said = part
