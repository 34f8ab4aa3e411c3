"""Analogue arrays: cells, readouts, converters and drivers in closed form, and reads counted one by one."""

from __future__ import annotations

from collections import Counter
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cimsim.chip import rates
from cimsim.chip.model import Chip
from cimsim.chip.reading import load_chip
from cimsim.components.adc import Adc
from cimsim.components.base import Activity
from cimsim.components.crossbar import Crossbar
from cimsim.components.dac import Dac
from cimsim.components.laws.cells import CELLS
from cimsim.components.laws.scaling import WIRE_FF_PER_UM, Technology, nominal
from cimsim.dataflow.analog import array_job, compute_actions
from cimsim.dataflow.place import Unmappable, place
from cimsim.unit.mvm import count_mvm
from tests.helpers.cases import case
from workloads.errors import InputError
from workloads.format import parse_format
from workloads.layer import Layer

TECH = Technology(28, 0.9)
SHAPE = {"rows": 128, "columns": 64, "rows_on": 128, "cell_bits": 1, "encoding": "offset", "read_ps": 10_000}


def array(cell: str = "sram", **fields) -> Crossbar:
    write_ps = {} if cell == "rom" else {"write_ps": 1_000}
    return Crossbar.model_validate(SHAPE | write_ps | {"cell": cell} | fields)


# --- cells ---


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_priced_and_names_its_bands(cell):
    part = array(cell)
    for action in part.actions():
        assert part.energy_pj(action, TECH) > 0
    assert part.area_um2(TECH) > 0
    assert (part.leakage_uw(TECH) > 0) == cell.startswith("sram")
    for item in CELLS[cell].bands:
        assert Crossbar.model_fields[item.name].default is None
        stated = array(cell, **{item.name: item.nominal})
        same = [(p.area_um2(TECH), *(p.energy_pj(a, TECH) for a in p.actions())) for p in (part, stated)]
        assert same[0] == same[1]
        assert any(f"assumed {item.name} =" in text for text in part.evidence())
        assert not any(f"assumed {item.name} =" in text for text in stated.evidence())


def test_area_is_cells_times_sets_in_squares_of_the_node():
    """And periphery: 2.7 times the cells unless stated."""
    assert array("reram", cell_f2=50).area_um2(TECH) == pytest.approx(2.7 * 128 * 64 * 50 * 0.028**2)
    assert array("reram", cell_f2=50, periphery_factor=1).area_um2(TECH) == pytest.approx(128 * 64 * 50 * 0.028**2)
    assert array("rom").area_um2(Technology(65, 1.1)) == pytest.approx(2.7 * 128 * 64 * 0.096, rel=0.002)
    one, four = array(), array(weight_sets=4)
    assert four.area_um2(TECH) == pytest.approx(4 * one.area_um2(TECH))
    assert four.leakage_uw(TECH) == pytest.approx(4 * one.leakage_uw(TECH))
    assert array(weight_sets=2, double_buffered=True).area_um2(TECH) == pytest.approx(four.area_um2(TECH))
    assert array("reram_2t2r").area_um2(TECH) == pytest.approx(2 * array("reram").area_um2(TECH))


@pytest.mark.parametrize(("node_nm", "f2"), [(65, 280), (22, 280), (14, 326), (7, 551), (5, 840)])
def test_sram_cells_grow_in_squares_of_small_nodes(node_nm, f2):
    """NeuroSim V1.4's cells; a stated cell is taken at its word."""
    per_cell = 2.7 * 128 * 64 * node_nm**2 * 1e-6
    assert array().area_um2(nominal(node_nm)) == pytest.approx(f2 * per_cell)
    assert array(cell_f2=130).area_um2(nominal(node_nm)) == pytest.approx(130 * per_cell)


