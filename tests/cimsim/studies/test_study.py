"""A study is read, resolved and written back without change; what it names must exist."""

from __future__ import annotations

import math

import pytest
import yaml

from cimsim.studies.study import INPUT_SHAPES, Study, Sweep, load_study, training_problems
from tests.helpers.command import ROOT, TINY_STUDY, write_yaml
from workloads.data.datasets import TRAIN_IMAGES, load
from workloads.errors import InputError
from workloads.shapes import load_network


def changed(**keys: object) -> Study:
    return Study.model_validate(TINY_STUDY | keys)


STUDIES = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if "\nnetwork:" in path.read_text()]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_examples_are_valid_and_resolve_to_themselves(path, tmp_path):
    study = load_study(path, for_training=True)
    resolved = tmp_path / "study.yaml"
    resolved.write_text(study.dump())
    assert load_study(resolved) == study
    assert load_study(resolved).dump() == study.dump()
    assert set(yaml.safe_load(study.dump())) == set(Study.model_fields)


def test_variants_take_one_knob_at_a_time_and_the_grid_all():
    choice = changed(chips=[{"chip": "isaac", "vary": {"adc.bits": [6, 7], "crossbar.columns": [64, 128]}}]).chips[0]
    assert choice.variants() == [{"adc.bits": 6}, {"adc.bits": 7}, {"crossbar.columns": 64}, {"crossbar.columns": 128}]
    assert Sweep().settings(choice) == [{"adc.bits": a, "crossbar.columns": c} for a in (6, 7) for c in (64, 128)]
    assert Sweep(sampler="one_by_one").settings(choice) == choice.variants()
    assert changed().chips[0].variants() == Sweep().settings(changed().chips[0]) == []


def test_chance_takes_settings_of_the_grid_without_repeating_itself():
    choice = changed(chips=[{"chip": "isaac", "vary": {"adc.bits": [5, 6, 7], "crossbar.columns": [64, 128]}}]).chips[0]
    grid = Sweep().settings(choice)
    drawn = Sweep(sampler="random", samples=4).settings(choice)
    assert len(drawn) == 4 and all(drawn.count(setting) == 1 and setting in grid for setting in drawn)
    assert drawn == Sweep(sampler="random", samples=4).settings(choice)
    assert drawn != Sweep(sampler="random", samples=4, seed=1).settings(choice)
    every = Sweep(sampler="random", samples=100).settings(choice)
    assert sorted(map(str, every)) == sorted(map(str, grid))


def test_a_chip_may_have_budgets_of_its_own():
    study = changed(chips=[{"chip": "isaac", "budgets": [0.6]}, {"chip": "sram-rom"}], budgets=[0.2, 0.3])
    assert [study.budgets_of(choice) for choice in study.chips] == [(0.6,), (0.2, 0.3)]


def test_the_first_and_last_layer_may_be_fixed():
    network = load_network("lenet5")
    assert changed().fixed_formats(network) == {}
    assert changed(first_last="linear-8").fixed_formats(network) == {"conv1": "linear-8", "fc3": "linear-8"}


def test_weights_may_be_loaded_once_for_all_images(tmp_path):
    study = changed(images_per_weight_load=math.inf)
    path = tmp_path / "study.yaml"
    path.write_text(study.dump())
    assert load_study(path).images_per_weight_load == math.inf


def test_a_batch_is_no_larger_than_the_smallest_part_of_the_data(tmp_path):
    """A batch that no part could fill would never come; a sweep never asks for one."""
    smallest = TRAIN_IMAGES["digits"] // 10
    assert training_problems(changed(train={"batch": smallest})) == []
    for train in ({"batch": smallest + 1}, {}):  # the default is too large, too
        path = write_yaml(tmp_path / "study.yaml", TINY_STUDY | {"train": train})
        assert load_study(path).train.batch > smallest
        with pytest.raises(
            InputError, match=rf"train\.batch = \d+: must be <= {smallest}, the smallest part of digits"
        ):
            load_study(path, for_training=True)


def test_the_images_are_those_of_the_data():
    assert load("digits").train_x.shape[1:] == INPUT_SHAPES["digits"]
    assert set(INPUT_SHAPES) <= set(TRAIN_IMAGES)


def test_training_needs_a_network_for_its_images_and_a_sweep_does_not(tmp_path):
    path = write_yaml(tmp_path / "study.yaml", TINY_STUDY | {"network": "resnet18"})
    assert load_study(path).network == "resnet18"
    with pytest.raises(InputError, match=r"network = 'resnet18': takes images of \(3, 224, 224\).*: digitsnet\)"):
        load_study(path, for_training=True)


def test_formats_go_by_one_name():
    """A format that may be written in two ways is one column of the table and one file of a run."""
    study = Study.model_validate(
        {**yaml.safe_load((ROOT / "examples/digits.yaml").read_text()), "formats": ["pool-128-p50"]}
    )
    assert study.formats == ("pool-128",)
