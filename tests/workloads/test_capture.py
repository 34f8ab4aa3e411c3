"""Capture: any module becomes the shapes and edges that torch computes; what these cannot say is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workloads.capture.trace import capture, trace
from workloads.errors import InputError
from workloads.layer import Layer
from workloads.networks.blocks import Add
from workloads.networks.zoo import build, example_input


class Functional(nn.Module):
    """LeNet-like, written with functions and methods instead of modules."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding="same"), nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.conv3 = nn.Conv2d(6, 6, 3, padding="same", bias=False)
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.relu(self.conv2(x) + x)
        x = torch.add(self.conv3(x).relu(), x)
        x = F.avg_pool2d(x, x.size(2))
        return self.fc(F.dropout(x.view(x.shape[0], -1), training=self.training))


class Modules(nn.Module):
    """The same, written with modules."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.add1, self.relu2 = nn.Conv2d(6, 6, 3, padding=1, groups=3), Add(), nn.ReLU()
        self.conv3, self.relu3, self.add2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.ReLU(), Add()
        self.pool2, self.flatten, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()
        self.fc = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.relu2(self.add1(self.conv2(x), x))
        x = self.add2(self.relu3(self.conv3(x)), x)
        return self.fc(self.dropout(self.flatten(self.pool2(x))))


def essence(network) -> list:
    """Everything of the nodes but the names of those without a layer."""
    numbers = {"input": -1, **{node.name: number for number, node in enumerate(network.nodes)}}
    fields = (node.model_dump(exclude={"name"}) for node in network.nodes)
    return [{**own, "inputs": [numbers[name] for name in own["inputs"]]} for own in fields]


def problems(module: nn.Module, *shape: int) -> list[str]:
    with pytest.raises(InputError) as caught:
        capture(module, torch.zeros(*shape), "own")
    return caught.value.problems


def not_exact(module: nn.Module, *shape: int) -> list[str]:
    """What a Network can say of the module, but integers alone cannot compute."""
    capture(module, torch.zeros(*shape), "own")
    with pytest.raises(InputError) as caught:
        trace(module, torch.zeros(*shape), "own")
    return caught.value.problems


def test_functions_and_modules_give_the_same_network():
    x = torch.zeros(1, 1, 12, 12)
    assert essence(capture(Functional(), x, "own")) == essence(capture(Modules(), x, "own"))


def test_nodes_edges_and_folded_steps():
    network = capture(Modules(), torch.zeros(1, 1, 12, 12), "own")
    assert network.input_shape == (1, 12, 12)
    edges = [(node.name, node.op, node.inputs, node.out_shape, node.relu) for node in network.nodes]
    assert edges == [
        ("conv1", "layer", ("input",), (6, 12, 12), True),
        ("pool1", "max_pool", ("conv1",), (6, 6, 6), False),
        ("conv2", "layer", ("pool1",), (6, 6, 6), False),
        ("add1", "add", ("conv2", "pool1"), (6, 6, 6), True),
        ("conv3", "layer", ("add1",), (6, 6, 6), True),
        ("add2", "add", ("conv3", "add1"), (6, 6, 6), False),
        ("pool2", "avg_pool", ("add2",), (6, 1, 1), False),
        ("fc", "layer", ("pool2",), (10, 1, 1), False),
    ]
    assert network.node("pool2").kernel == (6, 6)


@pytest.mark.parametrize("name", ["digitsnet", "lenet5", "resnet8", "resnet20", "resnet18", "vgg8"])
def test_shapes_and_weights_are_those_torch_computes(name):
    """Each layer's output and weight tensor, seen by hooks on the running module, against the Network."""
    module = build(name, seed=0).eval()
    seen: dict[str, tuple] = {}
    for path, part in module.named_modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(
                lambda own, _, y, path=path: seen.__setitem__(path, (tuple(y.shape), own.weight.numel()))
            )
    with torch.no_grad():
        module(example_input(name))
    layers = capture(module, example_input(name), name).layers
    ours = {layer.name: (layer.out_channels, layer.out_size, layer.num_weights) for layer in layers}
    torchs = {path: (y[1], y[2:] or (1, 1), weights) for path, (y, weights) in seen.items()}
    assert ours == torchs


