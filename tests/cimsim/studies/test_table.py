"""The cost table: rows are layers simulated alone, sums are plans where layers share nothing, masks have reasons."""

from __future__ import annotations

import json
from math import inf

import numpy as np
import pytest

from cimsim.chip import rates
from cimsim.chip.reading import load_chip
from cimsim.cost import prices
from cimsim.cost.prices import Prices
from cimsim.deploy import traffic
from cimsim.deploy.deployment import deploy, is_resident, paths
from cimsim.engine.whole import layer_works, simulate
from cimsim.studies.table import CostTable, build_table
from workloads.errors import InputError
from workloads.layer import Network
from workloads.plan import LayerPlan, Plan
from workloads.shapes import load_network

FORMATS = ("linear-8", "linear-4", "vq-4x256-e4-s0", "e8-q4")
LENET = load_network("lenet5")
NAMES = [layer.name for layer in LENET.layers]
MIXED = dict(zip(NAMES, ("linear-8", "e8-q4", "vq-4x256-e4-s0", "linear-4", "vq-4x256-e4-s0"), strict=True))


@pytest.fixture(scope="module")
def tables() -> dict[str, CostTable]:
    return {name: build_table(LENET, load_chip(name), FORMATS) for name in ("isaac", "sram-rom")}


@pytest.mark.parametrize("fmt", ["linear-8", "linear-4"])
def test_a_row_is_the_layer_simulated_alone(tables, fmt):
    chip, table = load_chip("isaac"), tables["isaac"]
    for i, node in enumerate(node for node in LENET.nodes if node.layer):
        assert node.layer is not None
        own_input = node.model_copy(update={"inputs": ("input",)})
        shape = (node.layer.in_channels, *node.layer.in_size)
        alone = simulate(
            network := Network(name="one", input_shape=shape, nodes=(own_input,)), chip, Plan.uniform(network, fmt)
        )
        at = i, table.formats.index(fmt)
        assert table.energy_pj[at] == pytest.approx(alone.layers[1].energy_pj, rel=1e-12)
        assert table.area_um2[at] == pytest.approx(alone.area_used_um2)
        input_ns = rates.memory_ps(chip, 8 * int(np.prod(shape))) / 1000
        assert table.latency_ns[at] <= alone.latency_ns <= table.latency_ns[at] + input_ns + 0.1


@pytest.mark.parametrize("formats", [*[dict.fromkeys(NAMES, fmt) for fmt in FORMATS], MIXED])
def test_the_sum_of_rows_is_the_plan_on_a_chip_that_reloads(tables, formats):
    """Dynamic energy exactly: layers that take turns share nothing. Latency but for prefetched weights."""
    chip, table = load_chip("sram-rom"), tables["sram-rom"]
    plan = Plan(network="lenet5", layers={name: LayerPlan(format=fmt) for name, fmt in formats.items()})
    report = simulate(LENET, chip, plan)
    energy_pj, latency_ns, _ = table.cost_of(formats)
    assert energy_pj - prices.leakage_pj(chip, 1000) * latency_ns == pytest.approx(report.dynamic_pj, rel=1e-9)
    assert 0.9 * latency_ns < report.latency_ns <= latency_ns


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_the_sum_of_rows_is_the_plan_on_a_chip_that_holds_it(name):
    """Dynamic energy but for the way between tiles, which no layer knows alone; pipelined, latency is between
    the slowest layer's and the sum."""
    network, chip = load_network(name), load_chip("isaac")
    table, report = build_table(network, chip, ("linear-8",)), simulate(network, chip)
    works = layer_works(network, chip, Plan.uniform(network, "linear-8"))
    deployment = deploy(network, chip, works, is_resident(works, chip))
    ways = [traffic.way_actions(node, paths(deployment)[node.name], deployment) for node in network.nodes]
    way_pj = sum(prices.total_pj(Prices(chip).price(way)) for way in ways)
    energy_pj, latency_ns, area_um2 = table.cost_of({layer.name: "linear-8" for layer in network.layers})
    assert energy_pj + way_pj == pytest.approx(report.dynamic_pj, rel=1e-9)
    assert 0 <= way_pj < 0.01 * energy_pj
    assert area_um2 == pytest.approx(report.area_used_um2)
    assert table.latency_ns.max() <= report.latency_ns <= latency_ns


def test_a_longer_share_of_images_costs_less(tables):
    table = build_table(LENET, load_chip("sram-rom"), FORMATS, images_per_weight_load=10)
    assert (table.energy_pj < tables["sram-rom"].energy_pj).all()
    assert (table.latency_ns == tables["sram-rom"].latency_ns).all()


def test_fewer_activation_bits_cost_less(tables):
    table = build_table(LENET, load_chip("isaac"), ("linear-8", "linear-4"), activation="int4")
    assert (table.energy_pj < tables["isaac"].energy_pj[:, :2]).all()


def test_the_weight_state_is_that_of_the_dearest_formats():
    large = load_chip("sram-rom", {"tile.count": 16, "mesh.columns": 4, "mesh.rows": 4})  # 32 arrays
    assert not build_table(LENET, large, ("linear-8", "linear-4")).resident  # 42 arrays at 8 bits
    assert build_table(LENET, large, ("linear-4",)).resident
    assert not build_table(LENET, large, ("linear-4",), fixed_formats={"fc1": "linear-8"}).resident  # 32 for fc1 alone


def test_masks_say_why(tables):
    assert tables["sram-rom"].masked == {}
    assert tables["isaac"].masked == {
        "vq-4x256-e4-s0": "isaac has no codebook ROM",
        "e8-q4": "isaac has no lattice decoder",
    }
    assert tables["isaac"].allowed.tolist() == [[True, True, False, False]] * len(NAMES)
    small_rom = load_chip("sram-rom", {"codebook_rom.capacity_bits": 1024})
    masked = build_table(LENET, small_rom, FORMATS).masked
    assert masked == {"vq-4x256-e4-s0": "the codebook has 4096 bits, the ROM holds 1024"}


def test_held_layers_have_one_format():
    table = build_table(LENET, load_chip("sram-rom"), ("linear-4", "e8-q4"), fixed_formats={"conv1": "linear-8"})
    assert table.formats == ("linear-4", "e8-q4", "linear-8")
    assert table.allowed.tolist() == [[False, False, True]] + [[True, True, False]] * (len(NAMES) - 1)
    assert table.masked["conv1/e8-q4"] == table.masked["fc1/linear-8"]


def test_a_layer_without_a_format_is_an_error():
    with pytest.raises(InputError, match="conv1: no format is left: isaac has no lattice decoder") as caught:
        build_table(LENET, load_chip("isaac"), ("e8-q4",))
    assert len(caught.value.problems) == len(NAMES)


def test_to_json_and_back(tables):
    for table in tables.values():
        again = CostTable.from_dict(json.loads(json.dumps(table.to_dict())))
        for mine, other in zip(table, again, strict=True):
            assert type(mine) is type(other) and np.array_equal(np.asarray(mine), np.asarray(other))
        assert table.minimum_pj() < inf


def test_the_same_question_has_the_same_table_and_another_chip_another():
    network, formats = load_network("lenet5"), ("linear-4", "linear-2")
    first = build_table(network, load_chip("sram-rom"), formats)
    assert build_table(network, load_chip("sram-rom"), formats) is first
    other = build_table(network, load_chip("sram-rom", {"adc.bits": 5}), formats)
    assert (other.energy_pj < first.energy_pj).all()
    with pytest.raises(ValueError, match="read-only"):
        first.energy_pj[0, 0] = 0
