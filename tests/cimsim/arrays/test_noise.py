"""Noise by place: the published stream of bits, and how near its sums of bits are to a Gaussian."""

from __future__ import annotations

from math import comb, erf, sqrt

import numpy as np

from cimsim.arrays import noise


def within(values, mean, deviation):
    """Whether mean and standard deviation are the expected ones, to five standard errors."""
    error = deviation / sqrt(len(values)) + 1e-12
    assert abs(np.mean(values) - mean) < 5 * error
    assert abs(np.std(values) - deviation) < 5 * error * sqrt(2)


def gaussian(key, column):
    """SplitMix64 (G. Steele et al., 2014): ones among 56 bits, and 8 bits as a fraction, standardized."""
    word = split_mix(key + column * 0x9E3779B97F4A7C15)
    return ((word >> 8).bit_count() + (word & 255) / 256 - 28 - 255 / 512) / sqrt(14 + (1 - 2**-16) / 12)


def split_mix(state):
    word = state % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def test_the_stream_is_the_published_one():
    """First outputs of SplitMix64 from the state 1234567, as its reference implementation prints them."""
    states = [1234567 + i * 0x9E3779B97F4A7C15 for i in (1, 2)]
    assert [split_mix(state) for state in states] == [6457827717110365317, 3203168211198807973]
    with np.errstate(over="ignore"):
        assert noise._mixed(np.uint64(states[0] % 2**64)) == 6457827717110365317


def test_noise_is_gaussian_within_two_thousandths():
    """Its exact distribution function, from binomial coefficients; and what the kernel draws follows it."""
    deviation = sqrt(noise.ONES / 4 + (1 - 2**-16) / 12)
    chances = np.array([comb(56, k) / 2**56 for k in range(57)])
    points = (np.arange(57 * 256) / 256 - 28 - 255 / 512) / deviation
    below = np.cumsum(np.repeat(chances / 256, 256))
    normal = np.array([0.5 * (1 + erf(point / sqrt(2))) for point in points])
    assert max(np.abs(below - normal).max(), np.abs(below - np.repeat(chances / 256, 256) - normal).max()) < 0.002
    drawn = np.array([draw(row, 200) for row in range(500)]).ravel()
    within(drawn, 0, 1)
    assert np.abs(np.quantile(drawn, [0.001, 0.1, 0.5, 0.9, 0.999]) - [-3.09, -1.2816, 0, 1.2816, 3.09]).max() < 0.1
    table = drawn.reshape(500, 200)
    assert np.abs(np.corrcoef(table[:60])[~np.eye(60, dtype=bool)]).max() < 5 / sqrt(200)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 5 / sqrt(len(drawn))


def draw(row, count):
    """The kernel's noise of one read, seen through steps of a thousandth."""
    ranges, worth = np.array([[-1e6, 1e6]], np.float32), np.ones((1, count), np.int64)
    out, rows = np.zeros((1, count), np.int64), (noise.read_keys(5, row, 1, 0), np.ones(1, np.float32))
    planes = ranges, np.array([1000], np.float32)
    noise.convert(np.zeros((1, count), np.float32), rows, planes, (worth, np.float32(1)), out)
    return out[0] / 1000
