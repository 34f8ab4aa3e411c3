"""One contract for every format and every recipe: what training sees is what is stored, bit for bit."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from qat.kernels.geometry import from_vectors, rotated, unrotated, vectors
from qat.quantizer import Encoded, Quantizer
from qat.recipe import RECIPES
from qat.schemes import make_quantizer
from workloads.codec import Packed, decode_integers, decode_weight, pack_all, to_vectors, unpack_all
from workloads.format import EXAMPLE_FORMATS, FormatBits, parse_format
from workloads.layer import Layer

torch.set_num_threads(1)
SHAPES = [(16, 6, 4, 4), (10, 64), (4, 4, 2, 2, 2)]
KINDS = {"linear": "linear-4", "vq": "vq-4x64-e4-s1", "lattice": "e8-q4"}


def _cases() -> list[tuple[str, str]]:
    """Every format in the default recipe, and one format for every recipe that concerns its kind."""
    cases = [(name, "default") for name in EXAMPLE_FORMATS]
    for recipe in sorted(set(RECIPES) - {"default"}):
        differs = {key for key, value in RECIPES[recipe] if value != getattr(RECIPES["default"], key)}
        linear = {"linear", "ewgs_factor"}
        lattice = {"overload", "point", "lattice_scale"}
        kind = "linear" if differs & linear else "lattice" if differs & lattice else "vq"
        cases.append(("linear-4-odd" if recipe in ("ewgs", "dorefa") else KINDS[kind], recipe))
    return cases


CASES = _cases()


def make(name: str, recipe: str, shape: tuple[int, ...] = SHAPES[0], seed: int = 0) -> tuple[Quantizer, Tensor]:
    weight = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return make_quantizer(parse_format(name), weight, recipe=RECIPES[recipe]), weight


def frozen(quantizer: Quantizer) -> Quantizer:
    """In the mode in which its forward is the stored weight."""
    return quantizer.train() if quantizer.is_exact and quantizer.noise is None else quantizer.eval()


def by_codec(encoded: Encoded) -> np.ndarray:
    """The stored weight from its bytes alone, through the numpy codec."""
    packed = pack_all(encoded.fmt, encoded.stored())
    assert all(stream.dtype == np.uint8 for stream in packed)
    stored = unpack_all(encoded.fmt, Packed(*(stream.copy() for stream in packed)), encoded.shape)
    table = None if encoded.table is None else encoded.table.numpy()
    integers = decode_integers(encoded.fmt, stored, encoded.shape, table)
    half = 1 << (encoded.fmt.array_bits - 1)
    assert -half <= integers.min() and integers.max() < half
    return decode_weight(encoded.fmt, integers, encoded.scale.numpy(), encoded.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_the_forward_is_the_decoded_encoding_bit_for_bit(name, recipe, shape):
    quantizer, weight = make(name, recipe, shape)
    out = frozen(quantizer)(weight)
    encoded = quantizer.encode(weight)
    assert encoded.codes.dtype == torch.int64 and encoded.scale.dtype == torch.float32
    np.testing.assert_array_equal(out.detach().numpy(), by_codec(encoded))
    assert torch.equal(encoded.decode(), out.detach())


@pytest.mark.parametrize("name", EXAMPLE_FORMATS)
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_bits_counted_are_bits_stored(name, shape):
    quantizer, weight = make(name, "default", shape)
    fmt, kernel = quantizer.fmt, shape[2:] or (1, 1)
    layer = Layer(name="l", kind="conv", in_channels=shape[1], out_channels=shape[0], in_size=(9, 9), kernel=kernel)
    bits, encoded = fmt.bits(layer), quantizer.encode(weight)
    assert isinstance(bits, FormatBits) and min(bits) >= 0
    assert bits.total + -(-fmt.codebook_bits // 8) * 8 == 8 * encoded.nbytes


@pytest.mark.parametrize(("name", "recipe"), [case for case in CASES if case[1] != "dorefa"])
def test_a_decoded_weight_encodes_to_itself_while_its_scale_is_held(name, recipe):
    quantizer, weight = make(name, recipe)
    encoded = quantizer.encode(weight)
    quantizer.hold(encoded.scale)
    again = quantizer.encode(encoded.decode())
    for first, second in zip(encoded.stored(), again.stored(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert torch.equal(encoded.scale, again.scale)


@pytest.mark.parametrize(("name", "recipe"), CASES)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e-20, 1e6])
def test_constant_tensors_stay_finite(name, recipe, value):
    weight = torch.full((8, 32), value)
    quantizer = make_quantizer(parse_format(name), weight, recipe=RECIPES[recipe])
    encoded = quantizer.encode(weight)
    out = quantizer(weight.requires_grad_())
    out.sum().backward()
    assert torch.isfinite(out).all() and (encoded.scale > 0).all()
    assert all(torch.isfinite(p.grad).all() for p in quantizer.parameters() if p.grad is not None)


@pytest.mark.parametrize(("name", "recipe"), CASES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(name, recipe, bad):
    quantizer, weight = make(name, recipe)
    weight[0, 0] = bad
    for call in (quantizer, quantizer.encode, lambda w: make_quantizer(parse_format(name), w, recipe=RECIPES[recipe])):
        with pytest.raises(ValueError, match="16 of 1536 values: must be finite"):
            call(weight)


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_quantizing_repeats_in_copies_and_in_bfloat16_autocast(name, recipe):
    (first, weight), (second, _) = make(name, recipe), make(name, recipe)
    states = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    value = first(weight)
    assert torch.equal(value, second(weight))
    if first.noise is not None:  # drawn anew for each step, alike in copies
        assert torch.equal(first(weight), copy.deepcopy(second)(weight))
        first, second, value = first.eval(), second.eval(), first.eval()(weight)
    assert torch.equal(value, copy.deepcopy(first)(weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(value, second(weight))


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_gradients_flow_to_the_weight_and_to_what_is_trained(name, recipe):
    quantizer, weight = make(name, recipe)
    weight.requires_grad_()
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
    quantizer.train()(weight).backward(upstream)
    assert weight.grad is not None and torch.isfinite(weight.grad).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in quantizer.trained())
    if recipe == "hard":
        assert not weight.grad.any()


@pytest.mark.parametrize("axis", ["in", "out", "kernel", "flat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_torch_vectors_are_the_codecs(axis, shape):
    weight = torch.randn(shape)
    v = vectors(weight, 7, axis)
    np.testing.assert_array_equal(v.numpy(), to_vectors(weight.numpy(), 7, axis))
    assert torch.equal(from_vectors(v, weight.shape, axis), weight)


def test_rotations_come_back_exactly_on_integers_and_keep_lengths():
    whole = torch.randint(-8, 8, (6, 4, 4, 4)).float()
    turned = rotated(whole, 16)
    assert torch.equal(turned, turned.round())
    assert torch.equal(unrotated(turned, 16), whole)
    torch.testing.assert_close(turned.square().sum(), 16 * whole.square().sum())


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_gradients_flow_in_eval_mode_too(name, recipe):
    quantizer, weight = make(name, recipe)
    weight.requires_grad_()
    quantizer.eval()(weight).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in (weight, *quantizer.trained()))
