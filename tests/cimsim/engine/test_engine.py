"""Whole networks on whole chips: sums, what moves which cost, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise
from math import inf

import pytest

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.chip.reading import load_chip
from cimsim.components.base import REFERENCE, Activity
from cimsim.cost.prices import Prices, total_pj
from cimsim.deploy.deployment import deploy, is_resident
from cimsim.deploy.tasks import build_tasks
from cimsim.engine.whole import layer_works, simulate
from cimsim.trace import trace_events
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.layer import Layer, Network, Node
from workloads.plan import Plan
from workloads.shapes import load_network


def both(*args):
    found = simulate(*args)
    return found.report, found.timeline


NETWORKS = ["lenet5", "resnet18"]
CHIP_NAMES = ["isaac", "sram-rom"]
LARGE_SRAM = {"tile.count": 25, "mesh.columns": 5, "mesh.rows": 5}  # holds the 42 arrays of LeNet-5 at 8 bits


@pytest.fixture(scope="module")
def reports():
    """Each network on each chip, once."""
    return {(n, c): both(load_network(n), load_chip(c)) for n in NETWORKS for c in CHIP_NAMES}


def deployed(network: Network, chip: Chip, fmt: str = "linear-8"):
    works = layer_works(network, chip, Plan.uniform(network, fmt))
    return deploy(network, chip, works, is_resident(works, chip))


# --- the report ---


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chip", CHIP_NAMES)
def test_sums_of_layers_are_totals(reports, network, chip):
    report, timeline = reports[network, chip]
    assert sum(layer.energy_pj for layer in report.layers) == pytest.approx(report.dynamic_pj, rel=1e-9)
    assert report.energy_pj == pytest.approx(report.dynamic_pj + report.leakage_pj, rel=1e-12)
    assert total_pj(report.energy_by_component_pj) == pytest.approx(report.dynamic_pj, rel=1e-9)
    for layer in report.layers:
        assert total_pj(layer.energy_by_component_pj) == pytest.approx(layer.energy_pj, rel=1e-9)
        assert sum(layer.stall_cycles.values()) <= layer.latency_cycles + len(layer.stall_cycles)
    for cause, cycles in report.stall_cycles.items():
        assert cycles == sum(layer.stall_cycles[cause] for layer in report.layers)
    assert report.latency_ns == timeline.latency_ps / 1000
    assert report.latency_cycles == rates.ticks(timeline.latency_ps, report.clocks_hz["array"])
    if report.schedule == "layer_by_layer":  # turns follow each other; only the last results of one overlap the next
        spans = [layer.latency_ns for layer in report.layers[1:]]
        drains = [task.latency_ps / 1000 for task in build_tasks(deployed(load_network(network), load_chip(chip)))[1:]]
        assert sum(spans) - sum(drains) <= report.latency_ns <= sum(spans)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chip", CHIP_NAMES)
def test_counts_are_the_networks(reports, network, chip):
    report, _ = reports[network, chip]
    shapes, device = load_network(network), load_chip(chip)
    layers = {layer.name: layer for layer in report.layers}
    slices = -(-8 // device.parts.analog.crossbar.cell_bits)
    for layer in shapes.layers:
        assert layers[layer.name].counts["crossbar/read_cell"] == layer.num_macs * slices * 8
        assert layers[layer.name].counts["digital/activation/op"] == layer.num_positions * layer.num_outputs
    assert [layer.name for layer in report.layers] == ["input", *(node.name for node in shapes.nodes)]


def test_json_has_what_programs_read(reports):
    for report, _ in reports.values():
        plain = json.loads(json.dumps(report.to_dict()))
        assert plain["op_convention"].startswith("2 operations per multiply-accumulate")
        assert plain["clocks_hz"][plain["latency_clock"]] > 0
        assert plain["images_per_weight_load"] in ("inf", 1.0)
        for key in ("energy_pj", "latency_cycles", "latency_ns", "interval_ns", "area_um2", "area_used_um2"):
            assert plain[key] > 0
        for layer in plain["layers"]:
            assert {"name", "dataflow", "format", "bottleneck", "stall_cycles", "energy_pj"} <= set(layer)
        assert all(row["text"] and row["part"] for row in plain["sources"])


def test_a_lossy_adc_is_said(reports):
    assert "needs 7 bits" in reports["lenet5", "sram-rom"][0].warnings[0]
    assert reports["lenet5", "isaac"][0].warnings == ()
    assert "needs 8 bits" in simulate(load_network("lenet5"), load_chip("isaac", {"adc.bits": 6})).warnings[0]


def test_the_trace_names_every_node(reports):
    for report, timeline in reports.values():
        events = trace_events(timeline)["traceEvents"]
        names = " ".join(event["args"].get("name", "") for event in events if event["ph"] == "M")
        assert all(layer.name in names for layer in report.layers if layer.name != "input")
        ends = [event["ts"] for event in events if event["ph"] in "BE"]
        assert ends and max(ends) <= timeline.latency_ps / 1e6 + 1e-9


def test_two_simulations_are_identical(reports):
    for (network, chip), (report, _) in reports.items():
        assert asdict(simulate(load_network(network), load_chip(chip)).report) == asdict(report)


# --- what moves which cost ---


def test_energy_scales_with_data():
    """Reads go with inputs, and with inputs times cells; drives with inputs; nothing else moves."""
    network, chip = load_network("lenet5"), load_chip("isaac")
    base = simulate(network, chip).layers[1].energy_by_component_pj
    found = simulate(network, chip, activity={"conv1": Activity.of_means(0.25, 0.4)})
    same = simulate(network, chip, activity={"conv1": REFERENCE})
    moved = found.layers[1].energy_by_component_pj
    assert same.layers[1].energy_by_component_pj == base
    siemens = [level / chip.array.r_on_ohm + (1 - level) / chip.array.r_off_ohm for level in (0.5, 0.4)]
    assert moved["crossbar"]["read_cell"] == pytest.approx(
        base["crossbar"]["read_cell"] * 0.5 * siemens[1] / siemens[0]
    )
    assert moved["dac"]["drive"] == pytest.approx(base["dac"]["drive"] * 0.5)
    rest = set(base) - {"crossbar", "dac"}
    assert {name: moved[name] for name in rest} == {name: base[name] for name in rest}


def test_images_share_a_weight_load():
    """Energy falls as load / images towards that of weights that stay; so does the interval."""
    network, chip = load_network("lenet5"), load_chip("sram-rom")
    found = [simulate(network, chip, images_per_weight_load=n) for n in (1, 2, 10, 1000, inf)]
    for n, report in zip((1, 2, 10, 1000, inf), found, strict=True):
        assert report.dynamic_pj == pytest.approx(found[-1].dynamic_pj + report.weight_load_pj / n, rel=1e-9)
        assert report.latency_ns == found[0].latency_ns
    assert all(later.interval_ns < earlier.interval_ns for earlier, later in pairwise(found))
    stays = simulate(network, load_chip("sram-rom", LARGE_SRAM), images_per_weight_load=inf)
    assert stays.weight_state.startswith("resident")
    compute = [{k: v for k, v in r.energy_by_component_pj.items() if k in ("adc", "dac")} for r in (stays, found[-1])]
    assert compute[0] == compute[1]
    with pytest.raises(InputError, match="must be >= 1"):
        simulate(network, chip, images_per_weight_load=0.5)


@pytest.mark.parametrize("fmt", ["vq-4x256-e4-s0", "vq-8x256-e4-s0", "vq-4x16-e4-s0", "e8-q4"])
def test_codes_save_the_bits_that_the_format_says(fmt):
    """Outer memory traffic of a load is WeightFormat.bits of each layer, no more and no less."""
    network, chip = load_network("lenet5"), load_chip("sram-rom")
    plain, coded = (simulate(network, chip, Plan.uniform(network, name)) for name in ("linear-4", fmt))
    _, price_pj = Prices(chip).unit("dram", "", "read_bit")
    spent = [report.energy_by_component_pj["dram"]["read_bit"] / price_pj for report in (plain, coded)]
    bits = [sum(parse_format(name).bits(layer).total for layer in network.layers) for name in ("linear-4", fmt)]
    assert spent[0] - spent[1] == pytest.approx(bits[0] - bits[1], rel=1e-9)


def test_weights_stay_where_they_fit():
    network = load_network("lenet5")
    chip = load_chip("sram-rom", LARGE_SRAM)
    report = simulate(network, chip)
    assert report.weight_state.startswith("resident") and report.images_per_weight_load == inf
    assert report.stall_cycles["index_starvation"] == report.stall_cycles["index"] == 0
    units = sum(work.placement.num_units for work in deployed(network, chip).works.values())
    assert report.area_used_um2 == pytest.approx(units * rates.unit_area_um2(chip))
    assert report.area_used_um2 < report.area_um2 == chip.area_um2()


def test_maps_wait_in_the_buffer_or_in_outer_memory():
    """LeNet's maps fit 64 KB. With 2 KB, conv1's 28 rows of 1,344 bits and conv2's 10 of 1,280 go through DRAM,
    written once and read once; conv2's input has precedence over its output."""
    network = load_network("lenet5")
    roomy, roomy_times = both(network, load_chip("sram-rom"))
    chip = load_chip("sram-rom", {"global_buffer.capacity_bits": 16_384})
    tight, tight_times = both(network, chip)
    assert "write_bit" not in roomy.energy_by_component_pj["dram"]
    for writer, reader, bits in (("conv1", "pool1", 28 * 1344), ("conv2", "pool2", 10 * 1280)):
        layers = {layer.name: layer for layer in tight.layers}
        assert layers[writer].counts["dram/write_bit"] == layers[reader].counts["dram/read_bit"] == bits
    extra_ps = 28 * rates.memory_ps(chip, 2 * 1344) + 10 * rates.memory_ps(chip, 2 * 1280)
    assert tight_times.memory_busy_ps - roomy_times.memory_busy_ps == extra_ps
    assert tight.latency_ns > roomy.latency_ns


