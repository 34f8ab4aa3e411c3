"""Component models against published tables: SRAM sizes held out of the CACTI table, converters of the survey,
voltage lost on wires."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import numpy as np

from cimsim.arrays.irdrop import Wires, solve
from cimsim.components.adc import Adc
from cimsim.components.laws.scaling import Technology, nominal
from cimsim.components.laws.sram_table import cacti_points, sram_figures
from cimsim.validation.verdict import BANDS, Verdict

FIGURES = {"read_pj": ("energy", "pJ"), "write_pj": ("energy", "pJ"), "area_um2": ("area", "um2"),
           "leakage_uw": ("area", "uW")}  # fmt: skip
END_NODE_NM, SMALLEST_BITS, LARGEST_BITS = 65, 8_192, 8_388_608  # ends of the table have neighbours on one side only
NEIGHBOURS = "interpolated from the sizes beside it; CACTI changes its banking from size to size"


class Silicon(NamedTuple):
    """One published converter of B. Murmann's survey."""

    name: str
    effective_bits: float
    rate_hz: int
    node_nm: int
    energy_pj: float
    area_um2: float


SURVEY = (
    Silicon("ISSCC 2010 21.4", 9.10963, 50_000_000, 65, 16.4, 39_000),
    Silicon("ISSCC 2011 10.5", 6.4186, 400_000_000, 65, 10.0, 24_000),
    Silicon("ISSCC 2012 27.7", 8.71096, 80_000_000, 40, 74.9375, 79_625),
    Silicon("ISSCC 2013 26.4", 6.23588, 1_200_000_000, 32, 2.55, 1_500),
    Silicon("ISSCC 2017 16.4", 6.36047, 2_400_000_000, 28, 2.08333, 4_300),
    Silicon("ISSCC 2021 13.4", 5.25581, 900_000_000, 40, 0.777778, 45_000),
    Silicon("VLSI 2008 2.1 (flash)", 5.3, 800_000_000, 65, 15.0, 130_000),
    Silicon("VLSI 2020 CD1.2", 9.0598, 100_000_000, 40, 14.0, 27_000),
)
FACTOR_OF_ONE, MEDIAN = (0.5, 2.0), (0.7, 1.4)
BEST = "the regression follows the better designs of the survey, and one design differs from another by its purpose"


# Exact nodal solutions, all cells equal, all rows at 1 V: rows and columns, ohm of a cell, of a wire segment, and the
# current over the ideal one of the first, the last and the mean column. The last two: one row of 128 x 128 driven.
NODAL = (
    (1, 10_000, 1.0, None, (0.9998, 0.9998, 0.9998)),
    (64, 100_000, 1.0, None, (0.98564, 0.966361, 0.972879)),
    (64, 10_000, 1.0, None, (0.875718, 0.740063, 0.78546)),
    (128, 100_000, 1.0, None, (0.947071, 0.87846, 0.901392)),
    (128, 100_000, 2.5, None, (0.879179, 0.741878, 0.787462)),
    (128, 10_000, 1.0, None, (0.661934, 0.411157, 0.492294)),
    (256, 100_000, 2.5, None, (0.665519, 0.41233, 0.493893)),
    (128, 100_000, 2.5, 0, (0.822053, 0.701971)),
    (128, 100_000, 2.5, 127, (0.994373, 0.822053)),
)
SAME_DIGITS = (1 - 2e-6, 1 + 2e-6)


def irdrop_rows() -> Iterator[Verdict]:
    """Currents of columns over what they were without wires, to the published digits."""
    for size, cell_ohm, segment_ohm, row, published in NODAL:
        volts = np.ones((1, size)) if row is None else np.eye(size)[row : row + 1]
        cells = np.full((size, size), 1 / cell_ohm)
        ratios = solve(cells, Wires(segment_ohm, segment_ohm), volts).column_a[0] / (volts.sum() / cell_ohm)
        found = {"first": ratios[0], "last": ratios[-1], "mean": ratios.mean()}
        point = f"{size} x {size}, {cell_ohm:,} ohm, {segment_ohm:g} ohm" + (f", row {row}" if row is not None else "")
        for (name, value), wanted in zip(found.items(), published, strict=False):
            yield _row("irdrop", f"{name}_column_current", point, "ratio", _Compared(wanted, float(value), SAME_DIGITS))


def cacti_rows() -> Iterator[Verdict]:
    """Each size between the ends, taken out at its node and interpolated from the others, at 22, 32 and 45 nm."""
    for out in cacti_points():
        if out.node_nm >= END_NODE_NM or not SMALLEST_BITS < out.capacity_bits < LARGEST_BITS:
            continue
        rest = tuple(p for p in cacti_points() if (p.node_nm, p.capacity_bits) != (out.node_nm, out.capacity_bits))
        found = sram_figures(out.capacity_bits, out.width_bits, Technology(out.node_nm, out.supply_v), rest)
        point = f"{out.node_nm:g} nm, {out.capacity_bits // 8192} KB x {out.width_bits}"
        for figure, (test, unit) in FIGURES.items():
            published, value = getattr(out.figures, figure), getattr(found, figure)
            band = (1 - BANDS[test], 1 + BANDS[test])
            yield _row("cacti", f"held out {figure}", point, unit, _Compared(published, value, band, NEIGHBOURS))


def adc_rows() -> Iterator[Verdict]:
    """The survey's law at published converters' rates and whole bits, and its middle."""
    for figure, unit in (("energy_pj", "pJ"), ("area_um2", "um2")):
        ratios = []
        for one in SURVEY:
            adc, tech = Adc(bits=round(one.effective_bits), peak_rate_hz=one.rate_hz), nominal(one.node_nm)
            value = adc.energy_pj("convert", tech) if figure == "energy_pj" else adc.area_um2(tech)
            published = getattr(one, figure)
            ratios.append(value / published)
            yield _row("adc_survey", figure, one.name, unit, _Compared(published, value, FACTOR_OF_ONE, BEST))
        yield _row("adc_survey", f"median of {figure}", "", "ratio", _Compared(1.0, median(ratios), MEDIAN, BEST))


class _Compared(NamedTuple):
    """A figure of a table: what was published, what the model says, in which band, and why it may miss."""

    published: float
    found: float
    band: tuple[float, float]
    note: str = ""


def _row(ref: str, quantity: str, point: str, unit: str, figure: _Compared) -> Verdict:
    ratio, (low, high) = figure.found / figure.published, figure.band
    return Verdict(
        ref=ref, quantity=quantity, point=point, unit=unit, published=figure.published, modelled=figure.found,
        ratio=ratio, band=figure.band, passed=low <= ratio <= high, used_as_input=False, note=figure.note,
    )  # fmt: skip


TABLES = {"cacti": cacti_rows, "adc_survey": adc_rows, "irdrop": irdrop_rows}
