"""Ways off and across the chip: the outer memory's bursts and rows, and a bus instead of a mesh."""

from __future__ import annotations

import pytest
import yaml

from cimsim.chip import mesh
from cimsim.chip.reading import CHIPS, load_chip
from cimsim.components.dram import Dram
from cimsim.components.laws.scaling import nominal
from cimsim.deploy.traffic import opened_rows
from cimsim.engine.whole import simulate
from workloads.errors import InputError
from workloads.shapes import load_network


def test_a_transfer_is_bursts_and_rows():
    """1,000 bits in bursts of 256: four bursts of 64 ns at 4 Gbit/s, and two rows of 600 bits that block 10 ns each."""
    dram = Dram(
        bandwidth_bits_per_s=4_000_000_000, latency_ps=0, burst_bits=256, row_bits=600, activate_ps=10_000,
        activate_pj=5,
    )  # fmt: skip
    assert dram.bus_bits(1000) == 1024 and opened_rows(dram, 1000) == 2
    assert dram.transfer_ps(1024, 2) == 4 * 64_000 + 2 * 10_000
    assert dram.energy_pj("activate", nominal(22)) == 5 and "activate" in dram.actions()


def test_bursts_and_rows_cost_what_they_add():
    network = load_network("lenet5")
    plain = simulate(network, load_chip("sram-rom"))
    rows = simulate(network, load_chip("sram-rom", {"dram.activate_pj": 1000.0}))
    opened = sum(layer.counts.get("dram/activate", 0) for layer in rows.layers)
    loads = (rows.weight_load_pj - plain.weight_load_pj) / 1000
    assert opened > 0 and loads == pytest.approx(round(loads))
    assert rows.dynamic_pj - plain.dynamic_pj == pytest.approx(1000 * (opened + loads))
    slow = simulate(network, load_chip("sram-rom", {"dram.activate_ps": 50_000}))
    assert slow.latency_ns > plain.latency_ns and slow.dynamic_pj == plain.dynamic_pj
    wide = simulate(network, load_chip("sram-rom", {"dram.burst_bits": 4096}))
    assert wide.dynamic_pj > plain.dynamic_pj


BUS = {"kind": "bus", "role": "chip", "width_bits": 32, "peak_rate_hz": 500_000_000}


@pytest.fixture
def bus_chip(tmp_path):
    """sram-rom with a bus between its tiles instead of the mesh."""
    raw = yaml.safe_load((CHIPS / "sram-rom.yaml").read_text())
    del raw["mesh"], raw["root"]["inside"]["parts"]["router"]
    raw["name"] = "bus-chip"
    raw["root"]["parts"]["chip_bus"] = BUS
    path = tmp_path / "bus.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_bus_is_the_way_between_all_tiles(bus_chip):
    chip = load_chip(bus_chip)
    assert mesh.mesh_path(chip, 0, 3) == mesh.mesh_path(chip, 2, 1) == ("bus",) and mesh.mesh_path(chip, 1, 1) == ()
    assert mesh.transfer_ps(chip, 100, 1) == 4 * 2000
    report = simulate(load_network("lenet5"), chip)
    assert report.energy_by_component_pj["chip_bus"]["transfer_bit"] > 0
    meshed = simulate(load_network("lenet5"), load_chip("sram-rom"))
    assert report.stall_cycles["index_starvation"] > meshed.stall_cycles["index_starvation"]


def test_several_tiles_need_a_way(bus_chip):
    raw = yaml.safe_load(bus_chip.read_text())
    del raw["root"]["parts"]["chip_bus"]
    bus_chip.write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError, match=r"mesh: required for 4 tiles .or a bus of role `chip`"):
        load_chip(bus_chip)
