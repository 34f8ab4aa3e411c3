"""The exported integers compute what the fake-quantized model computes, ideally and through the arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cimsim.arrays.encodings import ArrayNumbers, lossless_adc_bits
from cimsim.integer.artifact import Artifact, load
from cimsim.integer.forward import accuracy, calibrate_adc, collect, layer_outputs, run
from qat.activations.inputs import activation_quantizers, calibrate
from qat.modules.attach import quantize
from qat.storage.export import export
from workloads.capture.trace import capture
from workloads.codec import decode_weight
from workloads.data.datasets import load as load_data
from workloads.errors import InputError
from workloads.format import DEFAULT_FORMATS
from workloads.networks.blocks import Add
from workloads.networks.zoo import build, example_input
from workloads.plan import LayerPlan, Plan

torch.set_num_threads(1)
MIXED = ("linear-8", "vq-4x256-e4-s0", "d4-q4", "vq-8x256-e4-s0", "linear-4")
ENCODINGS = [
    ArrayNumbers(64, 64, 2, 1, 0, "offset"),
    ArrayNumbers(64, 16, 1, 2, 0, "offset", column_flip=True),
    ArrayNumbers(128, 32, 1, 1, 0, "twos_complement"),
    ArrayNumbers(64, 64, 4, 4, 0, "differential"),
]


def images_for(name: str, num: int, seed: int = 0) -> np.ndarray:
    """Smooth random images, so that pooling and convolution see structure."""
    shape = example_input(name).shape[1:]
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num, shape[0], -(-shape[1] // 4), -(-shape[2] // 4)))
    fine = coarse.repeat(4, 2).repeat(4, 3)[:, :, : shape[1], : shape[2]]
    return np.clip(fine + rng.integers(-20, 21, fine.shape), 0, 255).astype(np.uint8)


def real(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).float() / 255


def quantized(model: nn.Module, plan: Plan, x: np.ndarray) -> nn.Module:
    """The model under the plan, calibrated on x, with batch norm statistics of its own."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -0.5, 1.5, generator=torch.Generator().manual_seed(1))
            nn.init.normal_(module.bias, 0, 0.3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.train()(real(x))
        quantize(model.eval(), plan, example_input=real(x[:1]))
        calibrate(model, real(x), input_step=1 / 255)
    return model.eval()


def mixed_plan(name: str, formats: tuple[str, ...], **choices) -> Plan:
    network = capture(build(name, 0), example_input(name), name)
    names = [layer.name for layer in network.layers]
    return Plan(network=name, layers={
        layer: LayerPlan(format=formats[i % len(formats)], **choices) for i, layer in enumerate(names)
    })  # fmt: skip


def exported(name: str, plan: Plan, num: int = 100) -> tuple[nn.Module, Artifact, np.ndarray]:
    x = images_for(name, num)
    model = quantized(build(name, 0), plan, x)
    return model, export(model, plan, example_input(name)), x


@pytest.fixture(scope="module")
def lenet():
    return exported("lenet5", mixed_plan("lenet5", MIXED))


@pytest.fixture(scope="module")
def resnet():
    return exported("resnet8", mixed_plan("resnet8", MIXED), num=32)


def fake_logits(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(real(x)).numpy()


def real_logits(artifact: Artifact, x: np.ndarray) -> np.ndarray:
    return run(artifact, x) * artifact.grids[artifact.network.nodes[-1].name].step


def tensors_of(model: nn.Module, x: np.ndarray) -> dict[str, np.ndarray]:
    """The integers that every activation quantizer makes of its input in the fake-quantized forward."""
    seen: dict[str, np.ndarray] = {}
    steps = activation_quantizers(model)
    hooks = [
        quantizer.register_forward_hook(
            lambda q, args, _, name=name: seen.update({name: q.integers(args[0]).numpy().astype(int)})
        )
        for name, quantizer in steps.items()
    ]
    fake_logits(model, x)
    for hook in hooks:
        hook.remove()
    return seen


# The float twin.


@pytest.mark.parametrize("fmt", DEFAULT_FORMATS)
def test_digits_net_agrees_with_fake_quantization(fmt):
    model, artifact, x = exported("digitsnet", mixed_plan("digitsnet", (fmt,)))
    fake, ours = fake_logits(model, x), real_logits(artifact, x)
    assert (fake.argmax(1) == ours.argmax(1)).mean() > 0.99
    assert np.abs(fake - ours).max() < 0.02 * np.abs(fake).max()
    assert artifact.stored_bits() == artifact.plan.bits(artifact.network).total


def test_training_on_digits_survives_export():
    """A trained network, where the argmax means something: same answers, same accuracy."""
    data = load_data("digits")
    model = build("digitsnet", 0)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for epoch in range(6):
        for index in torch.randperm(len(data.train_y), generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            x, y = real(data.train_x[index]), torch.from_numpy(data.train_y[index])
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    model = quantized(model, mixed_plan("digitsnet", ("linear-8", "e8-q4", "linear-4")), data.train_x)
    artifact = export(model, mixed_plan("digitsnet", ("linear-8", "e8-q4", "linear-4")), example_input("digitsnet"))
    fake = fake_logits(model, data.test_x).argmax(1)
    assert (run(artifact, data.test_x).argmax(1) == fake).mean() > 0.99
    assert accuracy(artifact, data.test_x, data.test_y) == pytest.approx((fake == data.test_y).mean(), abs=0.01)
    assert accuracy(artifact, data.test_x, data.test_y) > 0.9


@pytest.mark.parametrize("which", ["lenet", "resnet"])
def test_every_tensor_is_the_fake_quantized_one(which, request):
    """Integer for integer, but where a float32 falls to the other side of a tie."""
    model, artifact, x = request.getfixturevalue(which)
    ours = layer_outputs(artifact, x)
    for name, integers in tensors_of(model, x).items():
        if name == "input":
            continue
        gap = np.abs(ours[name].reshape(integers.shape).astype(int) - integers)
        assert (gap > 0).mean() <= (0.005 if name == "avgpool" else 0.001), name  # a mean is rounded twice
        assert gap.max() <= 1, name


@pytest.mark.parametrize("which", ["lenet", "resnet"])
def test_logits_are_the_fake_quantized_ones(which, request):
    model, artifact, x = request.getfixturevalue(which)
    fake, ours = fake_logits(model, x), real_logits(artifact, x)
    assert (fake.argmax(1) == ours.argmax(1)).mean() > 0.99
    assert np.abs(fake - ours).max() < 0.02 * np.abs(fake).max()


@pytest.mark.parametrize("which", ["lenet", "resnet"])
def test_stored_weights_are_those_of_the_forward_pass(which, request):
    model, artifact, _ = request.getfixturevalue(which)
    for layer in artifact.network.layers:
        weight = model.get_submodule(layer.name).weight.detach().numpy()
        fmt, integers = artifact.plan.format_of(layer.name), artifact.weights_int(layer.name)
        stored = decode_weight(fmt, integers, artifact.layers[layer.name].scale, weight.shape)
        np.testing.assert_array_equal(stored, weight)
    assert artifact.stored_bits() == artifact.plan.bits(artifact.network).total


class Mobile(nn.Module):
    """A depthwise convolution, a bottleneck that two additions read, an average pool."""

    def __init__(self):
        super().__init__()
        self.expand, self.bn1, self.relu1 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU()
        self.depth, self.bn2, self.relu2 = (
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.project, self.bn3 = nn.Conv2d(8, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.add1, self.add2 = Add(), Add()
        self.pool, self.flatten, self.fc = nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3 * 4 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.expand(x)))
        y = self.bn3(self.project(self.relu2(self.bn2(self.depth(y)))))
        return self.fc(self.flatten(self.pool(self.add2(self.add1(y, x), y))))


def test_depthwise_signed_pooled_and_dead_channels():
    x = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8)).astype(np.uint8)
    torch.manual_seed(0)
    model = Mobile()
    network = capture(model, real(x[:1]), "mobile")
    plan = Plan.uniform(network, "linear-8", activation="int6")
    model = quantized(model, plan, x)
    with torch.no_grad():
        model.bn2.weight[0], model.bn2.bias[0] = 0.0, 0.7
    artifact = export(model, plan, real(x[:1]))
    fake, ours = fake_logits(model, x), real_logits(artifact, x)
    assert np.abs(fake - ours).max() < 0.02 * np.abs(fake).max()
    expected = round(0.7 / artifact.grids["depth"].step)
    assert np.abs(layer_outputs(artifact, x)["depth"][:, 0].astype(int) - expected).max() <= 1


def test_pools_after_an_average():
    """What averages is kept on a finer grid; a pool behind it has the same grid, however many there are."""
    pools = (nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2)), (nn.AvgPool2d(2), nn.AvgPool2d(2))
    x = images_for("lenet5", 32)[:, :, :16, :16]
    for first, *others in pools:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), first, *others, nn.Flatten(), nn.Linear(128, 10))
        plan = Plan.uniform(capture(model, real(x[:1]), "pools"), "linear-8")
        model = quantized(model, plan, x)
        artifact = export(model, plan, real(x[:1]))
        fake, ours = fake_logits(model, x), real_logits(artifact, x)
        assert np.abs(fake - ours).max() < 0.02 * np.abs(fake).max()
        assert (fake.argmax(1) == ours.argmax(1)).mean() > 0.99


