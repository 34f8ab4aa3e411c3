"""The networks have the sizes their papers give, their YAML files agree, and bad names and files are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from workloads.capture import capture
from workloads.errors import InputError
from workloads.networks import NETWORKS, build, example_input
from workloads.shapes import load_network, network_names, to_yaml

IMAGE_NETWORKS = [name for name, known in NETWORKS.items() if len(known.input_shape) == 3]
SHAPES = Path(__file__).parents[1] / "workloads" / "shapes"


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet5", 61_706),
        ("resnet18", 11_689_512),  # torchvision's table of pretrained models, ResNet18_Weights
        # 3-wide stem, stages of 3 blocks and two 1x1 shortcuts with their norms: 269,722 + 2,752
        ("resnet20", 272_474),
        ("resnet8", 75_002 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)),
        ("digitsnet", (9 * 8 + 8) + (9 * 8 * 16 + 16) + (256 * 10 + 10)),
    ],
)
def test_parameters_are_as_published(name, parameters):
    assert num_parameters(build(name, seed=0)) == parameters


@pytest.mark.parametrize(
    ("name", "weights", "macs"),
    [
        ("lenet5", 61_470, 416_520),
        # He et al., CVPR 2016, table 1: 1.8e9 operations; the exact count is that of convolutions and fc
        ("resnet18", 11_689_512 - 9_600 - 1_000, 1_814_073_344),
        ("resnet20", 270_896, 40_813_184),  # 0.27 M parameters and 40.8 M operations with 1x1 shortcuts
        # 3,456 + 147,456 + 294,912 + 589,824 + 1,179,648 + 2,359,296 + 8,388,608 + 10,240
        ("vgg8", 12_973_440, 615_917_568),
    ],
)
def test_weights_and_macs_are_as_published(name, weights, macs):
    network = load_network(name)
    assert (network.num_weights, network.num_macs) == (weights, macs)


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
def test_each_yaml_equals_its_module(name):
    network = capture(build(name, seed=0), example_input(name), name)
    assert load_network(name) == network
    assert (SHAPES / f"{name}.yaml").read_text() == to_yaml(network)


def test_every_network_for_images_has_a_yaml():
    assert network_names() == sorted(IMAGE_NETWORKS)


def test_layer_names_are_torchvisions():
    names = {layer.name for layer in load_network("resnet18").layers}
    assert {"conv1", "layer1.0.conv1", "layer2.0.downsample.0", "layer4.1.conv2", "fc"} <= names
    assert len(names) == 21  # 17 convolutions 3x3 and 7x7, three shortcuts, one linear layer


@pytest.mark.parametrize("name", ["digitsnet", "lenet5", "resnet8", "resnet20"])
def test_the_seed_alone_decides_the_weights(name):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = build(name, seed=3).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    again, other = build(name, seed=3).state_dict(), build(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize("name", ["digitsnet", "lenet5", "resnet8", "resnet20", "vgg8"])
def test_one_logit_per_class_for_each_image(name):
    shape = NETWORKS[name].input_shape
    assert build(name, seed=0)(torch.zeros(2, *shape)).shape == (2, 10)


def test_a_residual_block_is_its_formula():
    block = build("resnet8", seed=0).get_submodule("layer2.0").eval()
    x = torch.rand(1, 16, 28, 28, generator=torch.Generator().manual_seed(0))
    first = torch.relu(block.bn1(block.conv1(x)))
    assert torch.equal(block(x), torch.relu(block.bn2(block.conv2(first)) + block.downsample(x)))


@pytest.mark.parametrize("make", [lambda: build("lenet", 0), lambda: load_network("lenet")])
def test_an_unknown_name_lists_the_known_ones(make):
    with pytest.raises(InputError, match=r"name = 'lenet': must be one of digitsnet, lenet5, resnet"):
        make()


def test_a_networks_yaml_is_read_back(tmp_path):
    network = load_network("resnet8")
    path = tmp_path / "own.yaml"
    path.write_text(to_yaml(network))
    assert load_network(path) == network == load_network(str(path))


def test_a_bad_file_tells_all_its_problems(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("name: bad\nnodes:\n- {name: a, op: conv, out_shape: [1, 1, 1], color: red}\n")
    with pytest.raises(InputError) as caught:
        load_network(path)
    text = str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in text.splitlines())
    assert "input_shape: this key is required" in text
    assert "nodes.0.op = 'conv'" in text
    assert "nodes.0.color: unknown key" in text


@pytest.mark.parametrize(
    ("text", "problem"), [("[1, 2", "is not YAML"), ("- 1", "must be a mapping"), (None, "No such")]
)
def test_what_is_no_network_file_is_told(tmp_path, text, problem):
    path = tmp_path / "none.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=problem):
        load_network(path)


def test_shapes_need_no_torch():
    program = "import sys, workloads.shapes as s; s.load_network('resnet18'); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=SHAPES.parents[1], check=True
    )
    assert done.stdout.strip() == "False"
