"""The walk through a traced graph: where each tensor's values come from, and what cannot be said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from workloads.draft import Draft, Shape, sample_shape
from workloads.errors import InputError
from workloads.layer import Op

EXACT_OPS = ("layer", "add", "max_pool", "avg_pool", "relu")  # what integers alone can compute


class Value(NamedTuple):
    """The tensor of an fx node.

    `source` is the Network node that made it, `input`, "" after an unknown operation, or None for what is no data:
    constants, and masks and counts of token ids. `margin` is zero padding that the convolution after it will do.
    """

    source: str | None
    has_one_reader: bool
    margin: tuple[int, int] = (0, 0)


Handler = Callable[["Walk", fx.Node, Any], Value]


class Handlers(NamedTuple):
    """How to find the handler of an operation: by the class of a module, or by a function or method."""

    of_module: tuple[tuple[Any, Handler], ...]  # the first class that fits
    of_function: Mapping[Any, Handler]
    module_of: Mapping[Any, Callable[..., nn.Module]]  # functions that count as the module which does the same
    with_arguments: tuple[Any, ...]  # modules whose arguments matter, and equal those of the function
    known: str  # the supported operations, for messages


class Problem(NamedTuple):
    """`only_exact`: a Network can say it, integers alone cannot compute it."""

    text: str
    only_exact: bool


class Walk:
    """Goes through a graph that ran, in order, and drafts the Network."""

    def __init__(self, graph: fx.GraphModule, name: str, handlers: Handlers):
        self.graph, self.handlers, self.draft = graph, handlers, Draft(name)
        self.values: dict[fx.Node, Value] = {}
        self.problems: list[Problem] = []
        self.batch, self.reads_ids = 1, False

    def run(self, exact: bool) -> Draft:
        """Raises InputError with all problems; those of integer arithmetic count only if it must be `exact`."""
        for node in self.graph.graph.nodes:
            if node.op != "output" and node.meta["is_tensor"]:
                self._step(node)
        found = [problem.text for problem in self.problems if exact or not problem.only_exact]
        if not found and "layer" not in map(self.draft.op, self.draft.nodes):
            found = ["module: must have at least one of Conv2d, Linear or MultiheadAttention"]
        if found:
            raise InputError(self.draft.name, found)
        return self.draft

    def _step(self, node: fx.Node) -> None:
        try:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self.values[node] = value(None, node)
            else:
                self.values[node] = self._handler(node)(self, node, self.module(node))
        except ValueError as error:
            self.problems.append(Problem(f"{path(node)} = {self.what(node)}: {error}", only_exact=False))
            self.values[node] = value("", node)

    def _placeholder(self, node: fx.Node) -> None:
        shape = node.meta["shape"]
        require(not self.values, "must be the only input")
        self.reads_ids, self.batch = not node.meta["is_float"], shape[0] if shape else 1
        is_words = self.reads_ids and len(shape) == 2
        self.draft.input_shape = (1, shape[1], 1) if is_words else sample_shape(shape, self.batch)
        self.values[node] = value("input", node)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls, or that does the same as its function; None for other functions."""
        if node.op == "call_module":
            return self.graph.get_submodule(path(node))
        make: Any = self.handlers.module_of.get(node.target)
        if make not in self.handlers.with_arguments:
            return make() if make else None
        given: Any = map_arg((node.args[1:], node.kwargs), lambda arg: arg.meta["value"])
        return make(*given[0], **{key: value for key, value in given[1].items() if key != "input"})

    def what(self, node: fx.Node) -> str:
        if node.op == "call_module":
            return type(self.graph.get_submodule(path(node))).__name__
        make: Any = self.handlers.module_of.get(node.target)
        return make.__name__ if make else getattr(node.target, "__name__", str(node.target))

    def _handler(self, node: fx.Node) -> Handler:
        module = self.module(node)
        if module is not None:
            found = next((handler for kind, handler in self.handlers.of_module if isinstance(module, kind)), None)
        else:
            found = self.handlers.of_function.get(node.target)
        has_weights = isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention)
        if not has_weights and not self._reads_data(node):
            return lambda _, node, __: value(None, node)  # whatever it does, it is done once, before any input
        if found is None:
            raise ValueError(f"must be one of {self.handlers.known}")
        return found

    def _reads_data(self, node: fx.Node) -> bool:
        """Whether it depends on the input; on token ids only if it looks words up, for what else they give is masks."""
        sources = {self.values[arg].source for arg in tensors(node)} - {None}
        is_table = isinstance(self.module(node), nn.Embedding)
        return bool(sources) and (is_table or not self.reads_ids or sources != {"input"})

    def is_data(self, given: Any) -> bool:
        """Whether an argument is a tensor that depends on the input."""
        return isinstance(given, fx.Node) and given in self.values and self.values[given].source is not None

    def inputs(self, node: fx.Node, count: int | None = None) -> list[Value]:
        """The values it reads that are data, in order; `count` of them, if given."""
        found = [self.values[arg] for arg in tensors(node) if self.values[arg].source is not None]
        require(count is None or len(found) == count, f"must read {count} tensor(s), not {len(found)}")
        require(found, "must read the input, or what was made of it")
        return found

    def sources(self, node: fx.Node, count: int | None = None) -> tuple[str, ...]:
        return tuple(str(found.source) for found in self.inputs(node, count))

    def free_name(self, node: fx.Node, is_layer: bool = False) -> str:
        """Named after its module, or after the fx node from a second call on."""
        name = path(node)
        is_free = name not in self.draft.nodes and name != "input"
        require(is_free or not is_layer, "must be called once (one layer per call), not be named `input`")
        return name if is_free else node.name

    def new(self, node: fx.Node, op: Op, sources: tuple[str, ...], **fields: Any) -> Value:
        """Adds a Network node of one operation per element; it keeps the shape of a source of as many elements."""
        shape = self.shape(node)
        known = [self.draft.shape(source) for source in sources if source]
        kept = next((own for own in known if prod(own) == prod(shape)), shape)
        is_layout = fields or op in ("concat", "embedding", "matmul")
        if op not in EXACT_OPS:
            self.not_exact(node)
        name = self.draft.add(self.free_name(node), op, sources, shape if is_layout else kept, **fields)
        return value(name, node)

    def not_exact(self, node: fx.Node) -> None:
        """Notes an operation without a counterpart in the integer network."""
        text = f"{path(node)} = {self.what(node)}: is no arithmetic of integers (must be one of {', '.join(EXACT_OPS)})"
        self.problems.append(Problem(text, only_exact=True))

    def shape(self, node: fx.Node) -> Shape:
        return sample_shape(node.meta["shape"] or (), self.batch)


