"""The text transformer equals torch's own attention and encoder layers, ignores padding and learns order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from workloads.data.text import LENGTH, PAD, UNKNOWN, VOCABULARY_SIZE
from workloads.networks.transformer import MASKED, SMALL, Attention, Encoder, Sizes, TextTransformer, TransformerBlock
from workloads.networks.zoo import build, example_input

torch.set_num_threads(1)

TINY = Sizes(vocabulary=20, length=8, width=12, heads=3, hidden=20, blocks=2)
IDS = torch.tensor([[2, 3, 4, 5, 6], [7, 8, PAD, PAD, PAD], [9, 9, 9, 3, PAD]])


def seeded(make, *arguments) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make(*arguments)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.5)  # biases and norms that are 0 and 1 would hide mistakes
        return module.eval()


def x_and_padding() -> tuple[Tensor, Tensor]:
    x = torch.randn(3, 5, TINY.width, generator=torch.Generator().manual_seed(1))
    return x, IDS == PAD


def as_torch(attention: Attention) -> nn.MultiheadAttention:
    """torch's module with the same weights: its input projection is q, k and v on top of each other."""
    theirs = nn.MultiheadAttention(TINY.width, TINY.heads, batch_first=True)
    projections = (attention.q, attention.k, attention.v)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in projections])
    theirs.in_proj_bias.data = torch.cat([part.bias for part in projections])
    theirs.out_proj.load_state_dict(attention.o.state_dict())
    return theirs


def test_attention_is_torchs():
    attention = seeded(Attention, TINY.width, TINY.heads)
    x, is_pad = x_and_padding()
    expected, _ = as_torch(attention)(x, x, x, key_padding_mask=is_pad, need_weights=False)
    torch.testing.assert_close(attention(x, is_pad[:, None, None]), expected)


def test_a_block_is_torchs_encoder_layer():
    block = seeded(TransformerBlock, TINY)
    theirs = nn.TransformerEncoderLayer(
        TINY.width, TINY.heads, TINY.hidden, 0.0, "gelu", batch_first=True, norm_first=False
    )
    theirs.self_attn.load_state_dict(as_torch(block.attention).state_dict())
    for ours, other in (("norm1", "norm1"), ("norm2", "norm2"), ("fc1", "linear1"), ("fc2", "linear2")):
        theirs.get_submodule(other).load_state_dict(block.get_submodule(ours).state_dict())
    x, is_pad = x_and_padding()
    expected = theirs.train()(x, src_key_padding_mask=is_pad)  # in eval mode torch would take its fused path
    torch.testing.assert_close(block(x, is_pad[:, None, None]), expected)


def test_padding_changes_nothing():
    encoder = seeded(Encoder, TINY)
    longer = F.pad(IDS, (0, 3), value=PAD)
    torch.testing.assert_close(encoder(longer), encoder(IDS))
    torch.testing.assert_close(encoder(IDS)[1:2], encoder(IDS[1:2, :2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_masked_score_has_no_weight(dtype):
    weights = torch.tensor([0.0, -50.0, MASKED], dtype=dtype).softmax(0)
    assert weights[2] == 0


def test_a_text_without_words_is_finite():
    encoder = seeded(Encoder, TINY)
    out = encoder(torch.full((1, 4), PAD))
    out.sum().backward()
    assert torch.equal(out, torch.zeros(1, TINY.width))
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_the_order_of_words_matters():
    encoder = seeded(Encoder, TINY)
    assert not torch.allclose(encoder(IDS[:1]), encoder(IDS[:1].flip(1)))


def first_of_two(num: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Texts that hold words 2 and 3 once each among others, and whether 2 comes first."""
    ids = torch.randint(4, TINY.vocabulary, (num, TINY.length), generator=generator)
    places = torch.rand(num, TINY.length, generator=generator).argsort(1)[:, :2]
    ids.scatter_(1, places, torch.tensor([[2, 3]]).expand(num, 2))
    return ids, (places[:, 0] < places[:, 1]).long()


def test_it_learns_which_of_two_words_comes_first():
    """Bags of words cannot: only positions and attention can. Six seeds gave 97.1 to 99.8 %."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TextTransformer(2, TINY)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(100):
        ids, y = first_of_two(64, generator)
        optimizer.zero_grad()
        F.cross_entropy(model(ids), y).backward()
        optimizer.step()
    ids, y = first_of_two(512, generator)
    assert (model(ids).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize(("name", "num_classes"), [("text_transformer", 2), ("text_transformer_wordnet", 45)])
def test_the_ready_networks_have_their_sizes(name, num_classes):
    """Two tables, a norm, and per block four projections, two linear layers and two norms; then the classifier."""
    model = build(name, seed=0)
    block = 4 * (64 * 64 + 64) + (64 * 128 + 128) + (128 * 64 + 64) + 2 * 2 * 64
    expected = (VOCABULARY_SIZE + LENGTH) * 64 + 2 * 64 + 2 * block + 64 * num_classes + num_classes
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert model(example_input(name)).shape == (1, num_classes)
    layers = {key for key, module in model.named_modules() if isinstance(module, nn.Linear)}
    parts = ("attention.q", "attention.k", "attention.v", "attention.o", "fc1", "fc2")
    assert layers == {"fc", *(f"blocks.{i}.{part}" for i in (0, 1) for part in parts)}


def test_the_example_is_a_text_of_unknown_words():
    assert torch.equal(example_input("text_transformer"), torch.full((1, LENGTH), UNKNOWN))


def test_the_seed_alone_decides_the_weights():
    first, again, other = (build("text_transformer", seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["tokens.weight"], other["tokens.weight"])


def test_it_can_be_traced():
    model = seeded(TextTransformer, 2, TINY)
    assert torch.equal(fx.symbolic_trace(model)(IDS), model(IDS))


def test_the_small_sizes_are_those_of_the_data():
    assert (SMALL.vocabulary, SMALL.length) == (VOCABULARY_SIZE, LENGTH)
