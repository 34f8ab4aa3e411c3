"""EVA (github.com/dbw6/Eva, commit 4f58014) from its printed inputs: cycles, stalls, traffic, energies of its artifact.

One decoding step of a LLaMA-2-7B layer, batch 1: seven matrices, AQLM with two books of 256 entries of 8 numbers.
"""

from __future__ import annotations

from functools import cache

import pytest

from cimsim.chip.reading import load_chip
from cimsim.cost.report import CostReport
from cimsim.engine.whole import simulate
from workloads.layer import Layer, Network, Node
from workloads.plan import Plan

CHAIN = (  # name, what it reads, inputs, outputs
    ("q", "input", 4096, 4096), ("k", "input", 4096, 4096), ("v", "input", 4096, 4096), ("o", "q", 4096, 4096),
    ("gate", "o", 4096, 11008), ("up", "o", 4096, 11008), ("down", "gate", 11008, 4096),
)  # fmt: skip
COMPUTE_CYCLES = 405_642


def matrices() -> Network:
    nodes = tuple(
        Node(name=name, op="layer", inputs=(source,), out_shape=(outputs, 1, 1),
             layer=Layer(name=name, kind="linear", in_channels=inputs, out_channels=outputs))
        for name, source, inputs, outputs in CHAIN
    )  # fmt: skip
    return Network(name="llama", input_shape=(4096, 1, 1), nodes=nodes)


@cache
def report(fmt: str = "vq-8x256x2-e16-s0", sharing: str = "layer", **vary: int) -> CostReport:
    network, fields = matrices(), {key.replace("__", "."): value for key, value in vary.items()}
    plan = Plan.uniform(network, fmt).model_copy(update={"sharing": sharing})
    return simulate(network, load_chip("eva", fields), plan)


@pytest.mark.parametrize(
    ("gigabytes_per_s", "cycles"),
    [(16, 1_590_896), (32, 795_448), (48, 530_299), (64, 405_978), (80, 405_915), (96, 405_866), (112, 405_838)],
)
def test_cycles_at_every_bandwidth_are_the_artifacts(gigabytes_per_s, cycles):
    found = report(dram__bandwidth_bits_per_s=gigabytes_per_s * 8 * 10**9)
    assert found.latency_cycles == cycles
    if gigabytes_per_s >= 64:  # what is not stalled is compute
        assert sum(found.stall_cycles.values()) == found.stall_cycles["dram"] == cycles - COMPUTE_CYCLES


def test_traffic_and_energies_are_the_artifacts():
    found = report()
    bits = sum(layer.counts.get(f"dram/{way}_bit", 0) for layer in found.layers for way in ("read", "write"))
    assert bits == 407_269_376
    by_part = {name: sum(actions.values()) for name, actions in found.energy_by_component_pj.items()}
    buffers_pj = sum(pj for name, pj in by_part.items() if name.endswith("_buffer"))
    assert buffers_pj == pytest.approx(0.066e9, rel=0.05)
    core_and_leakage_pj = 1.5034e9 + 1.02724e9 - 0.066e9  # both drawn in every cycle
    assert found.leakage_pj == pytest.approx(core_and_leakage_pj, rel=0.001)
    background_pj = 4.01232e3 * found.latency_cycles  # of the memory, which is not the chip's
    assert by_part["dram"] + background_pj == pytest.approx(6.60982e9, rel=0.001)


def test_one_book_of_the_network_comes_once():
    """Two books fit the codebook buffer: shared by all layers they are loaded before the first image."""
    own, shared = report(), report(sharing="network")
    assert own.weight_load_pj == 0 and shared.weight_load_pj > 0
    saved = [sum(layer.counts.get("dram/read_bit", 0) for layer in r.layers) for r in (own, shared)]
    assert saved[0] - saved[1] == 7 * 2 * 256 * 8 * 16
    assert shared.latency_cycles < own.latency_cycles


@pytest.mark.parametrize(
    ("lanes", "rows", "cycles", "tolerance"),
    [(32, 32, 792_894, 0), (128, 32, 207_301, 1.1e-4), (4, 4, 6_326_569, 4e-5)],
    ids=["EVA 32x8", "EVA scale x 4", "EVA 4x8"],
)
def test_the_ablation_with_one_book(lanes, rows, cycles, tolerance):
    """Table X with one 8-bit book a layer. One row exactly; the others' stalls differ by 21 and 196 cycles."""
    vary = {"gather__lanes": lanes, "product_buffer__banks": lanes, "multipliers__rows": rows}
    found = report("vq-8x256-e16-s0", product_buffer__capacity_bits=8192 * lanes, **vary)
    assert found.latency_cycles == pytest.approx(cycles, rel=tolerance, abs=0)
