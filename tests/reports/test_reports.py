"""Reports read what a run directory holds, say what it means, and name what it lacks."""

import re
import shutil

import pandas as pd
import pytest

from reports.conditions import always_on, masked_table, sources_table
from reports.energy import energy_by_component
from reports.frames import components_pj, masked_formats, read_run
from reports.measures import FRONTS
from reports.page import write_report
from reports.style import FAMILY_COLOURS, energy, format_colours, short_format, signed
from reports.variants import variant_changes
from tests.helpers.fake_run import CHIPS, LAYERS, write_run
from workloads.errors import InputError
from workloads.results import Row

SECTIONS = ("verdict", *(front.name for front in FRONTS), "plans", "energy", "results", "gaps", "stalls", "variants",
            "sources", "masked", "settings")  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run of two seeds with its report written."""
    path = write_run(tmp_path_factory.mktemp("two"), (0, 1))
    write_report(path)
    return path


@pytest.fixture
def one_seed(tmp_path):
    return write_run(tmp_path / "one")


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


def test_masks_of_single_layers_name_the_layers(reported):
    run = read_run(reported)
    masked = {"conv1/vq-4x256-e4-s0": "held", "fc1/vq-4x256-e4-s0": "held", "d4-q4": "no decoder"}
    run = run._replace(tables={"isaac": {"masked": masked}})
    rows = [("vq-4x256-e4-s0", "conv1, fc1", "held"), ("d4-q4", "all", "no decoder")]
    assert masked_formats(run, "isaac") == rows
    assert masked_table(run).rows == [["isaac", *row] for row in rows]


def test_format_names_and_colours():
    names = ["linear-8", "linear-2", "vq-4x256-e4-s0", "vq-8x256-e6-s2", "d4-q4"]
    assert [short_format(name) for name in names] == ["lin 8", "lin 2", "vq 4×256", "vq 8×256 e6 s2", "D4 q4"]
    colours = format_colours(names)
    assert len(set(colours.values())) == len(names)
    assert colours["linear-2"] == FAMILY_COLOURS["linear"][0]
    assert [signed(value) for value in (-0.01, 0.25, -3.0, float("nan"))] == ["0.0", "+0.2", "−3.0", "–"]
    assert [energy(value) for value in (1.234, 45_600.0, 7e9)] == ["1.23 pJ", "45.6 nJ", "7 mJ"]
