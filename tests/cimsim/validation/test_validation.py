"""Validation: figures of macros in closed form, references as files, verdicts, and the joint fit on synthetic chips."""

from __future__ import annotations

import json
import re
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimsim.chip.reading import load_chip
from cimsim.components.digital_array import DigitalArray
from cimsim.components.laws.scaling import Technology, adder_ps
from cimsim.validation import check_own, check_references, fit, left_out, names
from cimsim.validation.fit import Evidence, Observation
from cimsim.validation.macro import OperatingPoint, measure
from cimsim.validation.quantities import QUANTITIES
from cimsim.validation.reference import load_reference, read_reference, reference_names
from cimsim.validation.units import UNITS
from cimsim.validation.verdict import rank_correlation
from tests.helpers.command import refused, run
from workloads.errors import InputError

POINT = OperatingPoint(input_bits=4, weight_bits=4)


# --- macros ---


def test_a_digital_macro_in_closed_form():
    """TSMC's: 256 x 64 products in 4 steps of its rate; the energy is that of 4 full steps."""
    chip = load_chip("tsmc22")
    macro, array = measure(chip, POINT), chip.array
    assert (macro.macs, macro.outputs, macro.units) == (256 * 64, 64, 1)
    assert macro.interval_ps == pytest.approx(4e12 / 400e6) and macro.step_ps == pytest.approx(1e12 / 400e6)
    dynamic_pj = sum(macro.energy_pj["digital_array"].values())
    assert dynamic_pj == pytest.approx(4 * array.peak_energy_pj(chip.technology))
    assert macro.total_pj - dynamic_pj == pytest.approx(chip.array.leakage_uw(chip.technology) * 10e3 * 1e-6)


def test_boxes_work_side_by_side():
    one, four = (measure(load_chip("dimc1", {"bank.count": n}), OperatingPoint()) for n in (1, 4))
    assert four.macs == 4 * one.macs and four.interval_ps == one.interval_ps
    assert four.total_pj == pytest.approx(4 * one.total_pj) and four.total_um2 == pytest.approx(4 * one.total_um2)


def test_a_conversion_that_reads_takes_its_own_time_only():
    """Jia: 54 cycles of 25 ns a step, the read among them; n-bit inputs take n steps."""
    chip = load_chip("jia65")
    for bits in (1, 2, 8):
        macro = measure(chip, OperatingPoint(input_bits=bits, weight_bits=1))
        assert macro.interval_ps == pytest.approx(bits * 54 * 25_000, rel=1e-5)


@pytest.mark.parametrize("registers", [1, 4, 16])
@pytest.mark.parametrize("bits", [1, 8])
def test_a_column_of_cells_ripples(bits, registers):
    """(W + 7 + rows per register + 2) adders of 0.4 ns at 0.8 V."""
    chip = load_chip("colonnade", {"digital_array.weight_bits": bits, "digital_array.registers": registers,
                                   "digital_array.peak_rate_hz": None})  # fmt: skip
    assert measure(chip, OperatingPoint(input_bits=1, weight_bits=bits)).step_ps == pytest.approx(
        400 * (bits + 7 + 128 // registers + 2), rel=1e-6
    )


def test_a_tree_is_as_fast_as_its_longest_carry():
    """Two rows of one-bit weights: a level, 1 + 8 + 1 bits of sum, a register: 12 adders. Pipelined the tree's own way
    no longer counts."""
    fields = {"rows": 2, "rows_on": 2, "columns": 1, "weight_bits": 1, "reduction": "adder_tree", "write_ps": 1}
    tech = Technology(28, 0.9)
    assert DigitalArray(**fields).step_ps(tech) == pytest.approx(12 * adder_ps(tech))
    assert DigitalArray(**fields, pipeline_steps=2).step_ps(tech) == pytest.approx(11 * adder_ps(tech))


def test_a_rate_that_is_not_stated_is_the_arrays_own():
    chip = load_chip("dimc1")
    assert chip.array.peak_rate_hz == chip.array.natural_rate_hz(chip.technology)
    assert load_chip("dimc1", {"supply_v": 0.7}).array.peak_rate_hz < chip.array.peak_rate_hz
    assert load_chip("tsmc22").array.peak_rate_hz == 400_000_000


# --- references ---


@pytest.mark.parametrize("name", reference_names())
def test_every_reference_names_its_paper_and_known_quantities(name):
    reference = load_reference(name)
    text = (Path(reference.folder) / f"{name}.csv").read_text()
    assert text.startswith("# ") and re.search(r"20[0-2]\d|github.com", text)
    assert {target.quantity.partition(".")[0] for target in reference.targets} <= set(QUANTITIES)
    assert {target.unit for target in reference.targets} <= set(UNITS)


def test_cycles_traffic_sums_and_rates_are_the_published_ones():
    """What is specified wholly has no excuse: EVA's cycles, ISAAC's sums, Colonnade's and NeuRRAM's throughputs."""
    rows = check_references("eva") + check_references("isaac") + check_references("colonnade")
    exact = [row for row in rows + check_references("neurram") if row.quantity in (
        "cycles", "stall_cycles", "dram_traffic", "peak_power.chip", "peak_area.chip", "throughput"
    )]  # fmt: skip
    assert len(exact) > 100 and all(row.passed for row in exact)


def test_no_reference_is_wildly_off():
    """Energies, areas and times of macros: within 2.7 either way, the worst an area with decoupling capacitors."""
    for name in reference_names():
        for row in check_references(name):
            if row.passed is False and row.quantity in ("area", "energy_per_mac", "cycle_time", "mvm_latency"):
                assert 1 / 2.7 < row.ratio < 2.7, row


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("quantity,value,unit,kind,point", *lines)) + "\n")
    return path


