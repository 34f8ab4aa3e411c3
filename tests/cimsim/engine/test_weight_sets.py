"""Arrays that hold several sets of weights, or weights that nobody can replace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.chip.reading import load_chip
from cimsim.deploy.deployment import first_places
from cimsim.engine.whole import simulate
from workloads.errors import InputError
from workloads.plan import Plan
from workloads.shapes import load_network

SMALL = {
    "crossbar.rows": 128,
    "crossbar.rows_on": 64,
    "crossbar.columns": 128,
}  # 8 arrays; LeNet-5 at 2 bits needs more


def test_weight_sets_hold_as_many_layers_as_so_many_arrays():
    """Layers that take turns on the sets of the same arrays need no reload, and act as on arrays of their own."""
    network = load_network("lenet5")
    plan = Plan.uniform(network, "linear-2")
    one, four = (simulate(network, load_chip("sram-rom", SMALL | {"crossbar.weight_sets": n}), plan) for n in (1, 4))
    many = simulate(network, load_chip("sram-rom", SMALL | {"tile.count": 8, "mesh.columns": 4}), plan)
    assert (one.weight_state[:8], four.weight_state[:8], many.weight_state[:8]) == ("reloaded", "resident", "resident")
    assert four.energy_pj < one.energy_pj
    assert four.area_um2 < many.area_um2
    stationary = {layer.name: layer.counts for layer in many.layers}
    for layer in four.layers:
        for action, number in layer.counts.items():
            if action.startswith(("crossbar", "adc")):
                assert number == stationary[layer.name][action]


def test_sets_of_weights_take_turns_whatever_the_schedule():
    chip_of = {n: load_chip("isaac", {"crossbar.weight_sets": n}) for n in (1, 2)}
    network = load_network("lenet5")
    schedules = [simulate(network, chip_of[n], Plan.uniform(network, "linear-4")).schedule for n in (1, 2)]
    assert schedules == ["pipelined", "layer_by_layer"]


@given(st.lists(st.integers(1, 10), max_size=12), st.integers(10, 25))
def test_no_layer_is_cut_by_the_end_of_a_set(layer_units, units):
    places, before = first_places(layer_units, units), 0
    for place_at, needed in zip(places, layer_units, strict=True):
        assert place_at >= before
        assert place_at // units == (place_at + needed - 1) // units
        assert place_at == before or (place_at % units == 0 and before % units + needed > units)
        before = place_at + needed
    if sum(layer_units) <= units:  # one set: one after the other
        assert places == [sum(layer_units[:i]) for i in range(len(layer_units))]


def test_a_network_that_read_only_arrays_cannot_hold_is_refused():
    network = load_network("lenet5")
    rom = {"crossbar.cell": "rom", "crossbar.write_ps": None, "tile.count": 8, "mesh.columns": 4}
    plan = Plan.uniform(network, "linear-2")
    assert simulate(network, load_chip("sram-rom", rom), plan).weight_load_pj > 0  # buffers, but no cell is written
    with pytest.raises(InputError, match=r"whose cells cannot be rewritten: use fewer bits, more tiles$"):
        simulate(network, load_chip("sram-rom", rom | {"tile.count": 6, "mesh.columns": 3}), plan)
