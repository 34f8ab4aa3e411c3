"""Prices: every source's figure holds, every part has evidence, printed figures anchor the models."""

import pytest
from pydantic import ValidationError

from cimsim.components import COMPONENTS
from cimsim.components.adc import Adc
from cimsim.components.base import Assumption, Component, Stated
from cimsim.components.buffer import Buffer
from cimsim.components.codebook_rom import CodebookRom
from cimsim.components.crossbar import Crossbar
from cimsim.components.lattice_decoder import LatticeDecoder
from cimsim.components.laws.scaling import Technology, nominal
from cimsim.components.laws.sram_table import cacti_points, sram_figures
from cimsim.components.link import Link

CHECKS = [
    pytest.param(part, check, id=f"{kind}-{check.output}-{number}")
    for kind, part in COMPONENTS.items()
    for number, check in enumerate(check for source in part.SOURCES for check in source.checks)
]
TECH = Technology(22, 0.8)


def price(component: Component, output: str, tech: Technology) -> float:
    if output in ("area_um2", "leakage_uw"):
        return getattr(component, output)(tech)
    return component.energy_pj(output, tech)


@pytest.mark.parametrize(("part", "check"), CHECKS)
def test_check_point_holds(part, check):
    component = part.model_validate(check.inputs)
    assert price(component, check.output, check.technology) == pytest.approx(check.value, rel=check.tolerance)


@pytest.mark.parametrize(("kind", "part"), COMPONENTS.items())
def test_every_component_has_evidence(kind, part):
    assert part.model_fields["kind"].default == kind
    assert part.SOURCES or part.ASSUMPTIONS
    assert any(source.checks for source in part.SOURCES), "no source with a check point"
    assert all(source.citation for source in part.SOURCES)
    for assumption in part.ASSUMPTIONS:
        assert part.model_fields[assumption.name].default == assumption.nominal, assumption.name


@pytest.mark.parametrize("part", COMPONENTS.values())
@pytest.mark.parametrize(
    "tech",
    [Technology(130, 1.3), Technology(65, 1.1), Technology(28, 0.9), TECH, Technology(7, 0.7), Technology(5, 0.65)],
)
def test_prices_are_positive_and_grow_with_supply(part, tech):
    first = next(check for source in part.SOURCES for check in source.checks)
    component = part.model_validate(first.inputs)
    higher = Technology(tech.node_nm, tech.supply_v * 1.1)
    for action in component.actions():
        low, high = component.energy_pj(action, tech), component.energy_pj(action, higher)
        assert low > 0
        assert high == pytest.approx(low) or high == pytest.approx(low * 1.21) or low < high < low * 1.21
    assert component.area_um2(tech) >= 0
    assert component.leakage_uw(tech) >= 0


def test_unknown_action_lists_the_known_ones():
    with pytest.raises(KeyError, match="known: convert"):
        Adc(bits=8, peak_rate_hz=10**9).energy_pj("read_bit", TECH)


