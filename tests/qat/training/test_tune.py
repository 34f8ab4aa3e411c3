"""Fine-tuning: the accuracy it reports is that of what it leaves, on the model and in the exported integers."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

from cimsim.integer.forward import accuracy, run
from cimsim.studies.study import Training
from qat.activations.inputs import activation_quantizers
from qat.activations.quantizer import ActivationQuantizer
from qat.activations.schemes import EwgsActivation
from qat.modules.attached import quantizers
from qat.recipe import RECIPES
from qat.schemes import Codebook
from qat.schemes.ewgs import EwgsQuantizer
from qat.storage.export import export
from qat.training import ewgs
from qat.training.distill import block_loss, block_outputs, quantized_blocks
from qat.training.loop import Score, score
from qat.training.tune import STEP_FACTOR, tune, tuning_groups
from tests.helpers.trained_digits import DATA, LAYERS, SETTINGS, network, same_state, trained
from workloads.plan import Plan

MIXED = Plan.uniform(network(), "linear-4", rules={"conv1": "linear-8", "fc": "vq-4x16-e4-s0"})


@cache
def tuned(
    plan_text: str = MIXED.model_dump_json(), seed: int = 0, settings: Training = SETTINGS
) -> tuple[nn.Module, float]:
    model = trained()
    return model, tune(model, Plan.model_validate_json(plan_text), DATA, settings, seed)


def test_the_accuracy_is_that_of_the_model_it_leaves():
    model, found = tuned()
    assert found == score(model, DATA.validation).accuracy > 0.8
    assert {name: q.fmt.name for name, q in quantizers(model).items()} == {
        name: choice.format for name, choice in MIXED.layers.items()
    }


def test_the_best_of_all_epochs_is_kept(monkeypatch):
    """Scores are made to fall after the second epoch: the state of the second one must come back."""
    states: list[dict] = []
    accuracies = iter([0.1, 0.9, 0.9, 0.3])

    def told(model: nn.Module, part) -> Score:
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return Score(0.0, next(accuracies))

    monkeypatch.setattr(import_module("qat.training.tune"), "score", told)
    model = trained()
    settings = SETTINGS.model_copy(update={"tune_images": 4 * 1_160})
    assert tune(model, MIXED, DATA, settings, 0) == 0.9
    assert len(states) == 4 and not torch.equal(states[0]["conv1.bias"], states[1]["conv1.bias"])
    assert all(torch.equal(value, states[1][name]) for name, value in model.state_dict().items())


def test_fewer_images_than_an_epoch_are_judged_too():
    model, found = tuned(settings=SETTINGS.model_copy(update={"tune_images": 30}))
    assert found == score(model, DATA.validation).accuracy


def test_fine_tuning_repairs_what_quantization_breaks():
    plan = Plan.uniform(network(), "linear-2").model_dump_json()
    barely = tuned(plan, settings=SETTINGS.model_copy(update={"tune_images": 1}))[1]
    assert tuned(plan)[1] > barely


@pytest.mark.parametrize("fmt", ["linear-4", "vq-4x16-e4-s0", "d4-q4"])
def test_the_exported_integers_agree_with_the_tuned_model(fmt):
    """Everything but rounding ties of requantization is the same: more than 99 % of the decisions."""
    plan = Plan.uniform(network(), fmt)
    model, found = tuned(plan.model_dump_json())
    artifact = export(model.eval(), plan, DATA.train.images(slice(0, 1)))
    x, y = (part.numpy() for part in DATA.validation)
    with torch.no_grad():
        logits = model(DATA.validation.images(slice(None)))
    assert (run(artifact, x).argmax(1) == logits.argmax(1).numpy()).mean() > 0.99
    assert accuracy(artifact, x, y) == pytest.approx(found, abs=0.01)


def test_one_seed_gives_the_same_bytes_and_another_other_ones(tmp_path):
    files = []
    for i, seed in enumerate((0, 0, 1)):
        model = trained()
        tune(model, MIXED, DATA, SETTINGS, seed)
        path = tmp_path / f"{i}.safetensors"
        export(model.eval(), MIXED, DATA.train.images(slice(0, 1)), path, seed=0)
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_plan_is_held_layer_by_layer_and_bit_by_bit():
    """The first and the last layer stay in the format they are held in; activations have the plan's bits."""
    plan = Plan.uniform(
        network(), "linear-2", rules=dict.fromkeys((LAYERS[0], LAYERS[-1]), "linear-8"), activation="int6"
    )
    model, _ = tuned(plan.model_dump_json())
    assert [quantizers(model)[name].fmt.name for name in LAYERS] == ["linear-8", "linear-2", "linear-8"]
    assert {q.fmt.bits for q in activation_quantizers(model).values()} == {6}
    levels = [len(np.unique(model.get_submodule(name).get_parameter("parametrizations.weight.original")
                            .detach().numpy())) for name in LAYERS]  # fmt: skip
    assert min(levels) > 50  # the latent weights are no codes
    weight = model.get_submodule("conv2").weight
    assert isinstance(weight, torch.Tensor) and max(len(channel.unique()) for channel in weight) <= 4


