"""Operations on tokens: what an fx node of these becomes in a Network."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor, fx, nn

from workloads.capture.walk import Value, Walk, argument, in_shape, require, tensors, value


def linear(walk: Walk, node: fx.Node, module: nn.Linear) -> Value:
    (source,) = walk.sources(node, 1)
    shape = in_shape(node)
    require(len(shape) > 1, f"must read [N, C] or tokens [N, T, C], not {shape}")
    if len(shape) > 3:
        walk.not_exact(node)
    return _linear(walk, node, source, module.out_features)


def _linear(walk: Walk, node: fx.Node, source: str, outputs: int) -> Value:
    shape = in_shape(node)
    tokens, name = prod(shape[:-1]) // walk.batch, walk.free_name(node, is_layer=True)
    return value(walk.draft.linear(name, source, shape[-1], outputs, tokens), node)


def linear_function(walk: Walk, node: fx.Node, _: Any) -> Value:
    """functional.linear: a layer if the weight [O, I] does not depend on the input."""
    weight = argument(node, 1, "weight")
    require(not walk.is_data(weight), "must have a weight that does not depend on the input")
    walk.not_exact(node)
    return _linear(walk, node, walk.sources(node, 1)[0], weight.meta["shape"][0])


def matmul(walk: Walk, node: fx.Node, _: Any) -> Value:
    """The product of two activations; one by a constant [I, O] on its right is a linear layer."""
    left, right = (arg for arg in tensors(node)[:2])
    sources = walk.sources(node)
    if len(sources) == 1:
        is_weight = not walk.is_data(right) and len(right.meta["shape"]) == 2
        require(is_weight, "a constant factor must be a weight [I, O] on the right")
        walk.not_exact(node)
        return _linear(walk, node, sources[0], right.meta["shape"][1])
    require(min(len(arg.meta["shape"]) for arg in (left, right)) > 1, "must multiply matrices")
    return _product(walk, node, left.meta["shape"][-1])


def _product(walk: Walk, node: fx.Node, inner: int) -> Value:
    walk.not_exact(node)
    return value(walk.draft.matmul(walk.free_name(node), walk.sources(node), _maps(walk, node), inner), node)


def _maps(walk: Walk, node: fx.Node) -> tuple[int, int, int]:
    """(matrices, rows, columns) of one sample."""
    *_, rows, columns = node.meta["shape"]
    return prod(node.meta["shape"]) // (rows * columns * walk.batch) or 1, rows, columns


def einsum(walk: Walk, node: fx.Node, _: Any) -> Value:
    """The product of two activations, its inner length the product of the summed axes."""
    equation = argument(node, 0, "equation")
    operands = [arg.meta["shape"] for arg in tensors(node)]
    left, _, right = str(equation).replace(" ", "").partition("->")
    terms = left.split(",")
    require(len(terms) == 2 and right and "." not in left, "must multiply two tensors, with a result and no ellipsis")
    walk.inputs(node, 2)
    sizes = {axis: n for term, shape in zip(terms, operands, strict=True) for axis, n in zip(term, shape, strict=True)}
    return _product(walk, node, prod(n for axis, n in sizes.items() if axis not in right))


def attention(walk: Walk, node: fx.Node, _: Any) -> Value:
    """functional.scaled_dot_product_attention: scores, softmax and their product with the values, per head."""
    q, k, v = (argument(node, i, name) for i, name in enumerate(("query", "key", "value")))
    walk.not_exact(node)
    return _attend(walk, node, (q, k, v), walk.free_name(node))


def _attend(walk: Walk, node: fx.Node, given: tuple[fx.Node, ...], name: str) -> Value:
    sources = tuple(str(walk.values[arg].source) for arg in given)
    (*_, queries, width), (*_, keys, _), (*_, v_width) = (arg.meta["shape"] for arg in given)
    heads = prod(given[0].meta["shape"]) // (queries * width * walk.batch)
    sizes = (queries, keys, width, v_width)
    return value(walk.draft.attention(name, sources, heads, sizes), node)  # pyright: ignore[reportArgumentType]


def multihead(walk: Walk, node: fx.Node, module: nn.MultiheadAttention) -> Value:
    """nn.MultiheadAttention: four linear layers around the attention, the last with the module's own name."""
    given = [argument(node, i, name) for i, name in enumerate(("query", "key", "value"))]
    require(all(walk.is_data(arg) for arg in given), "must read q, k and v data")
    require(module.bias_k is None and not module.add_zero_attn, "add_bias_kv and add_zero_attn must be False")
    walk.not_exact(node)
    name, width, draft = walk.free_name(node, is_layer=True), module.embed_dim, walk.draft
    tokens = [prod(arg.meta["shape"][:-1]) // walk.batch for arg in given]
    projected = tuple(
        draft.linear(f"{name}.{part}_proj", str(walk.values[arg].source), arg.meta["shape"][-1], width, count)
        for part, arg, count in zip("qkv", given, tokens, strict=True)
    )
    lengths = [arg.meta["shape"][int(module.batch_first)] for arg in given]
    heads = module.num_heads * (tokens[0] // lengths[0])
    sizes = (lengths[0], lengths[1], module.head_dim, module.head_dim)
    context = draft.attention(name, projected, heads, sizes)  # pyright: ignore[reportArgumentType]
    draft.linear(f"{name}.out_proj", context, width, width, tokens[0])
    return value(f"{name}.out_proj", node)


def softmax(walk: Walk, node: fx.Node, module: Any) -> Value:
    dim, rank = module.dim if module else argument(node, 1, "dim", -1), len(in_shape(node))
    is_row = dim is None or dim % rank == rank - 1 or (dim % rank == 1 and rank == 4)
    require(is_row, f"dim = {dim} must be the last axis, or the channels")
    return walk.new(node, "softmax", walk.sources(node, 1))


def norm(walk: Walk, node: fx.Node, module: Any) -> Value:
    shape = module.normalized_shape if module else argument(node, 1, "normalized_shape")
    require(len(tuple(shape)) == 1, f"normalized_shape = {tuple(shape)} must be the last axis")
    is_rms = isinstance(module, nn.RMSNorm) or getattr(node.target, "__name__", "") == "rms_norm"
    return walk.new(node, "rms_norm" if is_rms else "layer_norm", walk.sources(node, 1))


def unit_length(walk: Walk, node: fx.Node, _: Any) -> Value:
    """functional.normalize: an RMS norm but for a constant."""
    return walk.new(node, "rms_norm", walk.sources(node, 1))


def embedding(walk: Walk, node: fx.Node, _: Any) -> Value:
    """Vectors that token ids choose, from the outer memory."""
    (source,) = walk.sources(node, 1)
    shape = node.meta["shape"]
    walk.not_exact(node)
    out_shape = shape[-1], prod(shape[:-1]) // walk.batch, 1
    name = walk.draft.add(walk.free_name(node), "embedding", (source,), out_shape)
    return value(name, node)


def concat(walk: Walk, node: fx.Node, _: Any) -> Value:
    """Several maps become one; constants among them are stored beside."""
    return walk.new(node, "concat", tuple(dict.fromkeys(walk.sources(node))))


class PlainEncoderLayer(nn.TransformerEncoderLayer):
    """What nn.TransformerEncoderLayer computes in eval mode, without its branches; masks leave all shapes alone."""

    def forward(self, src: Tensor, *_: Any, **__: Any) -> Tensor:
        if self.norm_first:
            normed = self.norm1(src)
            src = src + self.self_attn(normed, normed, normed)[0]
            return src + self.linear2(self.activation(self.linear1(self.norm2(src))))
        src = self.norm1(src + self.self_attn(src, src, src)[0])
        return self.norm2(src + self.linear2(self.activation(self.linear1(src))))


class PlainEncoder(nn.TransformerEncoder):
    """What nn.TransformerEncoder computes: its layers, and a norm if it has one."""

    def forward(self, src: Tensor, *_: Any, **__: Any) -> Tensor:
        for part in self.layers:
            src = part(src)
        return self.norm(src) if self.norm is not None else src


PLAIN = {nn.TransformerEncoderLayer: PlainEncoderLayer, nn.TransformerEncoder: PlainEncoder}
