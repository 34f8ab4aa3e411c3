"""What the commands print: Rich tables for people, JSON for programs."""

from __future__ import annotations

import json as json_text
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cimsim.chip.model import Chip
from cimsim.cost.prices import total_pj
from cimsim.cost.report import CostReport, LayerCost
from workloads.format import WeightFormat
from workloads.plan import Plan
from workloads.results import Refused, Row, plain_row

if TYPE_CHECKING:
    from rich.console import Console

    from cimsim.cost.diff import Change, Difference
    from cimsim.cost.uncertainty import Interval
    from cimsim.engine.duplicate import Found
    from cimsim.studies.exported import Exported

NUMBER = r"(-?[\d.,]+(e-?\d+)?( \S+)?)?"  # with its unit, or nothing
PIPE_WIDTH = 140  # columns of a table that goes to a file or another program


def say(text: str, style: str = "") -> None:
    """A line for people on standard error; standard output stays clean for JSON."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(text, style=style, highlight=False, markup=False)


def print_json(value: Any) -> None:
    print(json_text.dumps(value, indent=1, sort_keys=False, default=str, allow_nan=False))


def _console() -> Console:
    from rich.console import Console

    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if has_width else PIPE_WIDTH, highlight=False, markup=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Numbers to the right, words to the left; columns that are empty in every row are left out."""
    from rich import box
    from rich.table import Table

    text = [[str(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    kept = [i for i in range(len(columns)) if any(row[i] for row in text)]
    for i in kept:
        is_number = all(re.fullmatch(NUMBER, row[i]) for row in text)
        table.add_column(columns[i], justify="right" if is_number else "left", overflow="fold")
    for row in text:
        table.add_row(*(row[i] for i in kept))
    console = _console()
    console.print(title, style="bold")
    console.print(table)


def print_notes(lines: Sequence[tuple[str, str]]) -> None:
    """A word, then what it says, wrapped under itself."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for line in lines:
        grid.add_row(*line)
    _console().print(grid)


def energy_text(energy_pj: float) -> str:
    """Three figures and a unit that fits: pJ, nJ, uJ or mJ."""
    for unit, size in (("mJ", 1e9), ("uJ", 1e6), ("nJ", 1e3)):
        if abs(energy_pj) >= size:
            return f"{energy_pj / size:.3g} {unit}"
    return f"{energy_pj:.3g} pJ"


def time_text(duration_ns: float) -> str:
    """Three figures and a unit that fits: ns, us, ms or s."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if duration_ns >= size:
            return f"{duration_ns / size:.3g} {unit}"
    return f"{duration_ns:.3g} ns"


def show_report(report: CostReport, json: bool, intervals: Mapping[str, Interval] | None = None) -> None:
    """One simulated network: a line per layer, then the whole, with what the components' bands leave open."""
    if json:
        found = {"intervals": {name: one._asdict() for name, one in intervals.items()}} if intervals else {}
        return print_json(report.to_dict() | found)
    columns = ("layer", "format", "arrays", "rounds", "energy", "share", "latency", "bottleneck", "main stall (cycles)")
    print_table(
        f"{report.network} on {report.chip}, {report.plan}: {_images(report.batch)}",
        columns, [_layer_cells(layer, report.dynamic_pj) for layer in report.layers],
    )  # fmt: skip
    print_notes(_summary(report))
    if intervals:
        show_intervals(intervals)
    for warning in report.warnings:
        say(f"warning: {warning}", "yellow")


def show_intervals(found: Mapping[str, Interval]) -> None:
    """The whole, and what has a band worth telling."""
    rows = []
    for name, one in found.items():
        text = (lambda um2: f"{um2 / 1e6:.4g} mm2") if name == "area_um2" else energy_text
        if one.high > 1.01 * one.low or name in ("energy_pj", "area_um2"):
            title = name.removesuffix("_pj").removesuffix("_um2")
            rows.append((title, text(one.nominal), text(one.low), text(one.median), text(one.high)))
    print_table("90 % intervals from the bands of assumptions; printed figures have none",
           ("", "nominal", "5 %", "median", "95 %"), rows)  # fmt: skip


def show_layout(found: Found, objective: str, json: bool) -> None:
    """A found layout beside the default one, by every measure."""
    pairs = {"energy": "energy_pj", "latency": "latency_ns", "interval": "interval_ns"}
    before, after = ({name: getattr(r, field) for name, field in pairs.items()} for r in (found.default, found.report))
    if json:
        return print_json(found.layout.model_dump() | {"objective": objective, "default": before, "found": after})
    copies = found.layout.copies
    print_table(f"{found.report.network} on {found.report.chip}: {found.layout.order} order, layers placed repeatedly",
           ("layer", "copies"), [(name, count) for name, count in copies.items()])  # fmt: skip
    text = {"energy": energy_text, "latency": time_text, "interval": time_text}
    print_notes([
        (name, f"{text[name](after[name])}, by default {text[name](before[name])}: {before[name] / after[name]:.2f} x")
        for name in pairs
    ])  # fmt: skip
    print_notes([("objective", f"{objective}: {found.gain(objective):.2f} x better than the default layout")])


SHOWN = 8  # largest changes of each kind


def show_difference(found: Difference, json: bool) -> None:
    """Where two runs differ, the largest changes first."""
    if json:
        return print_json(found.to_dict())
    say(f"before: {found.names[0]}\nafter:  {found.names[1]}")
    texts = {"energy": energy_text, "latency": time_text, "stalls": time_text, "actions": lambda n: f"{n:,.0f}"}
    print_table("whole", ("quantity", "before", "after", "ratio"), [
        (c.name, *(_plain(c.name, value) for value in c[1:3]), _ratio(c)) for c in found.totals if c.before or c.after
    ])  # fmt: skip
    for name in ("energy_by_component", "energy_by_layer", "stalls_by_cause", "latency_by_layer", "actions"):
        text = texts[name.split("_")[0]]
        rows = [
            (c.name, text(c.before), text(c.after), ("+" if c.difference > 0 else "-") + text(abs(c.difference)),
             _ratio(c), "" if name == "actions" else f"{100 * c.share:.0f} %")
            for c in getattr(found, name)[:SHOWN]
        ]  # fmt: skip
        if rows:
            title = name.replace("_", " ")
            print_table(title, ("name", "before", "after", "change", "ratio", "share of the change"), rows)


def _plain(name: str, value: float) -> str:
    if name.endswith("_pj"):
        return energy_text(value)
    return time_text(value) if name.endswith("_ns") else f"{value / 1e6:.4g} mm2"


def _ratio(change: Change) -> str:
    return f"{change.after / change.before:.2f} x" if change.before else "new"


def _images(batch: int) -> str:
    return "one image" if batch == 1 else f"a batch of {batch} images"


def _layer_cells(layer: LayerCost, whole_pj: float) -> tuple[Any, ...]:
    return (
        layer.name, layer.format or layer.dataflow, layer.arrays or "", layer.rounds if layer.rounds > 1 else "",
        energy_text(layer.energy_pj), _share(layer.energy_pj, whole_pj), time_text(layer.latency_ns),
        layer.bottleneck, _largest(layer.stall_cycles),
    )  # fmt: skip


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def _largest(stalls: Mapping[str, int]) -> str:
    cause = max(stalls, key=lambda name: stalls[name], default="")
    return f"{cause} {stalls[cause]:,}" if cause and stalls[cause] else "none"


def _summary(report: CostReport) -> list[tuple[str, str]]:
    parts = sorted(((total_pj({n: a}), n) for n, a in report.energy_by_component_pj.items()), reverse=True)
    most = ", ".join(f"{name} {_share(energy, report.dynamic_pj)}" for energy, name in parts[:5] if energy)
    always_on = f"; always-on parts, not counted, would add {energy_text(report.always_on_pj)}"
    clock = report.clocks_hz[report.latency_clock]
    return [
        ("energy", f"{energy_text(report.energy_pj / report.batch)} per image: {most}"),
        ("", f"of which leakage {energy_text(report.leakage_pj)}" + (always_on if report.always_on_pj else "")),
        ("latency", f"{time_text(report.latency_ns)} = {report.latency_cycles:,} cycles of the {report.latency_clock} "
                    f"clock ({clock / 1e6:g} MHz)"),
        ("throughput", f"one image every {time_text(report.interval_ns)}, {report.schedule.replace('_', ' ')}"),
        ("area", f"{report.area_um2 / 1e6:.4g} mm2, of which arrays in use {report.area_used_um2 / 1e6:.4g} mm2"),
        ("weights", f"{report.weight_state}; images per weight load: {report.images_per_weight_load:g}"),
        ("efficiency", f"{report.tops_per_w:.3g} TOPS/W ({report.op_convention})"),
    ]  # fmt: skip


def show_rows(rows: Sequence[Row], json: bool) -> None:
    """Rows of a run: what was tried, what it costs, how accurate it is."""
    if json:
        return print_json([plain_row(row) for row in rows])
    has_seeds = len({row.seed for row in rows}) > 1
    order = sorted(rows, key=lambda row: (row.chip, row.vary_text, row.energy_pj))
    columns = ("plan", "chip", "variant", "seed", "energy", "budget", "latency", "mm2", "arrays", "ideal", "bits")
    print_table(f"{len(rows)} results", columns, [_row_cells(row, has_seeds) for row in order])
    notes = [("mm2", "area of the chip"), ("bits", "stored bits per weight, codebooks and scales included")]
    if any(row.budget_pj for row in rows):
        notes.append(("budget", "energy as a share of the budget that the plan was searched for"))
    if any(row.array_accuracy is not None for row in rows):
        notes.append(("arrays", "accuracy through the modelled arrays; ideal: of the same integers without them"))
    print_notes(notes)


def _row_cells(row: Row, has_seeds: bool) -> tuple[Any, ...]:
    return (
        row.label, row.chip, row.vary_text, row.seed if has_seeds else "",
        energy_text(row.energy_pj), _share(row.energy_pj, row.budget_pj or 0),
        time_text(row.latency_ns), f"{row.area_mm2:.3g}",
        _percent(row.array_accuracy), _percent(row.ideal_accuracy), f"{row.bits_per_weight:.2f}",
    )  # fmt: skip


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def show_refused(refused: Sequence[Refused], most: int = 5) -> None:
    """What a sweep could not simulate, and why; the first few."""
    if refused:
        say(f"{len(refused)} combinations are refused:", "yellow")
    for row in refused[:most]:
        first, *others = row.refused
        more = f" (and {len(others)} more)" if others else ""
        say(f"  {row.label} on {f'{row.chip} {row.vary_text}'.strip()}: {first}{more}")
    if len(refused) > most:
        say(f"  ... and {len(refused) - most} more, each with its reasons in rows/")


def show_plan(plan: Plan, json: bool) -> None:
    """A plan, layer by layer."""
    if json:
        return print_json(plan.model_dump())
    rows = [(name, choice.format, choice.activation, choice.dataflow) for name, choice in plan.layers.items()]
    print_table(f"plan for {plan.network}", ("layer", "format", "activations", "dataflow"), rows)


def show_chips(chips: Sequence[Chip], json: bool) -> None:
    """Chips, one a line."""
    rows = [
        {"name": c.name, "node_nm": c.node_nm, "area_mm2": c.area_um2() / 1e6, "tiles": c.num_tiles,
         "arrays": c.num_tiles * c.units_per_tile * c.arrays_per_unit, "note": c.note}
        for c in chips
    ]  # fmt: skip
    if json:
        return print_json(rows)
    cells = [(r["name"], f"{r['node_nm']:g} nm", f"{r['area_mm2']:.4g} mm2", r["tiles"], f"{r['arrays']:,}", r["note"])
             for r in rows]  # fmt: skip
    print_table("ready chips", ("name", "node", "area", "tiles", "arrays", "note"), cells)


def show_bill(chip: Chip, json: bool) -> None:
    """Peak power and area of one box of each level, part by part; the outermost total is the chip's."""
    bill = [row._asdict() for row in chip.bill()]
    if json:
        return print_json({"chip": chip.name, "node_nm": chip.node_nm, "supply_v": chip.supply_v,
                            "power_mw": bill[-1]["power_mw"], "area_mm2": bill[-1]["area_mm2"],
                            "bill": bill, "sources": list(chip.sources())})  # fmt: skip
    rows = [(r["level"], r["component"], f"{r['instances']:,}", _figure(r["power_mw"]), _figure(r["area_mm2"]))
            for r in bill]  # fmt: skip
    columns = ("level", "component", "instances", "peak power (mW)", "area (mm2)")
    print_table(f"{chip.name}: peak power and area of one box of each level", columns, rows)
    say(f"sources: cimsim chips show {chip.name} --json")


def _figure(value: float) -> str:
    """Four figures, never in powers of ten above 1."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def show_formats(formats: Sequence[WeightFormat], json: bool) -> None:
    """Weight formats, one a line."""
    rows = [
        {"name": f.name, "kind": f.kind, "bits_per_weight": f.bits_per_weight, "array_bits": f.array_bits,
         "vector_length": f.vector_length, "codebook_bits": f.codebook_bits}
        for f in formats
    ]  # fmt: skip
    if json:
        return print_json(rows)
    cells = [(r["name"], r["kind"], f"{r['bits_per_weight']:g}", r["array_bits"], r["vector_length"],
              r["codebook_bits"] or "") for r in rows]  # fmt: skip
    columns = ("format", "kind", "bits/weight", "bits in the array", "vector", "codebook bits")
    print_table(
        "weight formats, one or a few of each family; other numbers in the names are other formats", columns, cells
    )


def show_recipes(recipes: Sequence[tuple[str, str]], json: bool) -> None:
    """Training recipes, one a line."""
    if json:
        return print_json([{"name": name, "differs": differs} for name, differs in recipes])
    print_table("training recipes", ("recipe", "differs from the default by"), recipes)


def show_cells(title: str, columns: Sequence[str], cells: Sequence[Sequence[Any]], rows: Any, json: bool) -> None:
    """A table, or with `json` the rows behind it."""
    return print_json(rows) if json else print_table(title, columns, cells)


def show_drawn(rows: Sequence[dict[str, Any]], json: bool) -> None:
    """Plans on arrays that are not ideal, by rising energy, beside ideal ones."""
    if json:
        return print_json(rows)
    ordered = sorted(rows, key=lambda row: (row["chip"], row["energy_pj"], row["seed"]))
    cells = [(row["label"], row["chip"], row["seed"], row["cells"], energy_text(row["energy_pj"]),
              _percent(row["array_accuracy"]), _percent(sum(row["drawn"]) / len(row["drawn"])),
              _percent(min(row["drawn"]))) for row in ordered]  # fmt: skip
    columns = ("plan", "chip", "seed", "cells", "energy", "ideal arrays", "mean of draws", "worst draw")
    print_table("accuracy through arrays that are not ideal", columns, cells)


def show_exported(found: Exported, json: bool) -> None:
    """One network on one chip: what it costs, and how accurate it is there."""
    if json:
        return print_json(found.model_dump())
    print_table(f"{found.network} on {found.chip}, {found.plan}: {found.images:,} test images of {found.data}",
                ("accuracy", ""), _accuracies(found))  # fmt: skip
    print_notes([
        ("energy", f"{energy_text(found.energy_pj)} per image"),
        ("latency", time_text(found.latency_ns)),
        ("throughput", f"one image every {time_text(found.interval_ns)}"),
        ("weights", f"{found.bits_per_weight:.2f} stored bits each, codebooks and scales included"),
    ])  # fmt: skip


def _accuracies(found: Exported) -> list[tuple[str, str]]:
    rows = [("integers without arrays", _percent(found.ideal_accuracy)), ("arrays", _percent(found.array_accuracy))]
    if drawn := found.drawn_accuracy:
        mean = _percent(sum(drawn) / len(drawn))
        rows += [(f"cells `{found.cells}`, mean of {len(drawn)} draws", mean), ("worst draw", _percent(min(drawn)))]
    return rows


def show_trials(rows: Sequence[dict[str, Any]], json: bool) -> None:
    """Results of trained networks, one a line."""
    if json:
        return print_json(list(rows))
    columns = ("network", "data", "format", "recipe", "seed", "float", "quantized", "bits/weight", "error")
    cells = [
        (row["network"], row["data"], row["format"], row["recipe"], row["seed"], _percent(row["float_accuracy"]),
         _percent(row.get("accuracy")), f"{row['stored_bits_per_weight']:.3f}" if "accuracy" in row else "32",
         f"{row['relative_error']:.3g}" if "accuracy" in row else "0")
        for row in rows
    ]  # fmt: skip
    print_table("accuracy on the test set", columns, cells)
