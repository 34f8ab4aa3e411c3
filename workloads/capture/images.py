"""Operations on images: what an fx node of these becomes in a Network."""

from __future__ import annotations

import operator
from math import prod
from typing import Any

import torch
from torch import fx, nn

from workloads.capture.walk import Value, Walk, argument, in_shape, path, require, tensors, value  # fmt: skip
from workloads.draft import reduced
from workloads.layer import Layer, Op

SUBTRACTIONS = (operator.sub, operator.isub, torch.sub, "sub")
DIVISIONS = (operator.truediv, operator.itruediv, torch.div, "div")


def conv(walk: Walk, node: fx.Node, module: nn.Conv2d) -> Value:
    require(_pair(module.dilation) == (1, 1), f"dilation {module.dilation} must be (1, 1)")
    require(module.padding_mode == "zeros", f"padding_mode {module.padding_mode!r} must be 'zeros'")
    (h, w), (given,) = image_size(node), walk.inputs(node, 1)
    (rows, columns), padding = given.margin, _padding(module)
    layer = Layer(
        name=walk.free_name(node, is_layer=True), kind="conv", in_channels=module.in_channels,
        out_channels=module.out_channels, in_size=(h - 2 * rows, w - 2 * columns), kernel=_pair(module.kernel_size),
        stride=_pair(module.stride), padding=(padding[0] + rows, padding[1] + columns), groups=module.groups,
    )  # fmt: skip
    require(layer.out_size == node.meta["shape"][2:], "padding must be the same on both sides")
    return value(walk.draft.layer(layer, str(given.source)), node)


def batch_norm(walk: Walk, node: fx.Node, norm: nn.BatchNorm2d) -> Value:
    (given,) = walk.inputs(node, 1)
    source = str(given.source)
    fits = given.has_one_reader and len(in_shape(node)) in (2, 4)
    # a norm after an unknown operation is no problem of its own
    is_right = source == "" or (fits and walk.draft.takes_norm(source, norm.num_features, path(node)))
    require(is_right, "must directly follow a layer whose output nothing else reads")
    return value(source, node)


def relu(walk: Walk, node: fx.Node, module: nn.ReLU) -> Value:
    (given,) = walk.inputs(node, 1)
    require(given.has_one_reader or not module.inplace, "inplace must be False where others read its input too")
    if given.has_one_reader and walk.draft.takes_relu(str(given.source)):
        return value(given.source, node)
    return walk.new(node, "relu", (str(given.source),))


def bounded_relu(walk: Walk, node: fx.Node, module: Any) -> Value:
    """ReLU6: the upper bound is where requantization saturates, so that it costs what a ReLU does."""
    require(module.min_val == 0, f"min_val = {module.min_val} must be 0")
    walk.not_exact(node)
    return relu(walk, node, module)


def clamp(walk: Walk, node: fx.Node, _: Any) -> Value:
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    require(low == 0, f"min = {low} must be 0 (a ReLU)")
    return bounded_relu(walk, node, nn.Hardtanh(0, high)) if high is not None else relu(walk, node, nn.ReLU())


def add(walk: Walk, node: fx.Node, _: Any) -> Value:
    """A sum or difference of two tensors, or of one and what does not depend on the input."""
    require(argument(node, 2, "alpha", 1) == 1, "alpha must be 1")
    sources = walk.sources(node)
    shapes = {arg.meta["shape"] for arg in tensors(node)}
    if len(sources) != 2 or len(shapes) != 1 or node.target in SUBTRACTIONS:
        walk.not_exact(node)
    return walk.new(node, "add", sources)


def scale(walk: Walk, node: fx.Node, _: Any) -> Value:
    """A product or quotient. By one number it changes the scale of a tensor and no stored value, so it disappears."""
    if node.target in DIVISIONS and walk.is_data(node.args[1]):
        return walk.new(node, "mul" if walk.is_data(node.args[0]) else "lookup", walk.sources(node))
    sources, shapes = walk.sources(node), [arg.meta["shape"] for arg in tensors(node)]
    numbers = [shape for shape in shapes if shape is not None and prod(shape) == 1]
    if len(sources) == 1 and len(shapes) - len(numbers) <= 1:
        return view(walk, node, None)
    return walk.new(node, "mul", sources)


