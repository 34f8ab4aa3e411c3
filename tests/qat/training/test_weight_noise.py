"""Noise on quantized weights in training: its size, its gradient, that it repeats, and what it is good for."""

import copy

import pytest
import torch
import yaml
from torch import nn

from cimsim.studies.real_cells import Asked, measure_run
from cimsim.studies.study import load_study
from docs.made.figures import ROOT, output
from qat.experiments.study import run_codesign
from qat.kernels.noise import enduring
from qat.modules.attach import quantize
from qat.modules.attached import quantizers
from qat.recipe import RECIPES, Recipe
from qat.schemes import make_quantizer
from tests.helpers.command import TINY_STUDY, refused
from workloads.format import parse_format
from workloads.plan import Plan

torch.set_num_threads(1)


def made(fraction: float, seed: int = 0, fmt: str = "linear-4"):
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(seed))
    return make_quantizer(parse_format(fmt), weight, recipe=Recipe(weight_noise_fraction=fraction)), weight


@pytest.mark.parametrize("fraction", [0.01, 0.2])
def test_noise_is_gaussian_of_the_largest_weight_and_gone_in_eval_mode(fraction):
    """Of 16,384 draws, mean and deviation are within five of their standard errors."""
    quantizer, weight = made(fraction)
    clean = quantizer.eval()(weight).detach()
    noise = (quantizer.train()(weight).detach() - clean) / clean.abs().max() / fraction
    assert abs(float(noise.mean())) < 5 / 128 and abs(float(noise.std()) - 1) < 5 / 181
    assert torch.equal(quantizer.eval()(weight), clean) and torch.equal(quantizer.encode(weight).decode(), clean)


def test_each_step_and_each_layer_has_draws_of_its_own_and_none_without_a_fraction():
    quantizer, weight = made(0.1)
    one, two = quantizer(weight), quantizer(weight)
    assert not torch.equal(one, two)
    other, second = made(0.1, seed=1)
    both = torch.stack([(one - quantizer.eval()(weight)).flatten(), (other(second) - other.eval()(second)).flatten()])
    assert abs(float(torch.corrcoef(both.detach())[0, 1])) < 0.05
    assert made(0.0)[0].noise is None


def test_gradients_are_those_without_noise():
    for fmt in ("linear-4", "vq-4x16-e4-s0", "e8-q4"):
        found = []
        for fraction in (0.0, 0.3):
            quantizer, weight = made(fraction, fmt=fmt)
            weight.requires_grad_()
            upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            quantizer(weight).backward(upstream)
            found.append([weight.grad, *(parameter.grad for parameter in quantizer.trained())])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_state_dict_goes_on_with_the_same_draws():
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    quantize(model, Plan.uniform(model, "linear-4"), recipe=RECIPES["noisy"])
    x = torch.randn(5, 16)
    model.train()(x)
    other = copy.deepcopy(model)
    for quantizer in quantizers(other).values():
        quantizer.noise.state.zero_()
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x)) and torch.equal(model(x), other(x))


def test_judgements_have_noise_of_their_own_and_leave_training_alone():
    model = nn.Sequential(nn.Linear(16, 8))
    quantize(model, Plan.uniform(model, "linear-4"), recipe=RECIPES["noisy"])
    x = torch.randn(5, 16)
    model(x)
    twin = copy.deepcopy(model)
    clean = model.eval()(x)
    with enduring(model):
        first, second = model(x), model(x)
    with enduring(model):
        assert torch.equal(model(x), first)
    assert not torch.equal(first, second) and not torch.equal(first, clean)
    assert torch.equal(model(x), clean) and torch.equal(model.train()(x), twin(x))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """The same small study twice, tuned without noise and with it."""
    folder, found = tmp_path_factory.mktemp("noise"), {}
    for noise in (0.0, 0.2):
        name = f"noise-{noise:g}"
        study = TINY_STUDY | {"name": name, "chips": [{"chip": "isaac", "budgets": [0.9]}], "baselines": ["linear-4"]}
        study["train"] = study["train"] | {
            "float_epochs": 8,
            "tune_images": 30_000,
            "test_images": 360,
            "weight_noise_fraction": noise,
            "trials": 0,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(study))
        found[noise] = run_codesign(load_study(folder / f"{name}.yaml", for_training=True), folder / name, 1).path
    return found


def test_networks_trained_with_noise_bear_real_cells_better(studies, tmp_path):
    """Cells written with an error of a tenth of the largest conductance: the mean of ten draws."""
    cells = tmp_path / "cells.yaml"
    cells.write_text(yaml.safe_dump({"programming_fraction": 0.1}))
    means = {}
    for noise, run in studies.items():
        (row,) = [row for row in measure_run(run, Asked(str(cells), 10, 360), 1) if row["kind"] == "uniform"]
        means[noise] = sum(row["drawn"]) / 10
    assert means[0.2] > means[0.0] + 0.02, means  # 0.07 to 0.09 with three seeds


def test_wrong_shares_are_refused(capsys, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(TINY_STUDY | {"train": {"weight_noise_fraction": 2}}))
    assert "train.weight_noise_fraction" in refused(capsys, "codesign", path)


def test_the_example_measures_and_draws(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shown = output("python examples/noise_training.py 320 2 2", tmp_path)
    assert shown.count("±") == 12 and "reram" in shown
    assert (tmp_path / "runs/noise_training.png").stat().st_size > 10_000
