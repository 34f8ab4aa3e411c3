"""An ONNX file becomes a Network: shapes and edges, no weights.

As in the capture of torch modules, batch norm, bias and ReLU fold into the layer before them; reshapes, slices and
scales by one number disappear; what does not depend on the input's values is a constant. Quantize and dequantize pairs
disappear too: a plan says what is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from workloads.draft import Draft, reduced, sample_shape
from workloads.errors import InputError
from workloads.layer import Layer, Network, Op
from workloads.onnx.file import SMALL, Graph, Operation, load_graph

VIEWS = (
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "Slice", "Split",
    "Expand", "Tile", "Neg", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
FUNCTIONS: dict[str, Op] = {
    "Gelu": "gelu", "Sigmoid": "sigmoid", "HardSwish": "hard_swish", "Swish": "silu",
    **dict.fromkeys(("Tanh", "Erf", "Sqrt", "Reciprocal", "Exp", "HardSigmoid", "Softplus", "Elu"), "lookup"),
    "LayerNormalization": "layer_norm", "RMSNormalization": "rms_norm", "SimplifiedLayerNormalization": "rms_norm",
    "LpNormalization": "rms_norm",
}  # fmt: skip
REDUCTIONS = ("ReduceMean", "ReduceSum")


def read_onnx(path: Path) -> Network:
    """The Network of an ONNX file, named after it.

    Raises InputError for a file that cannot be read, and lists every operator that has no counterpart in a Network.
    """
    return GraphWalk(load_graph(path), str(path)).run(path.stem)


class GraphWalk:
    """Goes through the steps in order; `sources` are the Network nodes (or `input`) that made each tensor."""

    def __init__(self, graph: Graph, where: str):
        self.graph, self.where, self.draft = graph, where, Draft(where)
        self.sources: dict[str, str | None] = dict.fromkeys(graph.constants)  # None: does not depend on the input
        self.free_biases: set[str] = set()  # layers from a MatMul, whose bias is an addition of its own
        self.batch, self.problems = 1, []

    def run(self, name: str) -> Network:
        self._inputs()
        for step in self.graph.steps if not self.problems else ():
            try:
                source = self._step(step)
            except ValueError as error:
                self.problems.append(f"{step.name} = {step.op}: {error}")
                source = ""
            self.sources |= dict.fromkeys(step.outputs, source)
        if not self.problems and "layer" not in map(self.draft.op, self.draft.nodes):
            self.problems.append("graph: must have at least one Conv, Gemm or MatMul with weights")
        if self.problems:
            raise InputError(self.where, self.problems)
        self.draft.name = name
        return self.draft.finish()

    def _inputs(self) -> None:
        shapes = {name: self.graph.shapes.get(name) for name in self.graph.inputs}
        self.problems += [f"inputs.{name}: must have a fixed shape" for name, shape in shapes.items() if not shape]
        if self.problems:
            return
        if len(self.graph.floats) > 1 or len(set(shapes.values())) != 1:
            self.problems.append(f"inputs = {list(shapes)}: must be one tensor, or token ids and masks of one shape")
            return
        self.sources |= dict.fromkeys(shapes, "input")
        shape: Any = next(iter(shapes.values()))
        self.batch = shape[0]
        is_words = not self.graph.floats and len(shape) == 2
        self.draft.input_shape = (1, shape[1], 1) if is_words else sample_shape(shape, self.batch)

    def _step(self, step: Operation) -> str | None:
        given = {self.sources.get(name) for name in step.inputs if name} - {None}
        is_table = step.op == "Gather" and self.source(step, 0) is None
        if not given or step.op in ("Shape", "Size") or (not self.graph.floats and given == {"input"} and not is_table):
            if step.op in ("Conv", "Gemm"):
                raise ValueError("must read the input, or what was made of it")
            return None  # constants, and masks and counts of token ids
        if step.op in VIEWS:
            return next(self.sources[name] for name in step.inputs if self.sources.get(name) is not None)
        if step.op in FUNCTIONS:
            return self.new(step, FUNCTIONS[step.op])
        if step.op not in HANDLERS:
            known = ", ".join(sorted((*VIEWS, *FUNCTIONS, *HANDLERS)))
            raise ValueError(f"must be one of {known}")
        return HANDLERS[step.op](self, step)

    def source(self, step: Operation, index: int) -> str | None:
        return self.sources.get(step.inputs[index]) if len(step.inputs) > index else None

    def data(self, step: Operation) -> tuple[str, ...]:
        """The sources of the inputs that depend on the network's input, in order."""
        return tuple(source for name in step.inputs if (source := self.sources.get(name)) is not None)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.graph.shapes:
            raise ValueError(f"the shape of {name!r} must follow from the file (export with fixed input sizes)")
        return self.graph.shapes[name]

    def constant(self, step: Operation, index: int) -> Any:
        """A stored input's values as a numpy array; None if it is absent. Raises ValueError if it is computed."""
        if len(step.inputs) <= index or not step.inputs[index]:
            return None
        found = self.graph.constants.get(step.inputs[index])
        if found is None:
            raise ValueError(f"input {index} must be a stored tensor of at most {SMALL} numbers")
        return found

    def name(self, step: Operation) -> str:
        is_free = step.name not in self.draft.nodes and step.name != "input"
        return step.name if is_free else step.outputs[0]

    def new(self, step: Operation, op: Op, **fields: Any) -> str:
        """A node that keeps the shape of a source of as many elements, but where the layout is what it changes."""
        shape, sources = sample_shape(self.shape(step.outputs[0]), self.batch), self.data(step)
        known = [self.draft.shape(source) for source in sources if source]
        kept = next((own for own in known if prod(own) == prod(shape)), shape)
        is_layout = fields or op == "concat"
        return self.draft.add(self.name(step), op, sources, shape if is_layout else kept, **fields)

    def is_read_once(self, step: Operation) -> bool:
        return self.graph.num_readers[step.inputs[0]] == 1


