"""The networks have the sizes their papers give, their YAML files agree, and bad names and files are told."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from workloads.capture.trace import capture, ready_yaml
from workloads.errors import InputError
from workloads.layer import Network
from workloads.networks.encoders import ENCODERS, llama2_7b_layer
from workloads.networks.pretrained import MINILM_SIZES, SentenceEncoder
from workloads.networks.zoo import NETWORKS, build, example_input
from workloads.shapes import load_network, network_names, to_yaml

WITH_YAML = sorted(set(NETWORKS) - {"text_transformer_wordnet"})  # whose last layer alone differs
torch.set_num_threads(1)

SHAPES = Path(__file__).parents[2] / "workloads" / "shapes"


def _without_weights(name: str) -> nn.Module:
    with torch.device("meta"):
        return NETWORKS[name].make()


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lenet5", 61_706),
        # torchvision's table of pretrained models (docs: Models and pre-trained weights)
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vgg16", 138_357_544),
        ("mobilenet_v2", 3_504_872),
        ("efficientnet_lite0", 4_652_008),  # the file of its published weights
        # 3-wide stem, stages of 3 blocks and two 1x1 shortcuts with their norms: 269,722 + 2,752
        ("resnet20", 272_474),
        ("resnet8", 75_002 + (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)),
        ("digitsnet", (9 * 8 + 8) + (9 * 8 * 16 + 16) + (256 * 10 + 10)),
    ],
)
def test_parameters_are_as_published(name, parameters):
    assert num_parameters(_without_weights(name)) == parameters


@pytest.mark.parametrize(
    ("name", "weights", "macs"),
    [
        ("lenet5", 61_470, 416_520),
        # He et al., CVPR 2016, table 1: 1.8e9 operations; the exact count is that of convolutions and fc
        ("resnet18", 11_689_512 - 9_600 - 1_000, 1_814_073_344),
        ("resnet20", 270_896, 40_813_184),  # 0.27 M parameters and 40.8 M operations with 1x1 shortcuts
        # All parameters but 53,120 of norms and 1,000 biases; He et al., table 1: 3.8e9 with the paper's stride, 4.09e9
        # with torchvision's
        ("resnet50", 25_557_032 - 53_120 - 1_000, 4_089_184_256),
        # All but 4,224 + 9,192 biases; torchvision's table of models: 15.47 GFLOPS, one per multiply-accumulate
        ("vgg16", 138_357_544 - 13_416, 15_470_264_320),
        # All but 34,112 of norms and 1,000 biases; Sandler et al., table 4: 3.4 M and 300 M
        ("mobilenet_v2", 3_504_872 - 34_112 - 1_000, 300_774_272),
        # All but 42,016 of norms and 1,000 biases; the authors' table has 4.7 M and 407 M
        ("efficientnet_lite0", 4_652_008 - 42_016 - 1_000, 385_187_552),
        # Weights times positions, 196 of the patches, 197 in the blocks, and 12 x 2 x 197^2 x 192 in attention; Touvron
        # et al., table 5: 5 M and 1.3 G. The classic count of parameters is tested below
        ("vit_tiny", 147_456 + 12 * 442_368 + 192_000, 147_456 * 196 + 5_308_416 * 197 + 178_831_872 + 192_000),
        # 12 blocks of 4 x 768^2 + 2 x 768 x 3072; 128 tokens, and 12 x 2 x 128^2 x 768 in attention
        ("bert_base", 84_934_656, 84_934_656 * 128 + 301_989_888),
        ("minilm", 10_616_832, 10_616_832 * 128 + 6 * 2 * 128**2 * 384),
        # 4 x 4096^2 + 3 x 4096 x 11008; one token, and 2 x 2048 x 4096 in attention
        ("llama2_7b_layer", 202_375_168, 202_375_168 + 16_777_216),
        # 3,456 + 147,456 + 294,912 + 589,824 + 1,179,648 + 2,359,296 + 8,388,608 + 10,240
        ("vgg8", 12_973_440, 615_917_568),
    ],
)
def test_weights_and_macs_are_as_published(name, weights, macs):
    network = load_network(name)
    assert (network.num_weights, network.num_macs) == (weights, macs)


def test_parameters_of_transformers_are_as_published():
    """Layers, biases, norms (gain and shift) and embeddings: 5,717,416 of DeiT-Ti, 109,482,240 of BERT-base."""
    block = (4 * 192 + 768 + 192) + 2 * 2 * 192
    beside = 192 + 12 * block + 2 * 192 + 1_000 + 198 * 192  # patches, blocks, norm, head, class token and positions
    assert load_network("vit_tiny").num_weights + beside == 5_717_416
    block, pooler = (4 * 768 + 3072 + 768) + 2 * 2 * 768, 768 * 768 + 768
    tables = (30_522 + 512 + 2) * 768  # words, positions and types: 23.8 M
    assert load_network("bert_base").num_weights + 12 * block + 2 * 768 + tables + pooler == 109_482_240


@pytest.mark.parametrize("name", WITH_YAML)
def test_each_yaml_equals_its_module(name):
    with torch.device("meta"):
        network = capture(NETWORKS[name].make(), example_input(name), name)
    assert load_network(name) == network
    assert (SHAPES / f"{name}.yaml").read_text() == to_yaml(network) == ready_yaml(name)


@pytest.mark.parametrize("name", ENCODERS)
def test_each_yaml_equals_its_generator(name):
    assert (SHAPES / f"{name}.yaml").read_text() == to_yaml(ENCODERS[name]())


def test_every_network_has_a_yaml():
    assert network_names() == sorted([*WITH_YAML, *ENCODERS])


def num_digital_ops(network: Network) -> Counter[str]:
    count: Counter[str] = Counter()
    for node in network.nodes:
        count[node.op] += node.num_digital_ops
    return count


def test_minilm_equals_its_module():
    """The module masks its scores and its tokens, too: one addition per score, one product per value of the mean."""
    with torch.device("meta"):
        module, ids = SentenceEncoder(MINILM_SIZES), torch.zeros(1, 128, dtype=torch.int64)
        captured = capture(module, ids, "minilm")
    ours, masks = load_network("minilm"), Counter({"add": 6 * 12 * 128 * 128, "mul": 128 * 384})
    assert captured.layers == ours.layers
    assert num_digital_ops(captured) == num_digital_ops(ours) + masks


def test_a_vision_transformer_equals_torchs():
    """Its blocks are those of nn.TransformerEncoder, normalised first."""
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(192, 3, 768, activation="gelu", batch_first=True, norm_first=True)
        torchs = nn.TransformerEncoder(layer, 12, nn.LayerNorm(192), enable_nested_tensor=False)
        captured = capture(torchs, torch.zeros(1, 197, 192), "torchs")
    ours = load_network("vit_tiny")
    both = [[(layer.num_weights, layer.num_macs) for layer in own.layers] for own in (captured, ours)]
    assert both[0] == both[1][1:-1]  # without patches and head
    stem = Counter({"concat": 197 * 192, "add": 197 * 192})  # the class token, and positions
    assert num_digital_ops(captured) + stem == num_digital_ops(ours)


def test_one_token_of_llama_reads_the_whole_cache():
    network = llama2_7b_layer(context=100)
    read = [node.num_elements for node in network.nodes if node.op == "embedding"]
    assert read == [99 * 4096] * 2  # keys and values of the tokens before
    assert network.num_macs == 202_375_168 + 2 * 100 * 4096


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
    with pytest.raises(InputError, match=r"name = 'lenet': must be one of .*digitsnet, .*lenet5, .*resnet"):
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
