"""ONNX files as plain records: steps, the shape of every tensor, and the values of small constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from workloads.errors import InputError

SMALL = 64  # elements; larger stored tensors are weights, whose values nobody asks for
FLOATS = (1, 10, 11, 16)  # float32, float16, float64 and bfloat16 among onnx.TensorProto's types


class Operation(NamedTuple):
    """One ONNX node: its tensors by name (those that are given), and its attributes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph(NamedTuple):
    """A file's steps and shapes, with one sample per batch where its size is open."""

    steps: tuple[Operation, ...]
    shapes: dict[str, tuple[int, ...]]  # of the tensors whose shape is known
    inputs: tuple[str, ...]
    floats: frozenset[str]  # the inputs that are no token ids
    constants: dict[str, Any]  # what is stored or follows from shapes: numpy arrays, None for large ones
    num_readers: Counter[str]


def load_graph(path: Path) -> Graph:
    """The graph of a file; weights in files of their own are not read. Raises InputError if it is no ONNX file."""
    try:
        import onnx
    except ImportError as error:
        raise InputError(str(path), ["needs the package onnx: pip install 'cimsim[onnx]'"]) from error
    try:
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(_hollow(model))
    except Exception as error:  # what a broken file makes protobuf and onnx raise has no common base
        raise InputError(str(path), [f"is not a readable ONNX file: {str(error).partition(chr(10))[0]}"]) from error
    return _Reader(model).graph()


def _hollow(model: Any) -> Any:
    """A copy without nodes: enough to check what kind of file this is."""
    import onnx

    copy = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    copy.graph.name = model.graph.name or "graph"
    return copy


class _Reader:
    """Goes through a model once, in order, and infers each node's shapes from the values and shapes before it."""

    def __init__(self, model: Any):
        self.model, self.versions = model, {own.domain: own.version for own in model.opset_import}
        self.types: dict[str, Any] = {}  # name -> onnx.TypeProto
        self.values: dict[str, Any] = {}  # small constants as numpy arrays
        self.stored: set[str] = set()

    def graph(self) -> Graph:
        from onnx import numpy_helper

        stored = list(self.model.graph.initializer)
        self.stored = {tensor.name for tensor in stored}
        for tensor in stored:
            self.types[tensor.name] = _type(tensor.data_type, tensor.dims)
            if prod(tensor.dims) <= SMALL and not tensor.data_location:  # another file's content is not ours to read
                self.values[tensor.name] = numpy_helper.to_array(tensor)
        inputs = [given for given in self.model.graph.input if given.name not in self.stored]
        for given in inputs:  # old files list weights among them
            dims = given.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = 1  # a free batch
            self.types[given.name] = given.type
        for node in self.model.graph.node:
            self._infer(node)
        is_float = {given.name: given.type.tensor_type.elem_type in FLOATS for given in inputs}
        shapes = {name: shape for name, kind in self.types.items() if (shape := _shape(kind)) is not None}
        return Graph(
            tuple(_steps(self.model.graph)), shapes, tuple(is_float),
            frozenset(name for name, yes in is_float.items() if yes),
            dict.fromkeys(self.stored) | self.values,
            Counter(name for node in self.model.graph.node for name in node.input),
        )  # fmt: skip

    def _infer(self, node: Any) -> None:
        """Values of a node that constants or shapes alone decide; types of any other, where onnx knows them."""
        given = [name for name in node.input if name]
        shape = _shape(self.types.get(given[0])) if node.op_type == "Shape" else None
        if shape is not None:
            return self._evaluate(node, {given[0]: _like(shape)})
        if all(name in self.values for name in given) and not node.domain and not _is_out_of_reach(node):
            return self._evaluate(node, {name: self.values[name] for name in given})
        return self._infer_types(node, given)

    def _evaluate(self, node: Any, feeds: dict[str, Any]) -> None:
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        run: Any = ReferenceEvaluator(helper.make_function(
            "cimsim", "fold", list(feeds), list(node.output), [node], list(self.model.opset_import)
        )).run  # fmt: skip
        for name, value in zip(node.output, run(None, feeds, attributes={}), strict=True):
            self.types[name] = _type(helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            self.stored.add(name)
            if value.size <= SMALL:
                self.values[name] = value

    def _infer_types(self, node: Any, given: list[str]) -> None:
        from onnx import defs, numpy_helper, shape_inference

        known = {name: self.types[name] for name in given if name in self.types}
        data = {name: numpy_helper.from_array(self.values[name], name) for name in given if name in self.values}
        try:
            schema = defs.get_schema(node.op_type, self.versions.get(node.domain, 1), node.domain)
            found = shape_inference.infer_node_outputs(
                schema, node, known, data, opset_imports=list(self.model.opset_import), ir_version=self.model.ir_version
            )
        except (defs.SchemaError, shape_inference.InferenceError, KeyError):
            return  # the walk asks for the shapes that it needs
        self.types |= found


def _is_out_of_reach(node: Any) -> bool:
    """Whether a node runs a graph of its own, or its value lies in another file."""
    return any(own.HasField("g") or own.t.data_location for own in node.attribute)


def _like(shape: tuple[int, ...]) -> Any:
    """An array of this shape that takes no room."""
    import numpy as np

    return np.broadcast_to(np.float32(0), shape)


def _type(elem_type: int, shape: Any) -> Any:
    from onnx import helper

    return helper.make_tensor_type_proto(elem_type, list(shape))


def _steps(graph: Any) -> Iterator[Operation]:
    from onnx import helper

    for node in graph.node:
        attributes = {own.name: helper.get_attribute_value(own) for own in node.attribute}
        name = (node.name or node.output[0]).strip("/")
        yield Operation(node.op_type, name, tuple(node.input), tuple(node.output), attributes)


def _shape(kind: Any) -> tuple[int, ...] | None:
    """The shape of an onnx.TypeProto if all of it is known."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None
