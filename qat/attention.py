"""nn.MultiheadAttention with its projections as four linear layers, so that each can have a format; and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class SplitAttention(nn.Module):
    """The same function as an nn.MultiheadAttention, computed by `q_proj`, `k_proj`, `v_proj` and `out_proj`.

    Takes and returns what nn.MultiheadAttention does. The attributes that nn.TransformerEncoderLayer reads of
    its attention are here too; they keep it off the fused path, which would not see the projections.
    """

    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, whole: nn.MultiheadAttention):
        super().__init__()
        if whole.bias_k is not None or whole.add_zero_attn:
            raise ValueError("nn.MultiheadAttention: add_bias_kv and add_zero_attn: must be False to be quantized")
        self.embed_dim, self.num_heads, self.head_dim = whole.embed_dim, whole.num_heads, whole.head_dim
        self.dropout, self.batch_first = whole.dropout, whole.batch_first
        weights = _input_weights(whole)
        biases = [None] * 3 if whole.in_proj_bias is None else whole.in_proj_bias.detach().chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out_proj = _linear(whole.out_proj.weight, whole.out_proj.bias)
        self.train(whole.training)

    def forward(  # noqa: PLR0913 (the signature of nn.MultiheadAttention)
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._heads(p(x)) for p, x in zip(self._inputs(), (query, key, value), strict=True))
        mask = _mask(attn_mask, key_padding_mask, q, k)
        out, weights = self._attend(q, k, v, mask, need_weights)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not self.batch_first:
            out = out.transpose(0, 1)
        if not is_batched:
            out, weights = out.squeeze(0 if self.batch_first else 1), None if weights is None else weights.squeeze(0)
        return out, weights

    def _inputs(self) -> tuple[nn.Linear, ...]:
        return self.q_proj, self.k_proj, self.v_proj

    def _heads(self, x: Tensor) -> Tensor:
        """[N, L, E] -> [N, heads, L, E / heads]."""
        return x.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return functional.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = q @ k.mT * self.head_dim**-0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = functional.dropout(weights, dropout)
        return weights @ v, weights


def _input_weights(whole: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    if whole.in_proj_weight is not None:
        return whole.in_proj_weight.chunk(3)
    parts = (whole.q_proj_weight, whole.k_proj_weight, whole.v_proj_weight)
    return tuple(part for part in parts if part is not None)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def _mask(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """What is added to the scores [N, heads, L, S]: -inf where a mask says no; float masks as they are."""
    total = None
    if attn_mask is not None:
        total = _additive(attn_mask, q)
        total = total.unflatten(0, (len(q), -1)) if total.dim() == 3 else total
    if padding is not None:
        added = _additive(padding, q)[:, None, None]
        total = added if total is None else total + added
    return None if total is None else total.expand(len(q), q.shape[1], q.shape[2], k.shape[2])


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf)


def split_attention(model: nn.Module) -> nn.Module:
    """Replaces every nn.MultiheadAttention inside the model, in place; the same model is returned."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, SplitAttention(child))
    return model


def merge_attention(model: nn.Module) -> nn.Module:
    """The inverse of `split_attention`, with the projections' present weights."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SplitAttention):
                setattr(parent, name, _merged(child))
    return model


def _merged(split: SplitAttention) -> nn.MultiheadAttention:
    has_bias = split.q_proj.bias is not None
    sizes = {"kdim": split.k_proj.in_features, "vdim": split.v_proj.in_features}
    whole = nn.MultiheadAttention(
        split.embed_dim, split.num_heads, split.dropout, has_bias, batch_first=split.batch_first, **sizes
    )
    inputs = split._inputs()
    with torch.no_grad():
        for part, layer in zip(_input_weights(whole), inputs, strict=True):
            part.copy_(layer.weight)
        if has_bias:
            whole.in_proj_bias.copy_(torch.cat([layer.bias for layer in inputs]))
            whole.out_proj.bias.copy_(split.out_proj.bias)
        whole.out_proj.weight.copy_(split.out_proj.weight)
    return whole.train(split.training)
