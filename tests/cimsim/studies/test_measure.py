"""Measured points: the test set is opened in one place and logged, and every gap is what its name says."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cimsim.chip.numbers import array_numbers
from cimsim.chip.reading import load_chip
from cimsim.components.base import Activity
from cimsim.engine.whole import simulate
from cimsim.integer.artifact import Artifact
from cimsim.integer.artifact import load as load_artifact
from cimsim.integer.forward import accuracy, collect
from cimsim.studies.measure import Measured, measure, read_test
from cimsim.studies.points import Point, is_varied, measure_point, table_file
from cimsim.studies.run import RunDir
from cimsim.studies.study import ChipChoice, Study
from cimsim.studies.table import build_table
from qat.planning.aim import Aim, Budgets
from qat.planning.nas import SearchSettings, search, supernet
from qat.storage.export import export
from qat.training import data as training
from qat.training.data import training_data
from qat.training.tune import tune
from tests.helpers.command import ROOT
from tests.helpers.trained_digits import DATA, SETTINGS, network, trained
from workloads.data.datasets import Dataset, load
from workloads.plan import Plan
from workloads.results import COLUMNS, Row

PLAN = Plan.uniform(network(), "linear-4")
CALIBRATION = DATA.train.x[:64].numpy()
DIGITS = load("digits")
TEST = DIGITS.test_x[:100], DIGITS.test_y[:100]
FLOAT_ACCURACY = 0.9


@cache
def artifact() -> Artifact:
    model = trained()
    tune(model, PLAN, DATA, SETTINGS, 0)
    return export(model.eval(), PLAN, DATA.train.images(slice(0, 1)))


@cache
def measured(chip: str = "isaac") -> Measured:
    return measure(artifact(), load_chip(chip), CALIBRATION, TEST)


# The test set.


def test_the_test_set_is_named_in_one_function_only():
    """By the source: `test_x` and `test_y` are read in `cimsim.studies.measure.read_test` and nowhere else."""
    users = set()
    for path in (path for folder in ("cimsim", "qat") for path in (ROOT / folder).rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and any(
                isinstance(node, ast.Attribute) and node.attr in ("test_x", "test_y") for node in ast.walk(function)
            ):
                users.add(f"{path.stem}.{function.name}")
    assert users == {"measure.read_test"}


class Sealed(Dataset):
    """A data set whose test part must not be looked at."""

    @property
    def test_x(self):  # pyright: ignore
        raise AssertionError("the test images were opened")

    test_y = test_x


def test_training_searching_and_tuning_work_with_a_sealed_test_set(monkeypatch):
    monkeypatch.setattr(training, "load", lambda name, root=None: Sealed(*DIGITS))
    data = training_data.__wrapped__("digits")
    with pytest.raises(AssertionError, match="were opened"):
        _ = Sealed(*DIGITS).test_y
    model, chip = trained(), load_chip("isaac")
    table = build_table(network(), chip, ("linear-8", "linear-4"))
    mixtures = supernet(model, table.candidates(), data.train, activation="int8", num_calibration=64, seed=0)
    aim = Aim(table, Budgets(2 * table.reference_pj()), lambda formats: True)
    found = search(model, mixtures, aim, data, SearchSettings(160, 40, 1e-3, 0.1, selection_images=40))
    settings = SETTINGS.model_copy(update={"tune_images": 80})
    tune(trained(), Plan.uniform(network(), "linear-8", rules=found.formats), data, settings, 0)


def test_every_reading_is_logged(tmp_path):
    log = tmp_path / "test_reads.jsonl"
    x, y = read_test("digits", log, "first", 50)
    read_test("digits", log, "second", 10_000)
    assert np.array_equal(x, DIGITS.test_x[:50]) and np.array_equal(y, DIGITS.test_y[:50])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines == [{"purpose": "first", "images": 50}, {"purpose": "second", "images": len(DIGITS.test_y)}]


# What is measured.


def test_a_lossless_converter_costs_no_accuracy():
    found, numbers = measured("isaac"), array_numbers(load_chip("isaac"))
    assert found.array_accuracy == found.ideal_accuracy == accuracy(artifact(), *TEST) > 0.8
    assert accuracy(found.artifact, *TEST, numbers) == found.array_accuracy


def test_a_coarse_converter_costs_accuracy():
    coarse = measure(artifact(), load_chip("isaac", {"adc.bits": 2}), CALIBRATION, TEST)
    assert coarse.array_accuracy < measured("isaac").array_accuracy - 0.05
    assert coarse.ideal_accuracy == measured("isaac").ideal_accuracy


def test_the_ideal_accuracy_can_be_given():
    again = measure(artifact(), load_chip("isaac"), CALIBRATION, TEST, ideal_accuracy=0.125)
    assert again.ideal_accuracy == 0.125 and again.array_accuracy == measured("isaac").array_accuracy


@pytest.mark.parametrize("chip", ["isaac", "sram-rom"])
def test_the_density_gap_is_that_of_the_simulation_with_measured_densities(chip):
    found = measured(chip)
    activity = collect(found.artifact, CALIBRATION, array_numbers(load_chip(chip)))
    real = simulate(network(), load_chip(chip), found.artifact.plan, activity=activity).energy_pj
    assumed = simulate(network(), load_chip(chip), found.artifact.plan).energy_pj
    assert found.density_gap == pytest.approx(real / assumed - 1)
    assert found.assumed_pj == assumed


@pytest.mark.parametrize(("density", "sign"), [(0.1, -1), (0.5, 0), (0.9, 1)])
def test_the_sign_of_the_density_gap(density, sign):
    """Fewer ones than assumed (one half) cost less than the table says, more ones cost more."""
    chip = load_chip("isaac")
    activity = {layer.name: Activity.of_means(density, density) for layer in network().layers}
    found = simulate(network(), chip, PLAN, activity=activity)
    report, timeline = found.report, found.timeline
    assumed = simulate(network(), chip, PLAN).energy_pj
    gap = Measured(artifact(), report, timeline, assumed, 1.0, 1.0).density_gap
    assert np.sign(round(gap, 9)) == sign


# Rows.


def study_of(tmp_path: Path, chip: str = "isaac", **choices) -> Study:
    choice = ChipChoice(chip=chip, vary={"adc.bits": [6, 7]}, budgets=(0.6, 0.9))
    return Study(name="s", network="digitsnet", data="digits", chips=(choice,), train=SETTINGS, **choices)


def point_of(study: Study, kind: str = "uniform", label: str = "uniform linear-4", **columns) -> Point:
    return Point(f"{kind}-0", kind, label, PLAN, 0, study.chips, columns)


def write_rows(study: Study, run: RunDir, point: Point) -> None:
    test = read_test(study.data, run.path / "test_reads.jsonl", point.key, study.train.test_images)
    measure_point(study, run, point, "weights/a.safetensors", test=test, float_accuracy=FLOAT_ACCURACY)


def rows_of(tmp_path: Path, study: Study, point: Point) -> tuple[RunDir, list[Row]]:
    run = RunDir(tmp_path / "run").open(study.dump(), {})
    chip = study.chips[0].chip
    run.write_json(table_file(chip), build_table(network(), load_chip(chip), ("linear-8", "linear-4")).to_dict())
    artifact().save(run.path / "weights/a.safetensors")
    write_rows(study, run, point)
    return run, run.results()


def test_a_point_has_a_row_per_chip_and_variant_with_every_column(tmp_path):
    study = study_of(tmp_path)
    reference_pj = build_table(network(), load_chip("isaac"), ("linear-8", "linear-4")).reference_pj()
    gaps = {"budget_fraction": 0.9, "budget_pj": 0.9 * reference_pj, "relaxation_gap": 0.0, "discretization_gap": 0.0}
    run, rows = rows_of(tmp_path, study, point_of(study, "search", "budget 0.9", **gaps))
    assert sorted((row.kind, row.vary_text) for row in rows) == [
        ("search", ""), ("variant", "adc.bits=6"), ("variant", "adc.bits=7"),
    ]  # fmt: skip
    (own,) = [row for row in rows if row.kind == "search"]
    assert all(getattr(own, name) is not None for name in COLUMNS)
    assert own.met == (own.energy_pj <= own.budget_pj)
    assert own.test_images == SETTINGS.test_images
    assert own.float_accuracy == FLOAT_ACCURACY
    for row in rows:  # everything a row names is there, and is its own
        plan = Plan.model_validate(run.read_json(f"plans/{row.plan}"))
        assert {choice.format for choice in plan.layers.values()} == {"linear-4"}
        assert all(choice.adc_step for choice in plan.layers.values())
        assert run.read_json(f"costs/{row.key}.json")["energy_pj"] == row.energy_pj
        assert run.has(f"timeline/{row.key}.json")
        assert row.bits_per_weight == plan.bits(network()).bits_per_weight
    assert load_artifact(run.path / own.weights).plan == PLAN
    assert (run.path / "test_reads.jsonl").read_text().count("\n") == 1  # once for the plan, whatever the variants


def test_the_contention_gap_compares_the_whole_chip_with_the_sum_of_its_layers(tmp_path):
    study = study_of(tmp_path)
    _, rows = rows_of(tmp_path, study, point_of(study, label="unvaried"))
    (row,) = rows
    table = build_table(network(), load_chip("isaac"), ("linear-8", "linear-4"))
    energy, latency, _ = table.cost_of(dict.fromkeys(table.layers, "linear-4"))
    whole = simulate(network(), load_chip("isaac"), PLAN)
    assert row.contention_gap == pytest.approx(whole.energy_pj / energy - 1)
    assert row.contention_gap_latency == pytest.approx(whole.latency_ns / latency - 1)


def test_rows_that_are_there_are_not_measured_again(tmp_path, monkeypatch):
    study = study_of(tmp_path)
    run, before = rows_of(tmp_path, study, point_of(study))
    (run.path / f"rows/{before[1].key}.json").unlink()
    calls = []
    monkeypatch.setattr(
        "cimsim.studies.points.measure", lambda *args, **terms: (calls.append(1), measure(*args, **terms))[1]
    )
    write_rows(study, run, point_of(study))
    assert len(calls) == 1 and run.results() == before


def test_a_chip_may_be_named_by_the_path_of_its_file(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text((ROOT / "cimsim/chips/isaac.yaml").read_text())
    study = study_of(tmp_path, str(own))
    _, rows = rows_of(tmp_path, study, point_of(study, label="unvaried"))
    assert [(row.chip, row.contention_gap is not None) for row in rows] == [(str(own), True)]


def test_variants_are_shown_on_two_plans_only(tmp_path):
    study = study_of(tmp_path)
    (choice,) = study.chips
    assert is_varied(study, point_of(study), choice)
    assert is_varied(study, point_of(study, "search", "budget 0.9", budget_fraction=0.9), choice)
    assert not is_varied(study, point_of(study, "search", "budget 0.6", budget_fraction=0.6), choice)
    assert not is_varied(study, point_of(study, label="uniform linear-8"), choice)