def test_a_strangers_chip_and_targets(tmp_path, capsys):
    targets = write(
        tmp_path / "mine.csv", "input_bits,4,bit,input,", "weight_bits,4,bit,input,", "throughput,3.3,TOPS,target,",
        "energy_efficiency,89,TOPS/W,target,", "energy_efficiency,200,TOPS/W,target,low", "supply_v,0.6,V,input,low",
        "area,0.05,mm2,target,",
    )  # fmt: skip
    rows = check_own("tsmc22", targets)
    assert [row.passed for row in rows] == [True, True, True, False]
    assert rows[2].modelled == pytest.approx(rows[1].modelled * (0.72 / 0.6) ** 2, rel=0.02)  # leakage does not follow
    done = run(capsys, "validate", "--chip", "tsmc22", "--targets", targets, "--json")
    assert done.code == 1
    plain = json.loads(done.out)
    assert {"ref", "quantity", "unit", "published", "modelled", "ratio", "band", "pass", "used_as_input"} <= set(
        plain[0]
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("throughput,-1,TOPS,target,",), "throughput = '-1': must be a number > 0"),
        (("throughput,1,TOPS,goal,",), "kind = 'goal': must be input, target, context"),
        (("speed,1,TOPS,target,",), "quantity 'speed': is not known (known: throughput"),
        (("throughput,1,pJ,target,",), "unit 'pJ': must be one of GOPS, TOPS"),
        (("area.adc,1,mm2,target,",), "adc: no such part here (known: digital_array"),
        (
            ("input_bits,99,bit,input,", "area,1,mm2,target,"),
            "input_bits = 99: Input should be less than or equal to 16",
        ),
        (("adc.bits,6,bit,input,", "area,1,mm2,target,"), "vary adc.bits = 6: no such part"),
        (("area,1,mm2,target,a", "supply_v,1,V,input,b"), "point 'b': has inputs and no target"),
        (("input_bits,4,bit,input,",), "at least one row of kind target"),
        (("energy_per_image,1,mJ,target,",), "no input names one"),
    ],
)
def test_wrong_targets_are_named(tmp_path, lines, message):
    with pytest.raises(InputError) as caught:
        check_own("tsmc22", write(tmp_path / "mine.csv", *lines))
    assert message in str(caught.value)


def test_wrong_files_and_names(tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="column quantity: is required"):
        read_reference(tmp_path / "bad.csv", "tsmc22")
    with pytest.raises(InputError, match="no such reference"):
        check_references("nobody")
    assert "need each other" in refused(capsys, "validate", "--chip", "tsmc22")
    assert set(reference_names()) < set(names())


# --- verdicts ---


@given(st.lists(st.floats(0, 10), min_size=3, max_size=30, unique=True))
def test_rank_correlation_sees_order_only(values):
    assert rank_correlation(values, [exp(v) for v in values]) == pytest.approx(1.0) or len(
        {exp(v) for v in values}
    ) < len(values)
    assert rank_correlation(values, [-v for v in values]) == pytest.approx(-1.0)


# --- the fit ---


def synthetic(chip: str, factor: float, share: float) -> Observation:
    """A chip whose true figure has one term multiplied by `factor`, without noise."""
    evidence = Evidence(chip, "area", "area")
    return Observation(evidence, 1.0, -log(share * factor + 1 - share), {"periphery_factor": share, "": 1 - share})


def test_the_fit_finds_a_factor_that_all_chips_share():
    """Many chips overrule the prior; few leave the answer between prior and data, with a wider interval."""
    rng = np.random.default_rng(0)
    chips = [synthetic(f"chip{i}", 2.5, float(rng.uniform(0.3, 1))) for i in range(200)]
    many, few = fit.fit(chips, ["periphery_factor"]), fit.fit(chips[:2], ["periphery_factor"])
    assert exp(many.logs["periphery_factor"]) == pytest.approx(2.5, rel=0.02)
    assert 1 < exp(few.logs["periphery_factor"]) < 2.5
    assert few.deviations["periphery_factor"] > 3 * many.deviations["periphery_factor"]


