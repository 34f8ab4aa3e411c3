"""A sweep simulates every combination once, on any number of processes, and goes on where it was killed."""

from __future__ import annotations

import json
from pathlib import Path

from cimsim.chip.reading import load_chip
from cimsim.cli.show import show_refused
from cimsim.engine.whole import simulate
from cimsim.studies import sweep
from cimsim.studies.study import Study
from cimsim.studies.sweep import cells, run_sweep
from tests.helpers.command import TINY_STUDY, finish, group_is_gone, run, start, wait_until, write_yaml
from workloads.plan import Plan
from workloads.shapes import load_network

KNOBS = {"adc.bits": [5, 6], "crossbar.columns": [64, 128]}
STUDY = Study.model_validate(
    TINY_STUDY | {"chips": [{"chip": "sram-rom", "vary": KNOBS}, {"chip": "isaac"}],
                  "formats": ["linear-8", "linear-4"], "baselines": ["linear-4", "d4-q4"]}
)  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    """All but what tells the machine and the state of the source tree."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_grid_is_whole_and_each_cell_has_a_name_of_its_own(tmp_path):
    """(4 combinations + the base) of one chip and the base of the other, times three formats."""
    found = cells(STUDY, tmp_path)
    assert len(found) == len({cell.key for cell in found}) == (4 + 1 + 1) * 3
    assert {cell.kind for cell in found} == {"uniform", "all_vq", "variant"}


def test_rows_are_what_the_library_computes(tmp_path):
    swept = run_sweep(STUDY, tmp_path / "run", 1)
    network = load_network("digitsnet")
    row = next(
        r for r in swept.rows if r.vary_text == "adc.bits=5,crossbar.columns=64" and r.label == "uniform linear-4"
    )
    plan = Plan.uniform(network, "linear-4")
    report = simulate(network, load_chip("sram-rom", {"adc.bits": 5, "crossbar.columns": 64}), plan)
    assert row.energy_pj == report.energy_pj
    assert row.latency_ns == report.latency_ns
    assert row.area_mm2 == report.area_um2 / 1e6
    assert row.bits_per_weight == plan.bits(network).bits_per_weight
    assert json.loads((swept.path / "plans" / row.plan).read_text()) == plan.model_dump()


def test_what_a_chip_refuses_is_told_and_is_no_result(tmp_path, capsys):
    swept = run_sweep(STUDY, tmp_path / "run", 1)
    assert len(swept.rows) == 17
    (refused,) = swept.refused
    assert (refused.label, refused.chip, len(refused.refused)) == ("uniform d4-q4", "isaac", 3)
    assert refused.refused[0].startswith("layers.conv1.format = 'd4-q4': ")
    show_refused(swept.refused)
    told = capsys.readouterr().err
    assert "uniform d4-q4 on isaac: layers.conv1.format" in told and told.rstrip().endswith("(and 2 more)")
    assert len((swept.path / "results.csv").read_text().splitlines()) == 1 + 17


def test_two_processes_write_what_one_writes(tmp_path):
    for workers in (1, 2):
        run_sweep(STUDY, tmp_path / str(workers), workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_only_what_is_missing_is_simulated(tmp_path, monkeypatch):
    run_sweep(STUDY, tmp_path / "run", 1)
    before = files(tmp_path / "run")
    lost = sorted((tmp_path / "run/rows").iterdir())[3]
    lost.unlink()
    done = []
    simulate_one = sweep._simulate
    monkeypatch.setattr(sweep, "_simulate", lambda *args: done.append(args[2].key) or simulate_one(*args))
    run_sweep(STUDY, tmp_path / "run", 1)
    assert done == [lost.stem]
    assert files(tmp_path / "run") == before


def test_plans_that_a_search_found_are_swept_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plans = tmp_path / "runs/digits/plans"
    plans.mkdir(parents=True)
    network = load_network("digitsnet")
    Plan.uniform(network, "linear-4", rules={"fc": "linear-2"}).save(plans / "search-isaac-0.7-0.json")
    path = write_yaml(tmp_path / "study.yaml", TINY_STUDY)
    done = run(capsys, "sweep", path, "--json")
    assert done.code == 0
    assert {row["kind"] for row in json.loads(done.out)} == {"uniform", "search"}
    assert "sweep" in done.err and "Results: runs/digits-sweep/results.csv" in done.err


def test_layers_whose_format_is_fixed_stay_so(tmp_path):
    study = STUDY.model_copy(update={"first_last": "linear-8", "activation": "int4"})
    plan = next(cell.plan for cell in cells(study, tmp_path) if cell.label == "uniform linear-4")
    assert [choice.format for choice in plan.layers.values()] == ["linear-8", "linear-4", "linear-8"]
    assert {choice.activation for choice in plan.layers.values()} == {"int4"}


def test_a_killed_sweep_leaves_no_process_and_goes_on(tmp_path):
    """Only the first process is killed, as the system may when memory is short: the others follow by themselves."""
    study = TINY_STUDY | {"network": "resnet8", "chips": [{"chip": "sram-rom", "vary": {"adc.count": [1, 2, 4, 8]}}]}
    path = write_yaml(tmp_path / "study.yaml", study)
    process = start(tmp_path, "sweep", path, "--workers", 2, "--run-dir", "killed")
    rows = tmp_path / "killed/rows"
    wait_until(lambda: any(rows.glob("*.json")))
    process.kill()
    finish(process)  # returns when the last process has let go of standard output
    wait_until(lambda: group_is_gone(process))
    half = len(list(rows.glob("*.json")))
    assert 0 < half < 10
    assert finish(start(tmp_path, "sweep", path, "--workers", 2, "--run-dir", "killed")).code == 0
    run_sweep(Study.model_validate(study), tmp_path / "whole", 1)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_sweep_has_a_report(tmp_path, capsys):
    """Without accuracies, and with combinations that a chip refuses."""
    run_sweep(STUDY, tmp_path / "run", 1)
    done = run(capsys, "report", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)) == 17
    assert (tmp_path / "run/report.html").is_file()
