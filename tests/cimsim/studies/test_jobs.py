"""Jobs: each runs after what it needs, one process or two, and errors arrive as they were raised."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cimsim.studies.jobs import IMAGES_PER_BYTE, Job, Meter, run_jobs
from cimsim.studies.study import ChipChoice, Study
from qat.experiments import study as codesign
from workloads.errors import InputError, RunError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


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
    return [Job(name, add_up, (folder, name, of), of, 1_000) for name, of in needs.items()]


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
    after = Job("after", add_up, (folder, "after", ("x",)), ("x",), 0)
    return [Job("x", refuse, (problems,), needs, 0), after]


def check_refused(folder: Path, jobs: list[Job], workers: int) -> None:
    """The error arrives whole, and what waited for the job was not done."""
    with pytest.raises(InputError) as raised:
        run_jobs(jobs, workers, folder)
    assert raised.value.where == "study.yaml"
    assert raised.value.problems == ["train.batch = 0: must be 1 or more", "chips.0: unknown"]
    assert str(raised.value).startswith("study.yaml: train.batch = 0: must be 1 or more\nstudy.yaml: chips.0")
    assert not (folder / "after").exists()


def test_two_workers_give_the_same_files_and_errors_with_one_thread_each(tmp_path):
    jobs = [*graph(tmp_path), Job("threads", threads, (tmp_path,), (), 0)]
    check_refused(tmp_path, [*jobs, *refusal(tmp_path, tuple(job.key for job in jobs))], 2)
    (tmp_path / "progress").unlink(missing_ok=True)
    assert contents(tmp_path) == SUMS | {"threads": "1 1"}


def test_after_an_error_the_same_directory_can_be_used_again(tmp_path):
    check_refused(tmp_path, refusal(tmp_path), 1)
    run_jobs(graph(tmp_path), 1, tmp_path)
    assert contents(tmp_path) == SUMS


def test_failed_work_arrives_as_such(tmp_path):
    with pytest.raises(RunError, match="the disk is full"):
        run_jobs([Job("x", fail, (), (), 0)], 1, tmp_path)


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


def test_a_studys_jobs_are_listed_after_what_they_need():
    chips = (ChipChoice(chip="isaac"), ChipChoice(chip="sram-rom"))
    study = Study(name="s", network="digitsnet", data="digits", chips=chips, seeds=(0, 1), train={"batch": 32})  # pyright: ignore
    network = study.load_network()
    tables = {c.chip: codesign.table_for(study, network, codesign.load_chip(c.chip)) for c in chips}
    jobs = codesign.plan_jobs(study, tables, Path("run"))
    seen: set[str] = set()
    for job in jobs:
        assert set(job.needs) <= seen, job.key
        assert job.key not in seen and job.images > 0
        seen.add(job.key)
    assert len([key for key in seen if key.startswith("search")]) == 2 * 2 * len(study.budgets)
