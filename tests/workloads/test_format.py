"""Names of formats: each format has one spelling, so that a plan has one codebook for it."""

from __future__ import annotations

import pytest

from workloads.format import EXAMPLE_FORMATS, parse_format
from workloads.plan import LayerPlan, Plan

OTHER_SPELLINGS = {
    "pool-128-p50": "pool-128",
    "pool-064-p075": "pool-64-p75",
    "linear-1-odd": "linear-1",
    "linear-04-t": "linear-4-t",
    "vq-4x16x1-e4-s0": "vq-4x16-e4-s0",
    "vq-04x016-e4-s0-abs-out-t-h08": "vq-4x16-e4-s0-abs-out-t-h8",
    "vq-4x16-e4-s0-h0": "vq-4x16-e4-s0",
    "e8-q4-h0": "e8-q4",
}
LONG = ("linear-3-odd-g64-t", "vq-4x64x2-e6-s1-abs-out-t-h64", "e8-q4m2-kernel-t-h8", "e8p-flat", "pool-32-p100")


@pytest.mark.parametrize("name", [*EXAMPLE_FORMATS, *LONG])
def test_a_format_is_known_by_its_name(name):
    assert parse_format(name).name == name


@pytest.mark.parametrize(("other", "name"), OTHER_SPELLINGS.items())
def test_another_spelling_is_the_same_format(other, name):
    assert parse_format(other) == parse_format(name) and parse_format(other).name == name


@pytest.mark.parametrize(("other", "name"), OTHER_SPELLINGS.items())
def test_a_plan_has_one_codebook_for_two_spellings(other, name):
    plan = Plan(network="net", layers={"a": LayerPlan(format=other), "b": LayerPlan(format=name)})
    assert {choice.format for choice in plan.layers.values()} == {name}
    assert len(plan.codebooks()) == int(parse_format(name).has_codebook)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
