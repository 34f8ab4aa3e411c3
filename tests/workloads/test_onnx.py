"""ONNX files as networks: the same shapes as the torch module they came from, and clear words for what has none."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save

from tests.helpers.command import refused, run
from workloads.capture.trace import capture
from workloads.errors import InputError
from workloads.layer import Network
from workloads.networks.zoo import NETWORKS, example_input
from workloads.shapes import load_network

torch.set_num_threads(1)
FLOAT = TensorProto.FLOAT


def exported(name: str, path: Path) -> Network:
    """The network of a torch module, by way of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is called old
        torch.onnx.export(NETWORKS[name].make().eval(), (example_input(name),), path, dynamo=False)
    return load_network(path)


@pytest.mark.parametrize("name", ["lenet5", "resnet8", "mobilenet_v2", "text_transformer"])
def test_a_file_says_what_its_module_says(name, tmp_path):
    """Layers one by one, products of activations, and the kinds of all other steps."""
    found = exported(name, tmp_path / "model.onnx")
    wanted = capture(NETWORKS[name].make(), example_input(name), name)
    shapes = [[(x.num_inputs, x.num_outputs, x.num_positions, x.groups) for x in n.layers] for n in (found, wanted)]
    assert shapes[0] == shapes[1]
    assert (found.num_macs, found.num_weights) == (wanted.num_macs, wanted.num_weights)
    assert Counter(node.op for node in found.nodes) == Counter(node.op for node in wanted.nodes)
    assert sum(node.relu for node in found.nodes) == sum(node.relu for node in wanted.nodes)


def write(path: Path, nodes: list, stored: dict[str, tuple[int, ...]], shape: tuple = (1, 4, 8, 8), **more) -> Path:
    """A file of these nodes from `x` to `y`; `stored` weights are zeros."""
    weights = [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in stored.items()]
    given = [helper.make_tensor_value_info("x", more.get("kind", FLOAT), list(shape))]
    graph = helper.make_graph(nodes, "g", given, [helper.make_tensor_value_info("y", FLOAT, None)], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def node(op: str, inputs: str, output: str = "y", **attributes):
    return helper.make_node(op, inputs.split(), [output], name=attributes.pop("name", op.lower()), **attributes)


def test_convolutions(tmp_path):
    """Groups, strides, and padding that is odd: four more zeros at the end become a step of their own."""
    path = write(tmp_path / "m.onnx", [
        node("Conv", "x w1", "a", name="c1", group=4, pads=[1, 1, 1, 1]),
        node("Conv", "a w2", "y", name="c2", auto_pad="SAME_UPPER", strides=[2, 2]),
    ], {"w1": (8, 1, 3, 3), "w2": (6, 8, 3, 3)})  # fmt: skip
    network = load_network(path)
    first, second = network.layers
    assert (first.groups, first.num_inputs, first.out_size) == (4, 9, (8, 8))
    assert (second.num_inputs, second.out_size) == (72, (4, 4))
    assert [n.op for n in network.nodes] == ["layer", "pad", "layer"]


def test_linear_layers_biases_and_free_batches(tmp_path):
    """MatMul and Add of a vector are one layer; a batch that is open counts as one; Gemm may hold [O, I]."""
    path = write(tmp_path / "m.onnx", [
        node("MatMul", "x w1", "a", name="fc1"), node("Add", "a b1", "b"), node("Relu", "b", "c"),
        node("Gemm", "c w2 b2", "y", name="fc2", transB=1),
    ], {"w1": (16, 32), "b1": (32,), "w2": (10, 32), "b2": (10,)}, ("batch", 16))  # fmt: skip
    network = load_network(path)
    assert [(x.num_inputs, x.num_outputs, x.num_positions) for x in network.layers] == [(16, 32, 1), (32, 10, 1)]
    assert [n.relu for n in network.nodes] == [True, False]


def test_attention_products_count(tmp_path):
    """q k^T of a sequence of 6 tokens of width 8: 6 x 6 x 8 multiply-accumulates, and none of weights."""
    path = write(tmp_path / "m.onnx", [
        node("MatMul", "x wq", "q", name="query"), node("MatMul", "x wk", "k", name="key"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]), node("MatMul", "q kt", "s", name="scores"),
        node("Softmax", "s", "y", axis=-1),
    ], {"wq": (4, 8), "wk": (4, 8)}, (1, 6, 4))  # fmt: skip
    network = load_network(path)
    assert network.node("scores").num_macs == 6 * 6 * 8
    assert network.num_macs == 6 * 6 * 8 + 2 * 6 * 4 * 8


def test_quantize_pairs_and_constants_disappear(tmp_path):
    """A plan says what is stored, so that the file's own quantization is no step."""
    scale = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(v), name))
             for name, v in (("s", np.float32(0.1)), ("z", np.uint8(0)))]  # fmt: skip
    path = write(tmp_path / "m.onnx", [
        *scale, node("QuantizeLinear", "x s z", "a"), node("DequantizeLinear", "a s z", "b"),
        node("Conv", "b w", "y", name="c"),
    ], {"w": (8, 4, 1, 1)})  # fmt: skip
    assert [n.op for n in load_network(path).nodes] == ["layer"]


def test_every_unknown_operator_is_named_at_once(tmp_path):
    path = write(tmp_path / "m.onnx", [
        node("Conv", "x w", "a", name="c"), node("Det", "a", "b", name="first"),
        node("LRN", "a", "y", size=3, name="second"),
    ], {"w": (8, 4, 1, 1)})  # fmt: skip
    with pytest.raises(InputError) as caught:
        load_network(path)
    text = str(caught.value)
    assert "first = Det: must be one of" in text and "second = LRN: must be one of" in text and "m.onnx" in text


@pytest.mark.parametrize(
    ("nodes", "stored", "text"),
    [
        ([node("Relu", "x")], {}, "at least one Conv, Gemm or MatMul"),
        ([node("Conv", "x w", dilations=[2, 2])], {"w": (8, 4, 3, 3)}, "dilations must be 1"),
        ([node("Conv", "w x")], {"w": (1, 4, 8, 8)}, "must have stored weights"),
    ],
)
def test_what_a_network_cannot_say_is_refused(nodes, stored, text, tmp_path):
    with pytest.raises(InputError, match=text):
        load_network(write(tmp_path / "m.onnx", nodes, stored))


def test_files_that_are_none(tmp_path, capsys):
    (tmp_path / "broken.onnx").write_bytes(b"no protobuf \xff\xfe")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("broken", "empty", "missing"):
        assert f"{name}.onnx" in refused(capsys, "simulate", tmp_path / f"{name}.onnx")


def test_weights_in_other_files_are_not_read(tmp_path):
    """Only shapes count: a tensor may point at a file that is not there, or is none of our business."""
    path = write(tmp_path / "m.onnx", [node("Conv", "x w", name="c")], {"w": (8, 4, 1, 1)})
    import onnx

    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/passwd")
    save(model, path)
    assert load_network(path).num_weights == 32


def test_the_command_takes_a_file(tmp_path, capsys):
    exported("lenet5", tmp_path / "mine.onnx")
    ours, theirs = (
        json.loads(run(capsys, "simulate", name, "--json").out) for name in (tmp_path / "mine.onnx", "lenet5")
    )
    assert ours["network"] == "mine" and ours["energy_pj"] == pytest.approx(theirs["energy_pj"])
