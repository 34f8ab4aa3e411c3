"""From training to storage: frozen models compute the same, hold codes, copy, compile and export; and `encode`."""

from __future__ import annotations

import copy
import io
import os
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qat.activations.inputs import calibrate
from qat.modules.attach import quantize, unquantize
from qat.modules.attached import encode_model, quantizers
from qat.modules.mixture import relax
from qat.modules.upkeep import after_step
from qat.quantizer import Encoded
from qat.recipe import RECIPES
from qat.repeatable import KEY
from qat.schemes import make_quantizer
from qat.schemes.common.choose import unit_for_multiples
from qat.storage.freeze import decode, encode, freeze, show, stored, summary
from workloads.codec import pack_all
from workloads.errors import InputError
from workloads.format import EXAMPLE_FORMATS, parse_format
from workloads.layer import Layer
from workloads.networks.zoo import LeNet5
from workloads.plan import Plan

torch.set_num_threads(1)
# Dynamo looks at .grad of what enters a graph after a break.
compiles = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
FORMATS = ("linear-4", "vq-4x16-e4-s0", "vq-8x256-e4-s0", "d4-q4")


class Mixed(nn.Module):
    """A table tied to the head, attention, and a transposed convolution: every way in which a weight lies."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
        self.head.weight = self.table.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.conv, self.back = nn.Conv1d(8, 12, 3, groups=4), nn.ConvTranspose1d(12, 8, 3, groups=2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.back(torch.relu(self.conv(x.mT))).mT)


def lenet(fmt: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = LeNet5().eval()
    return quantize(model, Plan.uniform(model, fmt)), torch.randn(3, 1, 28, 28)


def mixed(fmt: str) -> tuple[nn.Module, Tensor]:
    model = Mixed().eval()
    return quantize(model, Plan.uniform(model, fmt)), torch.arange(12).view(2, 6)


BUILDS = {"lenet": lenet, "mixed": mixed}
IS_STRICT = os.environ[KEY].endswith("STRICT")
CASES = [(build, fmt) for build in BUILDS for fmt in FORMATS]


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Bit by bit where MKL is asked for sums that do not depend on where memory lies, as `qat` does; else closely."""
    if IS_STRICT:
        return torch.equal(found, expected)
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def equal(a: Encoded, b: Encoded) -> bool:
    """Whether the same bytes are stored; a linear code may be signed or not."""
    streams = zip(pack_all(a.fmt, a.stored()), pack_all(b.fmt, b.stored()), strict=True)
    has_same_book = a.table is b.table is None or torch.equal(a.table, b.table)
    return (
        a[:2] == b[:2]
        and all(np.array_equal(x, y) for x, y in streams)
        and torch.equal(a.scale, b.scale)
        and has_same_book
        and torch.equal(decode(a), decode(b))
    )


@pytest.mark.parametrize(("build", "fmt"), CASES)
def test_a_frozen_model_computes_the_same_bits_and_holds_its_codes(build, fmt):
    model, x = BUILDS[build](fmt)
    expected, encoded = model(x).detach(), encode_model(model)
    assert freeze(model) is model
    assert agrees(model(x), expected) and not quantizers(model)
    for name, one in encoded.items():
        layer = model.get_submodule(name)
        assert equal(stored(layer), one) and not layer.weight.requires_grad
        packed = sum(layer.get_buffer(f"stored_{part}").numel() for part in ("codes", "scale_codes", "errors"))
        assert packed + 4 * one.scale.numel() + -(-one.fmt.codebook_bits // 8) == one.nbytes
        assert layer.get_buffer("stored_codes").dtype == torch.uint8
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._load_state_dict_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("build", "fmt"), CASES)
def test_a_frozen_state_dict_makes_another_model_the_same(build, fmt):
    model, x = BUILDS[build](fmt)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.7)
    expected, encoded = model(x).detach(), encode_model(model)
    file = io.BytesIO()
    torch.save(freeze(model).state_dict(), file)
    other = freeze(BUILDS[build](fmt)[0])
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert agrees(other(x), expected)
    assert all(equal(stored(other.get_submodule(name)), one) for name, one in encoded.items())
    with pytest.raises(RuntimeError, match=r"Missing key.*stored_codes"):  # codes and weight stay together
        other.load_state_dict({key: value for key, value in model.state_dict().items() if "stored" not in key})


