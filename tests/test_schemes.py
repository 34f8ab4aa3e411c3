"""One contract suite over all schemes, their gradients as written formulas, and their kernels' plain twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qat.kernels import best_match, e8_code, encode_e8, sum_by_index
from qat.schemes import Codebook, Encoded, Quantizer, make_quantizer
from qat.quantizer import from_vectors, vectors
from qat.schemes.lattice import LatticeQuantizer
from qat.schemes.vector import VectorQuantizer
from workloads.codec import decode_integers, decode_weight, to_vectors
from workloads.format import DEFAULT_FORMATS, parse_format
from workloads.lattice import lattice_table

torch.set_num_threads(1)
FORMATS = [*DEFAULT_FORMATS, "vq-4x64-e4-s2", "vq-3x16-e3-s0", "d4-q2", "e8-q2", "e8-q3"]
SHAPES = [(16, 6, 5, 5), (10, 84), (4, 1, 3, 3)]


def make(name: str, shape: tuple[int, ...] = (16, 6, 5, 5), seed: int = 0) -> tuple[Quantizer, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight = 0.1 * torch.randn(shape, generator=generator)
    return make_quantizer(parse_format(name), weight), weight


def decode(quantizer: Quantizer, encoded: Encoded, shape: torch.Size) -> np.ndarray:
    """The stored weight by the numpy codec, from integers only."""
    table = quantizer.table()
    integers = decode_integers(
        quantizer.fmt,
        encoded.codes.numpy(),
        None if table is None else table.numpy(),
        None if encoded.scale_codes is None else encoded.scale_codes.numpy(),
        shape[1:].numel(),
    )
    half = 1 << (quantizer.fmt.array_bits - 1)
    assert -half <= integers.min() and integers.max() < half
    return decode_weight(integers, encoded.scale.numpy(), tuple(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_train_forward_is_the_decoded_encoding_bit_for_bit(name, shape):
    quantizer, weight = make(name, shape)
    out = quantizer.train()(weight)
    encoded = quantizer.encode(weight)
    assert encoded.codes.dtype == torch.int64 and encoded.scale.dtype == torch.float32
    np.testing.assert_array_equal(out.detach().numpy(), decode(quantizer, encoded, weight.shape))


@pytest.mark.parametrize("name", FORMATS)
def test_a_decoded_weight_encodes_to_itself_with_a_frozen_scale(name):
    quantizer, weight = make(name)
    encoded = quantizer.encode(weight)
    value = torch.from_numpy(decode(quantizer, encoded, weight.shape))
    if isinstance(quantizer, LatticeQuantizer):
        rms = value.square().flatten(1).mean(1).sqrt()
        quantizer.factor.copy_(encoded.scale / rms)  # the scale it had
    if isinstance(quantizer, VectorQuantizer) and quantizer.fmt.scale_bits == 0:
        # a parallel entry of another length may take a vector's place, but never a worse direction
        again = decode(quantizer, quantizer.encode(value), weight.shape)
        angle = torch.cosine_similarity(
            vectors(value, quantizer.fmt.vector_length),
            vectors(torch.from_numpy(again), quantizer.fmt.vector_length),
            -1,
        )
        assert (angle > 1 - 1e-5).all()
    elif not isinstance(quantizer, VectorQuantizer):
        assert torch.equal(quantizer.encode(value).codes, encoded.codes)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e-20, 1e6])
def test_constant_tensors_stay_finite(name, value):
    weight = torch.full((4, 9), value)
    quantizer = make_quantizer(parse_format(name), weight)
    encoded = quantizer.encode(weight)
    out = quantizer(weight.requires_grad_())
    out.sum().backward()
    assert torch.isfinite(out).all() and (encoded.scale > 0).all()
    assert all(torch.isfinite(p.grad).all() for p in quantizer.parameters() if p.grad is not None)
    assert (out.detach() - value).abs().max() <= 1.01 * value + 1e-7


@pytest.mark.parametrize("name", FORMATS)
def test_a_channel_of_zeros_disturbs_no_other(name):
    quantizer, weight = make(name)
    encoded = quantizer.encode(weight)
    weight[3] = 0
    codes = quantizer.encode(weight).codes
    others = [o for o in range(len(weight)) if o != 3]
    assert torch.equal(codes[others], encoded.codes[others])
    assert quantizer(weight)[3].abs().max() < 1e-6
    if quantizer.fmt.kind != "lattice":
        assert (codes[3] == 0).all()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(name, bad):
    quantizer, weight = make(name)
    weight[0, 0] = bad
    for call in (quantizer, quantizer.encode, lambda w: make_quantizer(parse_format(name), w)):
        with pytest.raises(ValueError, match="25 of 2400 values: must be finite"):
            call(weight)


@pytest.mark.parametrize("name", FORMATS)
def test_quantizing_is_deterministic(name):
    (first, weight), (second, _) = make(name), make(name)
    assert torch.equal(first(weight), second(weight))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_the_torch_vectors_are_the_codecs(name):
    _, weight = make(name)
    v = vectors(weight, 7)
    np.testing.assert_array_equal(v.numpy(), to_vectors(weight.numpy(), 7))
    assert torch.equal(from_vectors(v, weight.shape), weight)


def gradients(quantizer: nn.Module, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(gradient sent back, gradient of the weight) for a fixed random upstream gradient."""
    upstream = torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
    weight = weight.clone().requires_grad_()
    quantizer(weight).backward(upstream)
    assert weight.grad is not None
    return upstream, weight.grad


