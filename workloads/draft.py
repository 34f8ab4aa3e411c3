"""A network in the making: nodes join one by one, and folded steps disappear into the node before them."""

from __future__ import annotations

from math import prod
from typing import Any

from workloads.layer import Layer, Network, Node, Op

Shape = tuple[int, int, int]
FOLDS_RELU = ("layer", "add")


class Draft:
    """Nodes by name, in order. Sources are names of earlier nodes, or `input`; shapes are (channels, height, width)."""

    def __init__(self, name: str, input_shape: Shape = (0, 0, 0)):
        self.name, self.input_shape = name, input_shape
        self.nodes: dict[str, dict[str, Any]] = {}  # name -> the other fields of its Node
        self.norms: dict[str, str] = {}  # layer -> what normalises its outputs

    def add(self, name: str, op: Op, inputs: tuple[str, ...], out_shape: Shape, **fields: Any) -> str:
        """A node with the other fields of `Node`. Returns its name."""
        self.nodes[name] = {"op": op, "inputs": inputs, "out_shape": out_shape, **fields}
        return name

    def layer(self, layer: Layer, source: str) -> str:
        return self.add(layer.name, "layer", (source,), (layer.num_outputs, *layer.out_size), layer=layer)

    def linear(self, name: str, source: str, inputs: int, outputs: int, tokens: int = 1) -> str:
        """A linear layer over so many tokens of one sample."""
        sizes = {"in_channels": inputs, "out_channels": outputs, "in_size": (tokens, 1)}
        return self.layer(Layer(name=name, kind="linear", **sizes), source)

    def elementwise(self, name: str, op: Op, *sources: str) -> str:
        """One operation per element of the first source, which keeps its shape."""
        return self.add(name, op, sources, self.shape(sources[0]))

    def matmul(self, name: str, sources: tuple[str, ...], out_shape: Shape, inner: int) -> str:
        """The product of two activations over an inner length. A source that holds both is read once."""
        macs = prod(out_shape) * inner
        return self.add(name, "matmul", tuple(dict.fromkeys(sources)), out_shape, num_macs=macs)

    def attention(self, name: str, sources: tuple[str, str, str], heads: int, sizes: tuple[int, int, int, int]) -> str:
        """softmax(q k^T) v per head, from (q, k, v); `sizes` are queries, keys, and a head's width in q and in v."""
        (q, k, v), (queries, keys, width, v_width) = sources, sizes
        scores = self.matmul(f"{name}.scores", (q, k), (heads, queries, keys), width)
        weights = self.elementwise(f"{name}.softmax", "softmax", scores)
        return self.matmul(f"{name}.context", (weights, v), (heads, queries, v_width), keys)

    def shape(self, source: str) -> Shape:
        return self.input_shape if source == "input" else self.nodes[source]["out_shape"]

    def op(self, source: str) -> str:
        """What made a source; "" for the network's input and for what is unknown."""
        return self.nodes.get(source, {}).get("op", "")

    def takes_relu(self, source: str) -> bool:
        """Folds a ReLU into a layer or an addition, if this is one; the caller knows that nothing else reads it."""
        fits = self.op(source) in FOLDS_RELU
        if fits:
            self.nodes[source]["relu"] = True
        return fits

    def takes_norm(self, source: str, channels: int, norm: str) -> bool:
        """Folds a batch norm into the layer before it, if it is one of so many outputs without a norm or ReLU yet."""
        before = self.nodes.get(source, {})
        layer = before.get("layer")
        fits = layer is not None and layer.out_channels == channels and not before.get("relu")
        if not fits or source in self.norms:
            return False
        self.norms[source] = norm
        return True

    def finish(self) -> Network:
        nodes = tuple(Node(name=name, **fields) for name, fields in self.nodes.items())
        return Network(name=self.name, input_shape=self.input_shape, nodes=nodes)


def sample_shape(shape: tuple[int, ...], batch: int) -> Shape:
    """(channels, height, width) of one sample of a batch [N, C, H, W], tokens [N, T, C] or [N, C].

    Tokens lie along the height. Where rows of one sample went into the first axis (windows, heads), they come back:
    into the tokens of [.., T, C], and into the channels of [.., H, W]. Raises ValueError for what is no batch.
    """
    if len(shape) < 2 or prod(shape) % batch:
        raise ValueError(f"must give [N, C, H, W], [N, T, C] or [N, C], not {shape}")
    if len(shape) < 4:
        return shape[-1], prod(shape[:-1]) // batch, 1
    return prod(shape[:-2]) // batch, shape[-2], shape[-1]


def reduced(before: tuple[int, ...], axes: tuple[int, ...]) -> tuple[tuple[int, int], int]:
    """Window of an average over `axes` (>= 0) of a tensor, and the channels that are left of all positions.

    The window has rows and columns of an image, or all tokens; else (0 channels) taps per element in one row.
    """
    if len(before) == 4 and axes == (2, 3):
        return (before[2], before[3]), before[1]
    if len(before) == 3 and axes == (1,):
        return (before[1], 1), before[2]
    return (1, prod(before[axis] for axis in axes)), 0
