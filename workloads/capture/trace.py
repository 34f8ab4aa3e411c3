"""Any torch module plus an example input becomes a Network: shapes and edges, no weights.

The module is traced with torch.fx on a copy in eval mode. Batch norm and ReLU fold into the step before them; what
leaves a tensor's values as they are (dropout, reshapes, slices, a scale by one number) disappears, and so does what
does not depend on the input's values: constants, and masks made of token ids.
"""

from __future__ import annotations

import copy
import operator
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional

from workloads.capture import images, tokens
from workloads.capture.walk import Handlers, TracedRun, Walk
from workloads.errors import InputError
from workloads.layer import Network
from workloads.networks import zoo
from workloads.networks.blocks import Add
from workloads.shapes import to_yaml

# Each function or method counts as the module that does the same.
MODULE_OF: dict[Any, Any] = {
    functional.relu: nn.ReLU, torch.relu: nn.ReLU, "relu": nn.ReLU, functional.relu6: nn.ReLU6,
    operator.add: Add, operator.iadd: Add, torch.add: Add, "add": Add, "add_": Add,
    functional.gelu: nn.GELU, functional.silu: nn.SiLU, functional.hardswish: nn.Hardswish,
    functional.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    functional.hardsigmoid: nn.Hardsigmoid, functional.tanh: nn.Tanh, torch.tanh: nn.Tanh, "tanh": nn.Tanh,
    functional.max_pool2d: nn.MaxPool2d, torch.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d, functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    functional.dropout: nn.Dropout, functional.dropout2d: nn.Dropout2d,
    torch.flatten: nn.Flatten, "flatten": nn.Flatten, torch.reshape: nn.Flatten,
    "reshape": nn.Flatten, "view": nn.Flatten, "contiguous": nn.Identity,
}  # fmt: skip
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
VIEWS = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.Flatten, nn.Unflatten,
)  # fmt: skip
OF_MODULE = (
    (nn.Conv2d, images.conv), (nn.Linear, tokens.linear), ((nn.BatchNorm1d, nn.BatchNorm2d), images.batch_norm),
    (Add, images.add), (nn.ReLU, images.relu), (nn.Hardtanh, images.bounded_relu), (POOLS, images.pool),
    (nn.ZeroPad2d, images.zero_pad), (VIEWS, images.view), (nn.MultiheadAttention, tokens.multihead),
    (nn.Embedding, tokens.embedding), ((nn.LayerNorm, nn.RMSNorm), tokens.norm), (nn.Softmax, tokens.softmax),
    (nn.GELU, images.function("gelu")), (nn.SiLU, images.function("silu")),
    (nn.Hardswish, images.function("hard_swish")), (nn.Sigmoid, images.function("sigmoid")),
    ((nn.Hardsigmoid, nn.Tanh, nn.ELU, nn.Softplus, nn.Mish), images.function("lookup")),
)  # fmt: skip

VIEWED = (
    getattr, operator.getitem, torch.transpose, "transpose", "swapaxes", torch.permute, "permute", "movedim", "t",
    torch.unsqueeze, "unsqueeze", torch.squeeze, "squeeze", torch.unflatten, "unflatten", "expand", "expand_as",
    "chunk", torch.chunk, "split", torch.split, "unbind", torch.unbind, "narrow", "select", torch.roll, "roll",
    "repeat", "repeat_interleave", torch.repeat_interleave, "to", "type_as", "float", "half", "detach", "clone",
    operator.neg, torch.neg, "neg",
)  # fmt: skip
OF_FUNCTION: dict[Any, Any] = {
    **dict.fromkeys(VIEWED, images.view),
    **dict.fromkeys(images.SUBTRACTIONS, images.add),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul, "mul", *images.DIVISIONS), images.scale),
    **dict.fromkeys((torch.mean, "mean", torch.sum, "sum"), images.mean),
    **dict.fromkeys((operator.pow, torch.pow, "pow"), images.power),
    **dict.fromkeys((torch.rsqrt, "rsqrt", torch.sqrt, "sqrt", torch.exp, "exp", torch.erf, "erf"),
                    images.function("lookup")),
    **dict.fromkeys((torch.clamp, "clamp"), images.clamp),
    **dict.fromkeys(("masked_fill", torch.masked_fill, torch.where), images.masked),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.bmm, "matmul", "bmm"), tokens.matmul),
    **dict.fromkeys((torch.cat, torch.concat, torch.stack), tokens.concat),
    **dict.fromkeys((functional.softmax, torch.softmax, "softmax"), tokens.softmax),
    **dict.fromkeys((functional.layer_norm, functional.rms_norm), tokens.norm),
    functional.normalize: tokens.unit_length, functional.linear: tokens.linear_function,
    functional.pad: images.zero_pad, torch.einsum: tokens.einsum,
    functional.scaled_dot_product_attention: tokens.attention,
}  # fmt: skip
KNOWN = (
    "Conv2d, Linear, Embedding, MultiheadAttention, TransformerEncoder, BatchNorm, LayerNorm, RMSNorm, ReLU, ReLU6, "
    "GELU, SiLU, Hardswish, Sigmoid, Tanh, Softmax, Add, mul, matmul, scaled_dot_product_attention, einsum, cat, mean, "
    "Max/Avg/AdaptiveAvgPool2d, ZeroPad2d, Flatten, Dropout, Identity, reshapes or slices"
)
HANDLERS = Handlers(OF_MODULE, OF_FUNCTION, MODULE_OF, (nn.ReLU, *POOLS), KNOWN)