def test_grouped_and_depthwise_convolutions():
    conv = nn.Conv2d(8, 16, (3, 5), stride=(2, 1), padding=(1, 2), groups=8)
    (layer,) = capture(nn.Sequential(conv), torch.zeros(1, 8, 9, 7), "own").layers
    sizes = {"in_size": (9, 7), "kernel": (3, 5), "stride": (2, 1), "padding": (1, 2), "groups": 8}
    assert layer == Layer(name="0", kind="conv", in_channels=8, out_channels=16, **sizes)
    assert layer.num_weights == conv.weight.numel()
    assert layer.num_macs == 15 * 16 * 5 * 7


def test_linear_layers_over_tokens():
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    network = capture(module, torch.zeros(2, 10, 32), "own")
    assert network.input_shape == (32, 10, 1)
    assert [node.out_shape for node in network.nodes] == [(64, 10, 1), (8, 10, 1)]
    assert network.num_macs == 10 * (32 * 64 + 64 * 8)


def test_norms_and_sources():
    found = trace(build("resnet8", seed=0), example_input("resnet8"))
    assert found.norms["layer2.0.conv2"] == "layer2.0.bn2"
    assert found.norms["layer2.0.downsample.0"] == "layer2.0.downsample.1"
    assert set(found.norms) == {layer.name for layer in found.network.layers} - {"fc"}
    assert found.sources["conv1"] == ("input",)
    assert found.sources["layer1.0.conv1"] == ("conv1",)
    assert found.sources["layer2.0.conv1"] == found.sources["layer2.0.downsample.0"] == ("layer1.0.add",)
    assert found.sources["layer2.0.add"] == ("layer2.0.conv2", "layer2.0.downsample.0")
    assert found.sources["fc"] == ("avgpool",)


