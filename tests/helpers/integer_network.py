"""A small artifact with every integer step and random weights, and its twin in plain Python integers."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import cycle
from typing import Literal

import numpy as np

from cimsim.integer.artifact import Artifact, Grid, Header, StoredLayer, pack_entries
from cimsim.integer.requantize import rescale_for
from workloads.codec import Codes, pack_all
from workloads.format import WeightFormat, weight_shape
from workloads.lattices import lattice_code
from workloads.layer import Layer, Network, Node
from workloads.plan import LayerPlan, Plan
from workloads.rotation import rotate

# A network with everything that integers can do: groups, stride, padding, both pools, a residual addition
# whose second operand is read by a layer as well, and a flatten.
CONV1 = Layer(name="conv1", kind="conv", in_channels=2, out_channels=4, in_size=(6, 5), kernel=(3, 3), padding=(1, 1))
CONV2 = CONV1.model_copy(update={"name": "conv2", "in_channels": 4, "groups": 2})
CONV3 = Layer(name="conv3", kind="conv", in_channels=4, out_channels=6, in_size=(3, 3), kernel=(2, 3), stride=(1, 2))
FC = Layer(name="fc", kind="linear", in_channels=12, out_channels=5)
NETWORK = Network(
    name="everything",
    input_shape=(2, 6, 5),
    nodes=(
        Node(name="conv1", op="layer", layer=CONV1, out_shape=(4, 6, 5), relu=True),
        Node(name="conv2", op="layer", layer=CONV2, inputs=("conv1",), out_shape=(4, 6, 5)),
        Node(name="add", op="add", inputs=("conv2", "conv1"), out_shape=(4, 6, 5)),
        Node(name="relu", op="relu", inputs=("add",), out_shape=(4, 6, 5)),
        Node(name="max", op="max_pool", inputs=("relu",), out_shape=(4, 3, 3), kernel=(3, 3), stride=(2, 2),
             padding=(1, 1)),
        Node(name="conv3", op="layer", layer=CONV3, inputs=("max",), out_shape=(6, 2, 1)),
        Node(name="avg", op="avg_pool", inputs=("conv3",), out_shape=(6, 2, 1)),
        Node(name="fc", op="layer", layer=FC, inputs=("avg",), out_shape=(5, 1, 1)),
    ),
)  # fmt: skip
GRIDS = {
    "input": Grid(step=1 / 255, bits=8, signed=False),
    "conv1": Grid(step=0.3, bits=4, signed=False),
    "conv2": Grid(step=0.11, bits=16, signed=True),
    "add": Grid(step=0.11, bits=8, signed=True),
    "relu": Grid(step=0.11, bits=8, signed=False),
    "max": Grid(step=0.23, bits=6, signed=False),
    "conv3": Grid(step=0.05, bits=8, signed=True),
    "avg": Grid(step=0.05, bits=8, signed=True),
    "fc": Grid(step=0.01, bits=32, signed=True),
}
# Typical integers that enter and leave each layer, so that the grids above are well used.
TYPICAL = {"conv1": (150, 6), "conv2": (6, 60), "conv3": (30, 50), "fc": (50, 1000)}


def artifact_of(formats: tuple[str, ...], seed: int = 0, sharing: Literal["network", "layer"] = "network") -> Artifact:
    """NETWORK with random codes in these formats (one per layer, cycled) and ratios that fit the grids."""
    rng = np.random.default_rng(seed)
    choices = dict(zip([layer.name for layer in NETWORK.layers], cycle(formats), strict=False))
    layer_plans = {name: LayerPlan(format=fmt) for name, fmt in choices.items()}
    plan = Plan(network=NETWORK.name, layers=layer_plans, sharing=sharing)
    books = {book: _book(fmt, rng) for book, fmt in plan.codebooks().items()}
    layers = {layer.name: _stored(layer, plan.format_of(layer.name), rng) for layer in NETWORK.layers}
    return Artifact(Header(network=NETWORK, plan=plan, grids=GRIDS, seed=seed), layers, books)


def _book(fmt: WeightFormat, rng: np.random.Generator) -> np.ndarray:
    half = 1 << (fmt.entry_bits - 1)
    num_entries = fmt.num_entries * fmt.codes_per_vector
    return pack_entries(rng.integers(-half, half, (num_entries, fmt.vector_length)), fmt)


def _codes(fmt: WeightFormat, shape: tuple[int, ...], rng: np.random.Generator) -> Codes:
    values = {"linear": 1 << fmt.code_bits, "vq": fmt.num_entries, "pool": 32}
    num_values = lattice_code(fmt.code).digit_size if fmt.kind == "lattice" else values[fmt.kind]
    codes = rng.integers(0, num_values, (*fmt.code_shape(shape), fmt.codes_per_vector))
    scale_codes = errors = None
    if fmt.scale_bits:
        largest = 1 << (fmt.scale_bits - fmt.signed_scale)
        scale_codes = rng.integers(1, 1 + largest, fmt.scale_shape(shape))
        scale_codes *= rng.choice([-1, 1], scale_codes.shape) if fmt.signed_scale else 1
    if fmt.kind == "pool":  # a group of 32 outputs uses no column twice
        rounds = [rng.permuted(np.tile(np.arange(32), (codes.shape[1], 1)), axis=1).T for _ in range(0, shape[0], 32)]
        codes = np.concatenate(rounds)[: shape[0], :, None]
        errors = rng.choice([-1, 1], (shape[0], fmt.num_errors(shape) // shape[0]))
    return Codes(codes[..., 0] if fmt.codes_per_vector == 1 else codes, scale_codes, errors)


def _stored(layer: Layer, fmt: WeightFormat, rng: np.random.Generator) -> StoredLayer:
    packed = pack_all(fmt, _codes(fmt, weight_shape(layer), rng))
    scale = rng.uniform(0.5, 1, fmt.num_scales(layer.num_outputs)).astype(np.float32)
    typical_in, typical_out = TYPICAL[layer.name]
    turned = max(1, fmt.rotation)
    typical_sum = np.sqrt(layer.num_inputs * turned) * 2 ** (fmt.array_bits - 2) * typical_in
    gain = scale * rng.choice([-1.0, 1.0], layer.num_outputs) * typical_out / typical_sum
    offset = rng.normal(0, typical_out / 2, layer.num_outputs)
    rescale = rescale_for(gain, offset, layer.num_inputs * turned << (fmt.array_bits + 7))
    return StoredLayer(*packed, scale, *rescale)


IMAGES = np.random.default_rng(1).integers(0, 256, (3, 2, 6, 5)).astype(np.uint8)


# The twin: one image, one output at a time, Python integers and fractions.


def naive(artifact: Artifact, image: np.ndarray) -> dict[str, np.ndarray]:
    made = {"input": naive_regrid(image, artifact.header.pixels, GRIDS["input"])}
    for node in NETWORK.nodes:
        x, grid = made[node.inputs[0]], GRIDS[node.name]
        if node.op == "layer":
            made[node.name] = naive_layer(artifact, node, x)
        elif node.op == "add":
            ratios = [Fraction(GRIDS[name].step / grid.step) for name in node.inputs]
            parts = [made[name] * ratio for name, ratio in zip(node.inputs, ratios, strict=True)]
            made[node.name] = np.vectorize(lambda v, g=grid: naive_clip(naive_round(v), g))(sum(parts))
        else:
            y = np.array([[[naive_window(x, node, c, i, j) for j in range(node.out_shape[2])]
                           for i in range(node.out_shape[1])] for c in range(len(x))])  # fmt: skip
            made[node.name] = naive_regrid(y, GRIDS[node.inputs[0]], grid)
    return made


def naive_layer(artifact: Artifact, node: Node, x: np.ndarray) -> np.ndarray:
    layer, stored, w = node.layer, artifact.layers[node.name], artifact.weights_int(node.name)
    assert layer is not None
    if block := artifact.plan.format_of(node.name).rotation:  # rotated inputs times w are inputs times w turned back
        w = w @ rotate(np.eye(layer.num_inputs, dtype=np.int64), block).T
    x = x.reshape(layer.in_channels, *layer.in_size)
    (kh, kw), (sh, sw), (ph, pw), (h, w_out) = layer.kernel, layer.stride, layer.padding, layer.out_size
    per_group, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    y = np.zeros((layer.out_channels, h, w_out), int)
    for o, i, j in np.ndindex(y.shape):
        acc = 0
        for a, b, c in np.ndindex(kh, kw, per_group):
            row, column = i * sh + a - ph, j * sw + b - pw
            if 0 <= row < layer.in_size[0] and 0 <= column < layer.in_size[1]:
                weight = int(w[o, (a * kw + b) * per_group + c])
                acc += weight * int(x[o // outputs * per_group + c, row, column])
        value = naive_round(Fraction(acc * int(stored.multiplier[o]) + int(stored.bias[o]), 2 ** int(stored.shift[o])))
        value = max(value, 0) if node.relu else value
        y[o, i, j] = naive_clip(value, GRIDS[node.name])
    return y


def naive_window(x: np.ndarray, node: Node, c: int, i: int, j: int) -> int:
    (kh, kw), (sh, sw), (ph, pw) = node.kernel, node.stride, node.padding
    rows, columns = range(i * sh - ph, i * sh - ph + kh), range(j * sw - pw, j * sw - pw + kw)
    taps = [int(x[c, r, k]) for r in rows for k in columns if 0 <= r < x.shape[1] and 0 <= k < x.shape[2]]
    if node.op == "avg_pool":
        return naive_round(Fraction(sum(taps), kh * kw))
    return max(0, *taps) if node.op == "relu" else max(taps)


def naive_regrid(x: np.ndarray, grid: Grid, target: Grid) -> np.ndarray:
    ratio = Fraction(grid.step) / Fraction(target.step)
    return np.vectorize(lambda v: naive_clip(naive_round(int(v) * ratio), target))(x)


def naive_round(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def naive_clip(value: int, grid: Grid) -> int:
    return min(max(value, grid.low), grid.high)