# Arrays.


def lossless(numbers: ArrayNumbers) -> ArrayNumbers:
    return numbers._replace(adc_bits=lossless_adc_bits(numbers))


@pytest.mark.parametrize("numbers", ENCODINGS, ids=lambda n: f"{n.encoding}-{n.rows_on}")
@pytest.mark.parametrize("which", ["lenet", "resnet"])
def test_lossless_arrays_equal_the_ideal_network(which, numbers, request):
    """Bit for bit, layer by layer; `adc_bits` one above lossless but step 1 changes nothing either."""
    _, artifact, x = request.getfixturevalue(which)
    x = x[:3]
    if any(grid.signed for grid in artifact.grids.values()) and numbers.dac_bits > 1:
        numbers = numbers._replace(dac_bits=1)
    ideal, arrays = layer_outputs(artifact, x), layer_outputs(artifact, x, lossless(numbers))
    for name, y in ideal.items():
        np.testing.assert_array_equal(arrays[name], y, err_msg=name)


def test_calibration_lowers_the_error_of_the_first_layer_that_needs_it(lenet):
    """Up to that layer both networks are the same, so its inputs are too."""
    _, artifact, x = lenet
    numbers = ArrayNumbers(128, 128, 1, 1, 4, "offset")
    calibrated = calibrate_adc(artifact, x[:16], numbers)
    steps = {name: choice.adc_step or 0 for name, choice in calibrated.plan.layers.items()}
    assert min(steps.values()) == 1  # every layer got one
    first = next(name for name, step in steps.items() if step > 1)
    ideal = layer_outputs(artifact, x[:16])[first].astype(int)
    raw, better = (
        np.abs(layer_outputs(each, x[:16], numbers)[first] - ideal).mean() for each in (artifact, calibrated)
    )
    assert 0 < better < raw
    assert calibrate_adc(artifact, x[:16], numbers).plan == calibrated.plan