def test_adc_survey_points_within_factor_two_in_the_median():
    """Silicon from B. Murmann's survey: (effective bits, Hz, nm, pJ). The fit is a middle, not a bound."""
    silicon = [
        (9, 50e6, 65, 16.4),
        (6, 400e6, 65, 10.0),
        (9, 80e6, 40, 74.9),
        (6, 1200e6, 32, 2.55),
        (6, 2400e6, 28, 2.083),
        (5, 900e6, 40, 0.778),
        (9, 100e6, 40, 14.0),
    ]
    ratios = sorted(
        Adc(bits=bits, peak_rate_hz=int(hz)).energy_pj("convert", nominal(nm)) / pj for bits, hz, nm, pj in silicon
    )
    assert 0.3 < ratios[len(ratios) // 2] < 1.4


def test_adc_energy_never_falls_with_bits_or_rate():
    for rate_hz in (10**8, 10**9):
        energies = [Adc(bits=b, peak_rate_hz=rate_hz).energy_pj("convert", TECH) for b in range(1, 13)]
        assert energies == sorted(energies)
    for bits in range(1, 13):
        slow, fast = (Adc(bits=bits, peak_rate_hz=hz).energy_pj("convert", TECH) for hz in (10**7, 10**10))
        assert fast >= slow


# --- SRAM ---


@pytest.mark.parametrize(
    ("figure", "mean", "worst"),
    [("read_pj", 0.10, 0.28), ("write_pj", 0.06, 0.18), ("area_um2", 0.08, 0.23), ("leakage_uw", 0.03, 0.07)],
)
def test_held_out_sizes_are_predicted(figure, mean, worst):
    """Each size between the ends is removed at 22, 32 and 45 nm and interpolated from its neighbours.

    CACTI changes its banking from size to size, so its own curves jump.
    """
    errors = []
    for out in cacti_points():
        rest = tuple(p for p in cacti_points() if (p.node_nm, p.capacity_bits) != (out.node_nm, out.capacity_bits))
        if out.node_nm < 65 and 8_192 < out.capacity_bits < 8_388_608:
            got = sram_figures(out.capacity_bits, out.width_bits, Technology(out.node_nm, out.supply_v), rest)
            errors.append(abs(getattr(got, figure) / getattr(out.figures, figure) - 1))
    assert len(errors) == 54
    assert sum(errors) / len(errors) < mean
    assert max(errors) < worst


@pytest.mark.parametrize(
    ("figure", "mean", "worst"), [("read_pj", 0.08, 0.25), ("write_pj", 0.04, 0.15), ("area_um2", 0.05, 0.17)]
)
@pytest.mark.parametrize("node_nm", [32, 45])
def test_held_out_nodes_are_predicted(node_nm, figure, mean, worst):
    """All runs of one node are removed and interpolated from its neighbours, each at its own supply."""
    rest = tuple(p for p in cacti_points() if p.node_nm != node_nm)
    errors = [
        abs(
            getattr(sram_figures(p.capacity_bits, p.width_bits, Technology(node_nm, p.supply_v), rest), figure)
            / getattr(p.figures, figure)
            - 1
        )
        for p in cacti_points()
        if p.node_nm == node_nm
    ]
    assert sum(errors) / len(errors) < mean
    assert max(errors) < worst


@pytest.mark.parametrize(
    ("capacity_bits", "width_bits", "tech", "read_pj"),
    [(65_536, 64, Technology(65, 1.2), 11.1), (8_388_608, 64, Technology(65, 1.2), 174.0)],
)
def test_cacti_runs_outside_the_table(capacity_bits, width_bits, tech, read_pj):
    """The 65 nm table has neither 8 KB nor 1 MB (validation runs of CACTI 7)."""
    assert sram_figures(capacity_bits, width_bits, tech).read_pj == pytest.approx(read_pj, rel=0.3)


def test_sram_at_a_node_between_its_tables():
    """28 nm as the hwcomponents package interpolates it: 64 KB x 64, 9.99 pJ, 98,091 um2."""
    got = sram_figures(524_288, 64, Technology(28, 0.8 + (1.0 - 0.8) * 0.6))
    assert got.read_pj == pytest.approx(9.99194, rel=0.15)
    assert got.area_um2 == pytest.approx(98_090.8, rel=0.15)


def test_sram_against_horowitz():
    """ISSCC 2014, 45 nm, 0.9 V: 8 KB 10 pJ, 1 MB 100 pJ per 64 bits; another design style, so a factor 3."""
    for bits, pj in [(65_536, 10.0), (8_388_608, 100.0)]:
        assert pj / 3 < sram_figures(bits, 64, Technology(45, 0.9)).read_pj < pj * 3


# --- particular parts ---


def rom(**fields) -> CodebookRom:
    values = {"capacity_bits": 16_384, "ports": 1, "latency_cycles": 1, "width_bits": 32}
    return CodebookRom.model_validate(values | fields)


def test_rom_energy_is_a_named_share_of_sram():
    low, nominal_rom, high = (rom(energy_ratio=r).energy_pj("read_bit", TECH) for r in (0.25, 0.5, 1.0))
    assert (low / nominal_rom, high / nominal_rom) == pytest.approx((0.5, 2.0))
    sram = Buffer(memory="sram", role="tile", capacity_bits=16_384, width_bits=32)
    assert high == pytest.approx(sram.energy_pj("read_bit", TECH))
    assert any("energy_ratio = 0.5 (0.25 to 1)" in text for text in rom().evidence())


def test_rom_ports_are_copies():
    assert rom(ports=4).area_um2(TECH) == pytest.approx(4 * rom().area_um2(TECH))
    assert rom(ports=4).energy_pj("read_bit", TECH) == rom().energy_pj("read_bit", TECH)


def test_lattice_decoder_counts_additions():
    d4 = LatticeDecoder(lattices=("d4",), ports=1, latency_cycles=1)
    both = LatticeDecoder(lattices=("d4", "e8"), ports=2, latency_cycles=1)
    assert (d4.num_additions, both.num_additions) == (4 + 11 + 4 + 4, 16 + 2 * 23 + 31 + 8 + 8)
    assert both.area_um2(TECH) / d4.area_um2(TECH) == pytest.approx(2 * 109 / 23)


SRAM_ARRAY = {
    "rows": 128,
    "columns": 128,
    "cell": "sram",
    "cell_bits": 1,
    "rows_on": 64,
    "read_ps": 5_000,
    "write_ps": 1_000,
    "encoding": "twos_complement",
}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rows_on": 129}, "rows_on = 129: must be <= rows = 128"),
        ({"cell_bits": 2}, "cell_bits = 2: must be 1"),
        ({"column_flip": True}, "needs encoding: offset"),
        ({"read_ps": 0}, "greater than 0"),
    ],
)
def test_impossible_arrays_are_refused(change, text):
    with pytest.raises(ValidationError, match=text):
        Crossbar.model_validate(SRAM_ARRAY | change)


