"""The main job: float training, supernet, search, fine-tuning, measurement; every step leaves its result on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cimsim.chip.model import Chip
from cimsim.chip.reading import load_chip
from cimsim.cost.accounts import plan_label
from cimsim.engine.planfile import read_plan
from cimsim.engine.whole import layer_works
from cimsim.studies.jobs import Job, run_jobs
from cimsim.studies.manifest import manifest
from cimsim.studies.points import table_file
from cimsim.studies.run import RunDir
from cimsim.studies.study import ChipChoice, Study, training_problems
from cimsim.studies.table import CostTable, build_table
from qat.experiments import stages
from qat.planning.aim import Budgets, plan_of
from qat.planning.random_plans import random_plans
from workloads.errors import InputError
from workloads.layer import Network
from workloads.plan import Plan
from workloads.results import Row, uniform_kind


def run_codesign(
    study: Study, run_dir: Path | None = None, workers: int | None = None, *, scheduler: str | None = None
) -> RunDir:
    """Everything a study asks for. Raises InputError before any training if a budget cannot be met."""
    network = study.load_network()
    tables = {choice.chip: table_for(study, network, load_chip(choice.chip)) for choice in study.chips}
    _check_budgets(study, tables)
    run = open_run(study, run_dir)
    for name, table in tables.items():
        run.write_json(table_file(name), table.to_dict())
    run_jobs(plan_jobs(study, tables, run.path), workers or study.workers, run.path, scheduler=scheduler)
    run.render_results()
    return run


def open_run(study: Study, run_dir: Path | None) -> RunDir:
    """The run's directory, with the resolved study and a manifest of what made it. Raises InputError."""
    if problems := training_problems(study):
        raise InputError(study.name, problems)
    return RunDir(run_dir or Path("runs") / study.name).open(study.dump(), manifest(study))


def table_for(study: Study, network: Network, chip: Chip) -> CostTable:
    """Costs of every layer in every format the study allows on this chip, in the weight state its plans have.

    The weight state is that of uniform 8-bit weights: what holds these holds every other plan.
    """
    return build_table(
        network, chip, study.formats, fixed_formats=study.fixed_formats(network),
        activation=study.activation, images_per_weight_load=study.images_per_weight_load,
    )  # fmt: skip


def _check_budgets(study: Study, tables: dict[str, CostTable]) -> None:
    """A budget that no plan can meet is refused before any work, with the least one that can be met."""
    problems = [
        f"chips.{i}.budgets: {problem}"
        for i, choice in enumerate(study.chips)
        for budget in study.budgets_of(choice)
        if (problem := tables[choice.chip].budget_problem(budget))
    ]
    if problems:
        raise InputError(study.name, problems)


def target_of(choice: ChipChoice, table: CostTable, study: Study, fraction: float) -> stages.Target:
    """The budget in absolute costs."""
    latency, area = (
        None if share is None else share * float(np.where(np.isfinite(a), a, 0.0).max(axis=1).sum())
        for share, a in ((study.latency_budget, table.latency_ns), (study.area_budget, table.area_um2))
    )
    return stages.Target(choice, table, fraction, Budgets(fraction * table.reference_pj(), latency, area))


def plan_jobs(study: Study, tables: dict[str, CostTable], run: Path) -> list[Job]:
    """All jobs, those that others need first, long chains before short ones."""
    jobs = [stages.float_job(study, run, seed) for seed in study.seeds]
    warm = [stages.warm_job(study, run, tables[c.chip], seed) for seed in study.seeds for c in study.chips]
    jobs += {job.key: job for job in warm}.values()
    for seed in study.seeds:
        for choice in study.chips:
            for fraction in study.budgets_of(choice):
                target = target_of(choice, tables[choice.chip], study, fraction)
                jobs.append(stages.search_job(study, run, target, seed))
                jobs += _random(study, run, target, seed)
        jobs += [job for fmt in study.baselines for job in _baseline(study, tables, run, fmt, seed)]
    return jobs


def _random(study: Study, run: Path, target: stages.Target, seed: int) -> list[Job]:
    """Random plans with the same budget and the same training as the search."""
    network, budget_pj = study.load_network(), target.budgets.energy_pj
    columns = {"budget_fraction": target.fraction, "budget_pj": budget_pj}
    found = random_plans(target.table, budget_pj, study.random_plans, seed) if study.random_plans else []
    plans = [plan_of(network, formats, study.activation) for formats in found]
    given = [stages.Given("random", f"random {i}", plan, (target.choice,), columns) for i, plan in enumerate(plans)]
    return [stages.plan_job(study, run, one, seed) for one in given]


def _baseline(study: Study, tables: dict[str, CostTable], run: Path, fmt: str, seed: int) -> list[Job]:
    """One uniform plan, measured on every chip that takes the format."""
    network = study.load_network()
    plan = Plan.uniform(network, fmt, rules=study.fixed_formats(network), activation=study.activation)
    chips = tuple(choice for choice in study.chips if runs_on(plan, load_chip(choice.chip), network))
    given = stages.Given(uniform_kind(fmt), f"uniform {fmt}", plan, chips)
    return [stages.plan_job(study, run, given, seed)] if chips else []


def runs_on(plan: Plan, chip: Chip, network: Network) -> bool:
    """Whether the chip can hold and decode every layer of the plan."""
    try:
        layer_works(network, chip, plan)
    except InputError:
        return False
    return True


def choice_of(study: Study, chip: str) -> ChipChoice:
    """The study's entry for this chip. Raises InputError that lists the study's chips."""
    for choice in study.chips:
        if choice.chip == chip:
            return choice
    raise InputError("--chip", [f"{chip!r}: the study has {', '.join(c.chip for c in study.chips)}"])


def search_one(study: Study, chip: str, budget: float, seed: int, run_dir: Path | None) -> Plan:
    """One search of a study, with what it needs; the plan is also in the run's `plans/`."""
    choice = choice_of(study, chip).model_copy(update={"budgets": (budget,)})
    table = table_for(study, study.load_network(), load_chip(chip))
    _check_budgets(study.model_copy(update={"chips": (choice,)}), {chip: table})
    run = open_run(study, run_dir)
    job = stages.search_job(study, run.path, target_of(choice, table, study, budget), seed, plan_only=True)
    needs = [stages.float_job(study, run.path, seed), stages.warm_job(study, run.path, table, seed)]
    run_jobs([*needs, job], 1, run.path)
    return Plan(**run.read_json(f"plans/{job.key}.json"))


def train_one(study: Study, plan_text: str, seed: int, run_dir: Path | None) -> list[Row]:
    """Train one plan of a study and measure it on every chip of the study that can run it."""
    network = study.load_network()
    plan = read_plan(plan_text, network)
    chips = tuple(choice for choice in study.chips if runs_on(plan, load_chip(choice.chip), network))
    if not chips:
        layer_works(network, load_chip(study.chips[0].chip), plan)  # raises the reasons
    run = open_run(study, run_dir)
    job = stages.plan_job(study, run.path, stages.Given("train", plan_label(plan), plan, chips), seed)
    run_jobs([stages.float_job(study, run.path, seed), job], 1, run.path)
    run.render_results()
    return [row for row in run.results() if row.job == job.key]
