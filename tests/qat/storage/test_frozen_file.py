"""Files of frozen models: the same outputs, no larger than what is stored, refused where they do not fit."""

import pytest
import torch

from qat.activations.inputs import calibrate
from qat.experiments.trial import stored_bytes
from qat.modules.attach import quantize
from qat.recipe import RECIPES
from qat.storage.freeze import freeze
from qat.storage.frozen_file import load_frozen, save_frozen
from workloads.errors import InputError
from workloads.networks.zoo import build, example_input
from workloads.plan import Plan

torch.set_num_threads(1)
FORMATS = ("linear-4", "vq-4x16-e4-s1", "e8-q4")


@pytest.mark.parametrize("network", ["lenet5", "resnet8", "text_transformer"])
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("with_inputs", [False, True])
def test_a_file_gives_the_same_network(network, fmt, with_inputs, tmp_path):
    model = build(network, 1)
    x = example_input(network)
    x = torch.randint(0, 90, x.shape) if x.dtype == torch.int64 else torch.rand(x.shape)
    plan = Plan.uniform(model, fmt)
    quantize(model, plan, recipe=RECIPES["untrained"], example_input=x if with_inputs else None)
    if with_inputs:
        calibrate(model, x)
    nbytes = stored_bytes(model.eval())
    bits = {name: layer.activation for name, layer in plan.layers.items()} if with_inputs else {}
    save_frozen(freeze(model), tmp_path / "model.safetensors", "untrained", bits)
    again = load_frozen(build(network, 2), tmp_path / "model.safetensors", x).eval()
    found = again.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(again(x), model(x))  # strides of weights differ, and so may the order of sums
    rest = sum(t.nbytes for name, t in model.state_dict().items() if "stored" not in name and ".weight" not in name)
    norms = sum(p.nbytes for name, p in model.named_parameters() if ".norm" in name or ".bn" in name)
    assert nbytes < (tmp_path / "model.safetensors").stat().st_size < 1.2 * nbytes + rest + norms + 20_000


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    model = build("lenet5", 0)
    save_frozen(freeze(quantize(model, Plan.uniform(model, "linear-4"))), path, "default")
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit this network"):
        load_frozen(build("digitsnet", 0), path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"is no file of a frozen model"):
        load_frozen(build("lenet5", 0), path)
    with pytest.raises(InputError, match=r"is no file of a frozen model"):
        load_frozen(build("lenet5", 0), tmp_path / "missing")