def tensors(node: fx.Node) -> list[fx.Node]:
    """All tensors among the arguments, also in lists, in order and with repeats."""
    found: list[fx.Node] = []
    map_arg((node.args, node.kwargs), found.append)
    return [arg for arg in found if arg.meta["is_tensor"]]


def require(condition: Any, problem: str) -> None:
    """Raises ValueError, which the walk lists."""
    if not condition:
        raise ValueError(problem)


def value(source: str | None, node: fx.Node) -> Value:
    return Value(source, len(node.users) == 1)


def path(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def in_shape(node: fx.Node) -> tuple[int, ...]:
    return tensors(node)[0].meta["shape"] or ()


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """The value of an argument, given by position or by name."""
    given = node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
    is_tensor = isinstance(given, fx.Node) and given.meta["is_tensor"]
    return given if is_tensor else map_arg(given, lambda arg: arg.meta["value"])


class TracedRun(fx.Interpreter):
    """Runs the graph once and notes each tensor's shape, or the value of what is no tensor, in its node."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        parts = result if isinstance(result, tuple | list) else [result]
        is_tensor = isinstance(result, Tensor)
        n.meta["shape"] = tuple(result.shape) if is_tensor else None
        n.meta["is_float"] = is_tensor and result.is_floating_point()
        n.meta["is_tensor"] = any(isinstance(part, Tensor) for part in parts)
        n.meta["value"] = None if n.meta["is_tensor"] else result
        return result
