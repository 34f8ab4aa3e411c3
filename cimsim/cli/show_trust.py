"""What the commands of trust print: verdicts, chips left out of the fit, intervals, deciding assumptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cimsim.cli.show import SHOWN, energy_text, print_json, print_notes, print_table, say

if TYPE_CHECKING:
    from cimsim.cost.uncertainty import Sensitivity
    from cimsim.validation import Verdict

FEW_POINTS = 6  # of one quantity, shown one by one even among all references
VERDICT = {True: "ok", False: "MISS", None: "shown"}


def show_validation(rows: Sequence[Verdict], json: bool, is_whole: bool) -> None:
    """Published against modelled figures; among all references, many points of one quantity become one line."""
    if json:
        return print_json([row.to_dict() for row in rows])
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for row in rows:
        groups.setdefault((row.ref, row.quantity), []).append(row)
    cells = []
    for group in groups.values():
        cells += [_range_cells(group)] if is_whole and len(group) > FEW_POINTS else map(_verdict_cells, group)
    columns = ("reference", "quantity", "point", "published", "modelled", "unit", "ratio", "allowed", "verdict",
               "uses its figures")  # fmt: skip
    print_table("published against modelled", columns, cells)
    why = dict.fromkeys((f"{row.ref} {row.quantity}", row.note) for row in rows if row.note and row.passed is not True)
    print_notes([("why they miss", "")] * bool(why) + list(why))
    judged = [row for row in rows if row.passed is not None]
    own = [row for row in judged if not row.used_as_input]
    counts = [f"{sum(bool(row.passed) for row in some)} of {len(some)}" for some in (judged, own)]
    say(f"{counts[0]} figures in their bands; {counts[1]} of those that use nothing the chip's paper measured")


def _verdict_cells(row: Verdict) -> tuple[Any, ...]:
    return (row.ref, row.quantity, row.point, f"{row.published:.4g}", f"{row.modelled:.4g}", row.unit,
            f"{row.ratio:.3f}", f"{row.band[0]:.3g}..{row.band[1]:.3g}", VERDICT[row.passed],
            "yes" if row.used_as_input else "")  # fmt: skip


def _range_cells(group: Sequence[Verdict]) -> tuple[Any, ...]:
    judged, ratios = [row for row in group if row.passed is not None], [row.ratio for row in group]
    passed = f"{sum(bool(row.passed) for row in judged)}/{len(judged)} ok" if judged else VERDICT[None]
    return (group[0].ref, group[0].quantity, f"{len(group)} points", "", "", group[0].unit,
            f"{min(ratios):.2f}..{max(ratios):.2f}", f"{group[0].band[0]:.3g}..{group[0].band[1]:.3g}", passed,
            "yes" if any(row.used_as_input for row in group) else "")  # fmt: skip


def show_left_out(found: Mapping[str, Any], json: bool) -> None:
    """What chips left out of the joint fit would show, and the fit."""
    if json:
        return print_json(found)
    print_table("modelled over published: by literature alone, fitted to all chips, this chip left out of the fit",
           ("reference", "about", "quantity", "points", "literature", "fitted", "left out", "typical factor", ""),
           [(r["ref"], r["about"], r["quantity"], r["num_points"],
             *(f"{r[key]:.2f}" for key in ("literature_ratio", "fitted_ratio", "left_out_ratio", "factor")),
             "" if r["in_fit"] else "never in the fit") for r in found["rows"]])  # fmt: skip
    print_table("free parameters: joint fit, 90 % interval",
           ("factor", "of", "low", "value", "high", "chips", ""),
           [(p["name"], p["of"], *(f"{p[key]:.2f}" for key in ("low", "value", "high")), ", ".join(p["chips"]),
             "the models carry it" if p["adopted"] else "not used") for p in found["parameters"]])  # fmt: skip
    factors = [
        (about, *(f"{f[key]:.2f}" for key in ("literature", "fitted", "left_out", "worst_left_out")))
        for about, f in (
            *found["typical_factor"].items(),
            ("energy, if it were fitted too", found["typical_factor_with_energies_fitted"]),
        )
    ]
    print_table("typical factor either way between model and chip",
           ("about", "literature", "fitted", "left out", "worst left out"), factors)  # fmt: skip
    print_notes([("no evidence", "")] + [(ref, why) for ref, why in found["no_evidence"].items()])


def show_sensitivity(found: Sequence[Sensitivity], chips: Sequence[str], figure: str, json: bool) -> None:
    """Assumptions, those first that change the best design."""
    if json:
        return print_json([
            {"part": one.part, **one.assumption.model_dump(), "at_low": dict(zip(chips, one.at_low, strict=True)),
             "at_high": dict(zip(chips, one.at_high, strict=True)), "changes_best": one.changes_best,
             "changes_order": one.changes_order} for one in found
        ])  # fmt: skip
    text = energy_text if figure == "energy" else lambda um2: f"{um2 / 1e6:.4g} mm2"
    rows = [
        (one.part, f"{one.assumption.name} = {end:g}", *map(text, values),
         "best" if one.changes_best else "order" if one.changes_order else "")
        for one in found for end, values in ((one.assumption.low, one.at_low), (one.assumption.high, one.at_high))
        if one.changes_order or one in found[:SHOWN]
    ]  # fmt: skip
    print_table(f"{figure} of the designs at both ends of each band; the widest, and all that change a rank",
           ("part", "assumption", *chips, "changes"), rows)  # fmt: skip
    deciding = [f"{one.part}.{one.assumption.name}" for one in found if one.changes_best]
    print_notes([("decided by", ", ".join(deciding) or "no single assumption: the best design stays the best")])