def test_a_lossless_converter_calibrates_to_step_one(lenet):
    _, artifact, x = lenet
    numbers = lossless(ENCODINGS[0])
    steps = {choice.adc_step for choice in calibrate_adc(artifact, x[:4], numbers).plan.layers.values()}
    assert steps == {1}


def test_activity_is_of_means(lenet):
    """One-bit steps and cells: the means are the shares of ones in x and in the offset weights."""
    _, artifact, x = lenet
    numbers = lossless(ArrayNumbers(64, 64, 1, 1, 0, "offset"))
    found = collect(artifact, x[:8], numbers)
    assert list(found) == [layer.name for layer in artifact.network.layers]
    w = artifact.weights_int("fc1").astype(int)
    bits = artifact.plan.format_of("fc1").array_bits
    cells = ((w + (1 << (bits - 1)))[..., None] >> np.arange(bits)) & 1
    inputs = layer_outputs(artifact, x[:8])["pool2"]
    ones = (inputs.astype(int)[..., None] >> np.arange(artifact.grids["pool2"].bits)) & 1
    assert found["fc1"].cell_density == pytest.approx(cells.mean())
    assert found["fc1"].input_density == pytest.approx(ones.mean())


# Files and errors.


@pytest.mark.parametrize("sharing", ["network", "layer"])
def test_export_load_run(sharing, tmp_path):
    plan = mixed_plan("lenet5", ("vq-4x16-e4-s2", "linear-4", "vq-4x16-e4-s2"))
    plan = Plan.model_validate({**plan.model_dump(), "sharing": sharing})
    x = images_for("lenet5", 20)
    model = quantized(build("lenet5", 0), plan, x)
    artifact = export(model, plan, example_input("lenet5"), tmp_path / "net.safetensors", seed=7)
    back = load(tmp_path / "net.safetensors")
    assert back.header.seed == 7
    np.testing.assert_array_equal(run(back, x), run(artifact, x))
    assert back.stored_bits() == plan.bits(back.network).total


def test_models_that_cannot_be_exported():
    plan, example = mixed_plan("digitsnet", ("linear-4",)), example_input("digitsnet")
    with pytest.raises(InputError, match=r"layers\.conv1\.format = linear-4: must be float"):
        export(build("digitsnet", 0), plan, example)
    model = quantize(build("digitsnet", 0), plan)
    with pytest.raises(InputError, match=r"activations\.input: has no step \(quantize with an example"):
        export(model, plan, example)
    model = quantize(build("digitsnet", 0), plan, example_input=example)
    with pytest.raises(InputError, match=r"activations\.conv1: is not calibrated"):
        export(model, plan, example)
    with pytest.raises(InputError, match=r"layers\.fc3: missing"):
        export(build("lenet5", 0), plan.model_copy(update={"layers": {}}), example_input("lenet5"))


def test_a_plan_that_shares_what_the_model_does_not():
    plan = mixed_plan("digitsnet", ("vq-4x16-e4-s0",))
    own = Plan.model_validate({**plan.model_dump(), "sharing": "layer"})
    model = quantized(build("digitsnet", 0), own, images_for("digitsnet", 8))
    with pytest.raises(InputError, match="sharing = network"):
        export(model, plan, example_input("digitsnet"))
