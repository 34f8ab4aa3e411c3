"""Several images at once: what they share, and what each still costs."""

from __future__ import annotations

import pytest

from cimsim.chip.reading import load_chip
from cimsim.engine.whole import simulate
from workloads.errors import InputError
from workloads.shapes import load_network


def test_a_batch_has_the_work_of_its_images():
    one = load_network("resnet18")
    four = one.batched(4)
    assert four.num_macs == 4 * one.num_macs and four.num_weights == one.num_weights
    assert four.batch == 4 and one.batched(1) == one and one.batched(2).batched(2) == four
    assert [layer.num_positions for layer in four.layers] == [4 * layer.num_positions for layer in one.layers]
    assert [layer.out_size for layer in four.layers] == [layer.out_size for layer in one.layers]


def test_images_of_a_batch_share_a_weight_load():
    """Reloaded weights are read once a batch; everything else is done for each image."""
    network, chip = load_network("lenet5"), load_chip("sram-rom", {"global_buffer.capacity_bits": 2**22})
    one, four = simulate(network, chip), simulate(network, chip, batch=4)
    loads = one.weight_load_pj
    assert four.weight_load_pj == loads
    assert four.dynamic_pj - loads == pytest.approx(4 * (one.dynamic_pj - loads), rel=1e-9)
    assert four.latency_ns < 4 * one.latency_ns


def test_a_pipeline_takes_one_interval_for_each_further_image():
    """Resident and pipelined: the last image of n leaves n - 1 intervals after the first, and costs as much."""
    network, chip = load_network("lenet5"), load_chip("isaac")
    one, five = simulate(network, chip), simulate(network, chip, batch=5)
    assert five.interval_ns == pytest.approx(one.interval_ns, rel=1e-6)
    assert five.latency_ns == pytest.approx(one.latency_ns + 4 * one.interval_ns, rel=1e-3)
    assert five.energy_pj == pytest.approx(5 * one.energy_pj, rel=1e-9)


def test_a_load_serves_at_least_a_batch():
    network, chip = load_network("lenet5"), load_chip("sram-rom")
    with pytest.raises(InputError, match="must be >= 4"):
        simulate(network, chip, batch=4, images_per_weight_load=2)
    with pytest.raises(InputError, match="batch = 0"):
        simulate(network, chip, batch=0)
    shared = simulate(network, chip, batch=4, images_per_weight_load=8)
    assert shared.dynamic_pj < simulate(network, chip, batch=4).dynamic_pj
