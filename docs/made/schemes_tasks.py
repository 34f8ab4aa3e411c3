"""What docs/schemes.md compares: the tasks, the schemes, and each trial that follows."""

from __future__ import annotations

from typing import Any, NamedTuple

from cimsim.studies.study import Training
from docs.made.figures import ROOT
from qat.experiments.trial import FLOAT, Trial

FOLDER = ROOT / "runs" / "schemes"
SEEDS = (0, 1, 2)
TABLES = {"tokens": "linear-8", "positions": "linear-8"}  # of a text transformer: read row by row, never multiplied


class Task(NamedTuple):
    """A network and its data, trained briefly: enough to rank schemes, not to break records."""

    title: str
    network: str
    data: str
    train: Training
    rules: dict[str, str] = {}  # layers that have the same format in all rows
    seeds: tuple[int, ...] = SEEDS


TASKS = (
    Task("LeNet-5, Fashion-MNIST", "lenet5", "fashion_mnist", Training(float_epochs=3, tune_images=40_000)),
    Task("text transformer, movie snippets", "text_transformer", "movie",
         Training(float_epochs=4, tune_images=12_000), TABLES),
    Task("small CNN, 8x8 digits", "digitsnet", "digits", Training(float_epochs=12, tune_images=12_000, batch=64)),
)  # fmt: skip
NETWORKS = (
    Task("ResNet-8, Fashion-MNIST", "resnet8", "fashion_mnist", Training(float_epochs=2, tune_images=24_000)),
    Task("text transformer, WordNet", "text_transformer_wordnet", "wordnet",
         Training(float_epochs=2, tune_images=24_000), TABLES),
)  # fmt: skip


class Row(NamedTuple):
    """A scheme of the page."""

    title: str
    format: str
    recipe: str
    formula: str  # of the stored weight
    gradient: str  # of the latent weight
    rules: dict[str, dict[str, str]] = {}  # network -> layers that need another format
    is_family: bool = False  # stands for its family on NETWORKS, too

    @property
    def key(self) -> str:
        return f"{self.format} {self.recipe}"

    def trial(self, task: Task, seed: int) -> Trial:
        """This row on a task."""
        rules = {} if self.format == FLOAT else task.rules | self.rules.get(task.network, {})
        return Trial(network=task.network, data=task.data, format=self.format, recipe=self.recipe, seed=seed,
                     rules=rules, train=task.train)  # fmt: skip

    def of(self, found: list[dict[str, Any]], task: Task) -> list[dict[str, Any]]:
        """Its results on a task, among those found."""
        mine = (task.network, task.data, self.format, self.recipe)
        return [r for r in found if (r["network"], r["data"], r["format"], r["recipe"]) == mine]


STE = "g"
UNTURNED = {"lenet5": {"conv*": "e8-q4"}, "digitsnet": {"conv1": "e8-q4"}}  # 4 does not divide their inputs
ROWS = (
    Row("float", FLOAT, "default", "w", STE, is_family=True),
    Row("LSQ", "linear-4", "default", "s·clip⌊w/s⌉", "g inside the clip", is_family=True),
    Row("LSQ", "linear-2", "default", "s·clip⌊w/s⌉", "g inside the clip", is_family=True),
    Row("LSQ, taught by the float network", "linear-2", "lsq-kd", "s·clip⌊w/s⌉", "g inside the clip"),
    Row("LSQ, scale code per 32 inputs", "linear-2-g32", "default", "s·m·clip⌊w/(s m)⌉", "g inside the clip"),
    Row("EWGS", "linear-2-odd", "ewgs", "α(2x_q − 1), x = clip((w − l)/(u − l))", "g(1 + δ sign g (x − x_q))"),
    Row("EWGS, δ from the Hessian", "linear-2-odd", "ewgs-hessian", "as EWGS", "as EWGS"),
    Row("DoReFa", "linear-2-odd", "dorefa", "α(2q(tanh w / 2max + ½) − 1)", "g·d tanh"),
    Row("binary, one scale a channel", "linear-1", "default", "s·sign w", "g inside the clip"),
    Row("VQ, Euclidean", "vq-4x256-e4-s0", "euclid", "s·c, nearest c", STE),
    Row("VQ, cosine, projected scale", "vq-4x256-e4-s0", "default", "s·c, largest cosine", STE, is_family=True),
    Row("VQ, cosine, softmax STE", "vq-4x256-e4-s0", "softmax", "s·c, largest cosine", "through softmax(cos/τ)"),
    Row("VQ, cosine, no STE", "vq-4x256-e4-s0", "hard", "s·c, largest cosine", "0"),
    Row("VQ, moving-average book", "vq-4x256-e4-s0", "ema", "s·c, nearest c", STE),
    Row("VQ, one scale bit", "vq-4x128-e4-s1", "euclid", "s·m·c, nearest m c", STE),
    Row("VQ, signed scale code", "vq-4x128-e4-s0-abs", "default", "±s·c, largest cosine of either sign", STE),
    Row("VQ, cosine", "vq-8x256-e4-s0", "default", "s·c, largest cosine", STE, is_family=True),
    Row("VQ, two added books", "vq-8x256x2-e6-s0", "euclid", "s·(c + c′)", STE, is_family=True),
    Row("DKM, 5 iterations", "vq-4x256-e4-s0", "dkm", "s·Σ a c, then snapped", "through 5 iterations", is_family=True),
    Row("Gumbel softmax", "vq-4x256-e4-s0", "gumbel", "s·Σ a c, then snapped", "through softmax"),
    Row("VQ4ALL, one book of the network", "vq-4x256-e4-s0", "universal", "s·Σ r c, then one-hot", "of the ratios r",
        is_family=True),
    Row("VQ4ALL, blocks taught", "vq-4x256-e4-s0", "vq4all", "s·Σ r c, then one-hot", "of the ratios r"),
    Row("D4, q = 4", "d4-q4", "default", "s·λ, λ in a D4 code", STE),
    Row("E8, q = 4", "e8-q4", "default", "s·λ, λ in an E8 code", STE, is_family=True),
    Row("E8, q = 4, rotated", "e8-q4-h4", "default", "s·λHᵀ", STE, UNTURNED),
    Row("E8P", "e8p", "default", "s·λ, λ in E8P", STE),
    Row("E8, q = 4, learned scale", "e8-q4", "learned-scale", "s·λ, s trained", STE),
    Row("E8, q = 4, published scale", "e8-q4", "sigma", "s = C_b σ", STE),
    Row("E8, q = 2", "e8-q2", "default", "s·λ, λ in an E8 code", STE),
    Row("E8 ball, norm ≤ 4", "e8-r4", "default", "s·λ, λ in a ball of E8", STE),
    Row("CIMPool, half of the error kept", "pool-128", "default", "s(m P[π] + m′ sign e)", STE, is_family=True),
)  # fmt: skip


def trials() -> list[Trial]:
    """Every row on every task with every seed."""
    return [row.trial(task, seed) for task in TASKS for row in ROWS for seed in task.seeds]


def family_trials() -> list[Trial]:
    """The rows that stand for their families, on the networks of the second table."""
    return [row.trial(task, seed) for task in NETWORKS for row in ROWS if row.is_family for seed in task.seeds]