def test_writes_go_by_the_kind_of_cell():
    resistive = array("reram", cell_bits=2, write_ps=100_000, r_on_ohm=1e5, r_off_ohm=1e6, set_v=2)
    assert resistive.energy_pj("write_cell", TECH) == pytest.approx(4 * (1e-5 + 1e-6) / 2 * 100_000)
    assert array("fefet").energy_pj("write_cell", TECH) == pytest.approx(0.005)  # by field: no current, no time
    assert array("fefet", write_ps=1).energy_pj("write_cell", TECH) == pytest.approx(0.005)
    assert array("reram", write_pj=7).energy_pj("write_cell", TECH) == pytest.approx(7)
    assert array("reram_2t2r", write_pj=7).energy_pj("write_cell", TECH) == pytest.approx(14)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"write_ps": None}, "write_ps: this key is required"),
        ({"cell": "fefet", "cell_bits": 3}, "cell_bits = 3: must be <= 2 for a fefet cell"),
        ({"cell": "reram", "cell_bits": 2, "encoding": "xnor"}, "cell_bits = 2: must be 1 with encoding: xnor"),
        ({"group_columns": 3}, "group_columns = 3: must divide columns = 64"),
        ({"pair_conversions": 1}, "pair_conversions = 1: needs encoding: differential"),
        ({"readout": "current"}, "r_on_ohm: this key is required with cell: sram and readout: current"),
        ({"phases": 3}, "Input should be 1, 2 or 4"),
    ],
)
def test_impossible_arrays_are_refused(fields, text):
    with pytest.raises(ValidationError, match=text):
        array(**fields)


# --- one read ---


def test_charge_is_capacitance_times_the_square_of_the_supply():
    part = array("sram_8t1c", cell_ff=2, word_line_ff=1, bit_line_ff=0.5)
    assert part.read_pj(TECH, Activity.of_means(0.5, 0.5)) == pytest.approx((0.5 * 1 + 0.25 * 2.5) * 0.81e-3)
    assert part.read_pj(TECH, Activity.of_means(0.2, 0.7)) == pytest.approx((0.2 * 1 + 0.14 * 2.5) * 0.81e-3)
    assert part.energy_pj("read_cell", TECH) == part.read_pj(TECH, Activity.of_means(0.5, 0.5))
    assert array(readout="time").energy_pj("read_cell", TECH) == array().energy_pj("read_cell", TECH)


def test_xnor_drives_one_line_always_and_answers_where_bits_agree():
    part = array("sram_8t1c", cell_ff=2, word_line_ff=1, bit_line_ff=0.5, encoding="xnor")
    assert part.read_pj(TECH, Activity.of_means(0.2, 0.7)) == pytest.approx((1 + (0.14 + 0.8 * 0.3) * 2.5) * 0.81e-3)
    opposite = part.read_pj(TECH, Activity.of_means(0.2, 0.7))
    assert part.read_pj(TECH, Activity.of_means(0.8, 0.3)) == pytest.approx(opposite)


def test_folded_columns_lengthen_word_lines():
    one, three = (array("sram_8t1c", folds=n, cell_f2=426) for n in (1, 3))
    more_ff = 2 * 426**0.5 * 0.028 * WIRE_FF_PER_UM
    assert three.read_pj(TECH, Activity.of_means(1, 0)) - one.read_pj(TECH, Activity.of_means(1, 0)) == pytest.approx(
        more_ff * 0.81e-3
    )
    assert three.area_um2(TECH) == one.area_um2(TECH)


def test_current_is_ohmic_at_the_mean_conductance():
    part = array("reram", r_on_ohm=1e5, r_off_ohm=1e6, read_v=0.2)
    assert part.read_pj(TECH, Activity.of_means(1, 0)) == pytest.approx(0.04 * 1e-6 * 10_000)
    assert part.read_pj(TECH, Activity.of_means(0.3, 0.6)) == pytest.approx(0.3 * 0.04 * (0.6e-5 + 0.4e-6) * 10_000)
    assert array("reram", pulse_ps=500).read_pj(TECH, Activity.of_means(1, 1)) == pytest.approx(0.25 / 250_000 * 500)
    sram = array(readout="current", r_on_ohm=40_000)  # off cells leak nothing, lines swing by the supply
    assert sram.read_pj(TECH, Activity.of_means(1, 0.5)) == pytest.approx(0.81 * 0.5 / 40_000 * 10_000)
    pair = array("reram_2t2r")
    assert pair.read_pj(TECH, Activity.of_means(0.5, 0.5)) == pytest.approx(
        2 * array("reram").read_pj(TECH, Activity.of_means(0.5, 0.5))
    )