class Capture(NamedTuple):
    """A network, the batch norm folded into each layer, and where layers and adds take their tensors from."""

    network: Network
    norms: dict[str, str]  # layer name -> path of its batch norm module
    sources: dict[str, tuple[str, ...]]  # layer or add name -> the nodes (or `input`) that made its inputs


def capture(module: nn.Module, example_input: Tensor, name: str) -> Network:
    """The Network of a module for inputs like the example: [N, C, H, W], tokens [N, T, C], ids [N, T] or [N, C].

    Raises InputError that lists every operation that has no counterpart in a Network.
    """
    return _walk(module, example_input, name, exact=False).network


def trace(module: nn.Module, example_input: Tensor, name: str = "network") -> Capture:
    """As `capture`, with the folded batch norms and the sources of every layer and add, for networks of integers.

    Raises InputError also for every operation that integers alone cannot compute: ReLU6 (its bound), softmax,
    norms of layers, views that change the order of values, and so on.
    """
    return _walk(module, example_input, name, exact=True)


def _walk(module: nn.Module, example_input: Tensor, name: str, exact: bool) -> Capture:
    plain = _plain_copy(module)
    try:
        graph = fx.GraphModule(plain, _Tracer().trace(plain))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            TracedRun(graph).run(example_input)
    except (TraceError, TypeError, ValueError, RuntimeError) as error:
        remedy = "no branches on data, one example input [N, C, H, W], [N, T, C] or [N, C]"
        problem = f"must run and trace with torch.fx: {str(error).partition(chr(10))[0]} ({remedy})"
        raise InputError(name, [f"module = {type(module).__name__}: {problem}"]) from error
    draft = Walk(graph, name, HANDLERS).run(exact)
    network = draft.finish()
    sources = {node.name: node.inputs for node in network.nodes if node.op in ("layer", "add")}
    return Capture(network, draft.norms, sources)


def _plain_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode without the user's hooks, which must not see our run."""
    states = [state for part in module.modules() for state in vars(part).values()]
    # deepcopy refuses tensors inside an autograd graph, such as a cached quantized weight
    detached: dict[int, Any] = {id(t): t.detach() for t in states if isinstance(t, Tensor) and not t.is_leaf}
    plain = copy.deepcopy(module, detached).eval()
    for part in plain.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
        part.__class__ = tokens.PLAIN.get(type(part), type(part))
    return plain


class _Tracer(fx.Tracer):
    """Keeps whole what a Network knows, subclasses and parametrized ones included, and all of torch.nn."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = nn.Conv2d | nn.Linear | nn.Embedding | nn.MultiheadAttention | Add
        return isinstance(m, whole) or super().is_leaf_module(m, module_qualified_name)


def ready_yaml(name: str) -> str:
    """The YAML of one of the project's networks; shapes need no weights, so none are drawn."""
    with torch.device("meta"):
        return to_yaml(capture(zoo.NETWORKS[name].make(), zoo.example_input(name), name))


if __name__ == "__main__":  # python -m workloads.capture.trace NAME
    sys.stdout.write(ready_yaml(sys.argv[1]))
