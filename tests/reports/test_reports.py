"""Reports read what a run directory holds, say what it means, and name what it lacks."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest

from reports import plot_front
from reports.against_random import against_random, leads
from reports.canvas import place_labels
from reports.conditions import always_on, masked_table, sources_table
from reports.energy import energy_by_component
from reports.frames import components_pj, masked_formats, read_run, tidy
from reports.front import front_figure
from reports.measures import FRONTS
from reports.page import write_report
from reports.seeds import summarize
from reports.style import FAMILY_COLOURS, energy, format_colours, short_format, signed
from reports.variants import variant_changes
from reports.verdict import verdicts
from tests.helpers.fake_run import CHIPS, LAYERS, write_run
from workloads.errors import InputError
from workloads.results import Row

SECTIONS = ("verdict", *(front.name for front in FRONTS), "plans", "energy", "results", "gaps", "stalls", "variants",
            "sources", "masked", "settings")  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run of three seeds with its report written."""
    path = write_run(tmp_path_factory.mktemp("three"), (0, 1, 2))
    write_report(path)
    return path


@pytest.fixture
def one_seed(tmp_path):
    return write_run(tmp_path / "one")


def rows_of(*entries: tuple) -> pd.DataFrame:
    """Result rows (kind, label, energy_pj, array_accuracy[, seed]) on one chip."""
    names = ("kind", "label", "energy_pj", "array_accuracy", "seed")
    rows = [dict(zip(names, (*entry, 0)[:5], strict=True)) for entry in entries]
    return tidy(pd.DataFrame(rows).assign(chip="c", test_images=10_000), "test")


def said(path, results: pd.DataFrame) -> str:
    """The verdict's sentences on these results, with the plans of the run at `path`."""
    (verdict,) = verdicts(read_run(path)._replace(results=results))
    return " ".join(sentence.text for sentence in verdict.sentences)


# The page


def test_page_has_all_sections_and_needs_no_network(reported):
    page = (reported / "report.html").read_text()
    for name in SECTIONS:
        assert f'<section id="{name}">' in page
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', markup)
    assert page.count("<script") - page.count('<script type="text/javascript">Plotly') <= 4
    assert page.count("plotly.js v") == 1  # its licence banner: embedded once


def test_page_tells_plans_sources_settings_and_always_on(reported):
    page = (reported / "report.html").read_text()
    for text in ("uniform linear-4", "vq-4x256-e4-s0", "ROM read energy", "0.004 to 0.03", "4002c08e1",
                 "needs a codebook ROM, and this chip has none", "adc.bits=5", "digital 1,000 MHz",
                 "isaac: 7 mJ per image", *LAYERS):  # fmt: skip
        assert text in page, text


def test_figures_are_written_in_each_format(reported):
    names = {file.name for file in (reported / "figures").iterdir()}
    fronts = {front.name for front in FRONTS}
    static = {f"{name}.{end}" for name in (*fronts, "plans", "energy", "variants") for end in ("png", "svg")}
    assert names == static | {f"{name}.pdf" for name in fronts}


def test_pictures_are_the_same_bytes_every_time(reported, tmp_path):
    results = read_run(reported).results
    for end in ("svg", "pdf", "png"):
        front_figure(results, tmp_path / f"again.{end}")
        again = (tmp_path / f"again.{end}").read_bytes()
        assert again == (reported / "figures" / f"pareto.{end}").read_bytes(), end


def test_optional_files_may_be_missing(one_seed):
    for folder in ("costs", "plans", "timeline", "table"):
        shutil.rmtree(one_seed / folder)
    page = write_report(one_seed).read_text()
    for name in SECTIONS:
        assert f'<section id="{name}">' in page
    assert "This run stores no cost reports." in page
    assert "This run stores no searched plans." in page