def test_voltage_recharges_lines_and_settles():
    part = array("reram", readout="voltage", bit_line_ff=2, read_v=0.5, settle_factor=4)
    assert part.read_pj(TECH, Activity.of_means(0.5, 0.9)) == pytest.approx(0.5 * 2e-3 * (0.5 * 0.9 + 4 * 0.25))


def test_wire_along_one_cell():
    part = array("reram", cell_f2=100)
    assert part.segment_ohm(Technology(22, 0.8)) == pytest.approx(0.22 * 13.2566, rel=1e-4)


# --- converters and drivers ---


def adc(**fields) -> Adc:
    return Adc.model_validate({"bits": 8, "peak_rate_hz": 10**8, "law": "architecture"} | fields)


@pytest.mark.parametrize(("architecture", "steps"), [("sar", 8), ("flash", 1), ("ramp", 256), ("cco", 256)])
def test_stated_steps_set_the_rate(architecture, steps):
    part = Adc.model_validate({"bits": 8, "architecture": architecture, "step_ps": 2_000})
    assert part.peak_rate_hz == 10**12 // (steps * 2_000)
    assert part.energy_pj("step", TECH) * steps == pytest.approx(part.energy_pj("convert", TECH))


def test_rows_on_the_bit_line_set_the_rate():
    """AIMC1 (CICC 2021, IEEE 9431575): 44.4 ns with 6 bits and 1,024 rows."""
    part = Adc.model_validate({"bits": 6, "column_rows": 1024})
    assert 1e9 / part.peak_rate_hz == pytest.approx(44.4, rel=0.02)


@pytest.mark.parametrize("architecture", ["sar", "flash", "ramp", "cco"])
def test_converters_cost_more_with_each_bit_and_less_on_smaller_nodes(architecture):
    parts = [adc(architecture=architecture, bits=bits) for bits in range(1, 13)]
    for figure in (lambda part: part.energy_pj("convert", TECH), lambda part: part.area_um2(TECH)):
        values = [figure(part) for part in parts]
        assert values == sorted(values)
    for part in parts:
        assert part.energy_pj("convert", Technology(14, 0.8)) < part.energy_pj("convert", Technology(65, 1.1))
        assert part.area_um2(Technology(14, 0.8)) < part.area_um2(Technology(65, 1.1))


def test_flash_has_a_comparator_per_step_and_ramps_share_a_counter():
    flash = [adc(architecture="flash", bits=bits).energy_pj("convert", TECH) for bits in (4, 6)]
    assert flash[1] / flash[0] == pytest.approx(63 / 15)
    alone, shared = adc(architecture="ramp"), adc(architecture="ramp", shared_counter=64)
    assert shared.energy_pj("convert", TECH) < alone.energy_pj("convert", TECH)
    assert shared.area_um2(TECH) < alone.area_um2(TECH)


def test_output_codes_set_how_long_ramps_and_oscillators_work():
    for architecture in ("ramp", "cco"):
        low, mid, high = (
            adc(architecture=architecture, mean_code_fraction=f).energy_pj("convert", TECH) for f in (0, 0.5, 1)
        )
        assert 0 < low < mid < high
        assert high - mid == pytest.approx(mid - low)
    steady = {adc(architecture="sar", mean_code_fraction=f).energy_pj("convert", TECH) for f in (0, 1)}
    assert len(steady) == 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"tapers": True}, "needs step_ps"),
        ({"step_pj": 1.0}, "needs step_nm and step_v"),
        ({"bits": 13, "step_ps": 1}, "less than or equal to 12"),
        ({"step_ps": 0}, "greater than 0"),
    ],
)
def test_impossible_converters_are_refused(fields, text):
    with pytest.raises(ValidationError, match=text):
        adc(**fields)