def _conv(walk: GraphWalk, step: Operation) -> str:
    weight, image, out = (walk.shape(name) for name in (step.inputs[1], step.inputs[0], step.outputs[0]))
    if len(image) != 4 or walk.source(step, 1) is not None:
        raise ValueError(f"must have stored weights and read [N, C, H, W], not {image}")
    if any(n != 1 for n in step.attributes.get("dilations", ())):
        raise ValueError("dilations must be 1")
    strides, kernel = _pair(step, "strides"), (weight[2], weight[3])
    top, left, bottom, right = _pads(step, image, out, kernel)
    source, size, padding = walk.data(step)[0], (image[2], image[3]), (top, left)
    if (top, left) != (bottom, right):
        size, padding = (size[0] + top + bottom, size[1] + left + right), (0, 0)
        source = walk.draft.add(f"{walk.name(step)}.pad", "pad", (source,), (image[1], *size), padding=(top, left))
    return walk.draft.layer(Layer(
        name=walk.name(step), kind="conv", in_channels=image[1], out_channels=weight[0], in_size=size, kernel=kernel,
        stride=strides, padding=padding, groups=step.attributes.get("group", 1),
    ), source)  # fmt: skip


def _pads(
    step: Operation, image: tuple[int, ...], out: tuple[int, ...], kernel: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Top, left, bottom and right; SAME puts the odd zero at the end (UPPER) or the start (LOWER)."""
    auto = step.attributes.get("auto_pad", b"NOTSET").decode()
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        top, left, bottom, right = step.attributes.get("pads", (0, 0, 0, 0))
        return top, left, bottom, right
    strides = _pair(step, "strides")
    totals = [max(0, (out[i + 2] - 1) * strides[i] + kernel[i] - image[i + 2]) for i in (0, 1)]
    small, large = [n // 2 for n in totals], [n - n // 2 for n in totals]
    return (*small, *large) if auto == "SAME_UPPER" else (*large, *small)  # pyright: ignore[reportReturnType]


def _pair(step: Operation, name: str) -> tuple[int, int]:
    h, w = step.attributes.get(name, (1, 1))
    return h, w


def _linear(walk: GraphWalk, step: Operation, outputs: int) -> str:
    shape = walk.shape(step.inputs[0])
    tokens = prod(shape[:-1]) // walk.batch
    return walk.draft.linear(walk.name(step), walk.data(step)[0], shape[-1], outputs, tokens)


def _gemm(walk: GraphWalk, step: Operation) -> str:
    if walk.source(step, 1) is not None or walk.source(step, 0) is None or step.attributes.get("transA", 0):
        raise ValueError("must have a stored weight on the right, and transA = 0")
    weight = walk.shape(step.inputs[1])
    return _linear(walk, step, weight[0] if step.attributes.get("transB", 0) else weight[1])


def _matmul(walk: GraphWalk, step: Operation) -> str:
    left, right = (walk.shape(name) for name in step.inputs)
    if len(walk.data(step)) == 2:
        shape = walk.shape(step.outputs[0])
        out_shape = prod(shape[:-2]) // walk.batch, shape[-2], shape[-1]
        return walk.draft.matmul(walk.name(step), walk.data(step), out_shape, left[-1])
    if walk.source(step, 1) is not None or len(right) != 2:
        raise ValueError("a stored factor must be a weight [I, O] on the right")
    source = _linear(walk, step, right[1])
    walk.free_biases.add(source)
    return source


def _batch_norm(walk: GraphWalk, step: Operation) -> str:
    source, channels = walk.data(step)[0], walk.shape(step.inputs[1])[0]
    fits = walk.is_read_once(step) and walk.draft.takes_norm(source, channels, step.name)
    if source and not fits:
        raise ValueError("must directly follow a layer whose output nothing else reads")
    return source


def _relu(walk: GraphWalk, step: Operation) -> str:
    source = walk.data(step)[0]
    return source if walk.is_read_once(step) and walk.draft.takes_relu(source) else walk.new(step, "relu")


def _clip(walk: GraphWalk, step: Operation) -> str:
    """A ReLU, whose upper bound is where requantization saturates."""
    low = step.attributes.get("min", walk.constant(step, 1))
    if low is None or float(low) != 0:
        raise ValueError(f"min = {low}: must be 0 (a ReLU)")
    return _relu(walk, step)


def _add(walk: GraphWalk, step: Operation) -> str:
    """An addition; that of a stored vector right after a MatMul is the layer's bias."""
    data = walk.data(step)
    names = [name for name in step.inputs if walk.sources.get(name) is not None]
    other = [walk.shape(name) for name in step.inputs if walk.sources.get(name) is None]
    if len(other) == 1 and data[0] in walk.free_biases and walk.graph.num_readers[names[0]] == 1:
        layer = walk.draft.nodes[data[0]]["layer"]
        if other[0] == (layer.num_outputs,) and not walk.draft.nodes[data[0]].get("relu"):
            walk.free_biases.discard(data[0])
            return data[0]
    return walk.new(step, "add")


def _scale(walk: GraphWalk, step: Operation) -> str:
    """A product or quotient; by one number it changes the scale of a tensor and no stored value."""
    if step.op == "Div" and walk.source(step, 1) is not None:
        return walk.new(step, "mul" if walk.source(step, 0) is not None else "lookup")
    other = [walk.shape(name) for name in step.inputs if walk.sources.get(name) is None]
    if len(other) == 1 and prod(other[0]) == 1:
        return walk.data(step)[0]
    return walk.new(step, "mul")


def _power(walk: GraphWalk, step: Operation) -> str:
    return walk.new(step, "mul" if float(walk.constant(step, 1)) == 2 else "lookup")


def _pool(walk: GraphWalk, step: Operation) -> str:
    image, out = walk.shape(step.inputs[0]), walk.shape(step.outputs[0])
    op: Op = "max_pool" if "Max" in step.op else "avg_pool"
    if len(image) != 4:
        raise ValueError(f"must read [N, C, H, W], not {image}")
    if step.op.startswith("Global"):
        return walk.new(step, op, kernel=image[2:], stride=image[2:])
    kernel = _pair(step, "kernel_shape")
    if any(n != 1 for n in step.attributes.get("dilations", ())):
        raise ValueError("dilations must be 1")
    top, left, *_ = _pads(step, image, out, kernel)
    return walk.new(step, op, kernel=kernel, stride=_pair(step, "strides"), padding=(top, left))


def _reduce(walk: GraphWalk, step: Operation) -> str:
    before = walk.shape(step.inputs[0])
    given = step.attributes.get("axes") or walk.constant(step, 1)
    axes = (
        tuple(sorted(int(axis) % len(before) for axis in given)) if given is not None else tuple(range(1, len(before)))
    )
    kernel, channels = reduced(before, axes)
    shape = (channels, 1, 1) if channels else sample_shape(walk.shape(step.outputs[0]), walk.batch)
    return walk.draft.add(walk.name(step), "avg_pool", walk.data(step), shape, kernel=kernel, stride=kernel)


def _softmax(walk: GraphWalk, step: Operation) -> str:
    rank, axis = len(walk.shape(step.inputs[0])), step.attributes.get("axis", -1)
    if axis % rank != rank - 1 and (axis % rank, rank) != (1, 4):
        raise ValueError(f"axis = {axis}: must be the last axis, or the channels")
    return walk.new(step, "softmax")


def _gather(walk: GraphWalk, step: Operation) -> str:
    """Rows of a stored table are an embedding; parts of a tensor are read in place."""
    if walk.source(step, 0) is not None:
        return walk.data(step)[0]
    shape = walk.shape(step.outputs[0])
    out_shape = shape[-1], prod(shape[:-1]) // walk.batch, 1
    return walk.draft.add(walk.name(step), "embedding", walk.data(step), out_shape)


def _pad(walk: GraphWalk, step: Operation) -> str:
    pads = step.attributes.get("pads", walk.constant(step, 1))
    mode, fill = step.attributes.get("mode", b"constant"), walk.constant(step, 2)
    if mode != b"constant" or (fill is not None and float(fill) != 0):
        raise ValueError("must pad with zeros")
    if pads is None or len(pads) != 8 or any(pads[i] for i in (0, 1, 4, 5)) or min(pads) < 0:
        raise ValueError("must pad rows and columns of [N, C, H, W]")
    return walk.new(step, "pad", padding=(int(pads[2]), int(pads[3])))


HANDLERS: dict[str, Callable[[GraphWalk, Operation], str]] = {
    "Conv": _conv, "Gemm": _gemm, "MatMul": _matmul, "BatchNormalization": _batch_norm, "Relu": _relu, "Clip": _clip,
    **dict.fromkeys(("Add", "Sub"), _add), **dict.fromkeys(("Mul", "Div"), _scale), "Pow": _power,
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), _pool),
    **dict.fromkeys(REDUCTIONS, _reduce), "Softmax": _softmax, "Gather": _gather, "Pad": _pad,
    "Concat": lambda walk, step: walk.new(step, "concat"), "Where": lambda walk, step: walk.new(step, "add"),
}  # fmt: skip
