"""What a search aims at: plans of one network on one chip, within budgets, that are worth a trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from cimsim.chip.model import Chip
from cimsim.engine.whole import simulate
from cimsim.studies.study import Training
from cimsim.studies.table import CostTable
from qat.planning.selection import Assignment, Fits, Tryouts
from qat.training.data import TrainingData
from qat.training.loop import Tick, silent
from qat.training.tune import judged, tune
from workloads.errors import InputError
from workloads.layer import Network
from workloads.plan import LayerPlan, Plan


class Budgets(NamedTuple):
    """Upper bounds; None leaves a cost free."""

    energy_pj: float
    latency_ns: float | None = None
    area_um2: float | None = None


class Aim(NamedTuple):
    """What is searched for: `table` prices the mixtures, its rows in their order; `fits` has the last word.

    `tryouts` compare the best plans by training each a little; without them the supernet decides.
    """

    table: CostTable
    budgets: Budgets
    fits: Fits
    tryouts: Tryouts | None = None


class Goal(NamedTuple):
    """A network on a chip, and the budgets that its plans must keep."""

    network: Network
    chip: Chip
    budgets: Budgets
    activation: str = "int8"
    images_per_weight_load: float | None = None

    def plan(self, formats: Assignment) -> Plan:
        return plan_of(self.network, formats, self.activation)

    def fits(self, formats: Assignment) -> bool:
        """Budgets are hard: a plan fits if the whole simulation says so, contention included."""
        loads = self.images_per_weight_load
        try:
            report = simulate(self.network, self.chip, self.plan(formats), images_per_weight_load=loads)
        except InputError:  # books that fit one by one may not fit the ROM together
            return False
        costs = (report.energy_pj, report.latency_ns, report.area_used_um2)
        return all(bound is None or cost <= bound for cost, bound in zip(costs, self.budgets, strict=True))


def plan_of(network: Network, formats: Assignment, activation: str = "int8") -> Plan:
    """The plan with these formats per layer, and one format of activations for all."""
    layers = {name: LayerPlan(format=fmt, activation=activation) for name, fmt in formats.items()}
    return Plan(network=network.name, layers=layers)


def tryouts(
    fresh: Callable[[], nn.Module], plan: Callable[[Assignment], Plan], data: TrainingData, settings: Training,
    seed: int, *, tick: Tick = silent,
) -> Tryouts:  # fmt: skip
    """Plans on trial are fine-tuned like all others, from a `fresh` float network, but with `trial_images` images."""
    short = settings.model_copy(update={"tune_images": settings.trial_images})

    def loss(formats: Assignment) -> float:
        model = fresh()
        tune(model, plan(formats), data, short, seed, tick=tick)
        return judged(model, data.validation).loss

    return Tryouts(settings.trials, loss)