@pytest.mark.parametrize(
    ("fields", "input_bits", "steps"),
    [
        ({"bits": 1}, 4, (1, 1, 1, 1)),
        ({"bits": 3}, 8, (3, 3, 2)),
        ({"bits": 3, "max_steps": 2}, 8, (3, 5)),
        ({"bits": 3, "bipolar": True, "max_steps": 2}, 8, (3, 4)),
        ({"bits": 3, "bipolar": True}, 1, (1,)),
    ],
)
def test_inputs_are_cut_into_steps(fields, input_bits, steps):
    assert Dac.model_validate(fields).step_bits(input_bits) == steps


def test_pulses_by_design():
    amplitude, count, held, width = (
        Dac.model_validate({"bits": 4, **fields})
        for fields in ({}, {"design": "pulse_count"}, {"design": "pulse_count", "holds": True}, {"design": "pwm"})
    )
    assert [part.pulses(4) for part in (amplitude, count, held, width)] == [1, 15, 15, 16]
    assert [part.drives(4) for part in (amplitude, count, held, width)] == [1, 15, 4, 1]
    assert count.energy_pj("drive", TECH) == pytest.approx(Dac(bits=1).energy_pj("drive", TECH))


def test_lines_and_ladders_that_are_stated():
    select, line = (Dac(bits=1, load_ff=600, swing_v=0.5, rail_v=2.0, always=always) for always in (True, False))
    assert select.energy_pj("drive", TECH) == select.drive_pj(TECH, 0.1) == pytest.approx(0.6)
    assert line.energy_pj("drive", TECH) == pytest.approx(0.3)  # half the inputs are on
    assert line.drive_pj(TECH, 0.1) == pytest.approx(0.06)
    assert Dac(bits=1, load_ff=100).drive_pj(TECH, 1.0) == pytest.approx(0.081)
    fitted = Dac(bits=2)
    assert fitted.drive_pj(TECH, 0.2) == pytest.approx(0.4 * fitted.energy_pj("drive", TECH))
    ladder, plain = Dac(bits=4, design="resistor_ladder", hold_ps=1_000), Dac(bits=4)
    static = ladder.energy_pj("drive", TECH) - plain.energy_pj("drive", TECH)
    assert static == pytest.approx(0.81 / 20_000 * 1_000)
    with pytest.raises(ValidationError, match="hold_ps: this key is required"):
        Dac(bits=4, design="resistor_ladder")
    with pytest.raises(ValidationError, match="needs design: pulse_count"):
        Dac(bits=4, holds=True)
    with pytest.raises(ValidationError, match="always = True: needs load_ff"):
        Dac(bits=4, always=True)


# --- reads, counted one by one ---


def chip(**knobs) -> Chip:
    """One 128 x 64 array, on the ready SRAM chip; `part__field` is a knob."""
    sizes = {"crossbar.rows": 128, "crossbar.columns": 64, "crossbar.rows_on": 128}
    return load_chip("sram-rom", sizes | {name.replace("__", "."): value for name, value in knobs.items()})


