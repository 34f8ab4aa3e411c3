"""The integer network against a twin in plain Python integers, and through arrays that lose nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.integer.forward import accuracy, layer_outputs, run
from cimsim.integer.requantize import Rescale, requantize, rescale_for
from tests.helpers.integer_network import GRIDS, IMAGES, NETWORK, artifact_of, naive
from workloads.errors import InputError
from workloads.layer import Node


@pytest.mark.parametrize(
    "formats",
    [("linear-8", "vq-4x16-e4-s2"), ("linear-2", "d4-q4"), ("e8-q3",), ("vq-3x5-e5-s0",),
     ("linear-3-odd", "linear-4-g5", "vq-4x16-e4-s1-abs", "pool-32"), ("e8-q4-h2", "vq-3x16x2-e4-s0-t-h2")],
)  # fmt: skip
def test_every_tensor_equals_the_twin(formats):
    artifact = artifact_of(formats)
    outputs = layer_outputs(artifact, IMAGES)
    assert list(outputs) == [node.name for node in NETWORK.nodes]
    for n, image in enumerate(IMAGES):
        for name, y in naive(artifact, image).items():
            if name != "input":
                np.testing.assert_array_equal(outputs[name][n], y, err_msg=name)


def test_the_example_uses_its_grids():
    """Guards the test above: tensors that are all zero or all clipped would equal anything."""
    for name, y in layer_outputs(artifact_of(("linear-4",)), IMAGES).items():
        inside = (y > GRIDS[name].low) & (y < GRIDS[name].high)
        assert inside.mean() > 0.2, name
        assert len(np.unique(y)) > 4, name


@given(st.integers(1, 7))
def test_batches_change_nothing(batch):
    artifact, x = artifact_of(("linear-4",)), np.concatenate([IMAGES, IMAGES[::-1]])
    logits = run(artifact, x, batch=batch)
    np.testing.assert_array_equal(logits, layer_outputs(artifact, x)["fc"][:, :, 0, 0])
    assert logits.dtype == np.int64
    assert accuracy(artifact, x, logits.argmax(1)) == 1


# Requantization.

REALS = st.floats(1e-7, 8) | st.floats(-8, -1e-7)


@given(REALS | st.just(0.0), st.floats(-300, 300), st.integers(-(2**24), 2**24))
def test_requantization_is_the_real_line_rounded(ratio, offset, acc):
    """Within half a step of the real number, plus what 31 multiplier bits lose."""
    rescale = rescale_for(np.array([ratio]), np.array([offset]), 2**24)
    y = int(requantize(np.array([[acc]]), rescale, -(2**31), 2**31 - 1)[0, 0])
    assert abs(y - (acc * ratio + offset)) <= 0.5 + abs(acc * ratio) * 2**-30 + 2**-20


@given(st.integers(1, 2**40), st.floats(2.0**-60, 2.0**12), st.floats(-(2.0**30), 2.0**30), st.booleans())
def test_requantization_never_overflows(bound, ratio, offset, is_negative):
    """At twice the bound (converter errors) 64 bits still hold everything: equal to Python's integers."""
    rescale = rescale_for(np.array([ratio]), np.array([offset]), bound)
    acc = -2 * bound if is_negative else 2 * bound
    (m,), (s,), (b,) = (array.tolist() for array in rescale)
    y = int(requantize(np.array([[acc]]), rescale, -(2**62), 2**62)[0, 0])
    assert y == (acc * m + b + (1 << (s - 1))) >> s


def test_ties_round_up():
    half = Rescale(np.array([2**30], np.int32), np.array([31], np.int32), np.zeros(1, np.int64))
    y = requantize(np.array([[-3], [-1], [1], [3]]), half, -9, 9)
    assert y.ravel().tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2.0**40])
def test_impossible_ratios_are_refused(bad):
    with pytest.raises(ValueError, match=r"not finite|too large"):
        rescale_for(np.array([bad]), np.zeros(1), 2**20)


# Errors.


def test_wrong_images_are_refused():
    with pytest.raises(InputError, match=r"everything: x = float64\[3, 2, 6, 5\]: must be uint8"):
        run(artifact_of(("linear-4",)), IMAGES.astype(float))
    with pytest.raises(InputError, match="uint8"):
        run(artifact_of(("linear-4",)), IMAGES[:, :1])
    with pytest.raises(InputError, match="N >= 1"):
        run(artifact_of(("linear-4",)), IMAGES[:0])


def test_steps_that_are_not_integer_arithmetic_are_refused():
    artifact = artifact_of(("linear-4",))
    nodes = (*NETWORK.nodes, Node(name="p", op="softmax", inputs=("fc",), out_shape=(5, 1, 1)))
    network = NETWORK.model_copy(update={"nodes": nodes})
    header = artifact.header.model_copy(update={"network": network})
    with pytest.raises(InputError, match=r"nodes\.p\.op = softmax"):
        run(replace(artifact, header=header), IMAGES)
