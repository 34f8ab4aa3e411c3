"""Formats of activations: their names, their ranges, what of them enters an array."""

import numpy as np
import pytest

from cimsim import Plan, load_chip, load_network, simulate
from cimsim.arrays.encodings import ArrayNumbers, Widths
from cimsim.arrays.mvm import array_mvm
from workloads.activation import FP8, parse_activation, whole_number
from workloads.plan import LayerPlan


@pytest.mark.parametrize(
    ("name", "is_signed", "bounds"),
    [
        ("int8", False, (0, 255)),
        ("int8", True, (-128, 127)),
        ("int2-signed", True, (-2, 1)),
        ("int4-unsigned", False, (0, 15)),
        ("int4-token", True, (-7, 7)),
        ("fp8-e4m3", True, (-448 * 512, 448 * 512)),
    ],
)
def test_names_say_the_range(name, is_signed, bounds):
    fmt = parse_activation(name)
    assert fmt.bounds(is_signed) == bounds
    assert LayerPlan(format="linear-4", activation=name).activation_format == fmt


@pytest.mark.parametrize(
    "name", ["int1", "int9", "int08", "uint8", "8", "int4-token-signed", "fp8", "int4-unsigned-token"]
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"activation format|both signs"):
        parse_activation(name)


def test_fp8_enters_an_array_whole():
    """All 253 finite numbers of e4m3, aligned to the least: the driven bits hold them, and the product is exact."""
    steps = [sign * (m if e == 0 else (8 + m) << (e - 1)) for sign in (1, -1) for e in range(16) for m in range(8)]
    finite = np.array(sorted({n for n in steps if abs(n) <= 448 << 9}), dtype=np.int64)
    assert len(finite) == 253 and finite.max() == FP8.bounds(True)[1]
    assert finite.max() < 1 << (FP8.driven_bits - 1) <= 2 * finite.max()
    w = np.random.default_rng(0).integers(-8, 8, (len(finite), 3))
    numbers = ArrayNumbers(64, 64, 1, 1, 12, "twos_complement")
    found = array_mvm(finite[None], w, numbers, Widths(4, FP8.driven_bits, True), shortcut=False)
    assert np.array_equal(found, finite[None] @ w)


@pytest.mark.parametrize("chip_name", ["isaac", "sram-digital"])
def test_a_chip_pays_for_the_bits_that_are_driven(chip_name):
    """Time and energy of the arrays follow the driven bits, which of an integer are its own."""
    network, chip = load_network("lenet5"), load_chip(chip_name)
    found = {
        name: simulate(network, chip, Plan.uniform(network, "linear-8", activation=name))
        for name in ("int4", "int8", FP8.name)
    }
    drives = {name: found[name].layers[1].counts["dac/drive"] for name in found}
    assert drives["int8"] == 2 * drives["int4"]
    assert drives[FP8.name] * 8 == drives["int8"] * FP8.driven_bits
    assert found["int4"].dynamic_pj < found["int8"].dynamic_pj < found[FP8.name].dynamic_pj
    assert whole_number(8).driven_bits == 8 == FP8.bits