DACS = st.fixed_dictionaries({
    "dac__design": st.sampled_from(["amplitude", "pulse_count", "pwm"]), "dac__bits": st.integers(1, 4),
    "dac__max_steps": st.sampled_from([None, 1, 2]), "dac__bipolar": st.booleans(),
})  # fmt: skip
ARRAYS = st.fixed_dictionaries({
    "crossbar__phases": st.sampled_from([1, 2, 4]), "crossbar__rows_on": st.sampled_from([32, 128]),
    "crossbar__group_columns": st.sampled_from([1, 2]), "crossbar__encoding": st.just("differential"),
    "crossbar__pair_conversions": st.sampled_from([1, 2]), "crossbar__pulse_ps": st.sampled_from([None, 400]),
    "crossbar__read_ps": st.sampled_from([2_000, 3_000]), "sample_hold__overlaps": st.just(False),
    "sample_hold__design": st.sampled_from(["capacitor", "integrator"]),
})  # fmt: skip
ADCS = st.fixed_dictionaries({
    "adc__architecture": st.sampled_from(["sar", "flash", "ramp"]), "adc__bits": st.integers(2, 6),
    "adc__step_ps": st.sampled_from([100, 400]), "adc__tapers": st.booleans(),
    "adc__per": st.sampled_from(["level", "column"]), "adc__count": st.sampled_from([1, 2]),
})  # fmt: skip