def test_sram_cell_reads_go_with_node_and_voltage_squared():
    array = Crossbar.model_validate(SRAM_ARRAY)
    at_28 = array.energy_pj("read_cell", Technology(28, 0.9))
    assert array.energy_pj("read_cell", Technology(14, 0.9)) == pytest.approx(at_28 / 2)
    assert array.energy_pj("read_cell", Technology(28, 0.45)) == pytest.approx(at_28 / 4)


def test_always_on_link_costs_time_not_bits():
    on, off = (Link(always_on=flag, peak_rate_hz=51_200_000_000) for flag in (True, False))
    assert on.energy_pj("transfer_bit", TECH) == 0
    assert off.always_on_mw(TECH) == 0
    assert on.always_on_mw(TECH) == pytest.approx(off.peak_power_mw(TECH)) == pytest.approx(2600)


# --- stated figures ---


def stated_adc(num_bits: int = 8, **at) -> Adc:
    stated = Stated(power_mw=16, area_mm2=0.0096, of=8, at=at, source="Shafiee et al., ISCA 2016, Table I")
    return Adc(count=8, bits=num_bits, peak_rate_hz=1_280_000_000, stated=stated)


def test_stated_figures_are_met_exactly():
    adc = stated_adc()
    assert adc.energy_pj("convert", TECH) == pytest.approx(1.5625)
    assert adc.peak_power_mw(TECH) == pytest.approx(2.0)
    assert adc.area_um2(TECH) == pytest.approx(1200)
    assert adc.leakage_uw(TECH) == 0


def test_stated_figures_move_by_the_model():
    free = {bits: Adc(bits=bits, peak_rate_hz=1_280_000_000) for bits in (6, 8)}
    ratio = free[6].energy_pj("convert", TECH) / free[8].energy_pj("convert", TECH)
    assert stated_adc(6, bits=8).energy_pj("convert", TECH) == pytest.approx(1.5625 * ratio)
    smaller = stated_adc(8, node_nm=32, supply_v=0.9)
    assert smaller.energy_pj("convert", Technology(32, 0.9)) == pytest.approx(1.5625)
    assert smaller.energy_pj("convert", TECH) < 1.5625


def test_stated_power_needs_a_rate_and_known_fields():
    with pytest.raises(ValidationError, match="peak_rate_hz: required"):
        LatticeDecoder(lattices=("d4",), ports=1, latency_cycles=1, stated=Stated(power_mw=1, of=1, source="x"))
    with pytest.raises(ValidationError, match="no such fields"):
        stated_adc(bitz=8)
    with pytest.raises(ValidationError, match=r"stated.at: bits = 99"):
        Adc.model_validate(
            {
                "bits": 8,
                "peak_rate_hz": 1,
                "stated": {"power_mw": 1, "of": 1, "source": "x", "at": {"bits": 99}},
            }
        )


def test_bands_are_ordered():
    with pytest.raises(ValidationError, match="must lie in its band"):
        Assumption(name="x", why="y", low=1, nominal=3, high=2, unit="")
