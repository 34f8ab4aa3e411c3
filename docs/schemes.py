"""Writes docs/schemes.md: every scheme on the same tasks, with seeds and intervals.

`python -m docs.schemes` trains what `runs/schemes` does not hold yet (a quarter of an hour on two cores) and fills the
blocks of the page. Killed at any moment, the same command goes on.
"""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from cimsim import __version__
from cimsim.study import Training
from docs.figures import ROOT, refresh
from qat.lab import FLOAT, Trial, run_trials
from workloads.errors import InputError, RunError

PAGE = ROOT / "docs" / "schemes.md"
SEEDS = (0, 1, 2)
COMMAND = "python -m docs.schemes"


class Task(NamedTuple):
    """A network and its data, trained briefly: enough to rank schemes, not to break records."""

    title: str
    network: str
    data: str
    train: Training


TASKS = (
    Task("LeNet-5, Fashion-MNIST", "lenet5", "fashion_mnist", Training(float_epochs=3, tune_images=40_000)),
    Task("small CNN, 8x8 digits", "digitsnet", "digits", Training(float_epochs=12, tune_images=12_000, batch=64)),
)  # fmt: skip


class Row(NamedTuple):
    """A scheme of the page."""

    title: str
    format: str
    recipe: str
    formula: str  # of the stored weight
    gradient: str  # of the latent weight
    rules: dict[str, dict[str, str]] = {}  # network -> layers that need another format
    is_slow: bool = False  # trained on the last, smallest task only


STE = "g"
UNTURNED = {"lenet5": {"conv*": "e8-q4"}, "digitsnet": {"conv1": "e8-q4"}}  # 4 does not divide their inputs
ROWS = (
    Row("float", FLOAT, "default", "w", STE),
    Row("LSQ", "linear-4", "default", "s·clip⌊w/s⌉", "g inside the clip"),
    Row("LSQ", "linear-2", "default", "s·clip⌊w/s⌉", "g inside the clip"),
    Row("LSQ, scale code per 32 inputs", "linear-2-g32", "default", "s·m·clip⌊w/(s m)⌉", "g inside the clip"),
    Row("EWGS", "linear-2-odd", "ewgs", "α(2x_q − 1), x = clip((w − l)/(u − l))", "g(1 + δ sign g (x − x_q))"),
    Row("DoReFa", "linear-2-odd", "dorefa", "α(2q(tanh w / 2max + ½) − 1)", "g·d tanh"),
    Row("binary, one scale a channel", "linear-1", "default", "s·sign w", "g inside the clip"),
    Row("VQ, Euclidean", "vq-4x256-e4-s0", "euclid", "s·c, nearest c", STE),
    Row("VQ, cosine, projected scale", "vq-4x256-e4-s0", "default", "s·c, largest cosine", STE),
    Row("VQ, cosine, softmax STE", "vq-4x256-e4-s0", "softmax", "s·c, largest cosine", "through softmax(cos/τ)"),
    Row("VQ, cosine, no STE", "vq-4x256-e4-s0", "hard", "s·c, largest cosine", "0"),
    Row("VQ, moving-average book", "vq-4x256-e4-s0", "ema", "s·c, nearest c", STE),
    Row("VQ, one scale bit", "vq-4x128-e4-s1", "euclid", "s·m·c, nearest m c", STE),
    Row("VQ, signed scale code", "vq-4x128-e4-s0-abs", "default", "±s·c, largest cosine of either sign", STE),
    Row("VQ, cosine", "vq-8x256-e4-s0", "default", "s·c, largest cosine", STE),
    Row("VQ, two added books", "vq-8x256x2-e6-s0", "euclid", "s·(c + c′)", STE),
    Row("DKM, 5 iterations", "vq-4x256-e4-s0", "dkm", "s·Σ a c, then snapped", "through 5 iterations", is_slow=True),
    Row("Gumbel softmax", "vq-4x256-e4-s0", "gumbel", "s·Σ a c, then snapped", "through softmax", is_slow=True),
    Row("VQ4ALL, one book of the network", "vq-4x256-e4-s0", "universal", "s·Σ r c, then one-hot", "of the ratios r"),
    Row("D4, q = 4", "d4-q4", "default", "s·λ, λ in a D4 code", STE),
    Row("E8, q = 4", "e8-q4", "default", "s·λ, λ in an E8 code", STE),
    Row("E8, q = 4, rotated", "e8-q4-h4", "default", "s·λHᵀ", STE, UNTURNED),
    Row("E8P", "e8p", "default", "s·λ, λ in E8P", STE),
    Row("E8, q = 4, learned scale", "e8-q4", "learned-scale", "s·λ, s trained", STE),
    Row("E8, q = 4, published scale", "e8-q4", "sigma", "s = C_b σ", STE),
    Row("E8, q = 2", "e8-q2", "default", "s·λ, λ in an E8 code", STE),
    Row("E8 ball, norm ≤ 4", "e8-r4", "default", "s·λ, λ in a ball of E8", STE),
    Row("CIMPool, half of the error kept", "pool-128", "default", "s(m P[π] + m′ sign e)", STE),
)


