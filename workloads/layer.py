"""The shared vocabulary of shapes: one weight layer, and a network of layers and digital steps."""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Base of every record that crosses a YAML or JSON border: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Layer(Frozen):
    """One weight layer as hardware sees it: shapes only, no weights.

    A linear layer is a 1x1 convolution over its tokens, so `in_size` is (tokens, 1).
    """

    name: str
    kind: Literal["conv", "linear"]
    in_channels: int = Field(ge=1)
    out_channels: int = Field(ge=1)
    in_size: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Layer:
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"groups = {self.groups}: must divide in_channels and out_channels")
        if min(self.out_size) < 1:
            raise ValueError(f"in_size = {self.in_size}: smaller than the kernel {self.kernel}")
        return self

    @property
    def out_size(self) -> tuple[int, int]:
        """Output height and width (positions along each axis)."""
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
        """P: output positions, each one a full matrix-vector product."""
        return prod(self.out_size)

    @property
    def num_weights(self) -> int:
        return self.num_inputs * self.num_outputs

    @property
    def num_macs(self) -> int:
        return self.num_weights * self.num_positions


Op = Literal[
    "layer", "add", "max_pool", "avg_pool", "relu", "gelu", "softmax", "layer_norm", "matmul", "concat", "embedding"
]


class Node(Frozen):
    """One step of a network. `op: layer` carries a weight layer; the others run on digital units.

    `inputs` names earlier nodes; the network's own input is called `input`. `out_shape` is
    (channels, height, width). `relu` says that a ReLU follows directly and is done while requantizing.
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ("input",)
    out_shape: tuple[int, int, int]
    layer: Layer | None = None
    relu: bool = False
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    num_macs: int = 0  # products of two activations (attention); weight MACs are the layer's

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


class Network(Frozen):
    """Layers and the edges between them, in an order in which every input precedes its use."""

    name: str
    input_shape: tuple[int, int, int]
    nodes: tuple[Node, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _edges_point_back(self) -> Network:
        known = {"input"}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in known]
            if missing:
                raise ValueError(f"nodes.{node.name}.inputs = {missing}: not an earlier node")
            if node.name in known:
                raise ValueError(f"nodes.{node.name}: this name is used twice")
            if (node.op == "layer") != (node.layer is not None):
                raise ValueError(f"nodes.{node.name}.layer: a node has a layer exactly when its op is `layer`")
            known.add(node.name)
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

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)
