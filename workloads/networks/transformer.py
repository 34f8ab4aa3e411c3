"""Transformer encoders of token ids in plain torch: attention is four linear layers, so that each can be quantized.

Post-norm blocks as in the first transformer and in BERT (Vaswani et al., NeurIPS 2017; Devlin et al., NAACL 2019).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from workloads.data.text import LENGTH, PAD, VOCABULARY_SIZE
from workloads.networks.blocks import Add

MASKED = -1e4  # the score of padding: its weight is 0 in every float format, and a text of padding alone stays finite
TABLE_STD = 0.02  # of fresh embeddings, as in BERT: from torch's 1.0, a rare word never learns


class Sizes(NamedTuple):
    """What fixes the shapes of an encoder; `hidden` is the inner width of its feed-forward parts."""

    vocabulary: int
    length: int  # positions that are learned, so the longest text
    width: int
    heads: int
    hidden: int
    blocks: int


SMALL = Sizes(VOCABULARY_SIZE, LENGTH, width=64, heads=4, hidden=128, blocks=2)


class Attention(nn.Module):
    """Self-attention with explicit projections q, k, v, o; equal to nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.scale = heads, (width // heads) ** -0.5

    def forward(self, x: Tensor, is_pad: Tensor) -> Tensor:
        """x [N, T, C] and is_pad [N, 1, 1, T] to [N, T, C]."""
        q, k, v = (self._split(part(x)) for part in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-2, -1) * self.scale).masked_fill(is_pad, MASKED)  # [N, heads, T, T]
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, T, C / heads]


class TransformerBlock(nn.Module):
    """Attention and two linear layers with GELU, each added to its input and normalised."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        width = sizes.width
        self.attention = Attention(width, sizes.heads)
        self.add1, self.norm1 = Add(), nn.LayerNorm(width)
        self.fc1, self.gelu, self.fc2 = nn.Linear(width, sizes.hidden), nn.GELU(), nn.Linear(sizes.hidden, width)
        self.add2, self.norm2 = Add(), nn.LayerNorm(width)

    def forward(self, x: Tensor, is_pad: Tensor) -> Tensor:
        x = self.norm1(self.add1(x, self.attention(x, is_pad)))
        return self.norm2(self.add2(x, self.fc2(self.gelu(self.fc1(x)))))


class Encoder(nn.Module):
    """Token ids int64 [N, T] to one vector [N, C] per text: the mean of the last block over what is not padding."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.positions = nn.Embedding(sizes.length, sizes.width)
        self.add, self.norm = Add(), nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(TransformerBlock(sizes) for _ in range(sizes.blocks))
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=TABLE_STD)

    def forward(self, ids: Tensor) -> Tensor:
        is_pad = ids == PAD  # [N, T]
        x = self.norm(self.add(self.tokens(ids), self.positions.weight[: ids.shape[1]]))
        for block in self.blocks:
            x = block(x, is_pad[:, None, None])
        is_word = (~is_pad).unsqueeze(-1).to(x.dtype)  # [N, T, 1]
        return (x * is_word).sum(1) / is_word.sum(1).clamp(min=1)


class TextTransformer(Encoder):
    """A small classifier of texts as `workloads.data.text.encode` gives them: an encoder and one linear layer."""

    def __init__(self, num_classes: int, sizes: Sizes = SMALL):
        super().__init__(sizes)
        self.fc = nn.Linear(sizes.width, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(super().forward(ids))