@pytest.mark.parametrize("build", BUILDS)
def test_frozen_models_copy_and_pickle_and_freezing_a_copy_leaves_the_original(build):
    model, x = BUILDS[build]("vq-4x16-e4-s0")
    expected = model(x).detach()
    frozen = freeze(copy.deepcopy(model))
    assert agrees(model(x), expected) and quantizers(model)
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert agrees(twin(x), expected)
        name = next(iter(quantizers(model)))
        assert equal(stored(twin.get_submodule(name)), stored(frozen.get_submodule(name)))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("strict", [True, False])
def test_frozen_models_export_and_others_are_refused(build, strict):
    model, x = BUILDS[build]("linear-4")
    with pytest.raises(Exception, match=r"a model in training: cannot be exported: qat\.freeze the model first"):
        torch.export.export(model, (x,), strict=strict)
    expected = model(x)
    exported = torch.export.export(freeze(model), (x,), strict=strict)
    assert agrees(exported.module()(x), expected)
    assert not any("autograd" in str(node.target) for node in exported.graph.nodes)


@compiles
@pytest.mark.parametrize("fmt", ["vq-4x16-e4-s0", "d4-q4"])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_compiled_models_give_equal_results_and_gradients(fmt, is_frozen):
    model, x = lenet(fmt)
    model = freeze(model) if is_frozen else model
    model(x).square().sum().backward()
    expected, gradients = model(x), [p.grad for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        assert agrees(compiled(x), expected)
    compiled(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is gradient is None or agrees(parameter.grad, gradient)


@compiles
def test_a_compiled_attention_gives_equal_results():
    model, ids = mixed("linear-4")
    expected = model(ids)
    assert agrees(torch.compile(model, backend="eager")(ids), expected)
    assert agrees(torch.compile(freeze(model), backend="eager")(ids), expected)


@compiles
def test_activation_quantizers_stay_and_cannot_be_exported():
    torch.manual_seed(0)
    model, x = LeNet5().eval(), torch.rand(4, 1, 28, 28)
    quantize(model, Plan.uniform(model, "linear-4"), example_input=x[:1])
    calibrate(model, x)
    expected = model(x).detach()
    assert agrees(torch.compile(model, backend="eager")(x), expected)
    assert agrees(freeze(model)(x), expected)
    with pytest.raises(ValueError, match="quantized activations: cannot be exported"):
        torch.export.export(model, (x,))


@pytest.mark.parametrize("recipe", ["dkm", "gumbel", "universal"])
def test_a_soft_scheme_freezes_to_what_it_evaluates_to(recipe):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8)), torch.randn(4, 16)
    quantize(model, Plan.uniform(model, "vq-4x16-e4-s0"), recipe=RECIPES[recipe])
    model(x).square().sum().backward()
    after_step(model, 0)
    expected = model.eval()(x).detach()
    assert agrees(freeze(model.train())(x), expected)


def test_what_cannot_be_frozen_or_brought_back_says_so():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(InputError, match="model: has no quantized layer"):
        freeze(model)
    with pytest.raises(InputError, match="model: has no quantized layer"):
        summary(model)
    with pytest.raises(InputError, match=r"Linear: is not frozen: qat\.freeze its model first"):
        stored(model[0])
    freeze(quantize(model, Plan.uniform(model, "linear-4", skip=("1",))))
    with pytest.raises(InputError, match="0: is frozen, its latent weight is gone"):
        unquantize(model)
    with pytest.raises(InputError, match=r"layers\.0: is frozen, its latent weight is gone"):
        quantize(model, Plan.uniform(model, "linear-4"))
    other = nn.Sequential(nn.Linear(8, 8))
    relax(other, {"0": ("linear-4", "d4-q4")})
    with pytest.raises(InputError, match="is a mixture of formats: quantize with a plan first"):
        freeze(other)