def trials(rows: tuple[Row, ...] = ROWS) -> list[Trial]:
    """Every row on every task with every seed."""
    return [
        Trial(network=task.network, data=task.data, format=row.format, recipe=row.recipe, seed=seed, train=task.train,
              rules={} if row.format == FLOAT else row.rules.get(task.network, {}))
        for task in TASKS for row in rows for seed in SEEDS if not row.is_slow or task is TASKS[-1]
    ]  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """Accuracy per task as mean and 95 % t-interval of the change against float, with bits and use of codes."""
    lines = ["| scheme | format | stored weight | gradient of w | bits / weight | "
             + " | ".join(task.title for task in TASKS) + " | relative error | perplexity |",
             "| --- | --- | --- | --- | --: | " + " | ".join("--:" for _ in TASKS) + " | --: | --: |"]  # fmt: skip
    for row in ROWS:
        per_task = [_of(found, row, task) for task in TASKS]
        first = next(results for results in per_task if results)
        cells = [row.title, f"`{row.format}`", row.formula, row.gradient, _mean(first, "stored_bits_per_weight", 32.0),
                 *(_accuracy(results, row) for results in per_task),
                 _mean(first, "relative_error", 0.0), _mean(first, "perplexity", None)]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _of(found: list[dict[str, Any]], row: Row, task: Task) -> list[dict[str, Any]]:
    return [r for r in found if (r["network"], r["format"], r["recipe"]) == (task.network, row.format, row.recipe)]


def _accuracy(results: list[dict[str, Any]], row: Row) -> str:
    """Float rows: mean accuracy; others: mean change in points against the same seed's float network."""
    if not results:
        return "–"
    if row.format == FLOAT:
        return interval([100 * r["float_accuracy"] for r in results], sign="") + " %"
    return interval([100 * (r["accuracy"] - r["float_accuracy"]) for r in results], sign="+")


def interval(values: list[float], sign: str) -> str:
    """Mean and half width of the 95 % t-interval."""
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{np.mean(values):{sign}.2f} ± {half:.2f}"


def _mean(results: list[dict[str, Any]], name: str, otherwise: float | None) -> str:
    values = [r[name] for r in results if name in r] or ([] if otherwise is None else [otherwise])
    return f"{np.mean(values):.3g}" if values else ""


def made() -> str:
    """What made the table."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("numba", "numpy", "torch"))
    seeds = ", ".join(map(str, SEEDS))
    return f"Made by `{COMMAND}`: seeds {seeds}, cimsim {__version__}, Python {platform.python_version()}, {packages}."


def main(folder: Path = ROOT / "runs" / "schemes") -> None:
    found = run_trials(trials(), folder, workers=2)
    refresh(PAGE, {"schemes": lambda _: table(found), "schemes made": lambda _: made()})


if __name__ == "__main__":
    try:
        main()
    except (InputError, RunError) as error:
        sys.exit(f"{error}")
