"""Whether the parts of a chip fit each other: every check before anything is computed from it."""

from __future__ import annotations

from collections import Counter

from cimsim.chip.model import Chip, in_pool
from cimsim.components import COMPONENTS
from cimsim.components.buffer import Buffer

INPUT_BITS, SUM_BITS = 8, 32  # what a tile buffer keeps of one array: its inputs and its column sums


# --- checks across parts ---


def structure_problems(chip: Chip) -> list[str]:
    """Levels, borders, names and the two parts without which there is no array."""
    problems = []
    borders = [level.name for level in chip.levels if level.border]
    if len(borders) != 1:
        problems.append(f"root: exactly one level must carry `border: tile`, found {borders or 'none'}")
    names = [level.name for level in chip.levels] + [name for level in chip.levels for name in level.parts]
    problems += [f"{name}: this name is used {n} times" for name, n in Counter(names).items() if n > 1]
    problems += _array_problems(chip)
    for level in chip.levels[:-1]:
        per_line = [name for name, part in level.parts.items() if part.per != "level"]
        problems += [f"parts.{name}.per: only for parts of the innermost level" for name in per_line]
    missing = [name for name in ("array", "digital") if name not in chip.clocks_hz]
    return problems + [f"clocks_hz.{name}: this key is required" for name in missing]


def _array_problems(chip: Chip) -> list[str]:
    """One kind of array computes; crossbars need a converter beside them."""
    parts = [(level.name, part) for level in chip.levels for part in level.parts.values() if not in_pool(part)]
    arrays = [(where, part.kind) for where, part in parts if part.IS_ARRAY]
    problems = []
    if [where for where, _ in arrays] != [chip.unit.name]:
        kinds = " or ".join(name for name, kind in COMPONENTS.items() if kind.IS_ARRAY)
        found = f"found {arrays}" if arrays else "found none"
        problems.append(f"{chip.unit.name}.parts: exactly one {kinds} must stand in the innermost level, {found}")
    converters = [where for where, part in parts if part.kind == "adc"]
    if any(kind == "crossbar" for _, kind in arrays) and converters != [chip.unit.name]:
        found = f"found in {converters}" if converters else "found none"
        problems.append(f"{chip.unit.name}.parts: exactly one adc must stand in the innermost level, {found}")
    return problems


def fit_problems(chip: Chip) -> list[str]:
    """Do the parts of a well-formed chip fit each other?"""
    return [*_tile_problems(chip), *_rate_problems(chip), *_mesh_problems(chip)]


def _tile_problems(chip: Chip) -> list[str]:
    problems = []
    array, adc = chip.array, chip.part("adc")
    if adc is not None and adc.component.count % array.count and array.count % adc.component.count:
        problems.append(f"adc.count = {adc.component.count}: must divide or be a multiple of the {array.count} arrays")
    need = array.rows * INPUT_BITS + array.columns * SUM_BITS
    buffer = chip.part("buffer", "tile")
    if buffer is None:
        problems.append("parts: a buffer of role `tile` is required")
    elif isinstance(buffer.component, Buffer) and buffer.component.capacity_bits < need:
        problems.append(
            f"parts.{buffer.name}.capacity_bits = {buffer.component.capacity_bits}: array larger than tile:"
            f" must be >= {need}"
            f" ({array.rows} inputs of {INPUT_BITS} and {array.columns} sums of {SUM_BITS} bits)"
        )
    if chip.part("index_buffer") is None:
        decoders = [p for kind in ("codebook_rom", "lattice_decoder") if (p := chip.part(kind))]
        problems += [f"parts.{p.name}: needs an index_buffer that streams its codes" for p in decoders]
    return problems


def _rate_problems(chip: Chip) -> list[str]:
    problems = []
    for part in chip.placed:
        clock = getattr(part.component, "clock", "digital")
        if clock not in chip.clocks_hz:
            problems.append(f"parts.{part.name}.clock = {clock!r}: not in clocks_hz ({', '.join(chip.clocks_hz)})")
        if part.component.peak_rate_hz is None and not part.component.OFF_CHIP:
            problems.append(f"parts.{part.name}.peak_rate_hz: this key is required (peak power)")
    return problems


def _mesh_problems(chip: Chip) -> list[str]:
    if chip.mesh is None:
        has_way = chip.num_tiles == 1 or chip.part("bus", "chip")
        return [] if has_way else [f"mesh: required for {chip.num_tiles} tiles (or a bus of role `chip`)"]
    places = chip.mesh.columns * chip.mesh.rows
    if places != chip.num_tiles:
        return [f"mesh: {chip.mesh.columns} x {chip.mesh.rows} places, but {chip.num_tiles} tiles (must be equal)"]
    return []
