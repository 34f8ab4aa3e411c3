"""Each quantizer works once in a forward, whoever reads its weight, and nothing of it outlives the forward."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from qat.modules.attach import quantize
from qat.modules.attached import quantizers
from tests.qat.modules.test_attach import Residual, batch, network
from workloads.plan import Plan

torch.set_num_threads(1)


def counted(model: nn.Module, monkeypatch) -> list[str]:
    """The layers whose quantizers work from now on, in order."""
    calls: list[str] = []
    for name, quantizer in quantizers(model).items():
        original = quantizer.value
        monkeypatch.setattr(quantizer, "value", lambda w, name=name, call=original: (calls.append(name), call(w))[1])
    return calls


def test_cached_evaluation_quantizes_each_weight_once(monkeypatch):
    model = quantize(Residual(), Plan.uniform(network(), "linear-4"))
    calls = counted(model, monkeypatch)
    with parametrize.cached(), torch.no_grad():
        model(batch()[0])
        model(batch()[0])
    assert len(calls) == 3
    model(batch()[0])
    assert len(calls) == 6  # one evaluation of each in a step


class Repeating(nn.Module):
    """Reads one weight four times: as a module, without gradient, in a checkpoint, and directly."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.layer(x)
        x = self.layer(x)
        x = torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=False)
        return (functional.linear(x, self.layer.weight) - target).square().mean()


@pytest.mark.parametrize("fmt", ["linear-4", "vq-4x16-e4-s0", "d4-q4"])
def test_one_evaluation_serves_a_forward_and_has_the_gradients_of_many(fmt, monkeypatch):
    model = Repeating()
    quantize(model, Plan.uniform(model, fmt))
    twin = copy.deepcopy(model)
    calls, x = counted(model, monkeypatch), torch.randn(4, 8)
    loss = model(x)
    assert calls == ["layer"]
    loss.backward()
    assert len(calls) == 2  # the checkpoint's, again
    expected = Repeating.forward(twin, x)  # no hook, so each read quantizes
    expected.backward()
    assert torch.equal(loss, expected)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


def test_a_functional_call_quantizes_what_it_lends():
    model, images = quantize(Residual(), Plan.uniform(network(), "d4-q4")), batch()[0]
    expected = model(images)
    lent = {name: 2 * parameter.detach() for name, parameter in model.named_parameters() if "weight" in name}
    doubled = torch.func.functional_call(model, lent, (images,))
    assert not torch.equal(doubled, expected) and torch.equal(model(images), expected)
    model.load_state_dict({**model.state_dict(), **lent})
    assert torch.equal(model(images), doubled)


def test_a_weight_that_became_infinite_is_told_and_can_be_mended():
    model = quantize(Residual(), Plan.uniform(network(), "linear-4"))
    expected, latent = model(batch()[0]), model.first.parametrizations.weight.original
    before = latent.detach().clone()
    latent.data[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="weight: 1 of 72 values: must be finite"):
        model(batch()[0])
    latent.data = before
    assert torch.equal(model(batch()[0]), expected)


def test_nothing_is_kept_after_a_forward_that_failed():
    model = quantize(Residual(), Plan.uniform(network(), "linear-4"))
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, 8, 8))
    assert all(quantizer.kept is None and not quantizer.keeps for quantizer in quantizers(model).values())
    expected = model(batch()[0])
    with torch.no_grad():
        model.get_parameter("first.parametrizations.weight.original").mul_(2)
    assert not torch.equal(model(batch()[0]), expected)
