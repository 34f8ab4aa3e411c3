"""Attention as four linear layers: equal to nn.MultiheadAttention whatever it is given, quantized, and whole again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from qat.activations.inputs import activation_quantizers, calibrate
from qat.modules.attach import float_state_dict, quantize, unquantize
from qat.modules.attached import encode_model, quantizers
from qat.modules.attention import SplitAttention, merge, split
from workloads.errors import InputError
from workloads.plan import Plan

torch.set_num_threads(1)
E, HEADS, N, L, S = 16, 4, 3, 5, 7
PADDING = torch.arange(S) >= torch.tensor([S, 5, 2])[:, None]
CAUSAL = torch.triu(torch.ones(L, S, dtype=torch.bool), 1)
GENERATOR = torch.Generator().manual_seed(7)
PER_HEAD = torch.rand((N * HEADS, L, S), generator=GENERATOR) > 0.6
PER_HEAD[..., 0] = False  # a row without any key is NaN

MODULES = {
    "joint": {},
    "no bias": {"bias": False},
    "kdim and vdim": {"kdim": 10, "vdim": 6},
    "kdim, no bias": {"kdim": 10, "bias": False},
}
CALLS = {
    "plain": {},
    "bool mask": {"attn_mask": CAUSAL},
    "float mask": {"attn_mask": torch.randn((L, S), generator=GENERATOR)},
    "mask per head": {"attn_mask": PER_HEAD},
    "causal": {"attn_mask": CAUSAL, "is_causal": True},
    "padding": {"key_padding_mask": PADDING},
    "float padding and mask": {
        "key_padding_mask": torch.zeros(N, S).masked_fill(PADDING, -torch.inf),
        "attn_mask": torch.zeros(L, S).masked_fill(CAUSAL, -torch.inf),
    },
    "weights per head": {"average_attn_weights": False, "key_padding_mask": PADDING},
}


def attention(**how) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    whole = nn.MultiheadAttention(E, HEADS, **how)
    for name, parameter in whole.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)  # torch starts them at zero
    return whole


def inputs(whole: nn.MultiheadAttention) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = (N, L, E), (N, S, whole.kdim), (N, S, whole.vdim)
    x = [torch.randn(size, generator=generator) for size in sizes]
    return x if whole.batch_first else [part.transpose(0, 1) for part in x]


def both(whole: nn.MultiheadAttention) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    other = copy.deepcopy(whole)
    split(other)
    return whole, other


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("module", MODULES)
def test_split_attention_is_the_whole_one(module, call, batch_first, need_weights):
    whole, other = both(attention(batch_first=batch_first, **MODULES[module]))
    how = {**CALLS[call], "need_weights": need_weights}
    for is_training in (True, False):
        expected = whole.train(is_training)(*inputs(whole), **how)
        found = other.train(is_training)(*inputs(whole), **how)
        torch.testing.assert_close(found[0], expected[0])
        assert (found[1] is None) == (expected[1] is None)
        if need_weights:
            torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_unbatched_and_self_attention(batch_first, need_weights):
    whole, other = both(attention(batch_first=batch_first))
    x, pad = torch.randn(S, E), PADDING[1]
    for given in ({}, {"key_padding_mask": pad}, {"attn_mask": PER_HEAD[:HEADS, :, :5].expand(HEADS, 5, 5)}):
        query = x if "attn_mask" not in given else x[:5]
        expected, found = (m(query, query, query, need_weights=need_weights, **given) for m in (whole, other))
        torch.testing.assert_close(found[0], expected[0])
        if need_weights:
            torch.testing.assert_close(found[1], expected[1])
    rows = torch.randn(N, S, E)
    torch.testing.assert_close(other(rows, rows, rows)[0], whole(rows, rows, rows)[0])


def test_gradients_are_those_of_the_whole_one():
    whole, other = both(attention(batch_first=True))
    for module in (whole, other):
        module(*inputs(whole), key_padding_mask=PADDING, need_weights=False)[0].square().sum().backward()
    for kind in ("weight", "bias"):
        parts = [getattr(other, f"{letter}_proj").get_parameter(kind).grad for letter in "qkv"]
        torch.testing.assert_close(torch.cat(parts), whole.get_parameter(f"in_proj_{kind}").grad)


def test_dropout_leaves_the_expected_share_and_eval_none():
    whole, other = both(attention(batch_first=True, dropout=0.5))
    torch.manual_seed(0)
    weights = other(*inputs(whole), average_attn_weights=False)[1]
    assert 0.35 < float((weights == 0).float().mean()) < 0.65
    torch.testing.assert_close(other.eval()(*inputs(whole))[1], whole.eval()(*inputs(whole))[1])


def test_a_causal_hint_without_a_mask_is_refused_as_in_torch():
    for module in both(attention()):
        with pytest.raises((RuntimeError, ValueError), match="attn_mask"):
            module(*inputs(module), is_causal=True)


@pytest.mark.parametrize("module", MODULES)
def test_merging_gives_back_the_same_parameters_bit_for_bit(module):
    whole = attention(**MODULES[module]).requires_grad_(module != "no bias")
    before = {name: (p, p.detach().clone(), p.requires_grad) for name, p in whole.named_parameters()}
    state = torch.get_rng_state()
    forward, back = split(whole), merge(whole)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    assert type(whole) is nn.MultiheadAttention
    assert [name for name, _ in whole.named_parameters()] == list(before)
    for name, parameter in whole.named_parameters():
        first, value, requires_grad = before[name]
        assert parameter is first and torch.equal(parameter, value) and parameter.requires_grad is requires_grad
    assert {id(p) for parts in forward.values() for p in parts} == {id(p) for p in back}
    assert vars(whole).keys() == vars(attention(**MODULES[module])).keys()
    assert whole._qkv_same_embed_dim == attention(**MODULES[module])._qkv_same_embed_dim


@pytest.mark.parametrize("how", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_what_has_no_projections_to_split_is_refused(how):
    model = nn.ModuleDict({"first": attention(), "second": nn.MultiheadAttention(E, HEADS, **how)})
    before = [id(p) for p in model.parameters()]
    with pytest.raises(InputError, match=r"MultiheadAttention: must be a plain nn\.MultiheadAttention"):
        quantize(model, Plan.uniform(model, "linear-4"))
    assert [id(p) for p in model.parameters()] == before and type(model["first"]) is nn.MultiheadAttention
    assert all(p.numel() for p in model.parameters())

    class Own(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            return args

    with pytest.raises(InputError, match="Own: must be a plain"):
        quantize(Own(E, HEADS), Plan.uniform(Own(E, HEADS), "linear-4"))


@pytest.mark.parametrize("fmt", ["linear-4", "vq-4x16-e4-s0", "d4-q4"])
@pytest.mark.parametrize("module", MODULES)
def test_quantized_attention_computes_with_decoded_projections(module, fmt):
    whole = attention(batch_first=True, **MODULES[module])
    twin, floats = copy.deepcopy(whole), copy.deepcopy(whole.state_dict())
    quantize(whole, Plan.uniform(whole, fmt))
    encoded = encode_model(whole)
    assert set(encoded) == {"q_proj", "k_proj", "v_proj", "out_proj"}
    whole(*inputs(twin), need_weights=False)[0].sum().backward()
    assert all(p.grad is not None for p in whole.parameters())
    inner = [encoded[f"{letter}_proj"].decode() for letter in "qkv"]
    with torch.no_grad():
        if twin.in_proj_weight is not None:
            twin.in_proj_weight.copy_(torch.cat(inner))
        else:
            for letter, weight in zip("qkv", inner, strict=True):
                twin.get_parameter(f"{letter}_proj_weight").copy_(weight)
        twin.out_proj.weight.copy_(encoded["out_proj"].decode())
    torch.testing.assert_close(whole(*inputs(twin))[0], twin(*inputs(twin))[0])

    state = float_state_dict(whole)
    assert list(state) == list(floats) and all(torch.equal(state[name], floats[name]) for name in floats)
    other = quantize(attention(batch_first=True, **MODULES[module]), Plan.uniform(whole, fmt))
    other.load_state_dict({name: 2 * value for name, value in floats.items()})
    assert torch.equal(float_state_dict(other)["out_proj.weight"], 2 * floats["out_proj.weight"])
    assert all(torch.equal(float_state_dict(other)[name], 2 * floats[name]) for name in floats)
    unquantize(whole)
    assert all(torch.equal(p, floats[name]) for name, p in whole.named_parameters())


def encoder(norm_first: bool = False) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, HEADS, 24, 0.0, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("is_training", [True, False])
def test_inside_an_encoder_layer_in_training_and_in_its_fused_evaluation(is_training, norm_first):
    """A twin with the decoded weights says what must come out; torch fuses it in eval mode, and must not fuse ours."""
    model, twin = encoder(norm_first), encoder(norm_first).train(is_training)
    quantize(model, Plan.uniform(model, "linear-4")).train(is_training)
    assert isinstance(model.layers[0].self_attn, SplitAttention)
    assert len(quantizers(model)) == 2 * 6
    frozen = unquantize(copy.deepcopy(model), keep_values=True)
    assert type(frozen.layers[1].self_attn) is nn.MultiheadAttention
    twin.load_state_dict(frozen.state_dict())
    x, pad = torch.randn(N, S, E), PADDING
    for how in ({}, {"src_key_padding_mask": pad}, {"mask": CAUSAL.new_ones(S, S).triu(1), "is_causal": True}):
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                expected, found = twin(x, **how), model(x, **how)
            keep = ~pad if "src_key_padding_mask" in how else torch.ones_like(pad)
            torch.testing.assert_close(found[keep], expected[keep], rtol=1e-4, atol=1e-5)


def test_inside_a_decoder_layer():
    torch.manual_seed(0)
    model = nn.TransformerDecoderLayer(E, HEADS, 24, 0.0, batch_first=True)
    x, memory = torch.randn(N, L, E), torch.randn(N, S, E)
    expected = model(x, memory, memory_key_padding_mask=PADDING).detach()
    quantize(model, Plan.uniform(model, "linear-8"))
    found = model(x, memory, memory_key_padding_mask=PADDING).detach()
    assert 0 < (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert torch.equal(unquantize(model)(x, memory, memory_key_padding_mask=PADDING), expected)


def test_whoever_holds_the_module_holds_the_split_one():
    """The module is rewritten in place: references and hooks to it stay good."""
    model = nn.ModuleDict({"attention": attention()})
    held, seen = model["attention"], []
    held.register_forward_hook(lambda module, args, out: seen.append(type(module)))
    quantize(model, Plan.uniform(model, "linear-4"))
    assert model["attention"] is held
    held(*inputs(held))
    unquantize(model)
    held(*inputs(held))
    assert seen == [SplitAttention, nn.MultiheadAttention]


def test_a_plan_may_name_one_projection_only():
    model = nn.ModuleDict({"attention": attention()})
    quantize(model, Plan.uniform(model, "linear-4", skip=("*.[qk]_proj", "*.out_proj")))
    assert list(quantizers(model)) == ["attention.v_proj"]
    quantize(model, Plan.uniform(model, "linear-2", skip=("*.[kv]_proj", "*.out_proj")))
    assert {name: q.fmt.name for name, q in quantizers(model).items()} == {
        "attention.q_proj": "linear-2", "attention.v_proj": "linear-4",
    }  # fmt: skip
    assert type(unquantize(model)["attention"]) is nn.MultiheadAttention


def test_deep_copies_of_split_attention_come_apart_and_merge_alone():
    whole = attention()
    quantize(whole, Plan.uniform(whole, "linear-4"))
    twin = copy.deepcopy(whole)
    unquantize(twin)
    assert type(twin) is nn.MultiheadAttention and type(whole) is not nn.MultiheadAttention
    assert twin.in_proj_weight.numel() == 3 * E * E and not {id(p) for p in twin.parameters()} & {
        id(p) for p in whole.parameters()
    }


def test_quantized_activations_are_seen_by_every_projection_in_evaluation_too():
    """Torch's fused path would go round the quantizers of inputs."""
    torch.manual_seed(0)
    model, x = nn.TransformerEncoderLayer(E, HEADS, 24, 0.0, batch_first=True), torch.randn(N, L, E)
    quantize(model, Plan.uniform(model, "linear-4", activation="int2"), example_input=x[:1])
    calibrate(model, x)
    readers = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "linear1", "linear2"}
    assert set(activation_quantizers(model)) == {f"{name}.input" for name in readers}
    expected = model(x)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), expected)
    expected.sum().backward()
    assert all(q.step.grad is not None for q in activation_quantizers(model).values())
