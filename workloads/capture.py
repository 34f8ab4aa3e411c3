"""Any torch module plus an example input becomes a Network: shapes and edges, no weights.

The module is traced with torch.fx on a copy in eval mode. Batch norm and ReLU fold into the step before them;
what leaves a tensor's values as they are (dropout, flatten, identity) disappears.
"""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.fx.proxy import TraceError
from torch.nn import functional

from workloads import networks
from workloads.errors import InputError
from workloads.layer import Layer, Network, Node
from workloads.networks import Add
from workloads.shapes import to_yaml

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Flatten)

# Each function or method counts as the module that does the same.
MODULE_OF: dict[Any, Callable[..., nn.Module]] = {
    functional.relu: nn.ReLU, torch.relu: nn.ReLU, "relu": nn.ReLU,
    operator.add: Add, operator.iadd: Add, torch.add: Add, "add": Add,
    functional.max_pool2d: nn.MaxPool2d, torch.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d, functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    functional.dropout: nn.Dropout, functional.dropout2d: nn.Dropout2d,
    torch.flatten: nn.Flatten, "flatten": nn.Flatten, torch.reshape: nn.Flatten,
    "reshape": nn.Flatten, "view": nn.Flatten, "contiguous": nn.Identity,
}  # fmt: skip
KNOWN = "Conv2d, Linear, BatchNorm, ReLU, Add, Max/Avg/AdaptiveAvgPool2d, Flatten, Dropout or Identity"


class Capture(NamedTuple):
    """A network, the batch norm folded into each layer, and where layers and adds take their tensors from."""

    network: Network
    norms: dict[str, str]  # layer name -> path of its batch norm module
    sources: dict[str, tuple[str, ...]]  # layer or add name -> the nodes (or `input`) that made its inputs


def capture(module: nn.Module, example_input: Tensor, name: str) -> Network:
    """The Network of a module for inputs like the example: [N, C, H, W], tokens [N, T, C] or [N, C].

    Raises InputError that lists every operation that has no counterpart in a Network.
    """
    return trace(module, example_input, name).network


def trace(module: nn.Module, example_input: Tensor, name: str = "network") -> Capture:
    """As `capture`, with the folded batch norms and the sources of every layer and add."""
    plain = _plain_copy(module)
    try:
        graph = fx.GraphModule(plain, _Tracer().trace(plain))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _Run(graph).run(example_input)
    except (TraceError, TypeError, ValueError, RuntimeError) as error:
        remedy = "no branches on data, one example input [N, C, H, W], [N, T, C] or [N, C]"
        problem = f"must run and trace with torch.fx: {str(error).partition(chr(10))[0]} ({remedy})"
        raise InputError(name, [f"module = {type(module).__name__}: {problem}"]) from error
    return _Walk(graph, name).finish()


def _plain_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode without the user's hooks, which must not see our run."""
    states = [state for part in module.modules() for state in vars(part).values()]
    # deepcopy refuses tensors inside an autograd graph, such as a cached quantized weight
    detached: dict[int, Any] = {id(t): t.detach() for t in states if isinstance(t, Tensor) and not t.is_leaf}
    plain = copy.deepcopy(module, detached).eval()
    for part in plain.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return plain


class _Tracer(fx.Tracer):
    """Keeps whole what a Network knows, subclasses and parametrized ones included, and all of torch.nn."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.Linear | Add) or super().is_leaf_module(m, module_qualified_name)


class _Run(fx.Interpreter):
    """Runs the graph once and notes each tensor's shape, or the value of what is no tensor, in its node."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        parts = result if isinstance(result, tuple | list) else [result]
        n.meta["shape"] = tuple(result.shape) if isinstance(result, Tensor) else None
        n.meta["is_tensor"] = any(isinstance(part, Tensor) for part in parts)
        n.meta["value"] = None if n.meta["is_tensor"] else result
        return result


class _Value(NamedTuple):
    """The tensor of an fx node: which Network node made it ("" if unknown), and that it has one reader."""

    source: str
    has_one_reader: bool