def test_worn_cells_are_said():
    """A ReRAM chip that reloads: each layer rewrites the first arrays once an image."""
    chip = load_chip("sram-rom", {"crossbar.endurance_writes": 1e6})
    report = simulate(load_network("lenet5"), chip, images_per_weight_load=10)
    rounds = sum(layer.rounds for layer in report.layers)
    images = 1e6 / rounds * 10
    assert f"they last {images:.3g} images, {images * report.interval_ns * 1e-9:.3g} s" in " ".join(report.warnings)


def test_attention_and_softmax_are_paid_for():
    linear = Layer(name="qkv", kind="linear", in_channels=32, out_channels=32, in_size=(8, 1))
    nodes = (
        Node(name="qkv", op="layer", out_shape=(32, 8, 1), layer=linear),
        Node(name="scores", op="matmul", inputs=("qkv", "qkv"), out_shape=(8, 8, 1), num_macs=8 * 8 * 32),
        Node(name="soft", op="softmax", inputs=("scores",), out_shape=(8, 8, 1)),
        Node(name="mix", op="matmul", inputs=("soft", "qkv"), out_shape=(32, 8, 1), num_macs=8 * 8 * 32),
        Node(name="norm", op="layer_norm", inputs=("mix",), out_shape=(32, 8, 1)),
    )
    network = Network(name="attention", input_shape=(32, 8, 1), nodes=nodes)
    for chip in map(load_chip, CHIP_NAMES):
        report = simulate(network, chip)
        layers = {layer.name: layer for layer in report.layers}
        multiply = layers["scores"].counts["digital/activation/op"]
        assert multiply == 8 * 8 * 32 + 8 * 8
        assert layers["soft"].counts["digital/activation/op"] == 3 * 8 * 8
        assert all(layers[node.name].energy_pj > 0 and layers[node.name].latency_ns > 0 for node in nodes)


