"""What the commands print: Rich tables for people, JSON for programs."""

from __future__ import annotations

import json as json_text
from collections.abc import Sequence
from typing import Any

from cimsim.cost import CostReport, total_pj
from cimsim.spec import Chip
from workloads.format import WeightFormat
from workloads.plan import Plan


def say(text: str) -> None:
    """A line for people; standard output stays clean for JSON."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(text, highlight=False)


def _print_json(value: Any) -> None:
    print(json_text.dumps(value, indent=1, sort_keys=False, default=str))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def energy_text(energy_pj: float) -> str:
    """Three figures and a unit that fits: pJ, nJ, uJ or mJ."""
    for unit, size in (("mJ", 1e9), ("uJ", 1e6), ("nJ", 1e3)):
        if abs(energy_pj) >= size:
            return f"{energy_pj / size:.3g} {unit}"
    return f"{energy_pj:.3g} pJ"


def time_text(duration_ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if duration_ns >= size:
            return f"{duration_ns / size:.3g} {unit}"
    return f"{duration_ns:.3g} ns"


def show_report(report: CostReport, json: bool) -> None:
    if json:
        return _print_json(report.to_dict())
    rows = [
        (c.name, c.format or c.dataflow, c.arrays or "", energy_text(c.energy_pj), time_text(c.latency_ns), c.bottleneck,
         _largest(c.stall_cycles))
        for c in report.layers
    ]  # fmt: skip
    title = f"{report.network} on {report.chip}, {report.plan}: one image"
    _table(title, ("layer", "format", "arrays", "energy", "latency", "bottleneck", "main stall"), rows)
    parts = sorted(report.energy_by_component_pj.items(), key=lambda item: -total_pj({item[0]: item[1]}))
    share = ", ".join(f"{n} {100 * total_pj({n: a}) / max(report.dynamic_pj, 1e-9):.0f} %" for n, a in parts[:5])
    say(f"energy   {energy_text(report.energy_pj)} per image ({share}); leakage {energy_text(report.leakage_pj)}"
        + (f"; always-on parts would add {energy_text(report.always_on_pj)}" if report.always_on_pj else ""))  # fmt: skip
    clock = report.clocks_hz[report.latency_clock]
    say(f"latency  {time_text(report.latency_ns)} = {report.latency_cycles:,} cycles of the {report.latency_clock} clock "
        f"({clock / 1e6:g} MHz); one image every {time_text(report.interval_ns)}, {report.schedule}")  # fmt: skip
    say(f"area     {report.area_um2 / 1e6:.4g} mm2, of which arrays in use {report.area_used_um2 / 1e6:.4g} mm2")
    say(f"weights  {report.weight_state}; images per weight load: {report.images_per_weight_load:g}")
    say(f"         {report.tops_per_w:.3g} TOPS/W ({report.op_convention})")
    for warning in report.warnings:
        say(f"[yellow]warning[/yellow]  {warning}")


def _largest(stalls: dict[str, int]) -> str:
    cause = max(stalls, key=lambda name: stalls[name], default="")
    return f"{cause} {stalls[cause]:,}" if cause and stalls[cause] else "none"


def show_rows(rows: Sequence[dict[str, Any]], json: bool) -> None:
    """Rows of a run: what was tried, what it costs, how accurate it is."""
    if json:
        return _print_json(list(rows))
    order = sorted(rows, key=lambda r: (r["chip"], r.get("vary", ""), r["energy_pj"]))
    _table(
        f"{len(rows)} results",
        ("plan", "chip", "vary", "seed", "energy", "latency", "accuracy (arrays)", "(ideal)", "bits/weight"),
        [
            (r["label"], r["chip"], r.get("vary", ""), r["seed"], energy_text(r["energy_pj"]), time_text(r["latency_ns"]),
             _percent(r.get("array_accuracy")), _percent(r.get("ideal_accuracy")), f"{r['bits_per_weight']:.2f}")
            for r in order
        ],
    )  # fmt: skip


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def show_plan(plan: Plan, json: bool) -> None:
    if json:
        return _print_json(plan.model_dump())
    rows = [(name, choice.format, choice.activation_bits, choice.dataflow) for name, choice in plan.layers.items()]
    _table(f"plan for {plan.network}", ("layer", "format", "activation bits", "dataflow"), rows)


def show_chips(chips: Sequence[Chip], json: bool) -> None:
    rows = [
        {"name": c.name, "node_nm": c.node_nm, "area_mm2": c.area_um2() / 1e6, "tiles": c.num_tiles,
         "arrays": c.num_tiles * c.units_per_tile * c.arrays_per_unit, "note": c.note}
        for c in chips
    ]  # fmt: skip
    if json:
        return _print_json(rows)
    table = [(r["name"], r["node_nm"], f"{r['area_mm2']:.4g}", r["tiles"], r["arrays"], r["note"]) for r in rows]
    _table("ready chips", ("name", "node (nm)", "area (mm2)", "tiles", "arrays", "note"), table)


def show_bill(chip: Chip, json: bool) -> None:
    bill = [row._asdict() for row in chip.bill()]
    if json:
        return _print_json({"chip": chip.name, "bill": bill, "sources": list(chip.sources())})
    rows = [(r["level"], r["component"], r["instances"], f"{r['power_mw']:.4g}", f"{r['area_mm2']:.4g}") for r in bill]
    _table(f"{chip.name}: peak power and area", ("level", "component", "instances", "peak mW", "mm2"), rows)
    say(f"sources: cimsim chips show {chip.name} --json")


def show_formats(formats: Sequence[WeightFormat], json: bool) -> None:
    rows = [
        {"name": f.name, "kind": f.kind, "bits_per_weight": f.bits_per_weight, "array_bits": f.array_bits,
         "vector_length": f.vector_length, "codebook_bits": f.codebook_bits}
        for f in formats
    ]  # fmt: skip
    if json:
        return _print_json(rows)
    _table("weight formats (other values: linear-B, vq-DxK-eE-sS, d4-qQ, e8-qQ)",
           ("format", "kind", "bits/weight", "bits in the array", "vector", "codebook bits"),
           [tuple(r.values())[:2] + (f"{r['bits_per_weight']:g}", r["array_bits"], r["vector_length"], r["codebook_bits"])
            for r in rows])  # fmt: skip
