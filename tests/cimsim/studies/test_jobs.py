"""Jobs: each runs after what it needs, one process or two, and errors arrive as they were raised."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from cimsim.studies.jobs import Job, _run_on, run_jobs, to_do
from cimsim.studies.meter import IMAGES_PER_BYTE, Meter
from cimsim.studies.pools import ENVIRONMENT, Pool
from tests.helpers.command import wait_until
from workloads.errors import InputError, RunError


def add_up(folder: Path, name: str, needs: tuple[str, ...], meter: Meter) -> None:
    """A job whose file is one more than the sum of the files it needs: order is all that matters."""
    total = 1 + sum(int((folder / need).read_text()) for need in needs)
    meter(IMAGES_PER_BYTE)
    (folder / name).write_text(str(total))


def refuse(problems: list[str], meter: Meter) -> None:
    raise InputError("study.yaml", problems)


def fail(meter: Meter) -> None:
    raise RunError("the disk is full")


def threads(folder: Path, meter: Meter) -> None:
    import torch

    (folder / "threads").write_text(f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}")


def graph(folder: Path) -> list[Job]:
    """a; b and c after a; d after b and c; then a chain."""
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("d",), "f": ("e", "a"), "g": ()}
    return [job(folder / name, of, add_up, folder, name, of) for name, of in needs.items()]


def job(result: Path, needs: tuple[str, ...], run: Callable[..., None], *args: object) -> Job:
    """Named as its result."""
    return Job(result.name, needs, 1_000, run, args, (result,))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


SUMS = {"a": "1", "b": "2", "c": "2", "d": "5", "e": "6", "f": "8", "g": "1"}


def test_every_job_finds_what_it_needs(tmp_path, capfd):
    run_jobs(graph(tmp_path), 1, tmp_path)
    assert contents(tmp_path) == SUMS  # and the meter's file is gone
    assert capfd.readouterr().out == ""  # the bar is on standard error


def refusal(folder: Path, needs: tuple[str, ...] = ()) -> list[Job]:
    """A job that finds wrong input, and one that waits for it."""
    problems = ["train.batch = 0: must be 1 or more", "chips.0: unknown"]
    after = job(folder / "after", ("x",), add_up, folder, "after", ("x",))
    return [job(folder / "x", needs, refuse, problems), after]


def check_refused(folder: Path, jobs: list[Job], workers: int) -> None:
    """The error arrives whole, and what waited for the job was not done."""
    with pytest.raises(InputError) as raised:
        run_jobs(jobs, workers, folder)
    assert raised.value.where == "study.yaml"
    assert raised.value.problems == ["train.batch = 0: must be 1 or more", "chips.0: unknown"]
    assert str(raised.value).startswith("study.yaml: train.batch = 0: must be 1 or more\nstudy.yaml: chips.0")
    assert not (folder / "after").exists()


def test_two_workers_give_the_same_files_and_errors_with_one_thread_each(tmp_path):
    jobs = [*graph(tmp_path), job(tmp_path / "threads", (), threads, tmp_path)]
    check_refused(tmp_path, [*jobs, *refusal(tmp_path, tuple(job.key for job in jobs))], 2)
    (tmp_path / "progress").unlink(missing_ok=True)
    assert contents(tmp_path) == SUMS | {"threads": "1 1"}


def test_after_an_error_the_same_directory_can_be_used_again(tmp_path):
    check_refused(tmp_path, refusal(tmp_path), 1)
    run_jobs(graph(tmp_path), 1, tmp_path)
    assert contents(tmp_path) == SUMS


def test_a_job_is_done_when_all_its_results_are_there(tmp_path):
    """What only done jobs need is not done again, whether it is there or not."""

    def left() -> list[str]:
        return [one.key for one in to_do(graph(tmp_path))]

    assert left() == list(SUMS)
    run_jobs(graph(tmp_path), 1, tmp_path)
    assert left() == []
    for name, wanted in (("a", []), ("g", ["g"]), ("f", ["a", "f", "g"]), ("d", ["a", "f", "g"])):
        (tmp_path / name).unlink()
        assert left() == wanted, name
    run_jobs(graph(tmp_path), 1, tmp_path)
    assert contents(tmp_path) == {name: text for name, text in SUMS.items() if name != "d"}


def test_order_counts_where_several_jobs_are_ready(tmp_path):
    """The third is listed before the last one, and ready later."""
    jobs = [
        job(tmp_path / name, of, note, tmp_path, name) for name, of in {"1": (), "2": (), "3": ("1",), "4": ()}.items()
    ]
    _run_on(Pool(submit_in_turn, wait_for_all, lambda: 2), jobs, tmp_path / "progress")
    assert (tmp_path / "order").read_text() == "1234"


def note(folder: Path, name: str, meter: Meter) -> None:
    with (folder / "order").open("a") as file:
        file.write(name)


def submit_in_turn(*call) -> Future:
    """A pool of one process, this one."""
    future = Future()
    future.set_result(call[0](*call[1:]))
    return future


def wait_for_all(futures: list[Future], return_when: str):
    return wait(futures[:1], return_when=return_when)


def die(meter: Meter) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_is_told(tmp_path):
    """As when the system is out of memory."""
    with pytest.raises(RunError, match=r"a process died, .* with fewer --workers"):
        run_jobs([*graph(tmp_path), job(tmp_path / "x", (), die)], 2, tmp_path)


def test_the_environment_of_processes_does_not_stay(tmp_path):
    before = dict(os.environ)
    run_jobs(graph(tmp_path), 2, tmp_path)
    assert dict(os.environ) == before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def environment(folder: Path, meter: Meter) -> None:
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    told = {name: os.environ.get(name) for name in ENVIRONMENT}
    (folder / "environment").write_text(json.dumps([blocked, told]))


def test_processes_start_with_what_their_libraries_look_at_once(tmp_path):
    jobs = [
        job(tmp_path / "environment", (), environment, tmp_path),
        job(tmp_path / "a", (), add_up, tmp_path, "a", ()),
    ]
    run_jobs(jobs, 2, tmp_path)
    assert json.loads((tmp_path / "environment").read_text()) == [True, ENVIRONMENT]


def sleep(folder: Path, name: str, meter: Meter) -> None:
    (folder / name).write_text("")
    time.sleep(600)


def test_an_error_ends_what_else_is_under_way(tmp_path):
    """The other process is in the midst of ten minutes."""
    began = tmp_path / "began"
    jobs = [job(tmp_path / "long", (), sleep, tmp_path, "began"), job(tmp_path / "x", (), fail_after, began)]
    start_s = time.monotonic()
    with pytest.raises(RunError, match="the disk is full"):
        run_jobs(jobs, 2, tmp_path)
    assert time.monotonic() - start_s < 300 and not (tmp_path / "long").exists()


def fail_after(moment: Path, meter: Meter) -> None:
    wait_until(moment.exists)
    raise RunError("the disk is full")


def test_failed_work_arrives_as_such(tmp_path):
    with pytest.raises(RunError, match="the disk is full"):
        run_jobs([job(tmp_path / "x", (), fail)], 1, tmp_path)


def test_the_meter_adds_up_over_processes(tmp_path):
    meters = [Meter(tmp_path / "progress") for _ in range(3)]
    assert meters[0].total() == 0
    for images in (100, 411, 1, 2_000, 7):
        for meter in meters:
            meter(images)
    told = sum((100, 411, 1, 2_000, 7))
    each = told // IMAGES_PER_BYTE * IMAGES_PER_BYTE
    assert {meter.total() for meter in meters} == {3 * each}
    assert [meter.left for meter in meters] == [told - each] * 3
