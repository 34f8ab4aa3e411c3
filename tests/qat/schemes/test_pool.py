"""The binary pool: permuted columns plus error signs are the weight, exactly; matching is one to one and optimal."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from qat.recipe import Recipe
from qat.schemes import make_quantizer
from qat.schemes.common.codebook import Codebook
from qat.schemes.pool import PAIRS, PoolQuantizer, matched
from workloads.codec import error_rows, pack, pack_all, pool_parts, unpack, unpack_all
from workloads.format import num_kept, parse_format
from workloads.layer import Layer

torch.set_num_threads(1)
# Full groups; a part used twice and a group that is not full; vectors shorter than the pool and few outputs.
SHAPES = [(64, 256), (150, 24, 3, 3), (7, 3, 3, 3)]
NAMES = ["pool-128", "pool-32-p0", "pool-32-p75", "pool-64-p100"]


def weight_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pool_of(name: str, weight: Tensor, **recipe: int) -> PoolQuantizer:
    quantizer = make_quantizer(parse_format(name), weight, recipe=Recipe(**recipe))
    assert isinstance(quantizer, PoolQuantizer)
    return quantizer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_no_group_uses_a_column_twice(name, shape):
    codes = pool_of(name, weight_of(shape)).codes
    assert codes.min() >= 0 and codes.max() < 32
    for group in codes.split(32):
        assert all(len(set(column.tolist())) == len(group) for column in group.T)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_two_arrays_and_a_permutation_compute_the_dense_product_exactly(name, shape):
    """permute(pool @ x) + error @ x = W^ @ x in integers, from the stored streams, in plain loops over vectors."""
    encoded = pool_of(name, weight_of(shape)).encode(weight_of(shape))
    dense, size = encoded.integers().astype(np.int64), encoded.fmt.num_entries
    x = np.random.default_rng(1).integers(-128, 128, dense.shape[1])
    padded = np.pad(x, (0, -len(x) % size)).reshape(-1, size)
    pool, (m_p, m_e) = encoded.table.numpy(), encoded.scale_codes.tolist()
    assert set(np.unique(pool)) == {-1, 1}
    sums = np.zeros(len(dense), np.int64)
    for vector, codes in zip(padded, encoded.codes.numpy().T, strict=True):
        outputs_of_pool = pool @ vector
        sums += m_p * outputs_of_pool[pool_parts(len(dense), size) * 32 + codes]
    sums += m_e * (encoded.errors.numpy() @ x[error_rows(len(x), encoded.fmt.pruned_percent)])
    np.testing.assert_array_equal(sums, dense @ x)


def greedy(gain: np.ndarray) -> float:
    """One row after the other takes the best column that is left."""
    total, free = 0.0, list(range(gain.shape[1]))
    for row in gain:
        best = max(free, key=lambda column: row[column])
        total += row[best]
        free.remove(best)
    return total


def test_matching_is_at_least_as_good_as_greedy_and_better_somewhere():
    pool = torch.randn((32, 32), generator=torch.Generator().manual_seed(1)).sign()
    v = torch.randn((64, 3, 32), generator=torch.Generator().manual_seed(2))
    codes, found, rivals = matched(v, pool), [], []
    for start in (0, 32):
        for j in range(3):
            gain = (v[start : start + 32, j].double() @ pool.double().T).numpy()
            found.append(gain[np.arange(32), codes[start : start + 32, j].numpy()].sum())
            rivals.append(greedy(gain))
    assert all(a >= b - 1e-9 for a, b in zip(found, rivals, strict=True)) and sum(found) > sum(rivals) + 1


@pytest.mark.parametrize("name", ["pool-32", "pool-32-p0", "pool-32-p100"])
def test_gains_are_what_columns_do_to_the_error(name):
    """Brute force: the error of other columns, each with its best error signs, differs by -2 <g, P>."""
    weight = weight_of((32, 32))
    quantizer = pool_of(name, weight)
    v = weight / weight.square().mean(1, keepdim=True).sqrt()
    gain, scale, m = quantizer.gains(v), quantizer.scale(weight)[:, None], quantizer.multiples
    rms = scale / quantizer.factor[:, None]
    constants = []
    for shift in range(3):
        quantizer.codes.copy_(quantizer.codes.roll(shift, 0))
        columns = quantizer.book.stored().integers[quantizer.codes[:, 0]]
        by_sign = [(weight - scale * (m[0] * columns + quantizer._kept(v) * s * m[1])).square() for s in (-1, 1)]
        error = (torch.minimum(*by_sign) / rms.square()).sum(1)
        torch.testing.assert_close(quantizer(weight).sub(weight).div(rms).square().sum(1), error)
        constants.append(error + 2 * (gain * columns).sum(1))
    torch.testing.assert_close(constants[0], constants[1])
    torch.testing.assert_close(constants[0], constants[2])


def test_matching_of_few_outputs_is_the_best_of_all():
    pool = torch.randn((32, 32), generator=torch.Generator().manual_seed(3)).sign()
    v = torch.randn((3, 1, 32), generator=torch.Generator().manual_seed(4))
    gain = (v[:, 0].double() @ pool.double().T).numpy()
    best = max(permutations(range(32), 3), key=lambda columns: gain[np.arange(3), columns].sum())
    assert matched(v, pool)[:, 0].tolist() == list(best)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_bits_by_formula_are_the_packed_ones(name, shape):
    fmt, kernel = parse_format(name), shape[2:] or (1, 1)
    layer = Layer(name="l", kind="conv", in_channels=shape[1], out_channels=shape[0], in_size=(9, 9), kernel=kernel)
    packed = pack_all(fmt, pool_of(name, weight_of(shape)).encode(weight_of(shape)).stored())
    assert fmt.bits(layer).total == 8 * sum(stream.nbytes for stream in packed) + 32 * shape[0]
    kept = num_kept(int(np.prod(shape[1:])), fmt.pruned_percent)
    assert len(packed.errors) == -(-shape[0] * kept // 8)


def test_the_published_half_bit():
    """5 / 128 + 0.5 bits: 14.8 times less than 8 bit (CIMPool, arXiv:2503.22044); 7.7 times with all errors kept."""
    assert parse_format("pool-128").bits_per_weight == pytest.approx(0.539, abs=5e-4)
    ratios = [8 / parse_format(name).bits_per_weight for name in ("pool-128", "pool-128-p0", "pool-128-p75")]
    np.testing.assert_allclose(ratios, [14.84, 7.70, 27.68], rtol=1e-3)


def test_columns_are_matched_anew_when_due_and_alike():
    weight, moved = weight_of((64, 64)), weight_of((64, 64), seed=5)
    first, second = (pool_of("pool-32", weight, rematch_every=10) for _ in range(2))
    assert first.after_step(moved, 8) == {} and second.after_step(moved, 3) == {}
    before = first.codes.clone()
    first(moved)
    assert torch.equal(first.codes, before)  # a forward changes nothing
    found = first.after_step(moved, 9)
    assert found == second.after_step(moved, 12) and found["rematched_share"] > 0.5
    for name, buffer in first.named_buffers():
        assert name == "matched_at" or torch.equal(buffer, second.get_buffer(name))
    assert first.after_step(weight, 18) == {} and first.after_step(weight, 19)
    first.hold(first.scale(weight))
    assert first.after_step(moved, 99) == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_of_zeros_stays_next_to_zero(name):
    weight = weight_of((40, 64))
    weight[3] = 0
    out = pool_of(name, weight)(weight)
    assert torch.isfinite(out).all() and out[3].abs().max() < 1e-6 < out[2].abs().min()


@pytest.mark.parametrize("name", ["pool-128", "pool-32-p0"])
def test_the_fitted_multiples_are_near_the_best_of_all_pairs(name):
    weight = weight_of((64, 128))
    quantizer = pool_of(name, weight)
    columns, kept = quantizer._columns(weight), quantizer._kept(weight)

    def error(pair: tuple[int, int]) -> float:
        quantizer.multiples.copy_(torch.tensor(pair))
        quantizer.factor.copy_(quantizer._fit_factor(v, columns, kept, pair))
        return float((quantizer(weight) - weight).square().mean())

    v = weight / weight.square().mean(1, keepdim=True).sqrt()
    found = float((quantizer(weight) - weight).square().mean())
    assert found <= 1.01 * min(error(pair) for pair in PAIRS)


def test_more_error_signs_leave_less_error_and_the_gradient_passes_straight():
    weight = weight_of((64, 128)).requires_grad_()
    errors = [float((pool_of(f"pool-32-p{p}", weight)(weight) - weight).detach().square().mean()) for p in (0, 50, 100)]
    assert errors == sorted(errors) and errors[2] < float(weight.detach().square().mean())
    upstream = weight_of((64, 128), seed=7)
    pool_of("pool-32", weight)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_one_pool_serves_several_layers_and_is_not_trained():
    fmt, weights = parse_format("pool-32"), [weight_of((40, 64)), weight_of((16, 8, 3, 3), seed=1)]
    book = Codebook.fit(fmt, weights)
    assert not book.entries.requires_grad and set(book.table().unique().tolist()) == {-1, 1}
    tables = [make_quantizer(fmt, weight, book).encode(weight).table for weight in weights]
    assert torch.equal(tables[0], tables[1])
    with pytest.raises(ValueError, match="pool-64: the pool has format pool-32: must be the same"):
        make_quantizer(parse_format("pool-64"), weights[0], book)


@pytest.mark.parametrize(
    ("at", "where"), [(0, "outputs 0 to 31, vector 0"), (39 * 3 + 1, "outputs 32 to 39, vector 1")]
)
def test_bytes_that_use_a_column_twice_are_refused(at, where):
    """In a whole group and in the last one, which is not full; a code of another group may be the same."""
    encoded = pool_of("pool-32", weight_of((40, 80))).encode(weight_of((40, 80)))
    packed = pack_all(encoded.fmt, encoded.stored())
    codes = unpack(packed.codes, 5, 40 * 3)
    codes[at] = codes[at + 3 if at < 3 else at - 3]  # three vectors of an output lie side by side
    broken = packed._replace(codes=pack(codes, 5))
    message = rf"pool-32: {where}: column \d+ is used twice: must be a permutation"
    with pytest.raises(ValueError, match=message):
        unpack_all(encoded.fmt, broken, encoded.shape)
    with pytest.raises(ValueError, match=message):
        encoded._replace(codes=torch.from_numpy(codes).view(40, 3)).decode()
    assert unpack_all(encoded.fmt, packed, encoded.shape).codes.tolist() == encoded.codes.tolist()
