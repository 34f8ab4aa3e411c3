"""Distillation: its losses as written, whose outputs it sees, and that a study without it trains as before."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from qat.modules.attach import quantize
from qat.modules.upkeep import parameter_groups
from qat.training.distill import block_loss, block_outputs, quantized_blocks, soft_loss, soft_targets
from qat.training.tune import tune
from tests.helpers.trained_digits import DATA, SETTINGS, network, same_state, trained
from workloads.errors import InputError
from workloads.plan import Plan

torch.set_num_threads(1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_soft_loss_is_the_scaled_divergence(temperature):
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(soft_loss(student, teacher, temperature), expected)
    assert float(soft_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)


def test_the_gradients_size_does_not_hang_on_a_high_temperature():
    """Hinton et al., equation 4: it tends to (z - v) / N, for logits with mean zero."""
    torch.manual_seed(1)
    student, teacher = (torch.randn(1, 6) for _ in range(2))
    student, teacher = (z - z.mean() for z in (student, teacher))
    student.requires_grad_()
    soft_loss(student, teacher, 1000.0).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 6, rtol=0.01, atol=1e-4)


@pytest.mark.parametrize("factor", [0.0, 1.0, 3.0])
def test_cross_entropy_with_soft_targets_is_both_losses_but_for_the_teachers_entropy(factor):
    torch.manual_seed(2)
    student, teacher, labels = torch.randn(8, 4, requires_grad=True), torch.randn(8, 4), torch.arange(8) % 4
    both = functional.cross_entropy(student, labels) + factor * soft_loss(student, teacher)
    one = functional.cross_entropy(student, soft_targets(labels, teacher, factor))
    p = teacher.softmax(1)
    torch.testing.assert_close(one, both - factor * (p * p.log()).sum(1).mean())
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (one, both)))


def test_blocks_of_student_and_teacher_are_compared_by_name():
    teacher, student = trained(), quantize(trained(), Plan.uniform(network(), "linear-4"))
    names = ("relu1", "conv2", "fc")
    x = DATA.train.images(slice(0, 16))
    with block_outputs(teacher, names) as wanted, block_outputs(student, names) as outputs:
        with torch.no_grad():
            logits = teacher(x)
        student(x)
    assert list(wanted) == list(outputs) == list(names) and torch.equal(wanted["fc"], logits)
    expected = sum((outputs[name] - wanted[name]).square().mean() for name in names)
    torch.testing.assert_close(block_loss(outputs, wanted), expected)
    before = dict(outputs)
    student(x + 1)  # the hooks are gone
    assert all(outputs[name] is before[name] for name in names)
    with pytest.raises(InputError, match=r"relu9: must be a module of DigitsNet"), block_outputs(teacher, ("relu9",)):
        pass


def test_the_first_output_of_a_block_counts():
    block = nn.MultiheadAttention(8, 2, batch_first=True)
    model, x = nn.ModuleDict({"attention": block}), torch.randn(2, 3, 8)
    with block_outputs(model, ("attention",)) as outputs:
        expected = block(x, x, x)[0]
    assert torch.equal(outputs["attention"], expected)


def test_blocks_teach_the_steps_alone():
    """Learnable clipping (as OmniQuant, Shao et al., ICLR 2024): steps follow the error of the blocks' outputs."""
    teacher, student = trained().eval(), quantize(trained(), Plan.uniform(network(), "linear-2")).eval()
    x, names = DATA.train.images(slice(0, 64)), ("conv1", "conv2", "fc")
    optimizer = torch.optim.Adam(parameter_groups(student, 1e-2)[1]["params"], lr=1e-2)
    for parameter in parameter_groups(student, 0.0)[0]["params"]:
        parameter.requires_grad_(False)
    losses = []
    for _ in range(30):
        with block_outputs(teacher, names) as wanted, block_outputs(student, names) as outputs:
            with torch.no_grad():
                teacher(x)
            student(x)
        loss = block_loss(outputs, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_a_study_without_distillation_trains_as_before_and_with_it_is_closer_to_its_teacher():
    plan, settings = Plan.uniform(network(), "linear-2"), SETTINGS.model_copy(update={"tune_images": 800})
    assert settings.distill_factor == 0
    models = {}
    for factor in (0.0, 0.0, 1.0, 10.0):
        model = trained()
        tune(model, plan, DATA, settings.model_copy(update={"distill_factor": factor}), 0)
        if factor in models:
            assert same_state(model, models[factor])
        models[factor] = model.eval()
    x = DATA.validation.images(slice(None))
    with torch.no_grad():
        teacher = trained().eval()(x)
        gaps = {factor: float(soft_loss(model(x), teacher)) for factor, model in models.items()}
    assert gaps[10.0] < gaps[0.0]
    assert not same_state(models[0.0], models[1.0])


class Residual(nn.Sequential):
    """A block of its own, though it is built like a container."""


def test_blocks_are_a_networks_parts_with_quantized_layers():
    model = nn.ModuleDict({
        "stem": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)),
        "body": nn.ModuleList([Residual(nn.Conv2d(4, 4, 3), nn.ReLU()), Residual(nn.Conv2d(4, 4, 3))]),
        "pool": nn.AvgPool2d(2),
        "head": nn.Linear(4, 2),
    })  # fmt: skip
    quantize(model, Plan.uniform(model, "linear-4", skip=["stem.2"]))
    assert quantized_blocks(model) == ["stem.0", "body.0", "body.1", "head"]
    assert quantized_blocks(model["head"]) == [""] and quantized_blocks(nn.Linear(2, 2)) == []
