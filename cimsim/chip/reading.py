"""Reading a chip: YAML, variations on it, and every check before anything is computed from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from cimsim.chip.checks import fit_problems, structure_problems
from cimsim.chip.model import BillRow, Chip, Level, Part
from cimsim.components import COMPONENTS
from cimsim.components.laws.memory_array import MemoryArray
from workloads.errors import InputError, problems_of
from workloads.yamlfile import read_mapping

__all__ = ["BillRow", "Chip", "Level", "Part", "chip_names", "chip_schema", "load_chip"]

CHIPS = Path(__file__).parents[1] / "chips"
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
    Raises InputError that lists every problem. Within a process the same file and variation are the same chip.
    """
    path, varied = _chip_path(name_or_path), dict(vary or {})
    asked = str(path), _content(path), repr(varied)
    if asked not in _CHIPS:
        if len(_CHIPS) >= MOST_CHIPS:
            _CHIPS.pop(next(iter(_CHIPS)))
        _CHIPS[asked] = _read(path, varied)
    return _CHIPS[asked]


MOST_CHIPS = 64  # kept, the oldest go first
_CHIPS: dict[tuple[str, bytes, str], Chip] = {}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # who reads the file tells why that cannot be done


def _read(path: Path, varied: dict[str, Any]) -> Chip:
    raw = read_mapping(path, "name, node_nm, supply_v, ..., root", path.name)
    if problems := _apply(raw, varied):
        raise InputError(path.name, problems)
    try:
        chip = Chip.model_validate(raw)
    except ValidationError as error:
        raise InputError(path.name, _readable(problems_of(error, Chip), varied)) from None
    if not (problems := structure_problems(chip)):
        chip = _with_array(chip, raw)
        problems = fit_problems(chip)
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
