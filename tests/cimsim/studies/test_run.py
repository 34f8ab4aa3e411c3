"""A run directory holds whole files, knows whose it is, and tells which of its files is broken."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import subprocess
import sys

import pytest

from cimsim.studies.run import RunDir
from workloads.errors import InputError, RunError
from workloads.results import COLUMNS, Refused, Row, is_number, plain_row, results_csv
from workloads.store import PART, content_key, write_atomically

STUDY = "name: a\nnetwork: lenet5\nworkers: 2\n"
MANIFEST = {"version": "1", "chips": {"isaac": {"hash": "1234"}}}
COSTS = dict.fromkeys(("dynamic_pj", "leakage_pj", "always_on_pj", "latency_ns", "interval_ns", "area_mm2",
                       "area_used_mm2", "bits_per_weight"), 1.0)  # fmt: skip
ROW = Row(key="k", kind="uniform", label="uniform linear-4", chip="isaac", energy_pj=0.1 + 0.2, plan="k.json", **COSTS)


def fail_with(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, function, fail_with(errno.ENOSPC))
    with pytest.raises(RunError, match=r"file: cannot be written: No space left on device; free space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RunError, match="No such file or directory"):
        write_atomically(tmp_path / "none/file", b"")


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run").open(STUDY, MANIFEST)


def test_opening_again_changes_nothing(run):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    run.open(STUDY.replace("2", "3"), MANIFEST)  # no result depends on the number of workers
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("study", "manifest", "problem"),
    [
        (STUDY.replace("lenet5", "vgg8"), MANIFEST, "study.yaml: is another study: network changed: remove"),
        (STUDY + "seeds: [1]", MANIFEST, "another study: seeds changed"),
        (STUDY, {"chips": {"isaac": {"hash": "5678"}}}, "chips.isaac: the chip file has changed since: remove"),
    ],
)
def test_the_run_of_another_study_or_chip_is_kept(run, study, manifest, problem):
    with pytest.raises(InputError, match=problem) as caught:
        run.open(study, manifest)
    assert "another --run-dir" in str(caught.value)
    assert (run.path / "study.yaml").read_text() == STUDY


@pytest.mark.parametrize("content", [b"", b"a: [1", b"\xff\xfe"])
def test_a_broken_study_in_a_run_is_told(run, content):
    (run.path / "study.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"run/study\.yaml: \(whole file\)"):
        run.open(STUDY, MANIFEST)


def test_a_file_in_place_of_the_directory_is_told(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match=r"cannot be created: .*name another --run-dir"):
        RunDir(tmp_path / "run").open(STUDY, MANIFEST)


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(run):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    gone, kept = (run.path / f"rows/.k.json.{pid}{PART}" for pid in (dead.pid, os.getpid()))
    for path in (gone, kept):
        path.write_text("half a r")
    run.open(STUDY, MANIFEST)
    assert not gone.exists() and kept.exists()
    assert run.rows() == []


def test_rows_come_back_exactly(run):
    run.write_row(ROW)
    assert run.rows() == [ROW]


@pytest.mark.parametrize("content", [b"", b'{"key": ', b"[]", b"{}", b"\x93NUMPY\x01"])
def test_every_broken_row_is_told_with_its_remedy(run, content):
    for name in ("a", "b"):
        (run.path / f"rows/{name}.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        run.rows()
    assert {problem.split(":")[0] for problem in caught.value.problems} == {"rows/a.json", "rows/b.json"}
    assert all("delete it, then run the same command again" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kind": "guess"}, "rows/k.json: kind = 'guess': Input should be 'search', 'uniform', 'all_vq'"),
        ({"energy_pj": -1.0}, "rows/k.json: energy_pj = -1.0: Input should be greater than or equal to 0"),
        ({"array_accuracy": 1.5}, "rows/k.json: array_accuracy = 1.5: Input should be less than or equal to 1"),
        ({"colour": "red"}, "rows/k.json: colour: unknown key (known: key, kind,"),
        ({"vary": {"adc.bits": "four"}}, "rows/k.json: vary.adc.bits.int = 'four': "),
        ({"refused": []}, "rows/k.json: refused: "),
    ],
)
def test_a_row_that_cannot_be_is_told_by_key_and_bound(run, changes, problem):
    run.write_json("rows/k.json", plain_row(ROW) | changes)
    with pytest.raises(InputError) as caught:
        run.rows()
    assert any(line.startswith(problem) for line in caught.value.problems), caught.value.problems


def test_what_a_chip_refuses_is_a_row_and_no_result(run):
    refused = Refused(key="r", kind="variant", label="a", chip="isaac", vary={"adc.bits": 4}, plan="r.json",
                      refused=("too small",))  # fmt: skip
    run.write_row(refused)
    run.write_row(ROW)
    assert run.rows() == [ROW, refused] and run.results() == [ROW]


def test_varied_knobs_are_one_text_and_a_column_each_behind_the_others():
    varied = ROW.model_copy(update={"key": "v", "kind": "variant", "vary": {"adc.bits": 4, "supply_v": 0.9}})
    other = ROW.model_copy(update={"key": "o", "kind": "variant", "vary": {"adc.bits": 5}})
    head, *lines = csv.reader(io.StringIO(results_csv([ROW, varied, other])))
    assert tuple(head) == (*COLUMNS, "vary.adc.bits", "vary.supply_v")
    assert [(line[head.index("vary")], *line[-2:]) for line in lines] == [
        ("", "", ""), ("adc.bits=4,supply_v=0.9", "4", "0.9"), ("adc.bits=5", "5", ""),
    ]  # fmt: skip
    assert results_csv([ROW]).splitlines()[0] == ",".join(COLUMNS)


def test_a_column_is_of_numbers_or_of_words():
    words = {"key", "kind", "label", "chip", "vary", "met", "plan"}
    assert {name for name in COLUMNS if not is_number(name)} == words
    assert is_number("vary.adc.bits") and not is_number("anything")


def test_results_are_sorted_and_floats_exact():
    rows = [ROW.model_copy(update={"key": key, "chip": chip}) for key, chip in (("2", "b"), ("3", "a"), ("1", "b"))]
    lines = results_csv(rows).splitlines()
    assert [line[0] for line in lines[1:]] == ["3", "1", "2"]
    assert "0.30000000000000004" in lines[1]
    assert results_csv(rows) == results_csv(rows[::-1])


def test_a_key_names_content():
    assert content_key("isaac", {"a": 1, "b": 2}) == content_key("isaac", {"b": 2, "a": 1})
    assert content_key("isaac") != content_key("sram-rom")
    assert json.dumps(content_key("isaac")) == f'"{content_key("isaac")}"'
    assert len(content_key()) == 12
