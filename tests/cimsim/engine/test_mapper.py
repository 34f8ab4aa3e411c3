"""Copies of layers: what they conserve, what they speed up, and that the search finds the best of what it looks at."""

from __future__ import annotations

from itertools import product
from math import ceil

import pytest

from cimsim.chip.rates import instant_ps
from cimsim.chip.reading import load_chip
from cimsim.deploy.deployment import Layout
from cimsim.engine.duplicate import _balanced, _shortest, compute_ps, search_layout
from cimsim.engine.whole import layer_works, simulate
from workloads.errors import InputError
from workloads.plan import Plan
from workloads.shapes import load_network

SMALL_ISAAC = {"tile.count": 4, "mesh.columns": 2, "mesh.rows": 2}


def test_copies_take_their_share_of_the_positions_and_of_nothing_else():
    """Reads, conversions and sums are the same; only more tiles get the input, and more cells are written."""
    network, chip = load_network("lenet5"), load_chip("isaac")
    one = simulate(network, chip)
    four = simulate(network, chip, layout=Layout(copies={"conv1": 4}))
    for name in ("adc/convert", "crossbar/read_cell", "dac/drive", "digital/activation/op", "shift_add/unit/add"):
        assert [layer.counts.get(name) for layer in one.layers] == [layer.counts.get(name) for layer in four.layers]
    (was,), (now,) = ([layer for layer in r.layers if layer.name == "conv1"] for r in (one, four))
    assert now.arrays == 4 * was.arrays
    assert four.weight_load_pj > one.weight_load_pj


@pytest.mark.parametrize("copies", [1, 2, 3, 7, 28, 50, 196, 784])
def test_a_pipeline_is_as_fast_as_its_slowest_layer(copies):
    """28 x 28 positions in rows of 28: a copy takes ceil(28 / copies) of a row, more copies take rows at once."""
    network, chip = load_network("lenet5"), load_chip("isaac")
    layout = Layout(copies={"conv1": copies, "conv2": 100})
    works = layer_works(network, chip, Plan.uniform(network, "linear-8"), layout)
    report = simulate(network, chip, layout=layout)
    layer, tick = works["conv1"].layer, works["conv1"].interval_ticks
    per_row = ceil(28 / copies) if copies <= 28 else 28 / copies
    rows = layer.num_positions // 28
    slowest = max(rows * instant_ps(1, works["conv1"].clock_hz) * tick * per_row, 3_900_000)
    assert report.interval_ns * 1000 == pytest.approx(slowest, rel=0.01) or report.interval_ns < slowest / 1000


def test_balanced_copies_give_the_least_interval_that_fits():
    """Against every choice of copies for the three largest layers of a small chip."""
    network, chip = load_network("lenet5"), load_chip("isaac", SMALL_ISAAC)
    works = layer_works(network, chip, Plan.uniform(network, "linear-8"))
    units = chip.num_tiles * chip.units_per_tile
    found = _balanced(works, units, 0)
    names = list(works)

    def interval(copies):
        return max(ceil(compute_ps(works[name]) / copies[name]) for name in names)

    used = sum(found[name] * works[name].placement.num_units for name in names)
    assert used <= units
    spare = units - sum(work.placement.num_units for work in works.values())
    best = min(
        interval(copies)
        for picked in product(range(1, spare + 2), repeat=2)
        if sum((copies := dict.fromkeys(names, 1) | dict(zip(names[:2], picked, strict=True)))[name]
               * works[name].placement.num_units for name in names) <= units
    )  # fmt: skip
    assert interval(found) <= best


def test_shortest_copies_never_exceed_the_chip_and_shorten_the_sum():
    network, chip = load_network("lenet5"), load_chip("isaac", SMALL_ISAAC | {"schedule": "layer_by_layer"})
    works = layer_works(network, chip, Plan.uniform(network, "linear-8"))
    units = chip.num_tiles * chip.units_per_tile
    found = _shortest(works, units)
    assert sum(found[name] * work.placement.num_units for name, work in works.items()) <= units
    assert all(1 <= found[name] <= work.layer.num_positions for name, work in works.items())
    before = simulate(network, chip)
    after = simulate(network, chip, layout=Layout(copies=found))
    assert after.latency_ns < before.latency_ns


@pytest.mark.parametrize("chip_name", ["isaac", "sram-rom"])
@pytest.mark.parametrize("objective", ["energy_delay", "latency", "interval", "energy"])
def test_the_search_never_loses(chip_name, objective):
    found = search_layout(load_network("lenet5"), load_chip(chip_name), objective=objective)
    assert found.gain(objective) >= 1
    again = simulate(load_network("lenet5"), load_chip(chip_name), layout=found.layout)
    assert again.report == found.report


def test_the_order_of_tiles_moves_paths_only():
    """Backwards in every other row: fewer links between neighbours, the same work."""
    network, chip = load_network("resnet18"), load_chip("isaac")
    rows, snake = (simulate(network, chip, layout=Layout(order=order)) for order in ("row_major", "snake"))
    hops = [sum(layer.counts.get("router/hop_bit", 0) for layer in report.layers) for report in (rows, snake)]
    assert hops[1] < hops[0]
    assert rows.energy_by_component_pj["adc"] == snake.energy_by_component_pj["adc"]


def test_impossible_layouts_are_refused_with_names():
    network, chip = load_network("lenet5"), load_chip("sram-rom")
    with pytest.raises(InputError) as refused:
        simulate(network, chip, layout=Layout(copies={"conv1": 99, "other": 2}))
    text = str(refused.value)
    assert "99 copies need" in text and "layout.copies.other: no such layer" in text