def test_bytes_enter_exactly_when_the_input_has_eight_bits():
    model, _ = tuned()
    step = activation_quantizers(model)["input"].step
    assert float(step) == pytest.approx(1 / 255) and not step.requires_grad


def test_groups_hold_all_parameters_once_steps_slowly_and_only_weights_decay():
    model, _ = tuned()
    weights, books, ratios, steps = tuning_groups(model, 0.1)
    assert not ratios["params"]  # of universal codebooks
    ids = [id(p) for group in (weights, books, steps) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert [group.get("rate_factor", 1.0) for group in (weights, books, steps)] == [1.0, 1.0, STEP_FACTOR]
    assert [group["weight_decay"] for group in (weights, books, steps)] == [1e-4, 0.0, 0.0]
    of_books = {id(p) for module in model.modules() if isinstance(module, Codebook) for p in module.parameters()}
    assert {id(p) for p in books["params"]} == of_books and len(of_books) == 1
    of_inputs = {id(m.step) for m in model.modules() if isinstance(m, ActivationQuantizer)}
    assert of_inputs < {id(p) for p in steps["params"]}


def test_the_count_of_images_is_told():
    told: list[int] = []
    model = trained()
    tune(model, MIXED, DATA, SETTINGS, 0, tick=told.append)
    assert sum(told) == SETTINGS.tune_images and set(told) == {SETTINGS.batch}
    assert same_state(model, tuned()[0])


def moved(recipe: str, plan: Plan, **changes) -> nn.Module:
    model = trained()
    settings = SETTINGS.model_copy(update=changes)
    tune(model, plan, DATA, settings, 0, recipe=RECIPES[recipe])
    return model.eval()


def test_deltas_of_ewgs_follow_the_hessian_where_the_recipe_says_so():
    plan = Plan.uniform(network(), "linear-2-odd", activation="int3")
    owners = {
        recipe: [m for m in moved(recipe, plan).modules() if isinstance(m, EwgsQuantizer | EwgsActivation)]
        for recipe in ("ewgs", "ewgs-hessian")
    }
    assert all(len(found) >= 6 for found in owners.values())
    assert {float(owner.delta) for owner in owners["ewgs"]} == {float(torch.tensor(RECIPES["ewgs"].ewgs_factor))}
    deltas = [float(owner.delta) for owner in owners["ewgs-hessian"]]
    assert len(set(deltas)) > 3 and all(0 <= delta < 100 for delta in deltas)


def test_deltas_are_taken_once_per_epoch_and_change_nothing_else(monkeypatch):
    """1,160 images make an epoch of 29 steps; statistics of batch norm are as without."""
    seeds: list[int] = []
    real = ewgs.update_deltas

    def noted(model, loss, *, seed):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        real(model, loss, seed=seed)
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert all(name.endswith("delta") for name in changed)
        seeds.append(seed)

    monkeypatch.setattr(ewgs, "update_deltas", noted)
    moved("ewgs-hessian", Plan.uniform(network(), "linear-2-odd"), tune_images=2 * 1_160 + 40)
    assert seeds == [0, 29, 58]


def test_the_outputs_teach_where_the_recipe_says_so():
    """LSQ with distillation is what the same factor in a study's settings does."""
    plan = Plan.uniform(network(), "linear-2")
    by_recipe, plain = moved("lsq-kd", plan), moved("lsq", plan)
    assert same_state(by_recipe, moved("lsq", plan, distill_factor=1.0)) and not same_state(by_recipe, plain)


def test_blocks_teach_where_the_recipe_says_so():
    plan = Plan.uniform(network(), "vq-4x16-e4-s0")
    x, teacher, gaps = DATA.train.images(slice(0, 200)), trained().eval(), {}
    for recipe in ("universal", "vq4all"):
        model = moved(recipe, plan)
        names = quantized_blocks(model)
        assert names == ["conv1", "conv2", "fc"]
        with torch.no_grad(), block_outputs(teacher, names) as wanted, block_outputs(model, names) as outputs:
            teacher(x), model(x)
        gaps[recipe] = float(block_loss(outputs, wanted))
        assert not any(module._forward_hooks for module in (model.conv1, model.conv2, model.fc))
    assert gaps["vq4all"] < gaps["universal"]
