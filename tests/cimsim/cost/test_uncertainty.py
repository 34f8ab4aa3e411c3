"""Intervals and deciding assumptions: closed forms on chips whose bands are known."""

from __future__ import annotations

import json
from math import log

import numpy as np
import pytest

from cimsim.chip.reading import load_chip
from cimsim.components.base import band
from cimsim.cost.uncertainty import _draws, intervals, sensitivity, unknowns
from cimsim.engine.whole import simulate
from tests.helpers.command import refused, run
from workloads.shapes import load_network

LENET = load_network("lenet5")


@pytest.fixture(scope="module")
def rom():
    chip = load_chip("sram-rom")
    return simulate(LENET, chip), chip


def test_the_nominal_values_are_the_reports(rom):
    report, chip = rom
    found = intervals(report, chip, samples=100)
    assert found["energy_pj"].nominal == pytest.approx(report.energy_pj, rel=1e-9)
    assert found["area_um2"].nominal == pytest.approx(report.area_um2, rel=1e-3)  # shared parts round up
    for name, actions in report.energy_by_component_pj.items():
        assert found[name].nominal == pytest.approx(sum(actions.values()))


def test_intervals_hold_their_order_and_repeat_with_their_seed(rom):
    report, chip = rom
    first, again, other = (intervals(report, chip, 200, seed) for seed in (1, 1, 2))
    assert first == again and first != other
    assert all(one.low <= one.median <= one.high for one in first.values())


def test_draws_are_triangular_in_the_logarithm():
    """Mean of the logarithm = mean of low, nominal and high; bands that touch 0 are drawn as they are."""
    rng = np.random.default_rng(0)
    drawn = _draws(band("x", 0.5, 1, 8, unit="x", why=""), 200_000, rng)
    assert np.log(drawn).mean() == pytest.approx((log(0.5) + log(1) + log(8)) / 3, abs=0.01)
    assert drawn.min() >= 0.5 and drawn.max() <= 8
    assert _draws(band("x", 0, 1, 2, unit="x", why=""), 200_000, rng).mean() == pytest.approx(1.0, abs=0.01)
    assert (_draws(band("x", 3, 3, 3, unit="x", why=""), 5, rng) == 3).all()


def test_one_assumption_moves_what_it_prices(rom):
    """The outer memory's energy per bit from 4 to 12.23 pJ: the difference is that of its bits."""
    report, chip = rom
    memory = next(
        one for one in sensitivity([report], [chip]) if one.part == "dram" and "energy" in one.assumption.name
    )
    spent = sum(report.energy_by_component_pj["dram"].values())
    low, nominal, high = (getattr(memory.assumption, name) for name in ("low", "nominal", "high"))
    assert memory.at_high[0] - memory.at_low[0] == pytest.approx(spent * (high - low) / nominal)


def test_printed_figures_do_not_move():
    """ISAAC's converters have a printed power, so that the model's band says nothing of them; its buffer's own does."""
    chip = load_chip("isaac")
    report = simulate(LENET, chip)
    found = intervals(report, chip, 200)
    assert found["adc"].low == pytest.approx(found["adc"].high)
    assert found["tile_buffer"].high > 1.5 * found["tile_buffer"].low


def test_what_a_chip_states_is_no_assumption():
    assert ("adc", "energy_scale") in unknowns(load_chip("sram-rom"))
    assert ("adc", "energy_scale") not in unknowns(load_chip("sram-rom", {"adc.energy_scale": 0.5}))
    assert ("crossbar", "cell_f2") in unknowns(load_chip("aimc1"))
    assert ("crossbar", "cell_f2") not in unknowns(load_chip("jia65"))  # printed


def test_a_deciding_assumption_is_named():
    """Two designs that differ in converters only change places when converters get dear enough."""
    chips = [load_chip("sram-rom", {"supply_v": 0.8}), load_chip("sram-digital", {"digital_array.adder_scale": 1.0})]
    reports = [simulate(LENET, chip) for chip in chips]
    found = sensitivity(reports, chips)
    for one in found:
        best = {tuple(np.argsort(end)) for end in (one.at_low, one.at_high)}
        nominal = np.argsort([report.energy_pj for report in reports])
        assert one.changes_order == any(order != tuple(nominal) for order in best)
    assert [one.changes_best for one in found] == sorted((one.changes_best for one in found), reverse=True)


def test_the_commands(capsys):
    done = run(capsys, "sensitivity", "lenet5", "--chip", "sram-rom", "--chip", "sram-digital", "--json")
    assert done.code == 0
    first = json.loads(done.out)[0]
    assert set(first["at_low"]) == {"sram-rom", "sram-digital"} and first["why"]
    report = json.loads(run(capsys, "simulate", "lenet5", "--interval", 100, "--json").out)
    assert report["intervals"]["energy_pj"]["nominal"] == pytest.approx(report["energy_pj"])
    assert "interval" in refused(capsys, "simulate", "lenet5", "--interval", 1)
    assert "no such chip" in refused(capsys, "sensitivity", "lenet5", "--chip", "nobody")
