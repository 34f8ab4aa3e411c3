"""Writes a made-up run directory of plausible size and shape, for the tests of reports."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

LAYERS = {"conv1": 150, "conv2": 2_400, "fc1": 48_000, "fc2": 10_080, "fc3": 840}  # weights of LeNet-5
CHIPS = {"isaac": 1.0, "sram-rom": 0.35}  # relative energy
BITS = {"linear-8": 8, "linear-4": 4, "linear-2": 2, "vq-4x256-e4-s0": 2, "vq-8x256-e4-s0": 1, "d4-q4": 2}
ARRAY_BITS = {"vq-4x256-e4-s0": 4, "vq-8x256-e4-s0": 4, "d4-q4": 5}
LOSS = {  # accuracy lost if the whole network is in this format
    "linear-8": 0.002,
    "linear-4": 0.009,
    "linear-2": 0.31,
    "vq-4x256-e4-s0": 0.02,
    "vq-8x256-e4-s0": 0.05,
    "d4-q4": 0.014,
}
BUDGETS = (0.20, 0.30, 0.40, 0.55, 0.75)
VARIANTS = {
    "adc.bits=5": (0.62, 1.0, 0.93, -0.021),
    "adc.bits=7": (0.85, 1.0, 0.97, -0.002),
    "tile.adc.count=2": (1.01, 0.55, 1.18, 0.0),
    "array.rows=64": (1.34, 1.12, 1.21, 0.004),
}
SOURCES = [
    {
        "part": "adc",
        "kind": "citation",
        "text": "Shafiee et al., ISCA 2016: 8 bits, <b>1.28 GS/s</b>, 2 mW",
        "low": 1.56,
        "nominal": 1.56,
        "high": 1.56,
        "unit": "pJ",
    },
    {
        "part": "codebook_rom",
        "kind": "assumption",
        "text": "ROM read energy, scaled from SRAM",
        "low": 0.004,
        "nominal": 0.012,
        "high": 0.03,
        "unit": "pJ/bit",
    },
]


def write_run(path: Path, seeds: tuple[int, ...] = (0,)) -> Path:
    """A finished LeNet-5 study on two chips; sram-rom may use codebooks, isaac masks them."""
    for name in ("costs", "plans", "timeline", "table"):
        (path / name).mkdir(parents=True, exist_ok=True)
    rows = [row for seed in seeds for chip in CHIPS for row in _rows_of(path, chip, seed)]
    with (path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (path / "study.yaml").write_text(
        "name: lenet-demo\nnetwork: lenet5\ndata: fashion-mnist\nimages_per_weight_load: 1\n"
        "weight_state: reloaded\nbudgets: [0.2, 0.3, 0.4, 0.55, 0.75]\n"
    )
    _json(
        path / "manifest.json",
        {
            "version": "0.1.0",
            "commit": "4002c08e1",
            "python": "3.11.9",
            "packages": {"numpy": "2.4.6"},
            "chips": {chip: {"hash": f"{i}a2b3c4d"} for i, chip in enumerate(CHIPS)},
            "data": {"name": "fashion-mnist", "hash": "0d1e2f3a"},
            "seeds": list(seeds),
        },
    )
    reason = "needs a codebook ROM, and this chip has none"
    for chip in CHIPS:
        masked = {name: reason for name in BITS if name.startswith("vq")} if chip == "isaac" else {}
        _json(
            path / "table" / f"{chip}.json",
            {
                "formats": list(BITS),
                "layers": list(LAYERS),
                "energy_pj": [],
                "latency_ns": [],
                "masked": masked,
            },
        )
    return path


def _rows_of(path: Path, chip: str, seed: int) -> list[dict]:
    noise = random.Random(f"{chip}{seed}")
    formats = [name for name in BITS if chip == "sram-rom" or not name.startswith("vq")]
    rows = []
    for bits in (8, 4, 2):
        rows.append(_row(path, (chip, "uniform", f"uniform linear-{bits}", seed), _uniform(f"linear-{bits}"), noise))
    if chip == "sram-rom":
        plan = _uniform("vq-4x256-e4-s0")
        rows.append(_row(path, (chip, "all_vq", "all vq-4x256-e4-s0", seed), plan, noise))
    for budget in BUDGETS:
        plan = {layer: _pick(formats, budget, layer, noise) for layer in LAYERS}
        row = _row(path, (chip, "search", f"budget {budget:.2f}", seed), plan, noise)
        gaps = {
            f"{name}_gap": round(noise.gauss(mean, 0.01), 4)
            for name, mean in (("relaxation", 0.02), ("discretization", -0.03), ("contention", 0.06))
        }
        met = budget > 0.2 or chip == "isaac"
        rows.append(row | gaps | {"budget_fraction": budget, "budget_pj": row["energy_pj"] * 1.02, "met": met})
    if chip == "sram-rom":
        rows += [_variant(rows[-3], vary, *change) for vary, change in VARIANTS.items()]
    return rows


def _uniform(name: str) -> dict[str, str]:
    return dict.fromkeys(LAYERS, name)


def _pick(formats: list[str], budget: float, layer: str, noise: random.Random) -> str:
    """Small layers get many bits; the large one gets what the budget allows."""
    ranked = sorted(formats, key=lambda name: (BITS[name], LOSS[name]))
    room = budget if layer == "fc1" else min(1.0, budget + 0.35)
    usable = [name for name in ranked if name != "linear-2"]
    return usable[min(len(usable) - 1, int(room * len(usable) + noise.random() * 0.6))]


def _row(path: Path, name: tuple[str, str, str, int], plan: dict[str, str], noise: random.Random) -> dict:
    chip, kind, label, seed = name
    key = f"{chip}-{label.replace(' ', '-')}-{seed}".replace(".", "_")
    cost = _cost(chip, plan, noise)
    loss = sum(LOSS[fmt] * (0.3 if layer == "fc1" else 0.175) for layer, fmt in plan.items())
    ideal = 0.912 - loss + noise.gauss(0, 0.0015)
    _json(
        path / "plans" / f"{key}.json",
        {
            "network": "lenet5",
            "sharing": "network",
            "layers": {
                layer: {
                    "format": fmt,
                    "activation": "int8",
                    "dataflow": "decode" if "vq" in fmt else "stationary",
                }
                for layer, fmt in plan.items()
            },
        },
    )
    _json(path / "costs" / f"{key}.json", cost)
    return {
        "key": key,
        "kind": kind,
        "label": label,
        "chip": chip,
        "vary": "",
        "seed": seed,
        "budget_fraction": "",
        "budget_pj": "",
        "met": "",
        **{k: cost[k] for k in ("energy_pj", "dynamic_pj", "leakage_pj", "always_on_pj", "latency_ns", "interval_ns")},
        "area_mm2": cost["area_um2"] / 1e6,
        "area_used_mm2": cost["area_used_um2"] / 1e6,
        "bits_per_weight": sum(BITS[fmt] * LAYERS[layer] for layer, fmt in plan.items()) / sum(LAYERS.values()),
        "float_accuracy": 0.914,
        "ideal_accuracy": round(ideal, 4),
        "array_accuracy": round(ideal - abs(noise.gauss(0.003, 0.0015)), 4),
        "test_images": 10000,
        "relaxation_gap": "",
        "discretization_gap": "",
        "contention_gap": "",
        "plan": f"{key}.json",
    }


def _layer_cost(chip: str, layer: str, fmt: str, noise: random.Random) -> dict:
    scale = CHIPS[chip] * LAYERS[layer] ** 0.55 * 900 * (1 + noise.gauss(0, 0.01))
    bits = ARRAY_BITS.get(fmt, BITS[fmt])
    parts = {
        "adc": {"convert": scale * bits * 0.11},
        "crossbar": {"read": scale * bits * 0.05},
        "dac": {"drive": scale * 0.02},
        "shift_add": {"add": scale * bits * 0.012},
        "router": {"hop": scale * 0.03},
        "sram": {"read": scale * 0.08, "write": scale * 0.05},
        "index_buffer": {"read": scale * 0.01 * BITS[fmt]},
        "digital": {"requantize": scale * 0.01},
    }
    if "vq" in fmt:
        parts["codebook_rom"] = {"read": scale * 0.07}
    if chip == "sram-rom":  # its weights are reloaded, as codes, for every image
        parts["dram"] = {"read": LAYERS[layer] * BITS[fmt] * 0.5}
    return {
        "name": layer,
        "dataflow": "decode" if "vq" in fmt else "stationary",
        "format": fmt,
        "bottleneck": "adc",
        "energy_pj": sum(sum(v.values()) for v in parts.values()),
        "latency_cycles": int(scale * bits / 40),
        "latency_ns": scale * bits / 40,
        "stall_cycles": {"adc": int(scale / 90), "rom_port": 7 * ("vq" in fmt)},
        "energy_by_component_pj": parts,
        "arrays": 4,
        "rounds": 1,
        "resident": layer != "fc1",
    }


def _summed(layers: list[dict]) -> dict[str, dict[str, float]]:
    total: dict[str, dict[str, float]] = {}
    for layer in layers:
        for part, actions in layer["energy_by_component_pj"].items():
            for action, value in actions.items():
                total.setdefault(part, {}).setdefault(action, 0.0)
                total[part][action] += value
    return total


def _cost(chip: str, plan: dict[str, str], noise: random.Random) -> dict:
    layers = [_layer_cost(chip, layer, fmt, noise) for layer, fmt in plan.items()]
    dynamic = sum(layer["energy_pj"] for layer in layers)
    cycles = sum(layer["latency_cycles"] for layer in layers)
    leakage = 0.07 * dynamic
    return {
        "network": "lenet5",
        "chip": chip,
        "plan": "",
        "clocks_hz": {"digital": 1_000_000_000},
        "schedule": "pipelined",
        "images_per_weight_load": 1,
        "op_convention": "2 operations per MAC, 8-bit by 4-bit",
        "sources": SOURCES,
        "warnings": ["fc1 does not fit and is reloaded for every image"],
        "energy_pj": dynamic + leakage,
        "dynamic_pj": dynamic,
        "leakage_pj": leakage,
        "always_on_pj": 7e9 if chip == "isaac" else 0.0,
        "latency_cycles": cycles,
        "latency_ns": float(cycles),
        "interval_ns": cycles / 3,
        "area_um2": 2.1e6,
        "area_used_um2": 0.9e6,
        "energy_by_component_pj": _summed(layers),
        "layers": layers,
        "stall_cycles": {"adc": sum(layer["stall_cycles"]["adc"] for layer in layers), "rom_port": 21},
    }


def _variant(base: dict, vary: str, *change: float) -> dict:
    energy, latency, area, points = change
    row = base | {"key": f"{base['key']}-{vary}", "kind": "variant", "vary": vary}
    for name in ("energy_pj", "dynamic_pj", "leakage_pj"):
        row[name] = base[name] * energy
    return row | {
        "latency_ns": base["latency_ns"] * latency,
        "area_mm2": base["area_mm2"] * area,
        "array_accuracy": base["array_accuracy"] + points,
    }


def _json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))
