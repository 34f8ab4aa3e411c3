"""Trained plans on arrays that are not ideal: beside ideal ones, repeatable, and told in the report."""

import json
import shutil

import pytest
import yaml

from cimsim.integer import artifact as artifacts
from cimsim.studies.real_cells import Asked, measure_run
from cimsim.studies.run import RunDir
from reports.frames import read_run
from reports.real_cells import cells_table
from tests.helpers.command import TINY_STUDY, refused, run
from workloads.errors import InputError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study with trained plans on a chip of ReRAM and on one of SRAM."""
    from cimsim.studies.study import load_study
    from qat.experiments.study import run_codesign

    folder = tmp_path_factory.mktemp("drawn")
    study = TINY_STUDY | {"chips": [*TINY_STUDY["chips"], {"chip": "sram-rom", "budgets": [0.9]}]}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return run_codesign(load_study(folder / "study.yaml", for_training=True), folder / "run", None).path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def written(path, **effects):
    path.write_text(yaml.safe_dump(effects))
    return str(path)


def test_ideal_arrays_are_those_of_the_results_and_draws_are_worse(folder):
    found = measure_run(folder, Asked("reram", 3, 64), 1)
    results = read_run(folder).results.set_index("key")
    assert {row["chip"] for row in found} == {"isaac", "sram-rom"}
    for row in found:
        assert row["array_accuracy"] == results.loc[row["key"], "array_accuracy"]
        assert len(row["drawn"]) == 3 and row["images"] == 64
    assert sum(sum(row["drawn"]) / 3 for row in found) < sum(row["array_accuracy"] for row in found)


def test_levels_are_filled_as_the_stored_integers_say(folder):
    """Against a loop over single weights; a format of two bits has levels -2 to 1, one of eight -128 to 127."""
    half = {"linear-2": 2, "linear-8": 128}
    found = {row["key"]: row["fill"] for row in measure_run(folder, Asked("reram", 1, 8), 1)}
    rows = [row for row in RunDir(folder).results() if row.key in found]
    for row in rows:
        artifact = artifacts.load(folder / str(row.weights))
        squares = [
            (int(weight) / half[choice.format]) ** 2
            for name, choice in artifact.plan.layers.items()
            for weight in artifact.weights_int(name).flat
        ]
        assert found[row.key] == pytest.approx((sum(squares) / len(squares)) ** 0.5)
    assert len(rows) == len(found) > 1


def test_own_cells_are_of_the_chip_and_sram_is_ideal(folder):
    assert {row["chip"] for row in measure_run(folder, Asked("chip", 1, 16), 1)} == {"isaac"}


def test_cells_that_are_all_stuck_leave_one_class(folder, tmp_path):
    """Nothing that a layer adds depends on its input: every image has the same logits, whatever was drawn."""
    cells = written(tmp_path / "dead.yaml", stuck_off_probability=1.0)
    for row in measure_run(folder, Asked(cells, 2, 64), 1):
        assert row["cells"] == "dead" and row["drawn"][0] == row["drawn"][1] < 0.3


def test_results_do_not_depend_on_workers_and_are_measured_once(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    one, two = (measure_run(path, Asked("pcm", 2, 32), workers) for path, workers in ((folder, 1), (other, 2)))
    assert one == two
    path = next((folder / "cells").glob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"drawn": [0.5, 0.25]}))
    assert [0.5, 0.25] in [row["drawn"] for row in measure_run(folder, Asked("pcm", 2, 32), 1)]
    more = measure_run(folder, Asked("pcm", 3, 32), 1)  # other draws are other results; the first ones are the same
    assert {row["key"]: row["drawn"][:2] for row in more} == {row["key"]: row["drawn"] for row in two}


def test_the_report_shows_them(folder, capsys):
    done = run(capsys, "accuracy", folder, "--cells", "reram", "--draws", 2, "--images", 32, "--workers", 1)
    assert done.code == 0 and "worst draw" in done.out
    assert (folder / "figures/cells.png").is_file()
    assert "Cells that are not ideal" in (folder / "report.html").read_text()
    table = cells_table(read_run(folder))
    assert len(table.rows) == 4 and all(row[-1] == "2" and row[2] == "reram" for row in table.rows)
    rows = json.loads(run(capsys, "accuracy", folder, "--cells", "reram", "--draws", 2, "--images", 32, "--json").out)
    assert len(rows) == 4 and all(len(row["drawn"]) == 2 for row in rows)


def test_wrong_requests_are_refused(folder, tmp_path, capsys):
    assert "study.yaml: missing" in refused(capsys, "accuracy", tmp_path)
    assert "no such file of cells" in refused(capsys, "accuracy", folder, "--cells", "none")
    assert "stuck_on_probability" in refused(
        capsys, "accuracy", folder, "--cells", written(tmp_path / "c.yaml", stuck_on_probability=2)
    )
    ideal = written(tmp_path / "ideal.yaml", off_fraction=0.1)
    with pytest.raises(InputError, match=r"are ideal on isaac, sram-rom: name others \(reram, pcm"):
        measure_run(folder, Asked(ideal, 1, 8), 1)
    for row in (folder / "rows").glob("*.json"):
        row.unlink()
    with pytest.raises(InputError, match="holds no trained plans"):
        measure_run(folder, Asked("reram", 1, 8), 1)