def test_a_run_without_accuracies_says_so(one_seed):
    for folder in ("costs", "plans"):
        shutil.rmtree(one_seed / folder)
    table = pd.read_csv(one_seed / "results.csv")
    accuracies = [name for name in table if name.endswith("accuracy")]
    table.drop(columns=[*accuracies, "met", "test_images"]).to_csv(one_seed / "results.csv", index=False)
    page = write_report(one_seed).read_text()
    assert "there is no front to draw" in page
    assert "No accuracy was measured through this chip" in page
    assert not any((one_seed / "figures" / f"{front.name}.png").exists() for front in FRONTS)


def test_text_from_files_is_escaped(reported):
    assert "8 bits, &lt;b&gt;1.28 GS/s&lt;/b&gt;" in (reported / "report.html").read_text()


# Errors


def test_an_empty_directory_names_what_is_missing(tmp_path):
    with pytest.raises(InputError) as caught:
        write_report(tmp_path)
    for name in ("study.yaml", "manifest.json", "results.csv"):
        assert f"{tmp_path}: {name}: missing" in str(caught.value)


def test_foreign_results_name_every_missing_column(one_seed):
    (one_seed / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"energy_pj: missing column") as caught:
        write_report(one_seed)
    assert len(caught.value.problems) == sum(field.is_required() for field in Row.model_fields.values())
    (one_seed / "results.csv").write_text("")
    with pytest.raises(InputError, match="empty: must have a header and rows"):
        write_report(one_seed)


def test_words_where_numbers_belong_are_named(one_seed):
    text = (one_seed / "results.csv").read_text().splitlines()
    text[1] = text[1].replace(",0,", ",zero,", 1).replace("uniform,", "best,", 1)
    (one_seed / "results.csv").write_text("\n".join(text))
    with pytest.raises(InputError) as caught:
        read_run(one_seed)
    assert "row 1.seed = zero: must be a number" in str(caught.value)
    assert "row 1.kind = best: must be one of search, uniform" in str(caught.value)


