"""Reading a chip: YAML, variations on it, and every check before anything is computed from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from cimsim.chip import BillRow, Chip, Level, Part, in_pool
from cimsim.components import COMPONENTS
from cimsim.components.buffer import Buffer
from cimsim.components.memory_array import MemoryArray
from workloads.errors import InputError, problems_of
from workloads.yamlfile import read_mapping

__all__ = ["BillRow", "Chip", "Level", "Part", "chip_names", "chip_schema", "load_chip"]

CHIPS = Path(__file__).parent / "chips"
INPUT_BITS, SUM_BITS = 8, 32  # what a tile buffer keeps of one array: its inputs and its column sums
NOT_VARIED = {"kind", "stated", "assumptions"}
NOT_PRICED = {
    "count",
    "shared_by",
    "per",
    "role",
}  # how many parts there are does not change the price of one


def chip_names() -> tuple[str, ...]:
    """Names of the ready chips."""
    return tuple(sorted(path.stem for path in CHIPS.glob("*.yaml")))


def chip_schema() -> dict[str, Any]:
    """JSON schema of a chip file, for editors."""
    return Chip.model_json_schema()


def load_chip(name_or_path: str | Path, vary: Mapping[str, Any] | None = None) -> Chip:
    """The chip of this name (see `chip_names`) or file.

    `vary` maps `part.field`, `level.count` or a chip field to a value: `load_chip("isaac", {"adc.bits": 6})`.
    Printed figures stay anchored at the file's own values, so they follow the model.
    Raises InputError that lists every problem.
    """
    path = _chip_path(name_or_path)
    raw = read_mapping(path, "name, node_nm, supply_v, ..., root", path.name)
    varied = dict(vary or {})
    if problems := _apply(raw, varied):
        raise InputError(path.name, problems)
    try:
        chip = Chip.model_validate(raw)
    except ValidationError as error:
        raise InputError(path.name, _readable(problems_of(error, Chip), varied)) from None
    if not (problems := _structure_problems(chip)):
        chip = _with_array(chip, raw)
        problems = _fit_problems(chip)
    if problems:
        raise InputError(path.name, _readable(problems, varied))
    return chip


def _chip_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in chip_names():
        return CHIPS / f"{text}.yaml"
    if Path(text).is_file():
        return Path(text)
    raise InputError(text, [f"no such chip file or ready chip (ready: {', '.join(chip_names())})"])


def _readable(problems: list[str], vary: Mapping[str, Any]) -> list[str]:
    """Paths without the kind that pydantic puts after a part's name; varied values under their key."""
    kinds = "|".join(COMPONENTS)
    clean = [re.sub(rf"(\bparts\.[^.\s]+)\.(?:{kinds})(?=[.:\s])", r"\1", problem) for problem in problems]
    for key in vary:
        clean = [re.sub(rf"^\S*\bparts\.{re.escape(key)}(?=[\s:])", f"vary {key}", problem) for problem in clean]
        clean = [re.sub(rf"^{re.escape(key)}(?=[\s:])", f"vary {key}", problem) for problem in clean]
    return clean


def _with_array(chip: Chip, raw: dict[str, Any]) -> Chip:
    """The chip with what follows from its arrays, where the file leaves it to them: their rate, their drivers' load."""
    array, changed = chip.array, False
    if not isinstance(array, MemoryArray):
        return chip
    rate_hz = array.natural_rate_hz(chip.technology) or _conversions_hz(chip)
    own: dict[tuple[str, str], float | None] = {
        (kind, "peak_rate_hz"): rate_hz for kind in (array.kind, "dac", "sample_hold")
    }
    own["dac", "line_ff"] = array.row_line_ff(chip.technology)
    *_, unit = _raw_levels(raw)
    for block in unit["parts"].values():
        for (kind, field), value in own.items():
            if block.get("kind") == kind and block.get(field) is None and value is not None:
                block[field], changed = value, True
    return Chip.model_validate(raw) if changed else chip


def _conversions_hz(chip: Chip) -> int | None:
    """Reads a second of arrays whose conversion is the read."""
    adc, array = chip.part("adc"), chip.array
    if adc is None or adc.component.peak_rate_hz is None:
        return None
    values = ceil(array.columns / array.joined_columns) * array.count
    return max(1, int(adc.component.peak_rate_hz * adc.per_level / values))


# --- variations, on the raw file ---


def _apply(raw: dict[str, Any], vary: Mapping[str, Any]) -> list[str]:
    """Writes each variation into `raw`; returns what is wrong with the keys."""
    levels = {str(level.get("name")): level for level in _raw_levels(raw)}
    parts: dict[str, dict[str, Any]] = {}
    for level in levels.values():
        blocks = level.get("parts")
        parts |= {k: v for k, v in blocks.items() if isinstance(v, dict)} if isinstance(blocks, dict) else {}
    found = (_set(raw, levels, parts, key, value) for key, value in vary.items())
    return [problem for problem in found if problem]


def _raw_levels(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    level = raw.get("root")
    while isinstance(level, dict):
        yield level
        level = level.get("inside")


def _set(raw: dict, levels: Mapping[str, dict], parts: Mapping[str, dict], key: str, value: object) -> str | None:
    owner, _, field = key.partition(".")
    if owner in parts:
        return _set_part(parts[owner], key, field, value)
    if owner in levels and field == "count":
        levels[owner]["count"] = value
    elif field and owner in ("clocks_hz", "pipeline", "mesh") and field in (raw.get(owner) or {}):
        raw[owner][field] = value
    elif not field and owner in Chip.model_fields and owner != "root":
        for block in parts.values() if owner in ("node_nm", "supply_v") else ():
            _anchor(block, owner, raw.get(owner))
        raw[owner] = value
    else:
        known = [
            *parts,
            *(f"{name}.count" for name in levels),
            *(name for name in Chip.model_fields if name != "root"),
        ]
        return f"vary {key} = {value!r}: no such part or chip field (known: {', '.join(known)})"
    return None


def _set_part(block: dict[str, Any], key: str, field: str, value: object) -> str | None:
    component = COMPONENTS.get(str(block.get("kind")))
    known = set(component.model_fields) - NOT_VARIED if component else set()
    if component is None or field not in known:
        return f"vary {key} = {value!r}: no such field (known: {', '.join(sorted(known))})"
    _anchor(block, field, block.get(field, component.model_fields[field].default))
    block[field] = value
    return None


def _anchor(block: dict[str, Any], field: str, unvaried: object) -> None:
    """A printed figure holds at the file's own value of `field`."""
    stated = block.get("stated")
    if isinstance(stated, dict) and unvaried is not PydanticUndefined and field not in NOT_PRICED:
        stated.setdefault("at", {}).setdefault(field, unvaried)


# --- checks across parts ---


def _structure_problems(chip: Chip) -> list[str]:
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


def _fit_problems(chip: Chip) -> list[str]:
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
    for part in chip.parts():
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
