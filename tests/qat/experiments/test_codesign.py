"""A study may be killed at any moment, split over processes or run twice: its results are the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cimsim.studies.run import FOLDERS
from cimsim.studies.study import ChipChoice, Study
from qat.experiments import study as codesign
from qat.experiments.study import run_codesign
from tests.helpers.command import TINY_STUDY, finish, group_is_gone, refused, run, start, wait_until, write_yaml

STUDY = TINY_STUDY | {
    "chips": [{"chip": "isaac", "budgets": [0.7], "vary": {"adc.bits": [6]}}],
    "train": TINY_STUDY["train"] | {"float_epochs": 4},
}

# Files whose appearance says how far a run has come, in that order.
MOMENTS = ("checkpoints/float-0.pt", "plans/search-*.json", "rows/*.json")


def results(folder: Path) -> dict[str, bytes]:
    """Everything that is computed; figures and the log of test readings are not."""
    places = ["results.csv", *(f"{name}/*" for name in FOLDERS if name != "figures")]
    return {str(path.relative_to(folder)): path.read_bytes() for place in places for path in folder.glob(place)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An undisturbed run of one process."""
    return run_codesign(Study.model_validate(STUDY), tmp_path_factory.mktemp("runs") / "whole", 1).path


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.fixture
def study(tmp_path) -> Path:
    return write_yaml(tmp_path / "study.yaml", STUDY)


def wait_for(process: subprocess.Popen[str], folder: Path, moment: str) -> None:
    def has_come() -> bool:
        assert process.poll() is None, f"ended before {moment}: {process.communicate()}"
        return any(folder.glob(moment))

    wait_until(has_come)


def test_a_run_holds_what_it_promises(whole):
    lines = (whole / "results.csv").read_text().splitlines()
    rows = [json.loads(path.read_text()) for path in (whole / "rows").iterdir()]
    assert len(lines) == 1 + len(rows) == 1 + 3  # the search's plan, its variant, and the baseline
    assert {row["kind"] for row in rows} == {"search", "uniform", "variant"}
    for row in rows:
        assert all((whole / f"{folder}/{row['key']}.json").is_file() for folder in ("plans", "costs", "timeline"))
        assert (whole / row["weights"]).is_file()
        assert 0 <= row["array_accuracy"] <= 1


def test_killed_at_every_stage_the_same_command_goes_on(whole, study, tmp_path):
    """The process group is killed as soon as each stage has begun to leave something on disk."""
    folder = tmp_path / "run"
    for moment in MOMENTS:
        process = start(tmp_path, "codesign", study, "--run-dir", folder, "--workers", 1)
        wait_for(process, folder, moment)
        os.killpg(process.pid, signal.SIGKILL)
        assert finish(process).code == -signal.SIGKILL
    run_codesign(Study.model_validate(STUDY), folder, 1)
    assert results(folder) == results(whole)


def test_two_processes_killed_at_their_head_leave_none_and_go_on(whole, study, tmp_path):
    """The workers notice that their parent is gone; then two processes write what one writes."""
    folder = tmp_path / "run"
    process = start(tmp_path, "codesign", study, "--run-dir", folder, "--workers", 2)
    wait_for(process, folder, "checkpoints/float-0.pt")
    process.kill()
    finish(process)  # returns when the last process has let go of standard output
    wait_until(lambda: group_is_gone(process))
    program = ("import sys\nfrom pathlib import Path\nfrom cimsim.studies.study import load_study\n"
               "from qat.experiments.study import run_codesign\n"
               "run_codesign(load_study(Path(sys.argv[1])), Path(sys.argv[2]), 2)")  # fmt: skip
    done = finish(start(tmp_path, study, folder, program=program))
    assert done.code == 0, done.err
    assert results(folder) == results(whole)


def test_a_finished_study_is_read_again_and_not_trained_again(capsys, study, copied):
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    done = run(capsys, "codesign", study, "--run-dir", copied, "--json")
    assert done.code == 0
    assert len(json.loads(done.out)) == 3
    assert f"Report: {copied / 'report.html'}" in done.err
    assert {path: path.read_bytes() for path in before} == before
    figures = results_of_report(copied)
    assert run(capsys, "report", copied).code == 0
    assert results_of_report(copied) == figures


def results_of_report(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (*folder.glob("figures/*"), folder / "report.html")}


# --- broken files: told with a remedy, and the remedy works ---


def again(capsys, study: Path, folder: Path) -> str:
    return refused(capsys, "codesign", study, "--run-dir", folder, "--workers", 1)


def test_a_truncated_checkpoint(capsys, study, copied, whole):
    path = copied / "checkpoints/float-0.pt"
    path.write_bytes(path.read_bytes()[:1000])
    (copied / f"rows/{searched(copied)}.json").unlink()
    told = again(capsys, study, copied)
    assert f"{path}: is not a readable checkpoint" in told
    assert "delete it, then run the same command again" in told
    path.unlink()
    run_codesign(Study.model_validate(STUDY), copied, 1)
    assert results(copied) == results(whole)


def searched(folder: Path) -> str:
    """The key of the row of the plan that was searched for."""
    rows = (json.loads(path.read_text()) for path in (folder / "rows").iterdir())
    return next(row["key"] for row in rows if row["kind"] == "search")


def test_corrupt_weights(capsys, study, copied, whole):
    (row,) = (row for path in (copied / "rows").iterdir() if (row := json.loads(path.read_text()))["kind"] == "uniform")
    path = copied / row["weights"]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    (copied / f"rows/{row['key']}.json").unlink()
    told = again(capsys, study, copied)
    assert f"{path}: sha256 = " in told
    assert "delete the file and run the same command" in told
    path.unlink()
    run_codesign(Study.model_validate(STUDY), copied, 1)
    assert results(copied) == results(whole)


def test_a_corrupt_row(capsys, study, copied, whole):
    path = min((copied / "rows").iterdir())
    path.write_text(path.read_text()[:50])
    told = again(capsys, study, copied)
    assert f"{copied}: rows/{path.name}: cannot be used" in told
    assert "delete it, then run the same command again" in told
    path.unlink()
    run_codesign(Study.model_validate(STUDY), copied, 1)
    assert results(copied) == results(whole)


@pytest.mark.parametrize("lost", ["float-0.pt", "float-0.json", "warm-*.pt", "warm-*.json"])
def test_what_only_finished_rows_need_is_not_made_again(copied, lost):
    for path in copied.glob(f"checkpoints/{lost}"):
        path.unlink()
    run_codesign(Study.model_validate(STUDY), copied, 1)
    assert not list(copied.glob(f"checkpoints/{lost}"))


# --- the single steps ---


def test_a_search_prints_its_plan_and_a_train_its_rows(capsys, study, tmp_path):
    done = run(capsys, "search", study, "--chip", "isaac", "--budget", "0.7", "--run-dir", tmp_path / "run", "--json")
    assert done.code == 0
    plan = tmp_path / "plan.json"
    plan.write_text(done.out)
    assert run(capsys, "simulate", "digitsnet", "--chip", "isaac", "--plan", plan).code == 0
    done = run(capsys, "train", study, "--plan", plan, "--run-dir", tmp_path / "run", "--json")
    assert done.code == 0
    rows = json.loads(done.out)
    assert "isaac" in {row["chip"] for row in rows if not row["vary"]}
    assert all(row["array_accuracy"] is not None for row in rows)


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
