"""From arrays to the event layer: ISAAC's pipeline from its chip file, blocks without loss, loads without loss."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.chip.reading import CHIPS, load_chip
from cimsim.dataflow.analog import array_job
from cimsim.dataflow.place import place
from cimsim.deploy.deployment import Deployment, deploy, is_resident
from cimsim.deploy.loads import weight_loads
from cimsim.deploy.tasks import build_tasks
from cimsim.engine.alone import layer_work
from cimsim.engine.whole import layer_works, simulate
from cimsim.events import run
from cimsim.records import ArrayJob
from cimsim.unit.mvm import count_mvm
from tests.helpers.cases import case
from workloads.format import parse_format
from workloads.layer import Layer, Network, Node
from workloads.plan import LayerPlan, Plan
from workloads.shapes import load_network

LINEAR_8 = parse_format("linear-8")


def deployed(network: Network, chip: Chip, fmt: str = "linear-8") -> Deployment:
    works = layer_works(network, chip, Plan.uniform(network, fmt))
    return deploy(network, chip, works, is_resident(works, chip))


def isaac_without_sample_hold(folder) -> str:
    raw = yaml.safe_load((CHIPS / "isaac.yaml").read_text())
    raw["root"]["inside"]["inside"]["parts"].pop("sample_hold")
    path = folder / "no_sample_hold.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(
    ("vary", "first_cycles", "interval_cycles"),
    [
        pytest.param({}, 22, 16, id="published"),
        pytest.param({"adc.peak_rate_hz": 640_000_000}, None, 32, id="half the ADC rate"),
        pytest.param({"adc.count": 4}, None, 32, id="two arrays per ADC"),
        pytest.param({"dac.bits": 2}, 14, 8, id="2-bit DAC"),
        pytest.param("no sample-and-hold", None, 32, id="no sample-and-hold"),
    ],
)
def test_isaacs_22_cycles_follow_from_its_file(vary, first_cycles, interval_cycles, tmp_path):
    """Shafiee et al., ISCA 2016: 16-bit inputs, 22 cycles of 100 ns, a result every 16. Eight arrays, one unit."""
    chip = load_chip("isaac", vary) if isinstance(vary, dict) else load_chip(isaac_without_sample_hold(tmp_path))
    layer = Layer(name="fc", kind="linear", in_channels=1024, out_channels=32, in_size=(20, 1))
    job = array_job(case(layer, LINEAR_8, chip, 16), place(case(layer, LINEAR_8, chip)))
    counts, rate = count_mvm(job), rates.converter_rate_hz(chip)
    cycle_ps = rates.instant_ps(1, chip.clocks_hz["array"])
    assert rates.instant_ps(counts.interval, rate) == interval_cycles * cycle_ps
    assert first_cycles is None or rates.instant_ps(counts.first_result, rate) == first_cycles * cycle_ps


def test_one_array_in_use_has_its_converter_alone():
    """Four ADCs for eight arrays: a layer of one array shares none, so it keeps its pace."""
    chip = load_chip("isaac", {"adc.count": 4})
    layer = Layer(name="fc", kind="linear", in_channels=128, out_channels=32, in_size=(20, 1))
    assert layer_work(layer, LayerPlan(format="linear-8"), chip).interval_ticks == 8 * 128


durations = st.integers(0, 20)
mvm_jobs = st.builds(
    ArrayJob, vectors=st.integers(1, 12), reads=st.integers(1, 5), conversions=st.integers(0, 12),
    adcs=st.integers(1, 4), read_ticks=st.integers(1, 6), sample_hold=st.integers(0, 1), fetch_ticks=durations,
    shift_add_ticks=durations, digital_ticks=durations, write_ticks=durations,
)  # fmt: skip


@given(mvm_jobs)
def test_blocks_lose_nothing_of_the_array(job):
    """The event layer knows an array by first result and interval alone, and that is all there is to know."""
    counts = count_mvm(job)
    interval = count_mvm(job._replace(vectors=max(2, job.vectors))).interval
    assert counts.drain == counts.first_result + (job.vectors - 1) * interval


@pytest.mark.parametrize("chip_name", ["isaac", "sram-rom"])
def test_a_single_layer_takes_its_arrays_time(chip_name):
    """Alone and resident, latency is the input's first rows, then the array's drain to the picosecond a block."""
    layer = Layer(name="conv", kind="conv", in_channels=4, out_channels=8, in_size=(9, 9), kernel=(3, 3))
    network = Network(
        name="one", input_shape=(4, 9, 9), nodes=(Node(name="conv", op="layer", out_shape=(8, 7, 7), layer=layer),)
    )
    chip = load_chip(chip_name)
    report = simulate(network, chip)
    drain = count_mvm(array_job(case(layer, LINEAR_8, chip, 8), place(case(layer, LINEAR_8, chip)))).drain
    row_ps = rates.memory_ps(chip, 4 * 9 * 8)
    exact_ps = 3 * row_ps + rates.instant_ps(drain, rates.converter_rate_hz(chip))
    assert report.latency_ns * 1000 == pytest.approx(exact_ps, abs=8)


def test_loads_fetch_every_bit_once():
    """Splitting over rounds, tiles and chunks neither loses nor repeats a bit: at 1 Gbit/s, 1,000 ps each."""
    chip = load_chip("sram-rom", {"dram.bandwidth_bits_per_s": 10**9, "crossbar.rows": 100, "crossbar.rows_on": 50})
    for fmt in ("linear-8", "vq-4x256-e4-s0"):
        for work in deployed(load_network("lenet5"), chip, fmt).works.values():
            loads = [load for tiles in weight_loads(work, chip) for load in tiles]
            fetched = sum((load.chunks - 1) * load.fetch_ps + load.fetch_rest_ps for load in loads)
            assert fetched == work.load_bits * 1000
            assert len(weight_loads(work, chip)) == work.placement.rounds


def test_half_blocks_move_latency_little():
    """The grain of hand-over is no hidden knob: half rows change resnet18 on ISAAC by less than 2 %."""
    tasks = build_tasks(deployed(load_network("resnet18"), load_chip("isaac")))
    whole = run(tasks, pipelined=True).latency_ps

    def halved(edge):
        need = tuple(2 * n + 1 if n >= 0 else -1 for n in edge.need for _ in range(2))
        return edge._replace(need=need, transfer_ps=edge.transfer_ps // 2)

    finer = [
        task._replace(blocks=2 * task.blocks, work_ps=task.work_ps // 2, inputs=tuple(map(halved, task.inputs)))
        for task in tasks
    ]
    assert run(finer, pipelined=True).latency_ps == pytest.approx(whole, rel=0.02)