def slow_reads(device: Chip, rows: int, columns: int, input_bits: int) -> tuple[int, Counter]:
    """Time (ps) and actions of one vector, read by read, without overlap."""
    part, dac, adc_part = device.array, device.part("dac").component, device.part("adc").component
    is_pwm, is_count = dac.design == "pwm", dac.design == "pulse_count"
    adcs = adc_part.count * (part.columns if adc_part.per == "column" else 1)
    values = columns // part.group_columns // (3 - part.pair_conversions)
    left, first, time_ps, count = max(1, input_bits - 1) if dac.bipolar else input_bits, True, 0, Counter()
    carried = 0
    while left:
        is_last = dac.max_steps == 1 or (dac.max_steps == 2 and not first)
        bits, first = left if is_last or left < dac.bits else dac.bits, False
        pulses = 2**bits - 1 if is_count else 2**bits if is_pwm else 1
        out_bits = max(1, adc_part.bits - carried) if adc_part.tapers else adc_part.bits
        steps = {"sar": out_bits, "flash": 1, "ramp": 2**out_bits}[adc_part.architecture]
        for _ in range(part.phases * ceil(rows / part.rows_on)):
            time_ps += (part.read_ps + pulses * part.pulse_ps) if part.pulse_ps else pulses * part.read_ps
            time_ps += -(-values // adcs) * steps * adc_part.step_ps
            count["step" if adc_part.tapers else "convert"] += values * (steps if adc_part.tapers else 1)
            is_integrator = device.part("sample_hold").component.design == "integrator"
            count["sample"] += values * (pulses if is_integrator and is_count else 1)
            count["integrate"] += values * pulses * is_integrator
        count["drive"] += rows * (pulses if is_count else 1)
        count["read_cell"] += rows * columns * (pulses if is_count else 1)
        left, carried = left - bits, carried + bits
    return time_ps, count


@given(knobs=st.tuples(DACS, ARRAYS, ADCS).map(lambda t: t[0] | t[1] | t[2]), rows=st.integers(1, 128))
def test_reads_equal_those_counted_one_by_one(knobs, rows):
    device = chip(**knobs)
    layer = Layer(name="fc", kind="linear", in_channels=rows, out_channels=8)
    work = case(layer, parse_format("linear-4"), device, 4)
    placement = place(work)
    time_ps, count = slow_reads(device, rows, placement.widest.columns, 4)
    job = array_job(work, placement)
    job = job._replace(vectors=3, fetch_ticks=0, shift_add_ticks=0, digital_ticks=0, write_ticks=0)
    rate = rates.converter_rate_hz(device)
    assert count_mvm(job).interval == rates.ticks(time_ps, rate) == time_ps * rate // 10**12
    actions = compute_actions(work, placement)
    for (kind, _, action), number in actions.items():
        if kind in ("crossbar", "dac", "sample_hold", "adc"):
            assert number == count[action], action
    assert rates.reads_per_vector(device, 4) == len(rates.input_steps(device, 4)) * device.array.phases
    assert rates.read_ps(device, 4) <= time_ps


def test_currents_conduct_for_every_pulse_and_lines_charge_once_per_drive():
    layer, fmt = Layer(name="fc", kind="linear", in_channels=128, out_channels=16), parse_format("linear-4")
    knobs = {"crossbar__cell": "reram", "dac__design": "pulse_count", "dac__bits": 4, "dac__holds": True}
    reads = {}
    for readout in ("current", "voltage"):
        device = chip(**knobs, crossbar__readout=readout)
        reads[readout] = compute_actions(case(layer, fmt, device, 4), place(case(layer, fmt, device)))[
            "crossbar", "", "read_cell"
        ]
    assert reads == {"current": 15 * 128 * 64, "voltage": 4 * 128 * 64}


def test_a_ladder_joins_the_slices_of_an_output():
    layer, fmt = Layer(name="fc", kind="linear", in_channels=128, out_channels=8), parse_format("linear-3")
    plain, joined = chip(), chip(crossbar__group_columns=4)
    assert [place(case(layer, fmt, device)).widest.columns for device in (plain, joined)] == [3 * 8, 4 * 8]
    converted = [
        compute_actions(case(layer, fmt, device, 8), place(case(layer, fmt, device)))["adc", "", "convert"]
        for device in (plain, joined)
    ]
    assert converted == [8 * 24, 8 * 8]


def test_a_cell_of_two_devices_is_a_pair():
    assert array("reram", encoding="differential").columns_per_output(4) == 8
    assert array("reram_2t2r", encoding="differential").columns_per_output(4) == 4
    once = array("reram_2t2r", encoding="differential", pair_conversions=1)
    assert once.joined_columns == 1


def test_four_phases_take_four_times_as_long():
    """HERMES' 64-core chip (M. Le Gallo et al., Nat. Electron. 6, 2023): 63.1 and 16.1 TOPS in one and four phases."""
    layer, fmt = Layer(name="fc", kind="linear", in_channels=128, out_channels=16), parse_format("linear-4")
    knobs = {
        "crossbar__cell": "pcm", "crossbar__cell_bits": 4, "crossbar__encoding": "offset",
        "dac__design": "pwm", "dac__bits": 8, "adc__per": "column",
        "crossbar__pulse_ps": 300, "adc__architecture": "cco", "adc__bits": 8, "adc__step_ps": 300, "adc__count": 1,
        "sample_hold__overlaps": False,
    }  # fmt: skip
    intervals = []
    for phases in (1, 4):
        device = chip(**knobs, crossbar__phases=phases)
        job = array_job(case(layer, fmt, device, 8), place(case(layer, fmt, device)))
        intervals.append(count_mvm(job._replace(vectors=3, digital_ticks=0, write_ticks=0, fetch_ticks=0)).interval)
    assert intervals[1] / intervals[0] == pytest.approx(63.1 / 16.1, rel=0.03)


def test_read_only_arrays_hold_a_layer_or_refuse_it():
    device, fmt = chip(crossbar__cell="rom", crossbar__write_ps=None), parse_format("linear-4")
    assert device.array.actions() == ("read_cell",)
    fits = case(Layer(name="fits", kind="linear", in_channels=128, out_channels=16), fmt, device, 8)
    assert array_job(fits, place(fits)).reads == 8
    large = case(Layer(name="large", kind="linear", in_channels=4096, out_channels=256), fmt, device, 8)
    with pytest.raises(Unmappable, match="large: needs 512 arrays at once, sram-rom cannot rewrite its rom"):
        array_job(large, place(large))


def test_converters_can_stand_per_column():
    shared = chip(adc__per="column", adc__count=1, adc__shared_by=8)
    assert shared.part("adc").instances == 8 * 8  # units x columns / 8
    assert rates.adcs_per_array(shared) == 8
    assert rates.adcs_per_array(chip(adc__per="column", adc__count=1)) == 64


def test_wrong_parts_are_named_in_a_chip():
    with pytest.raises(InputError, match=r"write_ps: this key is required"):
        chip(crossbar__write_ps=None)
