"""The page on what ranks plans: its table from a small run, with and without what was measured before."""

import json

import pytest
import yaml

from docs.made import figures, ranking
from tests.helpers.command import TINY_STUDY, run
from workloads.errors import InputError

FEW = 5  # random plans, where the page asks for more


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of digits with a few random plans to compare with."""
    folder = tmp_path_factory.mktemp("ranking")
    study = TINY_STUDY | {
        "name": "small",
        "random_plans": FEW,
        "chips": [{"chip": "sram-rom", "budgets": [0.6]}],
        "formats": [*(f"linear-{bits}" for bits in range(2, 9)), "d4-q4", "e8-q4", "vq-4x16-e4-s0"],
    }
    study["train"] = study["train"] | {"tune_images": 32, "trials": 2}
    (folder / "small.yaml").write_text(yaml.safe_dump(study))
    return folder


def test_the_table_is_of_the_run_and_is_measured_once(small, capsys, monkeypatch):
    monkeypatch.setattr("reports.against_random.MIN_RANDOM", FEW)
    done = run(capsys, "codesign", small / "small.yaml", "--run-dir", small / "run")
    assert done.code == 0, done.err
    page = small / "page.md"
    page.write_text("<!-- ranking -->\n<!-- end -->\n")
    monkeypatch.setattr(ranking, "PAGE", page)
    ranking.main(small / "run")
    head, _, row, _, made, _ = page.read_text().splitlines()[1:]
    assert head.count("|") == row.count("|") == len(ranking.HEAD) + 1
    assert row.startswith("| 0.6 |") and "python -m docs.made.ranking runs/small" in made
    (path,) = (small / "run/ranking").glob("*.json")
    found = json.loads(path.read_text())
    assert set(found) == set(ranking.WAYS) and all(-1 <= one <= 1 for one in found.values())
    path.write_text(json.dumps(found | {"trial": 0.125}))
    ranking.main(small / "run")
    assert "| 0.12 |" in page.read_text()  # not asked again


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"against_chance\.yaml"):
        ranking.main(tmp_path)


def test_the_page_has_its_table():
    blocks = figures.blocks(ranking.PAGE.read_text(), ranking.PAGE.name)
    assert [mark for mark, _, _ in blocks] == ["ranking"]
    text = ranking.PAGE.read_text()
    assert all(head in text for head in ranking.HEAD) and "docs.made.ranking" in text