@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("linear")])
def test_vector_weights_get_the_gradient_straight_through(name):
    quantizer, weight = make(name)
    upstream, grad = gradients(quantizer, weight)
    assert torch.equal(grad, upstream)


@pytest.mark.parametrize("name", ["vq-4x16-e4-s0", "vq-8x256-e4-s0", "vq-4x64-e4-s2"])
def test_codewords_get_the_sum_of_their_vectors_gradients(name):
    quantizer, weight = make(name)
    assert isinstance(quantizer, VectorQuantizer)
    quantizer.book.entries.data[5] = 0  # matches nothing
    upstream, _ = gradients(quantizer, weight)
    encoded, book = quantizer.encode(weight), quantizer.book.stored()
    expected = torch.zeros_like(quantizer.book.entries)
    multiples = torch.ones_like(encoded.codes) if encoded.scale_codes is None else encoded.scale_codes
    for o, row in enumerate(vectors(upstream, quantizer.fmt.vector_length)):
        for i, g in enumerate(row):
            expected[encoded.codes[o, i]] += g * encoded.scale[o] * multiples[o, i] / book.unit
    grad = quantizer.book.entries.grad
    assert grad is not None
    torch.testing.assert_close(grad, expected.detach(), rtol=1e-4, atol=1e-6)
    is_used = torch.bincount(encoded.codes.flatten(), minlength=len(grad)) > 0
    assert not is_used[5] and (grad[~is_used] == 0).all()


def test_the_scale_is_the_projection_onto_the_chosen_entries():
    quantizer, weight = make("vq-4x16-e4-s0")
    encoded, table = quantizer.encode(weight), quantizer.table()
    assert table is not None
    v, entries = vectors(weight, 4).double(), table[encoded.codes].double()
    residual = v - encoded.scale.double()[:, None, None] * entries
    along = (residual * entries).sum((1, 2)) / (entries**2).sum((1, 2))
    torch.testing.assert_close(along, torch.zeros(len(weight)).double(), atol=1e-7, rtol=0)
    cosine = torch.cosine_similarity(v[:, :, None], table.double(), -1)
    chosen = cosine.gather(2, encoded.codes[..., None])[..., 0]
    assert (chosen >= cosine.amax(2) - 1e-6).all()


def test_entries_and_scale_codes_use_their_bits():
    quantizer, weight = make("vq-4x64-e4-s2")
    table, encoded = quantizer.table(), quantizer.encode(weight)
    assert table is not None and encoded.scale_codes is not None
    assert table.abs().max() == 7
    assert sorted(encoded.scale_codes.unique().tolist()) == [1, 2, 3, 4]


def relative_error(name: str, num_weights: int, seed: int = 1) -> float:
    weight = torch.randn((8, num_weights // 8), generator=torch.Generator().manual_seed(seed))
    quantizer = make_quantizer(parse_format(name), weight)
    return float((quantizer(weight).detach() - weight).square().mean() / weight.square().mean())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("d4-q2", 0.361),
        ("d4-q3", 0.173),
        ("d4-q4", 0.1024),
        ("e8-q2", 0.325),
        ("e8-q3", 0.156),
        ("e8-q4", 0.0929),
    ],
)
def test_lattice_error_on_gaussian_weights(name, expected):
    assert relative_error(name, 160_000) == pytest.approx(expected, rel=0.03)