class _Walk:
    """Goes through a graph that ran, in order, and collects nodes, folded norms and problems."""

    def __init__(self, graph: fx.GraphModule, name: str):
        self.graph, self.name = graph, name
        self.nodes: dict[str, dict[str, Any]] = {}  # name -> the other fields of its Node
        self.norms: dict[str, str] = {}
        self.values: dict[fx.Node, _Value] = {}
        self.problems: list[str] = []
        self.input_shape = (0, 0, 0)
        self.handlers: tuple[tuple[Any, Callable[[fx.Node, Any], _Value]], ...] = (
            (nn.Conv2d, self._conv), (nn.Linear, self._linear), (NORMS, self._batch_norm), (Add, self._add),
            (nn.ReLU, self._relu), (POOLS, self._pool), (PASS_THROUGH, self._pass_through),
        )  # fmt: skip

    def finish(self) -> Capture:
        for node in self.graph.graph.nodes:
            if node.op != "output" and node.meta["is_tensor"]:
                self._step(node)
        if not self.nodes and not self.problems:
            self.problems.append(f"module: must have at least one of {KNOWN}")
        if self.problems:
            raise InputError(self.name, self.problems)
        nodes = tuple(Node(name=name, **fields) for name, fields in self.nodes.items())
        sources = {node.name: node.inputs for node in nodes if node.op in ("layer", "add")}
        network = Network(name=self.name, input_shape=self.input_shape, nodes=nodes)
        return Capture(network, self.norms, sources)

    def _step(self, node: fx.Node) -> None:
        module = None
        try:
            if node.op == "placeholder":
                self.input_shape, self.values[node] = _sample_shape(node), _value("input", node)
                return
            module = self._module(node)
            self.values[node] = self._handler(module)(node, module)
        except ValueError as error:
            what = type(module).__name__ if module else getattr(node.target, "__name__", node.target)
            self.problems.append(f"{_path(node)} = {what}: {error}")
            self.values[node] = _value("", node)

    def _module(self, node: fx.Node) -> nn.Module | None:
        if node.op == "call_module":
            return self.graph.get_submodule(_path(node))
        make: Any = MODULE_OF.get(node.target)
        if make is not nn.ReLU and make not in POOLS:
            return make() if make else None
        # torch keeps the arguments of both forms equal
        given: Any = map_arg((node.args[1:], node.kwargs), lambda arg: arg.meta["value"])
        return make(*given[0], **{key: value for key, value in given[1].items() if key != "input"})

    def _handler(self, module: nn.Module | None) -> Callable[[fx.Node, Any], _Value]:
        for kind, handler in self.handlers:
            if isinstance(module, kind):
                return handler
        raise ValueError(f"must be one of {KNOWN}")

    def _inputs(self, node: fx.Node, count: int) -> list[_Value]:
        given = (*node.args, *node.kwargs.values())
        tensors = [arg for arg in given if isinstance(arg, fx.Node) and arg.meta["is_tensor"]]
        _require(len(tensors) == count, f"must read {count} tensor(s), not {len(tensors)}")
        return [self.values[arg] for arg in tensors]

    def _new(self, node: fx.Node, op: str, **fields: Any) -> _Value:
        """Adds a Network node, named after its module, or after the fx node from a second call on."""
        path = _path(node)
        is_free = path not in self.nodes and path != "input"
        _require(is_free or op != "layer", "must be called once (one layer per call), not be named `input`")
        inputs = tuple(value.source for value in self._inputs(node, 2 if op == "add" else 1))
        name = path if is_free else node.name
        self.nodes[name] = {"op": op, "inputs": inputs, "out_shape": _sample_shape(node), **fields}
        return _value(name, node)

    def _conv(self, node: fx.Node, conv: nn.Conv2d) -> _Value:
        _require(_pair(conv.dilation) == (1, 1), f"dilation {conv.dilation} must be (1, 1)")
        _require(conv.padding_mode == "zeros", f"padding_mode {conv.padding_mode!r} must be 'zeros'")
        layer = Layer(
            name=_path(node), kind="conv", in_channels=conv.in_channels, out_channels=conv.out_channels,
            in_size=_image_size(node), kernel=_pair(conv.kernel_size), stride=_pair(conv.stride),
            padding=_padding(conv), groups=conv.groups,
        )  # fmt: skip
        _require(layer.out_size == node.meta["shape"][2:], "padding must be the same on both sides")
        return self._new(node, "layer", layer=layer)

    def _linear(self, node: fx.Node, linear: nn.Linear) -> _Value:
        shape = _in_shape(node)
        _require(len(shape) in (2, 3), f"must read [N, C] or tokens [N, T, C], not {shape}")
        layer = Layer(
            name=_path(node), kind="linear", in_channels=linear.in_features,
            out_channels=linear.out_features, in_size=(shape[1] if len(shape) == 3 else 1, 1),
        )  # fmt: skip
        return self._new(node, "layer", layer=layer)

    def _batch_norm(self, node: fx.Node, norm: nn.BatchNorm2d) -> _Value:
        ((source, has_one_reader),) = self._inputs(node, 1)
        before = self.nodes.get(source, {})
        layer = before.get("layer") if has_one_reader and "relu" not in before else None
        fits = layer and norm.num_features == layer.out_channels and len(_in_shape(node)) in (2, 4)
        # a norm after an unknown operation is no problem of its own
        is_right = source == "" or (fits and source not in self.norms)
        _require(is_right, "must directly follow a layer whose output nothing else reads")
        self.norms[source] = _path(node)
        return _value(source, node)

    def _relu(self, node: fx.Node, relu: nn.ReLU) -> _Value:
        ((source, has_one_reader),) = self._inputs(node, 1)
        _require(has_one_reader or not relu.inplace, "inplace must be False where others read its input too")
        if has_one_reader and self.nodes.get(source, {}).get("op") in ("layer", "add"):
            self.nodes[source]["relu"] = True
            return _value(source, node)
        return self._new(node, "relu")

    def _add(self, node: fx.Node, _: nn.Module) -> _Value:
        _require(node.kwargs.get("alpha", 1) == 1, "alpha must be 1")
        shapes = {arg.meta["shape"] for arg in node.all_input_nodes}
        _require(len(shapes) == 1, f"must add tensors of one shape, not {sorted(shapes, key=str)}")
        return self._new(node, "add")

    def _pool(self, node: fx.Node, pool: nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d) -> _Value:
        h, w = _image_size(node)
        if isinstance(pool, nn.AdaptiveAvgPool2d):
            rows, columns = node.meta["shape"][2:]
            _require(h % rows == w % columns == 0, f"output_size {(rows, columns)} must divide {(h, w)}")
            pool = nn.AvgPool2d((h // rows, w // columns))
        _require(_pair(getattr(pool, "dilation", 1)) == (1, 1), "dilation must be 1")
        kernel, stride = _pair(pool.kernel_size), _pair(pool.stride or pool.kernel_size)
        op = "max_pool" if isinstance(pool, nn.MaxPool2d) else "avg_pool"
        return self._new(node, op, kernel=kernel, stride=stride, padding=_pair(pool.padding))

    def _pass_through(self, node: fx.Node, _: nn.Module) -> _Value:
        ((source, has_one_reader),) = self._inputs(node, 1)
        before, after = _in_shape(node), node.meta["shape"]
        is_flat = len(before) in (2, 4) and after == (before[0], prod(before[1:]))
        _require(after == before or is_flat, f"must keep {before} or flatten it per sample, not give {after}")
        return _Value(source, has_one_reader and len(node.users) == 1)


def _require(condition: Any, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _value(source: str, node: fx.Node) -> _Value:
    return _Value(source, len(node.users) == 1)


def _path(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _in_shape(node: fx.Node) -> tuple[int, ...]:
    return node.all_input_nodes[0].meta["shape"] or ()


def _image_size(node: fx.Node) -> tuple[int, int]:
    _require(len(_in_shape(node)) == 4, f"must read a batch [N, C, H, W], not {_in_shape(node)}")
    return _pair(_in_shape(node)[2:])


def _sample_shape(node: fx.Node) -> tuple[int, int, int]:
    """(channels, height, width) of one sample of a batch; tokens lie along the height."""
    match node.meta["shape"]:
        case (_, c, h, w):
            return c, h, w
        case (_, tokens, c):
            return c, tokens, 1
        case (_, c):
            return c, 1, 1
    raise ValueError(f"must give [N, C, H, W], [N, T, C] or [N, C], not {node.meta['shape']}")


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    named = {"valid": 0, "same": _pair((k - 1) // 2 for k in conv.kernel_size)}
    return _pair(named[conv.padding] if isinstance(conv.padding, str) else conv.padding)


def _pair(value: Any) -> tuple[int, int]:
    h, w = (value, value) if isinstance(value, int) else value
    return h, w


if __name__ == "__main__":  # python -m workloads.capture NAME: the YAML of one of the project's networks
    NAME = sys.argv[1]
    sys.stdout.write(to_yaml(capture(networks.build(NAME, seed=0), networks.example_input(NAME), NAME)))
