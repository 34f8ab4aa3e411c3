"""The shared vocabulary of shapes: one weight layer, and a network of layers and digital steps."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Length = Annotated[int, Field(ge=1, le=2**24)]  # beyond any network, and small enough to multiply
Margin = Annotated[int, Field(ge=0, le=2**24)]


class Frozen(BaseModel):
    """Base of every record that crosses a YAML or JSON border: immutable; unknown keys, inf and nan refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Layer(Frozen):
    """One weight layer as hardware sees it: shapes only, no weights.

    A linear layer is a 1x1 convolution over its tokens, so `in_size` is (tokens, 1).
    """

    name: str
    kind: Literal["conv", "linear"]
    in_channels: Length
    out_channels: Length
    in_size: tuple[Length, Length] = (1, 1)
    kernel: tuple[Length, Length] = (1, 1)
    stride: tuple[Length, Length] = (1, 1)
    padding: tuple[Margin, Margin] = (0, 0)
    groups: Length = 1
    batch: Length = 1  # images that pass together, their maps stacked along the height

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Layer:
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups = {self.groups}: must divide in_channels and out_channels")
        if min(self.out_size) < 1:
            raise ValueError(f"in_size = {self.in_size}: smaller than the kernel {self.kernel}")
        return self

    @property
    def out_size(self) -> tuple[int, int]:
        """Output height and width of one image (positions along each axis)."""
        h, w = (
            (n + 2 * p - k) // s + 1
            for n, p, k, s in zip(self.in_size, self.padding, self.kernel, self.stride, strict=True)
        )
        return h, w

    @property
    def num_inputs(self) -> int:
        """I: length of one dot product, C_in / groups * kh * kw."""
        return self.in_channels // self.groups * prod(self.kernel)

    @property
    def num_outputs(self) -> int:
        """O: output channels over all groups."""
        return self.out_channels

    @property
    def num_positions(self) -> int:
        """P: output positions of the batch, each one a full matrix-vector product."""
        return prod(self.out_size) * self.batch

    @property
    def num_weights(self) -> int:
        return self.num_inputs * self.num_outputs

    @property
    def num_macs(self) -> int:
        return self.num_weights * self.num_positions


# Digital steps, by what one operation per element is. `lookup` is any function of one element that a table holds
# (tanh, erf, a square root); `rope` turns pairs of channels by the angle of their position; `pad` copies a map into
# a larger one of zeros. `embedding` reads whole vectors from the outer memory: rows of a table that words choose, or
# the keys and values of earlier tokens. Its table is no weight layer: it has no format and no place in a plan.
Op = Literal[
    "layer", "add", "mul", "max_pool", "avg_pool", "relu", "gelu", "silu", "hard_swish", "sigmoid", "lookup", "softmax",
    "layer_norm", "rms_norm", "rope", "matmul", "concat", "pad", "embedding",
]  # fmt: skip


class Node(Frozen):
    """One step of a network. `op: layer` carries a weight layer; the others run on digital units.

    `inputs` names earlier nodes; the network's own input is called `input`. `out_shape` is
    (channels, height, width). `relu` says that a ReLU follows directly and is done while requantizing.
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ("input",)
    out_shape: tuple[Length, Length, Length]
    layer: Layer | None = None
    relu: bool = False
    kernel: tuple[Length, Length] = (1, 1)
    stride: tuple[Length, Length] = (1, 1)
    padding: tuple[Margin, Margin] = (0, 0)
    num_macs: int = Field(default=0, ge=0)  # of a matmul: products of two activations; weight MACs are the layer's

    @property
    def num_elements(self) -> int:
        """Elements of the output tensor."""
        return prod(self.out_shape)

    @property
    def num_digital_ops(self) -> int:
        """Operations on digital units: one per element and window tap (an add has one per element)."""
        if self.op == "layer":
            return 0
        return self.num_elements * prod(self.kernel) + self.num_macs


def _node_problems(node: Node, known: set[str]) -> list[str]:
    """What is wrong with a node that comes after those `known`."""
    missing, layer = [name for name in node.inputs if name not in known], node.layer
    problems = [f"inputs = {missing}: not an earlier node"] if missing else []
    if node.name in known:
        problems.append("name: this name is used twice")
    if (node.op == "layer") != (layer is not None):
        problems.append("layer: a node has a layer exactly when its op is `layer`")
    if layer and layer.name != node.name:
        problems.append(f"layer.name = {layer.name!r}: must be the node's name")
    if layer and node.out_shape != (want := (layer.num_outputs, layer.out_size[0] * layer.batch, layer.out_size[1])):
        problems.append(f"out_shape = {node.out_shape}: must be {want}, what its layer makes")
    return problems


class Network(Frozen):
    """Layers and the edges between them, in an order in which every input precedes its use."""

    name: str
    input_shape: tuple[Length, Length, Length]
    nodes: tuple[Node, ...]
    batch: Length = 1  # images that pass together, each map stacked along its height

    @model_validator(mode="after")
    def _nodes_fit(self) -> Network:
        problems = [] if self.layers else ["nodes: at least one must be a layer"]
        known = {"input"}
        for node in self.nodes:
            problems += [f"nodes.{node.name}.{problem}" for problem in _node_problems(node, known)]
            known.add(node.name)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(node.layer for node in self.nodes if node.layer is not None)

    @property
    def num_weights(self) -> int:
        return sum(layer.num_weights for layer in self.layers)

    @property
    def num_macs(self) -> int:
        """Weight MACs plus activation-by-activation MACs of one image."""
        return sum(layer.num_macs for layer in self.layers) + sum(node.num_macs for node in self.nodes)

    def batched(self, batch: int) -> Network:
        """This network for `batch` images at once: maps that many times as high, layers with as many positions."""
        taller = self.model_dump()
        channels, rows, columns = self.input_shape
        taller |= {"batch": self.batch * batch, "input_shape": (channels, rows * batch, columns)}
        for node in taller["nodes"]:
            channels, rows, columns = node["out_shape"]
            node |= {"out_shape": (channels, rows * batch, columns), "num_macs": node["num_macs"] * batch}
            if node["layer"]:
                node["layer"]["batch"] *= batch
        return Network.model_validate(taller)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)
