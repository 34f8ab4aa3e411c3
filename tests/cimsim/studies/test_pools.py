"""Pools: a Dask scheduler's processes do what those of this machine do; Ctrl-C ends all of the latter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cimsim.studies.jobs import Job, run_jobs
from cimsim.studies.meter import Meter
from cimsim.studies.study import Study
from cimsim.studies.sweep import run_sweep
from tests.helpers.command import (
    ROOT,
    TINY_STUDY,
    finish,
    group_is_gone,
    refused,
    start,
    wait_until,
    write_yaml,
)
from workloads.errors import InputError, RunError

STUDY = TINY_STUDY | {"chips": [{"chip": "sram-rom", "vary": {"adc.count": [1, 2], "adc.bits": [5, 6]}}]}


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A scheduler with one process, on loopback: its address, and itself."""
    pytest.importorskip("distributed")
    file, environment = folder / "scheduler.json", os.environ | {"PYTHONPATH": str(ROOT)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "env": environment}
    where = ("--scheduler-file", str(file))
    programs = {
        "dask_scheduler": ("--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
        "dask_worker": ("--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--no-nanny"),
    }
    started = [
        subprocess.Popen([sys.executable, "-m", f"distributed.cli.{name}", *where, *options], **quiet)
        for name, options in programs.items()
    ]
    try:
        wait_until(lambda: file.exists() and bool(file.read_text()))
        yield json.loads(file.read_text())["address"], started[0]
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("dask")) as (address, _):
        yield address


def rows(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (*folder.glob("rows/*"), folder / "results.csv")}


def test_a_sweep_on_a_scheduler_is_the_sweep_on_this_machine(scheduler, tmp_path):
    """By the command line, from a folder that the other process is not in."""
    path = write_yaml(tmp_path / "study.yaml", STUDY)
    done = finish(start(tmp_path, "sweep", path, "--scheduler", scheduler, "--run-dir", "far"))
    assert done.code == 0, done.err
    run_sweep(Study.model_validate(STUDY), tmp_path / "near", 1)
    assert rows(tmp_path / "far") == rows(tmp_path / "near")
    assert len(rows(tmp_path / "far")) == 1 + 5 * 2


def refuse(meter: Meter) -> None:
    raise InputError("here", ["wrong = 1: must be 2"])


def note(path: Path, meter: Meter) -> None:
    path.write_text(f"{os.getpid()}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_errors_of_another_process_arrive_and_what_waits_is_not_done(scheduler, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    jobs = [Job("1", (), 0, note, (first,), (first,)), Job("2", ("1",), 0, refuse, (), (second,)),
            Job("3", ("2",), 0, note, (third,), (third,))]  # fmt: skip
    with pytest.raises(InputError, match="here: wrong = 1: must be 2"):
        run_jobs(jobs, 1, tmp_path, scheduler=scheduler)
    assert int(first.read_text()) != os.getpid() and not third.exists()


def end(pid: int, meter: Meter) -> None:
    os.kill(pid, signal.SIGKILL)
    signal.pause()


def test_a_scheduler_that_is_lost_ends_the_run_with_a_remedy(tmp_path, caplog):
    with running(tmp_path) as (address, process):
        job = Job("1", (), 0, end, (process.pid,), (tmp_path / "never",))
        with pytest.raises(RunError, match=f"{address}: no longer answers: start it, then run the same command again"):
            run_jobs([job], 1, tmp_path, scheduler=address)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense://x"])
def test_a_scheduler_that_does_not_answer_is_told(capsys, monkeypatch, tmp_path, address):
    pytest.importorskip("distributed")
    monkeypatch.setattr("cimsim.studies.pools.ANSWER_S", 0.5)
    path = write_yaml(tmp_path / "study.yaml", STUDY)
    told = refused(capsys, "sweep", path, "--run-dir", tmp_path / "run", "--scheduler", address)
    assert f"--scheduler: {address}: no Dask scheduler answers" in told


def test_without_a_scheduler_there_is_no_dask(tmp_path):
    program = ("import sys\nsys.modules['dask'] = sys.modules['distributed'] = None\n"
               "from cimsim.cli.main import main\nmain()")  # fmt: skip
    path = write_yaml(tmp_path / "study.yaml", STUDY)
    done = finish(start(tmp_path, "sweep", path, "--workers", 2, program=program))
    assert done.code == 0, done.err
    done = finish(start(tmp_path, "sweep", path, "--scheduler", "127.0.0.1:1", program=program))
    assert done.code == 2 and "needs dask, distributed" in done.err


@pytest.mark.parametrize("command", ["sweep", "codesign"])
def test_ctrl_c_ends_every_process_and_the_command_goes_on(tmp_path, command):
    """As a terminal sends it: to all processes at once, of which only the first tells."""
    path = write_yaml(tmp_path / "study.yaml", STUDY | {"network": "resnet8"} if command == "sweep" else TINY_STUDY)
    moment = {"sweep": "rows/*.json", "codesign": "checkpoints/float-0.pt"}[command]
    process = start(
        tmp_path, command, path, "--workers", 2, "--run-dir", "run",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    wait_until(lambda: process.poll() is not None or any((tmp_path / "run").glob(moment)))
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.code == 130, done.err
    told = [line for line in done.err.splitlines() if " % after " not in line]
    assert told == ["interrupted: the same command goes on where it stopped"]
    wait_until(lambda: group_is_gone(process))
