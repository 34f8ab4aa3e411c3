"""The verdict says in plain words what a search gained, what it lost, what is not established."""

import pandas as pd
import pytest

from reports.against_random import against_random, leads
from reports.frames import Run, read_run
from reports.verdict import verdicts
from tests.helpers.fake_run import write_run
from tests.helpers.result_rows import rows_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_run(tmp_path_factory.mktemp("one")))


def said(run: Run, results: pd.DataFrame) -> str:
    """The verdict's sentences on these results, with the plans of the run."""
    (verdict,) = verdicts(run._replace(results=results))
    return " ".join(sentence.text for sentence in verdict.sentences)


def test_verdict_states_savings_and_gains(run):
    text = said(run, rows_of(("uniform", "uniform linear-4", 100.0, 0.90), ("search", "a", 60.0, 0.90),
                                  ("search", "b", 90.0, 0.95), ("search", "c", 50.0, 0.80)))  # fmt: skip
    assert "“a” needs 40.0 % less energy than uniform linear-4" in text
    assert "“b” is more accurate than uniform linear-4: +5.00 points" in text
    assert "one seed, so no interval" in text


def test_a_tenth_of_a_point_is_no_loss(run):
    base = ("uniform", "uniform linear-4", 100.0, 0.9)
    for accuracy, saves in ((0.8991, True), (0.8989, False)):
        text = said(run, rows_of(base, ("search", "a", 60.0, accuracy)))
        assert ("needs 40.0 % less energy" in text) == saves


def test_verdict_states_losses_plainly(run):
    text = said(run, rows_of(("uniform", "uniform linear-4", 100.0, 0.90), ("search", "a", 150.0, 0.91)))
    assert "The search saves nothing here" in text
    assert "needs 50.0 % more energy" in text
    assert "Every searched plan needs more energy" in text
    text = said(run, rows_of(("uniform", "uniform linear-4", 100.0, 0.90), ("search", "a", 50.0, 0.80)))
    assert "No searched plan comes within 0.1 points of the accuracy" in text
    assert "not more accurate than uniform linear-4: −10.00 points" in text


def test_all_vq_loses_to_a_linear_plan_that_is_cheaper_and_as_accurate(run):
    base = ("uniform", "uniform linear-4", 100.0, 0.90)
    worse, better = ("all_vq", "all vq", 130.0, 0.89), ("all_vq", "all vq", 70.0, 0.89)
    text = said(run, rows_of(base, worse))
    assert "It loses: “uniform linear-4” is linear" in text
    assert "+30.0 % energy and −1.00 points" in text
    assert "No linear plan of this run is both" in said(run, rows_of(base, better))


def test_intervals_come_from_paired_seeds(run):
    entries = [("uniform", "uniform linear-4", 100.0 * (1 + seed), 0.9, seed) for seed in range(3)]
    entries += [("search", "a", 80.0 * (1 + seed), 0.9, seed) for seed in range(3)]
    assert "3 seeds, −20.00 ± 0.00 %" in said(run, rows_of(*entries))
    entries[-1] = ("search", "a", 400.0, 0.9, 2)
    assert "the interval includes zero, so this is not established" in said(run, rows_of(*entries))


def test_search_is_judged_by_random_plans_of_equal_budget(run):
    """Accuracies 0.80 to 0.839 have 0.83705 as 95th percentile; plans of other budgets and seeds do not count."""
    random = [("random", f"r{i}", 90.0, 0.80 + i / 1000, 0) for i in range(40)]
    for accuracy, score, lead in ((0.85005, "1 of 1", "+1.30"), (0.81005, "0 of 1", "−2.70")):
        table = rows_of(("uniform", "uniform linear-4", 100.0, 0.9), ("search", "a", 90.0, accuracy), *random)
        table["key"], table["budget_fraction"] = table["label"], 0.1 + 0.2
        table.loc[table["kind"] == "search", "budget_fraction"] = 0.3
        assert f"budget and seed at {score} budgets (“a” {lead} points)" in said(run, table)
        for column, value in (("seed", 1), ("budget_fraction", 0.4)):
            others = table.assign(**{column: table[column].where(table["kind"] != "random", value)})
            assert "beats chance is open" in said(run, others)


def test_leads_over_chance_have_an_interval():
    random = [("random", f"r{seed}-{i}", 90.0, 0.80, seed) for seed in range(3) for i in range(20)]
    table = rows_of(*[("search", "a", 90.0, 0.81 + seed / 100, seed) for seed in range(3)], *random)
    table["budget_fraction"] = 0.4
    assert leads(table)["a"].tolist() == pytest.approx([0.01, 0.02, 0.03])
    assert against_random(table) == ("good", against_random(table)[1])
    assert "“a” +2.00 ± 2.48 points" in against_random(table)[1]  # 4.303 * 0.01 / sqrt(3)


def test_a_front_of_one_linear_plan_is_no_yardstick(run):
    """Its dominated area may be next to nothing, and the growth any number."""
    for energy_pj, compares in ((100.0, False), (50.0, True)):  # of the only searched plan, which is linear
        base, vectors = ("uniform", "uniform linear-4", 100.0, 0.9), ("all_vq", "all vq", 30.0, 0.9)
        assert ("larger than" in said(run, rows_of(base, ("search", "a", energy_pj, 0.9), vectors))) == compares


def test_masked_chip_says_why(run):
    isaac = verdicts(run)[0]
    (text,) = [sentence.text for sentence in isaac.sentences if "Not offered" in sentence.text]
    assert "vq-4x256-e4-s0, vq-8x256-e4-s0. Reason: needs a codebook ROM, and this chip has none." in text
