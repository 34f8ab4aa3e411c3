"""The page of schemes: its trials, its tables of made-up results, its times, and that the page is of these rows."""

from __future__ import annotations

import json
import re
from math import sqrt
from pathlib import Path

import pytest
import torch

from cimsim.studies.study import Training
from docs.made import schemes
from docs.made.schemes import interval, networks_table, table
from docs.made.schemes_tasks import NETWORKS, ROWS, SEEDS, TASKS, Row, Task, family_trials, trials
from docs.made.schemes_time import is_taught, known_ratios, step_ratios, steps_of, timed
from qat.experiments.trial import FLOAT, check, run_trials
from qat.recipe import RECIPES
from workloads.errors import InputError
from workloads.networks.zoo import build

torch.set_num_threads(1)
DIGITS = Task("digits", "digitsnet", "digits", Training(float_epochs=1, tune_images=640, batch=64))


def row(recipe: str, fmt: str = "vq-4x16-e4-s0") -> Row:
    return Row("", fmt, recipe, "", "")


def test_every_row_is_trained_on_every_task_with_three_seeds():
    made = trials()
    assert len(TASKS) == 3 and len(SEEDS) == 3
    assert len({trial.key for trial in made}) == len(made) == 9 * len(ROWS)
    for trial in (*made, *family_trials()):
        check(trial)


@pytest.mark.parametrize("task", [*TASKS, *NETWORKS], ids=lambda task: task.title)
def test_rules_name_layers_of_the_networks(task):
    model = build(task.network, 0)
    for one in ROWS:
        if one.format != FLOAT:
            plan = one.trial(task, 0).plan(model)
            assert one.format in {layer.format for layer in plan.layers.values()}


@pytest.mark.parametrize("seed", SEEDS)
def test_results_of_the_first_tasks_stay_valid(seed):
    """The keys that the folder's results have: whoever changes a task trains it anew."""
    assert ROWS[1].trial(TASKS[0], seed).rules == {}
    assert ROWS[1].trial(TASKS[1], seed).rules == {"tokens": "linear-8", "positions": "linear-8"}


def test_intervals_are_students():
    """Values 1, 2, 3: mean 2, deviation 1, t of two degrees of freedom 4.3027; one value has none."""
    assert interval([1.0, 2.0, 3.0]) == f"+2.00 ± {4.3027 / sqrt(3):.2f}"
    assert interval([-1.0]) == "-1.00"


def results(made: list) -> list[dict]:
    """As of trials: each loses a point for each seed."""
    return [trial.model_dump() | {"float_accuracy": 0.9, "accuracy": 0.9 - 0.01 * trial.seed, "seconds": 7.0,
                                  "stored_bits_per_weight": 2.125, "relative_error": 0.2, "used_share": 0.5,
                                  "perplexity": 1234.0} for trial in made]  # fmt: skip


def cells(line: str) -> list[str]:
    return line.strip("| ").split(" | ")


def test_the_table_has_bits_of_the_first_task_and_changes_of_all():
    known = results(trials())
    for one in known:
        one["stored_bits_per_weight"] += (one["network"] != TASKS[0].network) * 5
    lines = table(known, {"linear-4 default": 1.234}).splitlines()
    assert len(lines) == 2 + len(ROWS) and len({line.count("|") for line in lines}) == 1
    head = cells(lines[0])
    shown = dict(zip(head, cells(lines[3]), strict=True))
    assert (shown["format"], shown["bits stored"], shown["bits in the array"]) == ("`linear-4`", "2.12", "4")
    assert (shown["codes used"], shown["perplexity"], shown["step, × float"]) == ("50 %", "1230", "1.23")
    assert all(shown[task.title] == interval([0.0, -1.0, -2.0]) for task in TASKS)
    assert cells(lines[2])[head.index(TASKS[0].title)] == "90.00 ± 0.00 %"


def test_rows_without_results_have_a_dash_and_no_bits_of_another_task():
    known = [one for one in results(trials()) if one["recipe"] != "dkm" or one["network"] != TASKS[0].network]
    (line,) = [line for line in table(known, {}).splitlines() if "DKM" in line]
    shown = cells(line)
    assert shown[4] == "" and shown[6] == "–" and shown[7] == interval([0.0, -1.0, -2.0])


def test_the_table_of_networks_has_accuracy_change_and_time():
    lines = networks_table(results(family_trials())).splitlines()
    assert len(lines) == 2 + sum(one.is_family for one in ROWS)
    assert cells(lines[3])[2:] == ["89.00 %", interval([0.0, -1.0, -2.0]), "7 s"] * 2


def test_tables_have_names():
    with pytest.raises(InputError, match=r"no such table text \(known: tasks, networks\)"):
        schemes.main(["text"])


def test_a_period_holds_all_that_happens_between_steps():
    assert (steps_of(row("default")), steps_of(row("dkm")), steps_of(row("ema"))) == (50, 1, 5)
    assert steps_of(row("default", "pool-128")) == RECIPES["default"].rematch_every == 100


def test_steps_are_timed_beside_the_float_step():
    rows = (row("dkm", FLOAT), row("universal"), row("dkm"), row("vq4all"))
    assert [is_taught(one) for one in rows] == [False, False, False, True]
    found = step_ratios(rows, "digitsnet", rounds=1)
    assert found.pop(rows[0].key) == 1 and set(found) == {rows[1].key, rows[2].key}
    assert all(value > 0 for value in found.values())


def test_times_are_measured_until_all_rows_have_one(tmp_path):
    complete = {one.key: 1.5 for one in ROWS}
    assert known_ratios(tmp_path, lambda: {ROWS[0].key: 1.0}) == {ROWS[0].key: 1.0}
    assert known_ratios(tmp_path, lambda: complete) == complete
    assert known_ratios(tmp_path, lambda: {}) == complete


def test_a_trial_is_timed_once_and_begins_anew_if_it_was_cut(tmp_path):
    network, trial = ROWS[0].trial(DIGITS, 0), row("euclid").trial(DIGITS, 0)
    run_trials([trial], tmp_path)  # without a time: as if it had been killed before the time was written
    made = [timed(one, tmp_path) for one in (network, trial)]
    assert all(one["seconds"] > 0 for one in made)
    stored = tmp_path / f"results/{trial.key}.json"
    assert made[1].items() > json.loads(stored.read_text()).items()
    before = stored.stat().st_mtime_ns
    assert timed(trial, tmp_path) == made[1] and stored.stat().st_mtime_ns == before


def test_the_page_shows_these_rows():
    """`python -m docs.made.schemes` fills it; a row without its line is a row that was not trained."""
    text = Path(schemes.PAGE).read_text()
    shown = re.findall(r"^\| (.+?) \| `(.+?)` \|", text, re.M)
    families = [(one.title, one.format) for one in ROWS if one.is_family]
    assert shown == [(one.title, one.format) for one in ROWS] + families
    assert all(task.title in text for task in (*TASKS, *NETWORKS))
