"""Blocks: parts with a printed power and area and no model. They cost their power while arrays under them work."""

from pathlib import Path

import pytest
import yaml

from cimsim import load_chip, simulate
from cimsim.chip.reading import CHIPS
from cimsim.validation.macro import OperatingPoint, measure
from workloads.errors import InputError
from workloads.shapes import load_network

UNIT_MW, TILE_MW = 3.0, 24.0
SOURCE = "a test"


def block(power_mw: float, **more) -> dict:
    return {"kind": "block", "stated": {"power_mw": power_mw, "area_mm2": 0.5, "of": 1, "source": SOURCE}} | more


@pytest.fixture
def with_blocks(tmp_path: Path):
    """ISAAC with a block in each IMA and one in each tile."""

    def write(**more) -> Path:
        raw = yaml.safe_load((CHIPS / "isaac.yaml").read_text())
        tile = raw["root"]["inside"]
        tile["parts"]["tile_control"] = block(TILE_MW, **more)
        tile["inside"]["parts"]["control"] = block(UNIT_MW, **more)
        path = tmp_path / "chip.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return path

    return write


def test_a_macro_pays_its_block_for_the_time_of_a_vector(with_blocks):
    chip = load_chip(with_blocks())
    macro = measure(chip, OperatingPoint())
    spent = UNIT_MW * 1e-3 * macro.interval_ps * macro.units
    assert macro.energy_pj["control"]["array_ps"] == pytest.approx(spent)
    assert "tile_control" not in macro.energy_pj


def test_layers_pay_by_arrays_and_time_and_nothing_else_changes(with_blocks):
    network = load_network("lenet5")
    plain, blocks = simulate(network, load_chip("isaac")), simulate(network, load_chip(with_blocks()))
    chip = load_chip(with_blocks())
    per_array_mw = UNIT_MW / chip.arrays_per_unit + TILE_MW / (chip.arrays_per_unit * chip.units_per_tile)
    for before, after in zip(plain.layers, blocks.layers, strict=True):
        spent = sum(sum(after.energy_by_component_pj.get(name, {}).values()) for name in ("control", "tile_control"))
        assert after.latency_ns == before.latency_ns
        assert after.energy_pj - before.energy_pj == pytest.approx(spent)
        assert spent <= per_array_mw * after.arrays * after.latency_ns * (1 + 1e-9)
        assert (spent > 0) == bool(after.arrays)


def test_the_bill_counts_each_block(with_blocks):
    chip = load_chip(with_blocks())
    assert {row.component: row.power_mw for row in chip.bill()}["control"] == pytest.approx(UNIT_MW)
    units = chip.num_tiles * chip.units_per_tile
    assert chip.area_um2() - load_chip("isaac").area_um2() == pytest.approx(0.5e6 * (units + chip.num_tiles))


def test_blocks_that_are_always_on_are_charged_by_time_alone(with_blocks):
    chip = load_chip(with_blocks(always_on=True))
    drawn = chip.num_tiles * (TILE_MW + chip.units_per_tile * UNIT_MW)
    assert chip.always_on_mw() - load_chip("isaac").always_on_mw() == pytest.approx(drawn)
    assert "control" not in simulate(load_network("lenet5"), chip).energy_by_component_pj


def test_a_block_without_figures_is_refused(with_blocks):
    with pytest.raises(InputError, match=r"control.*stated.power_mw and stated.area_mm2 are required"):
        load_chip(with_blocks(stated={"power_mw": 1.0, "of": 1, "source": SOURCE}))


def price_at(path: Path, supply_v: float) -> float:
    chip = load_chip(path, {"supply_v": supply_v})
    return chip.placed[-1].component.energy_pj("array_ps", chip.technology)


def test_laws_move_a_block_from_where_it_is_stated(with_blocks):
    stated = {"power_mw": 3.0, "area_mm2": 0.5, "of": 1, "source": SOURCE, "at": {"supply_v": 0.9}}
    path = with_blocks(stated=stated)
    assert price_at(path, 0.45) / price_at(path, 0.9) == pytest.approx(0.25)
