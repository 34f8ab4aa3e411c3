"""Batch normalisation and soft weights: statistics are those of the stored weights, and training does not notice."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn

from qat.modules.attach import quantize
from qat.recipe import RECIPES
from qat.training.loop import score
from qat.training.norms import BATCH, estimate_statistics, needs_statistics
from qat.training.tune import prepare, tune
from tests.helpers.trained_digits import DATA, SETTINGS
from workloads.capture.trace import capture
from workloads.plan import Plan

torch.set_num_threads(1)


def normed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
    )


def plan_of(model: nn.Module) -> Plan:
    return Plan.uniform(capture(model, DATA.train.images(slice(0, 1)), "normed"), "vq-4x16-e4-s0")


@pytest.mark.parametrize(("recipe", "is_soft"), [("dkm", True), ("universal", True), ("default", False)])
def test_who_needs_them(recipe, is_soft):
    model, bare = normed(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for each, wanted in ((model, is_soft), (bare, False)):
        quantize(each, plan_of(each), recipe=RECIPES[recipe], example_input=DATA.train.images(slice(0, 1)))
        assert needs_statistics(each) is wanted


def test_statistics_are_the_plain_average_over_batches_of_the_inference_weights():
    model = normed()
    prepare(model, plan_of(model), DATA, SETTINGS, seed=0, recipe=RECIPES["dkm"])
    model.train()
    estimate_statistics(model, DATA.train)
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    assert model.training and norm.momentum == 0.1
    model.eval()
    with torch.no_grad():
        seen = [
            model[0](DATA.train.images(slice(start, start + BATCH))) for start in range(0, len(DATA.train.y), BATCH)
        ]
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    assert torch.allclose(norm.running_mean, means, atol=1e-5)
    assert torch.allclose(norm.running_var, variances, rtol=1e-4)


def test_a_tuned_model_is_left_with_them():
    """The network with DKM is judged, and left, as it will run: estimating once more changes nothing."""
    model = normed()
    found = tune(model, plan_of(model), DATA, SETTINGS, 0, recipe=RECIPES["dkm"])
    left = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    assert found == score(model, DATA.validation).accuracy
    estimate_statistics(model, DATA.train)
    assert all(torch.allclose(value, model.state_dict()[name], atol=1e-6) for name, value in left.items())


def test_training_does_not_notice():
    """Weights and books come out the same whether the statistics are taken anew at each epoch's end or not."""
    states = []
    for is_estimated in (True, False):
        model = normed()
        with pytest.MonkeyPatch.context() as patch:
            if not is_estimated:
                patch.setattr(import_module("qat.training.tune"), "estimate_statistics", lambda model, part: None)
            one_epoch = SETTINGS.model_copy(update={"tune_images": len(DATA.train.y)})
            tune(model, plan_of(model), DATA, one_epoch, 0, recipe=RECIPES["dkm"])
        states.append(model.state_dict())
    same = [name for name in states[0] if "running" not in name and "tracked" not in name]
    assert all(torch.equal(states[0][name], states[1][name]) for name in same)
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0] if "running" in name)