@pytest.mark.parametrize("name", EXAMPLE_FORMATS)
def test_any_tensor_in_any_format(name):
    """The bytes are those that the format counts; decoding is exact on what was decoded."""
    weight = torch.randn(48, 6, 4, 4, generator=torch.Generator().manual_seed(3))
    encoded = encode(weight, name)
    assert encoded.fmt == parse_format(name)
    value = decode(encoded)
    assert value.dtype == torch.float32 and value.shape == weight.shape
    layer = Layer(name="l", kind="conv", in_channels=6, out_channels=48, in_size=(9, 9), kernel=(4, 4))
    assert 8 * encoded.nbytes == encoded.fmt.bits(layer).total + -(-encoded.fmt.codebook_bits // 8) * 8
    assert float((value - weight).square().mean()) < 0.6 and torch.equal(decode(encode(weight, name)), value)


def test_more_bits_mean_less_error_and_a_given_book_is_used():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
    errors = [float((decode(encode(weight, f"linear-{bits}")) - weight).square().mean()) for bits in (2, 4, 8)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    model = nn.Sequential(nn.Linear(64, 64))
    quantize(model, Plan.uniform(model, "vq-4x16-e4-s0"))
    book = quantizers(model)["0"].book
    assert torch.equal(encode(weight, "vq-4x16-e4-s0", book=book).table, book.table())
    for bad in (torch.randn(8), torch.zeros(0, 4)):
        with pytest.raises(ValueError, match="must have two or more dimensions"):
            encode(bad, "linear-4")
    with pytest.raises(ValueError, match="16 of 16 values: must be finite"):
        encode(torch.eye(4) / 0, "linear-4")


@pytest.mark.parametrize("name", ["linear-4-t", "vq-4x16-e4-s0", "vq-4x64-e4-s2-t", "d4-q4", "e8-q4"])
def test_threads_change_no_bit(name):
    """Neither of what is stored nor of the gradients; torch's sum of a whole tensor depends on the threads."""
    found = [trained_with(threads, name) for threads in (1, 2)]
    assert equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_threads_do_not_change_what_an_integer_is_worth():
    """It is summed over all vectors; a scale code near a half would follow its last bit."""
    for seed in (2, 9):  # a plain sum of all differs in these
        generator = torch.Generator().manual_seed(seed)
        v = torch.randn((1 << 15, 4), generator=generator)
        book = torch.randint(-7, 8, (16, 4), generator=generator).float()
        units = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            units.append(unit_for_multiples(v, book, torch.tensor(0.2), parse_format("vq-4x16-e4-s2"), "euclid"))
        torch.set_num_threads(1)
        assert torch.equal(*units)


def trained_with(threads: int, name: str) -> tuple[Encoded, list[Tensor]]:
    """The encoding, and the forward value and all gradients of a training step."""
    torch.set_num_threads(threads)
    try:
        weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(3), requires_grad=True)
        quantizer = make_quantizer(parse_format(name), weight.detach())
        value = quantizer(weight)
        value.backward(torch.sin(weight.detach() * 100))
        gradients = [p.grad for p in (weight, *quantizer.trained()) if p.grad is not None]
        return quantizer.encode(weight), [value.detach(), *gradients]
    finally:
        torch.set_num_threads(1)


def test_the_summary_counts_what_is_stored_and_measures_the_error():
    model, _ = mixed("vq-4x16-e4-s0")
    rows = summary(model)
    encoded = encode_model(model)
    names = [name for name in encoded if name != "head"]  # its weight is the table's
    assert [row["layer"] for row in rows] == names
    book = 4 * 16 * 4 // 8
    total = sum(encoded[name].nbytes - book for name in names) + book
    assert sum(row["bits_per_weight"] * row["weights"] for row in rows) == pytest.approx(8 * total)
    weight, found = model.conv.parametrizations.weight.original.detach(), {row["layer"]: row for row in rows}["conv"]
    error = (encoded["conv"].decode() - weight).square().sum() / weight.square().sum()
    assert found["relative_error"] == pytest.approx(float(error)) and found["format"] == "vq-4x16-e4-s0"
    assert 0 < found["used_share"] <= 1 <= found["perplexity"] <= 16
    text = show(rows).splitlines()
    assert len(text) == len(rows) + 1 and text[0].split()[:3] == ["layer", "format", "weights"]
    assert all(name in line for name, line in zip(names, text[1:], strict=True))
