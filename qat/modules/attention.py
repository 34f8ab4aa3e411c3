"""nn.MultiheadAttention with its projections as four linear layers, so that each can have a format."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads.errors import InputError

INPUTS = ("q_proj", "k_proj", "v_proj")
_LAYER_OF = {"q_proj_weight": "q_proj", "k_proj_weight": "k_proj", "v_proj_weight": "v_proj"}

Replaced = dict[nn.Parameter, list[nn.Parameter]]  # old parameter -> those that took its place


class SplitAttention(nn.MultiheadAttention):
    """What `split` makes of an nn.MultiheadAttention, in place: `q_proj`, `k_proj`, `v_proj` and `out_proj` compute it.

    Takes and returns what nn.MultiheadAttention does. Of its old parameters all are None; nn.TransformerEncoderLayer
    then stays off its fused path, which would not see the projections.
    """

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    whole: dict[str, nn.Parameter]  # the old parameters, empty until `merge`

    def forward(  # noqa: PLR0913 (the signature of nn.MultiheadAttention)
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        if is_causal and attn_mask is None:
            raise ValueError("is_causal: is a hint about attn_mask, which must be given")
        is_batched = query.dim() == 3
        if not is_batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        out, weights = self._attend(q, k, v, _mask(attn_mask, key_padding_mask, q, k), need_weights)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not is_batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

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


def split(attention: nn.MultiheadAttention) -> Replaced:
    """Rewrites the attention in place. Raises InputError for one of a class of its own, or with more rows of keys."""
    if type(attention) is not nn.MultiheadAttention or attention.bias_k is not None or attention.add_zero_attn:
        need = "must be a plain nn.MultiheadAttention without add_bias_kv and add_zero_attn to be quantized"
        raise InputError("model", [f"{type(attention).__name__}: {need}"])
    whole = {name: p for name, p in attention._parameters.items() if p is not None}
    parts = {name: _parts(name, parameter) for name, parameter in whole.items()}
    weights = parts.get("in_proj_weight") or [part for name in _LAYER_OF for part in parts[name]]
    biases = parts.get("in_proj_bias", [None] * 3)
    out_proj = attention._modules.pop("out_proj")
    for name, parameter in whole.items():
        attention.register_parameter(name, None)
        parameter.data = parameter.data.new_empty(0)
    attention.__class__ = SplitAttention
    assert isinstance(attention, SplitAttention)
    for name, weight, bias in zip(INPUTS, weights, biases, strict=True):
        attention.add_module(name, _linear(weight, bias))
    attention.add_module("out_proj", out_proj)
    attention.whole, attention._qkv_same_embed_dim = whole, False
    return {whole[name]: list(parts[name]) for name in whole}


def _parts(name: str, parameter: nn.Parameter) -> list[nn.Parameter]:
    """The parameters that take the place of this one: a joint one becomes three."""
    parts = parameter.detach().chunk(3) if name.startswith("in_proj") else [parameter.detach()]
    return [nn.Parameter(part.clone(), parameter.requires_grad) for part in parts]


def _linear(weight: nn.Parameter, bias: nn.Parameter | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")  # draws no random numbers
    layer.weight, layer.bias = weight, bias  # pyright: ignore[reportAttributeAccessIssue]
    return layer


def merge(attention: SplitAttention) -> Replaced:
    """The inverse of `split`: the old parameters again, with the present values of the projections."""
    replaced: Replaced = {}
    for name, parameter in attention.whole.items():
        kind = "bias" if name.endswith("bias") else "weight"
        layers = INPUTS if name.startswith("in_proj") else [_LAYER_OF[name]]
        parts = [attention.get_submodule(layer).get_parameter(kind) for layer in layers]
        parameter.data = torch.cat([part.detach() for part in parts])
        parameter.requires_grad_(any(part.requires_grad for part in parts))
        attention.register_parameter(name, parameter)
        replaced |= {part: [parameter] for part in parts}
    for name in INPUTS:
        delattr(attention, name)
    del attention.whole
    attention._qkv_same_embed_dim = attention.in_proj_weight is not None
    setattr(attention, "__class__", nn.MultiheadAttention)  # noqa: B010
    return replaced


def split_state(attention: SplitAttention, state: dict[str, Any], prefix: str) -> None:
    """Renames, in place, what a state dict has for the whole attention to the projections'; `prefix` ends in a dot."""
    for name in attention.whole:
        if (tensor := state.pop(prefix + name, None)) is not None:
            kind = "bias" if name.endswith("bias") else "weight"
            layers = INPUTS if name.startswith("in_proj") else [_LAYER_OF[name]]
            parts = zip(layers, tensor.chunk(len(layers)), strict=True)
            state |= {f"{prefix}{layer}.{kind}": part for layer, part in parts}