def test_without_chips_the_prior_stands():
    found = fit.fit([], ["periphery_factor", "sar_energy"])
    assert all(value == 0 for value in found.logs.values())
    assert found.deviations["sar_energy"] == pytest.approx(0.6)


def test_models_carry_what_the_fit_says():
    """The factors in the models are the fitted ones, to a digit; those not carried were tried and lost."""
    found = {parameter.name: (interval, parameter.adopted) for parameter, interval, _ in fit.parameters()}
    for name, ((low, value, high), is_adopted) in found.items():
        assert low < value < high
        if is_adopted:
            assert fit._carried(name) == pytest.approx(value, rel=0.03)


def test_fitting_helps_unseen_areas_and_harms_unseen_energies():
    """Why two area factors are carried and no energy is: chips left out of the fit."""
    found = left_out()
    areas, energies = found["typical_factor"]["area"], found["typical_factor_with_energies_fitted"]
    assert areas["left_out"] < 0.75 * areas["literature"]
    assert energies["left_out"] > energies["literature"]
    assert found["typical_factor"]["energy"]["left_out"] < 1.5


def test_a_driver_of_one_bit_is_sized_for_its_row():
    """A third of the line: half as many columns, half the energy; what the file states stands."""
    chips = [load_chip("sram-rom", {"crossbar.columns": columns}) for columns in (64, 128)]
    half, whole = (chip.part("dac").component.energy_pj("drive", chip.technology) for chip in chips)
    assert whole == pytest.approx(2 * half)
    array, tech = chips[1].array, chips[1].technology
    assert whole == pytest.approx(0.5 / 3 * array.row_line_ff(tech) * tech.supply_v**2 * 1e-3)
    stated = load_chip("sram-rom", {"dac.line_ff": 90.0})
    assert stated.part("dac").component.line_ff == 90.0


def test_reads_beside_a_slow_converter_are_not_rounded_up_to_its_conversions():
    """A read of 130.05 ns before conversions of 130 ns that overlap it: 131 ns, a tick of 1 ns, not two conversions."""
    chip = load_chip("jia65", {"crossbar.read_ps": 130_048, "adc.peak_rate_hz": 7_692_307})
    macro = measure(chip, OperatingPoint(input_bits=1, weight_bits=1))
    assert macro.interval_ps == pytest.approx(131_000, rel=1e-3)
    assert load_chip("isaac").part("adc").component.peak_rate_hz >= 10**8


CELLS = ("sram", "sram_8t", "sram_8t1c", "sram_12t", "reram", "reram_2t2r", "pcm", "fefet", "rom")
PLAIN = {"crossbar.rows": 128, "crossbar.rows_on": 128, "crossbar.columns": 64, "crossbar.folds": 1, "adc.bits": 5,
         "crossbar.cell_ff": None, "crossbar.cell_f2": None, "crossbar.read_ps": 10_000,
         "crossbar.read_v": 0.3}  # fmt: skip


@pytest.mark.parametrize("encoding", ["offset", "twos_complement", "differential", "sign_magnitude", "xnor"])
@pytest.mark.parametrize("readout", [None, "charge", "current", "voltage", "time"])
def test_every_cell_in_every_readout_and_encoding(readout, encoding):
    for cell in CELLS:
        more = {"crossbar.r_on_ohm": 50_000} if readout == "current" else {}
        fields = {"crossbar.cell": cell, "crossbar.readout": readout, "crossbar.encoding": encoding}
        macro = measure(load_chip("jia65", PLAIN | fields | more), OperatingPoint(input_bits=4, weight_bits=1))
        assert macro.total_pj > 0 and macro.total_um2 > 0 and macro.interval_ps >= 4 * 10_000, cell


@pytest.mark.parametrize("design", ["amplitude", "resistor_ladder", "pulse_count", "pwm"])
@pytest.mark.parametrize("architecture", ["sar", "flash", "ramp", "cco"])
def test_every_converter_with_every_driver(architecture, design):
    more = {"dac.hold_ps": 10_000} if design == "resistor_ladder" else {}
    fields = {"adc.architecture": architecture, "dac.design": design, "dac.bits": 2}
    macro = measure(load_chip("jia65", PLAIN | fields | more), OperatingPoint(input_bits=4, weight_bits=1))
    pulses = {"pulse_count": 3, "pwm": 4}.get(design, 1)
    assert macro.interval_ps >= 2 * pulses * 10_000 and macro.total_pj > 0