def function(op: Op) -> Any:
    """The handler of a function of one element."""
    return lambda walk, node, _: walk.new(node, op, walk.sources(node, 1))


def power(walk: Walk, node: fx.Node, _: Any) -> Value:
    """A square is a product; any other power is looked up."""
    return walk.new(node, "mul" if argument(node, 1, "exponent") == 2 else "lookup", walk.sources(node, 1))


def masked(walk: Walk, node: fx.Node, _: Any) -> Value:
    """What a mask takes out is one addition per element."""
    return walk.new(node, "add", walk.sources(node))


def pool(walk: Walk, node: fx.Node, module: nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d) -> Value:
    h, w = image_size(node)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        require(node.meta["shape"], "must give one tensor")
        rows, columns = node.meta["shape"][2:]
        require(h % rows == w % columns == 0, f"output_size {(rows, columns)} must divide {(h, w)}")
        module = nn.AvgPool2d((h // rows, w // columns))
    require(_pair(getattr(module, "dilation", 1)) == (1, 1), "dilation must be 1")
    kernel, stride = _pair(module.kernel_size), _pair(module.stride or module.kernel_size)
    op = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
    return walk.new(node, op, walk.sources(node, 1), kernel=kernel, stride=stride, padding=_pair(module.padding))


def mean(walk: Walk, node: fx.Node, _: Any) -> Value:
    """A mean or sum over some axes: an average over rows and columns, over tokens, or over an element's taps."""
    before, given = in_shape(node), argument(node, 1, "dim")
    require(len(before) > 1, "must reduce one tensor [N, C, H, W], [N, T, C] or [N, C]")
    given = range(1, len(before)) if given is None else (given,) if isinstance(given, int) else given
    kernel, channels = reduced(before, tuple(sorted(axis % len(before) for axis in given)))
    shape = (channels, 1, 1) if channels else walk.shape(node)
    walk.not_exact(node)
    source = walk.sources(node, 1)
    return value(walk.draft.add(walk.free_name(node), "avg_pool", source, shape, kernel=kernel, stride=kernel), node)


def zero_pad(walk: Walk, node: fx.Node, module: Any) -> Value:
    """Zeros around an image: done by the convolution after it if both sides are alike, else a step of its own."""
    margins = module.padding if module else argument(node, 1, "pad")
    fill = 0 if module else argument(node, 3, "value", 0) or 0
    mode = "constant" if module else argument(node, 2, "mode", "constant")
    require(mode == "constant" and fill == 0, f"must pad with zeros, not {mode} {fill}")
    require(len(margins) == 4 and len(in_shape(node)) == 4, "must pad rows and columns of [N, C, H, W]")
    left, right, top, bottom = margins
    (given,) = walk.inputs(node, 1)
    readers = [walk.module(user) if user.op == "call_module" else None for user in node.users]
    if left == right and top == bottom and all(isinstance(reader, nn.Conv2d) for reader in readers):
        return value(given.source, node)._replace(margin=(top, left))
    require(min(margins) >= 0, "must not cut")
    return walk.new(node, "pad", (str(given.source),), padding=(top, left))


def view(walk: Walk, node: fx.Node, module: Any) -> Value:
    """What only says which values are read, and in which order, is no step of its own.

    Integers follow a module that leaves the order of values alone and keeps the shape, or flattens it per sample.
    """
    before, after = in_shape(node), node.meta["shape"]
    is_flat = after is not None and len(before) in (2, 4) and after == (before[0], prod(before[1:]))
    if module is None or not (after == before or is_flat):
        walk.not_exact(node)
    given = walk.inputs(node)[0]
    return Value(given.source, given.has_one_reader and len(node.users) == 1)


def image_size(node: fx.Node) -> tuple[int, int]:
    require(len(in_shape(node)) == 4, f"must read a batch [N, C, H, W], not {in_shape(node)}")
    return _pair(in_shape(node)[2:])


def _padding(module: nn.Conv2d) -> tuple[int, int]:
    named = {"valid": 0, "same": _pair((k - 1) // 2 for k in module.kernel_size)}
    return _pair(named[module.padding] if isinstance(module.padding, str) else module.padding)


def _pair(given: Any) -> tuple[int, int]:
    h, w = (given, given) if isinstance(given, int) else given
    return h, w
