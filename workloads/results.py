"""What a row of a run's results holds: one schema for whoever writes or reads them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from workloads.errors import InputError, problems_of
from workloads.layer import Frozen

# Where a plan is from: a search, one format everywhere (as plain numbers, as codes), chance, `cimsim train`. A variant
# is any of these on a chip of which something was varied.
Kind = Literal["search", "uniform", "all_vq", "random", "train", "variant"]
KINDS: tuple[str, ...] = get_args(Kind)
VARY = "vary"  # the column of all varied knobs as one text; a column `vary.KNOB` each stands behind the others


def uniform_kind(fmt: str) -> Kind:
    """Of a plan with one format everywhere."""
    return "uniform" if fmt.startswith("linear") else "all_vq"


class Tried(Frozen):
    """A plan on a chip, whatever came of it. `key` names the row and the files it points to."""

    key: str
    kind: Kind
    label: str
    chip: str
    vary: dict[str, int | float] = {}  # knob of the chip -> its value, where it is not the chip's own
    seed: int = 0

    @property
    def vary_text(self) -> str:
        return ",".join(f"{knob}={value}" for knob, value in self.vary.items())


class Refused(Tried):
    """What a chip cannot run, or a chip that cannot be: the reasons."""

    plan: str
    refused: tuple[str, ...] = Field(min_length=1)


class Row(Tried):
    """A plan with its costs for one image and, where it was trained, its accuracies."""

    budget_fraction: float | None = Field(default=None, ge=0)
    budget_pj: float | None = Field(default=None, ge=0)
    met: bool | None = None
    energy_pj: float = Field(ge=0)
    dynamic_pj: float = Field(ge=0)
    leakage_pj: float = Field(ge=0)
    always_on_pj: float = Field(ge=0)
    latency_ns: float = Field(ge=0)
    interval_ns: float = Field(ge=0)
    area_mm2: float = Field(ge=0)
    area_used_mm2: float = Field(ge=0)
    bits_per_weight: float = Field(ge=0)
    float_accuracy: float | None = Field(default=None, ge=0, le=1)
    ideal_accuracy: float | None = Field(default=None, ge=0, le=1)
    array_accuracy: float | None = Field(default=None, ge=0, le=1)
    test_images: int | None = Field(default=None, ge=1)
    relaxation_gap: float | None = None
    discretization_gap: float | None = None
    contention_gap: float | None = None
    contention_gap_latency: float | None = None
    plan: str  # a file of plans/

    # Not in results.csv:
    job: str | None = None  # that made the row
    weights: str | None = None  # the exported network, a file of the run directory
    density_gap: float | None = None  # energy with measured data over that with half of all data on, less 1


INSIDE = ("job", "weights", "density_gap")
COLUMNS = tuple(name for name in Row.model_fields if name not in INSIDE)


def is_number(column: str) -> bool:
    """Whether a column holds numbers; those of varied knobs do."""
    field = Row.model_fields.get(column)
    if field is None:
        return column.startswith(f"{VARY}.")
    return not {int, float}.isdisjoint({field.annotation, *get_args(field.annotation)})


def read_row(plain: Mapping[str, Any]) -> Row | Refused:
    """A row as its JSON has it. Raises InputError with every problem: key, value, bound."""
    model = Refused if "refused" in plain else Row
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        raise InputError("row", problems_of(error, model)) from None


def plain_row(row: Row | Refused) -> dict[str, Any]:
    """The row as JSON: what it does not have is left out."""
    return row.model_dump(mode="json", exclude_none=True)


def results_csv(rows: Iterable[Row]) -> str:
    """Rows in a fixed order, without times; floats as their shortest exact text, missing values empty."""
    ordered = sorted(rows, key=_order)
    knobs = tuple(dict.fromkeys(knob for row in ordered for knob in row.vary))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(f"{VARY}.{knob}" for knob in knobs)])
    for row in ordered:
        cells = [row.vary_text if name == VARY else getattr(row, name) for name in COLUMNS]
        writer.writerow(["" if cell is None else cell for cell in [*cells, *map(row.vary.get, knobs)]])
    return text.getvalue()


def _order(row: Row) -> tuple[str | int, ...]:
    return row.chip, row.vary_text, row.kind, row.label, row.seed, row.key
