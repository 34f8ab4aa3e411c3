"""Transformers as shapes, in plain Python: BERT, the vision transformer, and a decoder layer of Llama 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

from workloads.draft import Draft
from workloads.layer import Layer, Network
from workloads.shapes import to_yaml


class EncoderWidths(NamedTuple):
    """Of one encoder: tokens of a sample, width of a token, attention heads, inner width of the feed-forward parts."""

    tokens: int
    width: int
    heads: int
    hidden: int


def bert_base(tokens: int = 128) -> Network:
    """BERT-base without its pooler, which few tasks use (Devlin et al., NAACL 2019, section 3).

    Post-norm blocks; tokens are looked up, positions are one addition.
    """
    return _bert("bert_base", 12, EncoderWidths(tokens, width=768, heads=12, hidden=3072)).finish()


def minilm(tokens: int = 128) -> Network:
    """all-MiniLM-L6-v2: a BERT of 6 blocks, the mean of its tokens made as long as 1 (Wang et al., NeurIPS 2020)."""
    draft = _bert("minilm", 6, EncoderWidths(tokens, width=384, heads=12, hidden=1536))
    window, last = {"kernel": (tokens, 1), "stride": (tokens, 1)}, next(reversed(draft.nodes))
    draft.elementwise("unit", "rms_norm", draft.add("mean", "avg_pool", (last,), (384, 1, 1), **window))
    return draft.finish()


def _bert(name: str, num_blocks: int, widths: EncoderWidths) -> Draft:
    draft = Draft(name, (1, widths.tokens, 1))
    x = draft.add("tokens", "embedding", ("input",), (widths.width, widths.tokens, 1))
    x = draft.elementwise("norm", "layer_norm", draft.elementwise("add", "add", x))
    for number in range(num_blocks):
        x = _post_norm_block(draft, f"blocks.{number}", x, widths)
    return draft


def vit_tiny() -> Network:
    """DeiT-Ti (Touvron et al., ICML 2021, table 1): the ViT of patches of 16 in images of 224, class token in front.

    Pre-norm blocks (Dosovitskiy et al., ICLR 2021, section 3.1). The head reads the class token alone.
    """
    widths = EncoderWidths(tokens=1 + 14 * 14, width=192, heads=3, hidden=768)
    draft = Draft("vit_tiny", (3, 224, 224))
    patch = Layer(
        name="patch", kind="conv", in_channels=3, out_channels=widths.width, in_size=(224, 224), kernel=(16, 16),
        stride=(16, 16),
    )  # fmt: skip
    x = draft.add("concat", "concat", (draft.layer(patch, "input"),), (widths.width, widths.tokens, 1))
    x = draft.elementwise("add", "add", x)
    for number in range(12):
        x = _pre_norm_block(draft, f"blocks.{number}", x, widths)
    draft.linear("head", draft.elementwise("norm", "layer_norm", x), widths.width, 1000)
    return draft.finish()


def llama2_7b_layer(context: int = 2048) -> Network:
    """One decoder layer of Llama 2 7B making one token, the last of `context` (Touvron et al., 2023, section 2.2).

    RMSNorm, rotary positions, SwiGLU. Keys and values of the tokens before come from the outer memory.
    """
    width, heads, hidden, head = 4096, 32, 11008, 128
    draft = Draft("llama2_7b_layer", (width, 1, 1))
    normed = draft.elementwise("norm1", "rms_norm", "input")
    q, k, v = (draft.linear(f"attention.{part}", normed, width, width) for part in "qkv")
    q, k = (draft.elementwise(f"{source}_rope", "rope", source) for source in (q, k))
    earlier = [draft.add(f"attention.{part}_cache", "embedding", ("input",), (width, context - 1, 1)) for part in "kv"]
    scores = draft.matmul("attention.scores", (q, k, earlier[0]), (heads, 1, context), head)
    weights = draft.elementwise("attention.softmax", "softmax", scores)
    made = draft.matmul("attention.context", (weights, v, earlier[1]), (heads, 1, head), context)
    x = draft.elementwise("add1", "add", "input", draft.linear("attention.o", made, width, width))
    normed = draft.elementwise("norm2", "rms_norm", x)
    gate, up = (draft.linear(part, normed, width, hidden) for part in ("gate", "up"))
    product = draft.elementwise("mul", "mul", draft.elementwise("silu", "silu", gate), up)
    draft.elementwise("add2", "add", x, draft.linear("down", product, hidden, width))
    return draft.finish()


def _post_norm_block(draft: Draft, name: str, x: str, widths: EncoderWidths) -> str:
    """Attention and two linear layers with GELU, each added to its input and then normalised."""
    x = draft.elementwise(f"{name}.add1", "add", x, _attention(draft, f"{name}.attention", x, widths))
    x = draft.elementwise(f"{name}.norm1", "layer_norm", x)
    x = draft.elementwise(f"{name}.add2", "add", x, _feed_forward(draft, name, x, widths))
    return draft.elementwise(f"{name}.norm2", "layer_norm", x)


def _pre_norm_block(draft: Draft, name: str, x: str, widths: EncoderWidths) -> str:
    """The same, normalised before and not after."""
    normed = draft.elementwise(f"{name}.norm1", "layer_norm", x)
    x = draft.elementwise(f"{name}.add1", "add", x, _attention(draft, f"{name}.attention", normed, widths))
    normed = draft.elementwise(f"{name}.norm2", "layer_norm", x)
    return draft.elementwise(f"{name}.add2", "add", x, _feed_forward(draft, name, normed, widths))


def _attention(draft: Draft, name: str, x: str, widths: EncoderWidths) -> str:
    tokens, width, heads, _ = widths
    q, k, v = (draft.linear(f"{name}.{part}", x, width, width, tokens) for part in "qkv")
    sizes = (tokens, tokens, width // heads, width // heads)
    return draft.linear(f"{name}.o", draft.attention(name, (q, k, v), heads, sizes), width, width, tokens)


def _feed_forward(draft: Draft, name: str, x: str, widths: EncoderWidths) -> str:
    hidden = draft.linear(f"{name}.fc1", x, widths.width, widths.hidden, widths.tokens)
    active = draft.elementwise(f"{name}.gelu", "gelu", hidden)
    return draft.linear(f"{name}.fc2", active, widths.hidden, widths.width, widths.tokens)


ENCODERS: dict[str, Callable[[], Network]] = {
    "bert_base": bert_base, "llama2_7b_layer": llama2_7b_layer, "minilm": minilm, "vit_tiny": vit_tiny,
}  # fmt: skip


if __name__ == "__main__":  # python -m workloads.networks.encoders NAME: the YAML of one of them
    sys.stdout.write(to_yaml(ENCODERS[sys.argv[1]]()))