class Shared(nn.Module):
    """A convolution that is read before its ReLU and after it; `inplace` would change what the add reads."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.conv, self.act, self.drop = nn.Conv2d(2, 2, 1), nn.ReLU(inplace), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.act(self.drop(y)) + y


def test_a_relu_beside_another_reader_is_a_step_of_its_own():
    network = capture(Shared(inplace=False), torch.zeros(1, 2, 4, 4), "own")
    assert [(node.op, node.inputs, node.relu) for node in network.nodes] == [
        ("layer", ("input",), False),
        ("relu", ("conv",), False),
        ("add", ("act", "conv"), False),
    ]
    assert network.nodes[2].num_digital_ops == network.nodes[1].num_digital_ops == 32


def test_an_inplace_relu_beside_another_reader_is_refused():
    assert problems(Shared(inplace=True), 1, 2, 4, 4) == [
        "act = ReLU: inplace must be False where others read its input too"
    ]


def test_one_module_called_twice_gets_two_names():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool, self.act = nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.pool(self.act(self.conv(self.pool(x)))))

    network = capture(Twice(), torch.zeros(1, 1, 8, 8), "own")
    assert [(node.name, node.op, node.relu) for node in network.nodes] == [
        ("pool", "max_pool", False),
        ("conv", "layer", True),
        ("pool_1", "max_pool", False),
        ("act", "relu", False),
    ]


def test_a_layer_called_twice_is_refused():
    conv = nn.Conv2d(1, 1, 1)
    assert problems(nn.Sequential(conv, conv), 1, 1, 4, 4) == [
        "0 = Conv2d: must be called once (one layer per call), not be named `input`"
    ]


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(1, 4, 2), nn.BatchNorm2d(4)
        self.conv, self.late = nn.Conv2d(4, 4, 3, dilation=2), nn.BatchNorm2d(4)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.late(F.max_pool2d(self.conv(self.norm(self.up(x))), 2))
        return torch.cumsum(torch.sigmoid(x.permute(0, 2, 3, 1)), 1) + self.bias


def test_all_unsupported_operations_are_listed():
    found = problems(Strange(), 1, 1, 12, 12)
    assert [line.partition(":")[0] for line in found] == [
        "up = ConvTranspose2d",
        "conv = Conv2d",
        "late = BatchNorm2d",
        "cumsum = cumsum",
    ]
    assert "must be one of Conv2d, Linear" in found[0]
    assert "dilation (2, 2) must be (1, 1)" in found[1]
    assert "must directly follow a layer" in found[2]


def test_a_trace_lists_what_is_no_arithmetic_of_integers_too():
    with pytest.raises(InputError) as caught:
        trace(Strange(), torch.zeros(1, 1, 12, 12))
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "up = ConvTranspose2d",
        "conv = Conv2d",
        "late = BatchNorm2d",
        "permute = permute",
        "sigmoid = Sigmoid",
        "cumsum = cumsum",
        "add = Add",
    ]


ONE_CHANNEL = (1, 1, 8, 8)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    ("module", "shape", "problem"),
    [
        (nn.Sequential(nn.Conv2d(1, 1, 3)), (1, 8, 8), r"0 = Conv2d: must read a batch \[N, C, H, W\]"),
        (nn.Sequential(nn.Conv2d(1, 1, 2, padding="same")), ONE_CHANNEL, "the same on both sides"),
        (nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="circular")), ONE_CHANNEL, "'circular' must"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.LayerNorm([8, 8])), ONE_CHANNEL, r"\(8, 8\) must be the last axis"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReflectionPad2d(1)), ONE_CHANNEL, "1 = ReflectionPad2d: must be one of"),
        (nn.Sequential(nn.Linear(8, 8), nn.Softmax(1)), (1, 4, 8), "dim = 1 must be the last axis"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Hardtanh()), ONE_CHANNEL, "min_val = -1.0 must be 0"),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), ONE_CHANNEL, "must have at least one of Conv2d, Linear"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(3)), ONE_CHANNEL, r"output_size \(3, 3\) must divide \(8, 8\)"),
        (nn.Sequential(nn.MaxPool2d(2, dilation=2)), ONE_CHANNEL, "dilation must be 1"),
        (nn.Sequential(nn.MaxPool2d(2, return_indices=True)), ONE_CHANNEL, "must give"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1)), ONE_CHANNEL, "directly follow"),
        (nn.Sequential(nn.Identity()), ONE_CHANNEL, "must have at least one of"),
        (nn.Sequential(nn.Conv2d(3, 1, 1)), ONE_CHANNEL, r"module = Sequential: must run and trace"),
    ],
)  # fmt: skip
def test_what_a_network_cannot_say_is_refused(module, shape, problem):
    with pytest.raises(InputError, match=problem):
        capture(module, torch.zeros(*shape), "own")


def test_branches_on_data_are_refused():
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    assert "no branches on data" in problems(Branch(), 1, 1, 4, 4)[0]


class Broadcast(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.add = nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), Add()

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.pool(x), self.conv(x))


class Permuted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(2, 3)) * 0.5


@pytest.mark.parametrize(
    ("module", "shape", "refused"),
    [
        (Broadcast(), (1, 2, 4, 4), ["add = Add"]),
        (Permuted(), (1, 2, 4, 4), ["transpose = transpose", "mul = mul"]),
        (nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(32, 2)), (1, 4, 8), ["1 = Flatten"]),
        (nn.Sequential(nn.Linear(8, 8)), (1, 2, 4, 8), ["0 = Linear"]),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU6()), (1, 2, 4, 4), ["1 = ReLU6"]),
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.SiLU()), (1, 2, 4, 4), ["1 = SiLU"]),
    ],
)
def test_what_integers_alone_cannot_compute_is_captured_but_not_traced(module, shape, refused):
    assert [line.partition(":")[0] for line in not_exact(module, *shape)] == refused


def test_a_broadcasting_addition_has_the_larger_shape():
    assert capture(Broadcast(), torch.zeros(1, 2, 4, 4), "own").node("add").out_shape == (2, 4, 4)


class Halve(nn.Module):
    """A parametrization as quantization uses it."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def test_parametrized_weights_change_nothing():
    module = build("resnet8", seed=0)
    plain = trace(module, example_input("resnet8"))
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(part, "weight", Halve())
    assert trace(module, example_input("resnet8")) == plain


def test_subclasses_are_layers():
    class OwnConv(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return self._conv_forward(input, torch.round(self.weight), self.bias)

    (layer,) = capture(nn.Sequential(OwnConv(1, 2, 3)), torch.zeros(1, 1, 5, 5), "own").layers
    assert (layer.kind, layer.num_weights) == ("conv", 18)


def test_the_users_module_stays_as_it_was():
    module = build("resnet8", seed=0).train()
    module.get_submodule("layer1.0").eval()  # a mixed state is kept, too
    module.get_submodule("fc").cached = module.get_submodule("fc").weight * 2  # inside the autograd graph
    calls = []
    module.get_submodule("conv1").register_forward_hook(lambda *_: calls.append(1))
    module.get_submodule("conv1").register_forward_pre_hook(lambda *_: calls.append(2))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    flags, random_state = [part.training for part in module.modules()], torch.get_rng_state()
    capture(module, torch.ones(4, 1, 28, 28), "own")
    assert [part.training for part in module.modules()] == flags
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert calls == []
    module(torch.zeros(1, 1, 28, 28))
    assert sorted(calls) == [1, 2]  # the hooks are still there