def test_broken_json_is_named(one_seed):
    (one_seed / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest.json: line 1: .*must be JSON"):
        read_run(one_seed)


# Numbers


def test_summary_averages_seeds_and_keeps_random_plans_apart():
    entries = [("uniform", "u", 1.0, 0.5, 0), ("uniform", "u", 3.0, 0.7, 1)]
    entries += [("random", "random", 1.0, 0.1, 0), ("random", "random", 2.0, 0.2, 0)]
    table = rows_of(*entries)
    table["key"] = ["a", "b", "c", "d"]
    summary = summarize(table)
    assert summary["num_seeds"].tolist() == [2, 1, 1]
    assert summary["energy_pj"].tolist() == [2.0, 1.0, 2.0]
    assert summary["array_accuracy_half"][0] == pytest.approx(12.706 * 0.1)


def test_components_conserve_energy(reported):
    run = read_run(reported)
    for cost in run.costs.values():
        parts = components_pj(cost)
        assert sum(parts.values()) == pytest.approx(cost["energy_pj"])
        assert parts["leakage"] == pytest.approx(cost["leakage_pj"])
    table = energy_by_component(run)
    mean = run.results[run.results["label"] == "uniform linear-4"].groupby("chip")["energy_pj"].mean()
    for chip in CHIPS:
        row = table[(table["chip"] == chip) & (table["label"] == "uniform linear-4")].iloc[0]
        assert row.drop(["chip", "kind", "label"]).sum() == pytest.approx(mean[chip])


def test_variants_are_compared_with_the_same_plan(reported):
    changes = variant_changes(read_run(reported).results).set_index("vary")
    assert changes.loc["adc.bits=5", "energy_pj"] == pytest.approx(-0.38)
    assert changes.loc["tile.adc.count=2", "latency_ns"] == pytest.approx(-0.45)
    assert changes.loc["adc.bits=5", "array_accuracy"] == pytest.approx(-0.021)


def test_sources_appear_once_with_assumptions_first_and_marked(reported):
    table = sources_table(read_run(reported))
    assert [row[0] for row in table.rows] == ["assumption", "citation"]
    assert table.marked == (0,)
    assert table.rows[0][2:] == ["codebook rom", "0.012 pJ/bit", "0.004 to 0.03"]
    assert always_on(read_run(reported)) == ["isaac: 7 mJ per image"]


# The verdict


def test_verdict_states_savings_and_gains(one_seed):
    text = said(one_seed, rows_of(("uniform", "uniform linear-4", 100.0, 0.90), ("search", "a", 60.0, 0.90),
                                  ("search", "b", 90.0, 0.95), ("search", "c", 50.0, 0.80)))  # fmt: skip
    assert "“a” needs 40.0 % less energy than uniform linear-4" in text
    assert "“b” is more accurate than uniform linear-4: +5.00 points" in text
    assert "one seed, so no interval" in text


def test_a_tenth_of_a_point_is_no_loss(one_seed):
    base = ("uniform", "uniform linear-4", 100.0, 0.9)
    for accuracy, saves in ((0.8991, True), (0.8989, False)):
        text = said(one_seed, rows_of(base, ("search", "a", 60.0, accuracy)))
        assert ("needs 40.0 % less energy" in text) == saves


def test_verdict_states_losses_plainly(one_seed):
    text = said(one_seed, rows_of(("uniform", "uniform linear-4", 100.0, 0.90), ("search", "a", 150.0, 0.91)))
    assert "The search saves nothing here" in text
    assert "needs 50.0 % more energy" in text
    assert "Every searched plan needs more energy" in text
    text = said(one_seed, rows_of(("uniform", "uniform linear-4", 100.0, 0.90), ("search", "a", 50.0, 0.80)))
    assert "No searched plan comes within 0.1 points of the accuracy" in text
    assert "not more accurate than uniform linear-4: −10.00 points" in text


def test_all_vq_loses_to_a_linear_plan_that_is_cheaper_and_as_accurate(one_seed):
    base = ("uniform", "uniform linear-4", 100.0, 0.90)
    worse, better = ("all_vq", "all vq", 130.0, 0.89), ("all_vq", "all vq", 70.0, 0.89)
    text = said(one_seed, rows_of(base, worse))
    assert "It loses: “uniform linear-4” is linear" in text
    assert "+30.0 % energy and −1.00 points" in text
    assert "No linear plan of this run is both" in said(one_seed, rows_of(base, better))


def test_intervals_come_from_paired_seeds(one_seed):
    entries = [("uniform", "uniform linear-4", 100.0 * (1 + seed), 0.9, seed) for seed in range(3)]
    entries += [("search", "a", 80.0 * (1 + seed), 0.9, seed) for seed in range(3)]
    assert "3 seeds, −20.00 ± 0.00 %" in said(one_seed, rows_of(*entries))
    entries[-1] = ("search", "a", 400.0, 0.9, 2)
    assert "the interval includes zero, so this is not established" in said(one_seed, rows_of(*entries))


def test_search_is_judged_by_random_plans_of_equal_budget(one_seed):
    """Accuracies 0.80 to 0.839 have 0.83705 as 95th percentile; plans of other budgets and seeds do not count."""
    random = [("random", f"r{i}", 90.0, 0.80 + i / 1000, 0) for i in range(40)]
    for accuracy, score, lead in ((0.85005, "1 of 1", "+1.30"), (0.81005, "0 of 1", "−2.70")):
        table = rows_of(("uniform", "uniform linear-4", 100.0, 0.9), ("search", "a", 90.0, accuracy), *random)
        table["key"], table["budget_fraction"] = table["label"], 0.1 + 0.2
        table.loc[table["kind"] == "search", "budget_fraction"] = 0.3
        assert f"budget and seed at {score} budgets (“a” {lead} points)" in said(one_seed, table)
        for column, value in (("seed", 1), ("budget_fraction", 0.4)):
            others = table.assign(**{column: table[column].where(table["kind"] != "random", value)})
            assert "beats chance is open" in said(one_seed, others)


def test_leads_over_chance_have_an_interval():
    random = [("random", f"r{seed}-{i}", 90.0, 0.80, seed) for seed in range(3) for i in range(20)]
    table = rows_of(*[("search", "a", 90.0, 0.81 + seed / 100, seed) for seed in range(3)], *random)
    table["budget_fraction"] = 0.4
    assert leads(table)["a"].tolist() == pytest.approx([0.01, 0.02, 0.03])
    assert against_random(table) == ("good", against_random(table)[1])
    assert "“a” +2.00 ± 2.48 points" in against_random(table)[1]  # 4.303 * 0.01 / sqrt(3)


def test_a_front_of_one_linear_plan_is_no_yardstick(one_seed):
    """Its dominated area may be next to nothing, and the growth any number."""
    for energy_pj, compares in ((100.0, False), (50.0, True)):  # of the only searched plan, which is linear
        base, vectors = ("uniform", "uniform linear-4", 100.0, 0.9), ("all_vq", "all vq", 30.0, 0.9)
        assert ("larger than" in said(one_seed, rows_of(base, ("search", "a", energy_pj, 0.9), vectors))) == compares


def test_masked_chip_says_why(reported):
    isaac = verdicts(read_run(reported))[0]
    (text,) = [sentence.text for sentence in isaac.sentences if "Not offered" in sentence.text]
    assert "vq-4x256-e4-s0, vq-8x256-e4-s0. Reason: needs a codebook ROM, and this chip has none." in text


def test_masks_of_single_layers_name_the_layers(reported):
    run = read_run(reported)
    masked = {"conv1/vq-4x256-e4-s0": "held", "fc1/vq-4x256-e4-s0": "held", "d4-q4": "no decoder"}
    run = run._replace(tables={"isaac": {"masked": masked}})
    rows = [("vq-4x256-e4-s0", "conv1, fc1", "held"), ("d4-q4", "all", "no decoder")]
    assert masked_formats(run, "isaac") == rows
    assert masked_table(run).rows == [["isaac", *row] for row in rows]


# Drawing


def test_plot_front_draws_your_own_rows(tmp_path):
    rows = [{"energy_pj": 10.0**i, "array_accuracy": 0.8 + i / 50} for i in range(4)]
    assert [file.suffix for file in plot_front(rows, tmp_path / "own")] == [".png", ".svg"]
    assert plot_front([row | {"chip": "mine"} for row in rows], tmp_path / "own.pdf")[0].stat().st_size > 1000
    with pytest.raises(InputError, match=r"row 2.array_accuracy: missing: must be a number"):
        plot_front([rows[0], {"energy_pj": 1.0}], tmp_path / "own.png")
    with pytest.raises(InputError, match="at least one evaluation"):
        plot_front([], tmp_path / "own.png")


def test_labels_do_not_overlap_each_other():
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from reports.canvas import Label

    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    spots = np.array([(0.5 + 0.01 * i, 0.5) for i in range(8)])
    place_labels(axes, [Label(x, y, f"uniform lin {i}", "black") for i, (x, y) in enumerate(spots)], spots)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(note) for note in axes.texts]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(a.overlaps(b) for a, b in pairs)


def test_format_names_and_colours():
    names = ["linear-8", "linear-2", "vq-4x256-e4-s0", "vq-8x256-e6-s2", "d4-q4"]
    assert [short_format(name) for name in names] == ["lin 8", "lin 2", "vq 4×256", "vq 8×256 e6 s2", "D4 q4"]
    colours = format_colours(names)
    assert len(set(colours.values())) == len(names)
    assert colours["linear-2"] == FAMILY_COLOURS["linear"][0]
    assert [signed(value) for value in (-0.01, 0.25, -3.0, float("nan"))] == ["0.0", "+0.2", "−3.0", "–"]
    assert [energy(value) for value in (1.234, 45_600.0, 7e9)] == ["1.23 pJ", "45.6 nJ", "7 mJ"]