def test_codebook_error_on_gaussian_weights():
    # k-means and its cosine form on this data, entries of full precision (a small sample is overfitted)
    assert relative_error("vq-8x256-e8-s0", 480_000) == pytest.approx(0.326, rel=0.03)
    assert relative_error("vq-4x256-e8-s0", 240_000) == pytest.approx(0.155, rel=0.03)
    assert relative_error("vq-4x16-e8-s0", 240_000) == pytest.approx(0.348, rel=0.03)
    assert relative_error("vq-4x16-e4-s0", 240_000) < 0.355  # 4-bit entries cost little


def test_the_lattice_scale_search_beats_every_other_grid_point():
    quantizer, weight = make("e8-q4")
    assert isinstance(quantizer, LatticeQuantizer)
    best = (quantizer(weight) - weight).square().flatten(1).sum(1)
    factor = quantizer.factor.clone()
    for times in (0.8, 1.25):
        quantizer.factor.copy_(factor * times)
        assert ((quantizer(weight) - weight).square().flatten(1).sum(1).mean()) > best.mean()
    quantizer.refresh(weight)
    assert torch.equal(quantizer.factor, factor)


def test_e8_encoding_is_the_nearest_codeword_almost_always():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1000, 8)).astype(np.float32)
    codes, table = encode_e8(x, e8_code(4)), lattice_table("e8", 4) / 4
    chosen = ((table[codes] - x) ** 2).sum(1)
    nearest = ((x**2).sum(1) + ((table**2).sum(1) - 2 * x @ table.T).min(1)).clip(0)
    assert (chosen >= nearest - 1e-5).all()
    assert (chosen <= nearest + 1e-5).mean() > 0.97
    assert chosen.mean() <= 1.01 * nearest.mean()


def test_e8_encoding_saturates_far_outside():
    direction = np.random.default_rng(5).standard_normal((20, 8)).astype(np.float32)
    codes = encode_e8(1000 * direction, e8_code(4))
    chosen = lattice_table("e8", 4)[codes]
    cosine = (chosen * direction).sum(1) / np.linalg.norm(chosen, axis=1) / np.linalg.norm(direction, axis=1)
    assert (cosine > 0.8).all()


def test_kernels_equal_their_plain_twins():
    rng = np.random.default_rng(6)
    x, book = rng.integers(-4, 5, (3000, 5)), rng.integers(-4, 5, (300, 5))  # exact, with many ties
    bias = rng.integers(-3, 4, 300)
    as_float = [torch.from_numpy(a.astype(np.float32)) for a in (x, book, bias)]
    np.testing.assert_array_equal(best_match(*as_float).numpy(), (x @ book.T + bias).argmax(1))
    index = rng.integers(0, 300, 3000)
    expected = np.zeros((300, 5))
    np.add.at(expected, index, x)
    np.testing.assert_array_equal(sum_by_index(torch.from_numpy(index), as_float[0], 300).numpy(), expected)


def test_a_shared_book_serves_layers_of_any_magnitude():
    fmt = parse_format("vq-4x16-e4-s0")
    small, large = 1e-3 * make("linear-4")[1], 1e3 * make("linear-4", seed=1)[1]
    book = Codebook.fit(fmt, [small, large], seed=0)
    errors = [
        float((VectorQuantizer(fmt, w, book=book)(w).detach() - w).square().mean() / w.square().mean())
        for w in (small, large)
    ]
    assert errors[0] == pytest.approx(errors[1], rel=0.1) and errors[0] < 0.36
    with pytest.raises(ValueError, match="must be the same"):
        VectorQuantizer(parse_format("vq-4x16-e5-s0"), small, book=book)


def test_books_with_more_entries_than_vectors_are_exact():
    quantizer, weight = make("vq-4x256-e8-s0", (4, 2, 2, 2))
    assert (quantizer(weight).detach() - weight).abs().max() < 0.02 * weight.abs().max()


def test_revival_replaces_only_unused_entries_and_repeats():
    quantizer, _ = make("vq-4x16-e4-s0")
    assert isinstance(quantizer, VectorQuantizer)
    book, pool = quantizer.book, torch.randn(50, 4)
    before, counts = book.entries.detach().clone(), torch.ones(16)
    counts[[2, 5]] = 0
    assert book.revive(pool, counts, step=7) == 2
    after = book.entries.detach().clone()
    assert (after[[2, 5], None] == pool).all(2).any(1).all()
    counts[[2, 5]] = 1
    assert torch.equal(after[counts == 1][[0, 1, 3]], before[[0, 1, 3]])
    book.entries.data.copy_(before)
    counts[[2, 5]] = 0
    book.revive(pool, counts, step=7)
    assert torch.equal(book.entries, after)
