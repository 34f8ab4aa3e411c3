"""Differences of two runs sum to the difference of their totals, and name what moved."""

from __future__ import annotations

import json

import pytest

from cimsim.chip.reading import load_chip
from cimsim.cost.diff import compare, read_report
from cimsim.engine.whole import simulate
from tests.helpers.command import run
from workloads.errors import InputError
from workloads.plan import Plan
from workloads.shapes import load_network


def reported(fmt: str, **vary) -> dict:
    network = load_network("lenet5")
    return simulate(network, load_chip("sram-rom", vary), Plan.uniform(network, fmt)).to_dict()


def test_parts_sum_to_the_whole():
    before, after = reported("linear-4"), reported("vq-4x256-e4-s0")
    found = compare(before, after)
    whole = after["energy_pj"] - before["energy_pj"]
    assert sum(change.difference for change in found.energy_by_component) == pytest.approx(whole)
    assert sum(change.share for change in found.energy_by_component) == pytest.approx(1)
    dynamic = after["dynamic_pj"] - before["dynamic_pj"]
    assert sum(change.difference for change in found.energy_by_layer) == pytest.approx(dynamic)
    by_name = {change.name: change for change in found.energy_by_component}
    assert by_name["codebook_rom"].before == 0 and by_name["dram"].difference < 0
    sizes = [abs(change.difference) for change in found.energy_by_component]
    assert sizes == sorted(sizes, reverse=True)


def test_a_run_does_not_differ_from_itself():
    one = reported("linear-4")
    found = compare(one, one)
    assert not any((found.energy_by_component, found.stalls_by_cause, found.latency_by_layer, found.actions))
    assert all(change.difference == 0 for change in found.totals)


def test_a_slower_memory_shows_as_its_stalls_only():
    before, after = reported("linear-4"), reported("linear-4", **{"dram.bandwidth_bits_per_s": 6_400_000_000})
    found = compare(before, after)
    assert {change.name for change in found.energy_by_component} == {"leakage"} and not found.actions
    assert found.stalls_by_cause[0].name in ("dram", "index_starvation") and found.stalls_by_cause[0].difference > 0


def test_command_reads_reports_and_refuses_others(tmp_path, capsys):
    for name, fmt in (("a", "linear-4"), ("b", "linear-8")):
        (tmp_path / f"{name}.json").write_text(json.dumps(reported(fmt)))
    done = run(capsys, "diff", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json")
    assert done.code == 0 and json.loads(done.out)["energy_by_layer"][0]["after"] > 0
    assert run(capsys, "diff", str(tmp_path / "a.json"), str(tmp_path / "b.json")).code == 0
    (tmp_path / "c.json").write_text("{}")
    done = run(capsys, "diff", str(tmp_path / "a.json"), str(tmp_path / "c.json"))
    assert done.code == 2 and "energy_pj: missing" in done.err
    with pytest.raises(InputError, match="holds 3 reports"):
        read_report(tmp_path)
