"""The look of everything on the page: colours, short names, units for people."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan

from workloads.format import WeightFormat, parse_format

Units = tuple[tuple[float, str], ...]  # (size, name), the largest first

# Okabe & Ito, "Color Universal Design" (2008): distinguishable with every common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
OTHER = "#B8BCC4"
INK, FAINT = "#1F2933", "#8A94A3"

# Light to dark within a family, so that formats stay apart in grey too; families differ in hue.
FAMILY_COLOURS = {
    "linear": ("#D3E7F5", "#86BFE3", "#3D8FC6", "#0B5C94", "#08385B"),
    "vq": ("#FCE3C2", "#F5B55C", "#E28A12", "#B65A00", "#7A3700"),
    "lattice": ("#D5EDE3", "#7CCBAD", "#1E9E77", "#0A6B4F", "#06402F"),
    "pool": ("#F3DCE8", "#E0A9C7", "#CC79A7", "#9B4B78", "#662A4C"),
}
ENERGY_UNITS: Units = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
TIME_UNITS: Units = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))


def signed(value: float, decimals: int = 1) -> str:
    """`value` with its sign (none for zero), a true minus, and a dash for NaN."""
    if isnan(value):
        return "–"
    rounded = round(value, decimals) + 0.0  # turns -0.0 into 0.0
    return f"{rounded:{'+' if rounded else ''}.{decimals}f}".replace("-", "−")


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """One colour per name in the given order; names beyond the palette share the neutral one."""
    listed = list(dict.fromkeys(names))
    return {name: PALETTE[i] if i < len(PALETTE) else OTHER for i, name in enumerate(listed)}


def format_colours(names: Iterable[str]) -> dict[str, str]:
    """Format name -> colour: hue is the family, darkness grows with bits per weight. Sorted for a legend."""
    formats = sorted((parse_format(name) for name in set(names)), key=_family_order)
    colours = {}
    for family, shades in FAMILY_COLOURS.items():
        members = [fmt for fmt in formats if fmt.kind == family]
        spread = (len(shades) - 1) / max(len(members) - 1, 1)
        start = 2 if len(members) == 1 else 0
        for i, fmt in enumerate(members):
            colours[fmt.name] = shades[min(round(start + i * spread), len(shades) - 1)]
    return colours


def _family_order(fmt: WeightFormat) -> tuple[float, int, str]:
    return fmt.bits_per_weight, fmt.num_entries, fmt.name


def short_format(name: str) -> str:
    """`linear-4` -> `lin 4`, `vq-4x256-e4-s0` -> `vq 4×256`, `d4-q4` -> `D4 q4`; unusual parts stay."""
    fmt = parse_format(name)
    if fmt.kind == "linear":
        return name.replace("linear-", "lin ").replace("-", " ")
    if fmt.kind == "lattice":
        return name[:2].upper() + name[2:].replace("-", " ")
    if fmt.kind == "pool":
        return name.replace("-", " ")
    return name.replace("vq-", "vq ").replace("x", "×").replace("-e4", "").replace("-s0", "").replace("-", " ")


def short_label(label: str) -> str:
    """A row's label for a crowded figure: `uniform linear-4` -> `lin 4`, `all vq-…` -> `all vq 4×256`."""
    words = label.split(" ", 1)
    if len(words) == 2 and words[0] in ("uniform", "all"):
        try:
            return ("all " if words[0] == "all" else "uniform ") + short_format(words[1])
        except ValueError:
            return label
    return label


def is_dark(colour: str) -> bool:
    """Whether white text reads better than black on this #RRGGBB colour (relative luminance, BT.709)."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5


def unit_of(largest: float, units: Units) -> tuple[float, str]:
    """The unit in which `largest` is at least one: (size, name)."""
    return next(((size, name) for size, name in units if largest >= size), units[-1])


def quantity(value: float, units: Units) -> str:
    """`value` to three digits with its unit; a dash for NaN."""
    if isnan(value):
        return "–"
    size, name = unit_of(abs(value), units)
    return f"{digits3(value / size)} {name}".rstrip()


def energy(value_pj: float) -> str:
    return quantity(value_pj, ENERGY_UNITS)


def duration(value_ns: float) -> str:
    return quantity(value_ns, TIME_UNITS)


def percent(fraction: float, decimals: int = 1) -> str:
    return "–" if isnan(fraction) else f"{100 * fraction:.{decimals}f} %"


def signed_percent(fraction: float, decimals: int = 1) -> str:
    return "–" if isnan(fraction) else f"{signed(100 * fraction, decimals)} %"


def points(fraction: float) -> str:
    """A difference of accuracies (fractions) in percentage points."""
    return "–" if isnan(fraction) else f"{signed(100 * fraction, 2)} points"


def digits3(value: float) -> str:
    """Three significant digits, thousands apart; an exponent only for what is very large or small."""
    if isnan(value):
        return "–"
    if 100 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2e}"