def test_steady_interval_is_the_busiest_stage(reports):
    report, timeline = reports["resnet18", "isaac"]
    assert report.interval_ns * 1000 == max(times.busy_ps for times in timeline.tasks)
    assert report.interval_ns <= report.latency_ns


# --- refusals ---


def test_codes_on_a_chip_that_cannot_decode_name_every_layer():
    network = load_network("lenet5")
    for fmt, part in (("vq-4x256-e4-s0", "no codebook ROM"), ("e8-q4", "no lattice decoder")):
        with pytest.raises(InputError) as caught:
            simulate(network, load_chip("isaac"), Plan.uniform(network, fmt))
        assert len(caught.value.problems) == len(network.layers)
        assert all(
            f"layers.{layer.name}.format = {fmt!r}" in text and part in text
            for layer, text in zip(network.layers, caught.value.problems, strict=True)
        )


def test_the_rom_must_hold_all_books_together():
    network, chip = load_network("lenet5"), load_chip("sram-rom")
    shared = Plan.uniform(network, "vq-8x256-e4-s0")
    assert simulate(network, chip, shared).energy_pj > 0
    own = shared.model_copy(update={"sharing": "layer"})
    with pytest.raises(InputError, match="have 40960 bits together, the ROM codebook_rom holds 16384"):
        simulate(network, chip, own)
    with pytest.raises(InputError) as caught:
        simulate(network, load_chip("sram-rom", {"codebook_rom.capacity_bits": 4096}), shared)
    assert len(caught.value.problems) == 1 + len(network.layers)


def test_a_network_larger_than_a_chip_without_memory():
    small = load_chip("isaac", {"tile.count": 4, "mesh.columns": 2, "mesh.rows": 2})
    with pytest.raises(InputError, match=r"needs \d+ arrays, the chip has 384 and no outer memory"):
        simulate(load_network("resnet18"), small)


def test_a_plan_for_another_network():
    with pytest.raises(InputError, match="not a layer of lenet5"):
        simulate(load_network("lenet5"), load_chip("isaac"), Plan.uniform(load_network("resnet18"), "linear-8"))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("chip", CHIP_NAMES)
def test_no_layer_beats_its_roofline(reports, network, chip):
    """A layer cannot outrun its slowest stage, the network not the outer memory; loading is part of a turn's time."""
    report, _ = reports[network, chip]
    for layer in report.layers:
        assert 0 <= layer.weight_load_ns <= layer.latency_ns
        if layer.roofline_bound == "compute":
            assert layer.latency_ns >= layer.roofline_ns * (1 - 1e-9), layer.name
    assert report.latency_ns >= sum(
        layer.roofline_ns for layer in report.layers if layer.roofline_bound == "outer memory" and layer.format
    )
    assert {layer.roofline_bound for layer in report.layers} <= {"compute", "outer memory"}
    if chip == "sram-rom" and network == "lenet5":
        bounds = {layer.name: layer.roofline_bound for layer in report.layers}
        assert bounds["fc1"] == "outer memory" and bounds["conv1"] == "compute"
