"""An exported network by itself: what a run measured of it, without torch, and told what it lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cimsim.chip.reading import load_chip
from cimsim.engine.whole import simulate
from cimsim.integer.artifact import load
from cimsim.integer.forward import accuracy
from cimsim.studies.exported import measure_file
from cimsim.studies.real_cells import Asked
from cimsim.studies.run import RunDir
from cimsim.studies.study import ChipChoice, Study
from qat.storage.export import export
from qat.training.tune import tune
from tests.helpers.command import ROOT, Done, finish, refused, run, start
from tests.helpers.trained_digits import DATA, SETTINGS, network, trained
from workloads.data.datasets import load as load_data
from workloads.errors import InputError
from workloads.plan import Plan
from workloads.results import Row

WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pandas", "matplotlib", "plotly", "jinja2", "dask", "distributed"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import importlib.util
real = importlib.util.find_spec
def find_spec(name, package=None):
    try:
        return real(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = find_spec
from cimsim.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A trained network in four bits."""
    path, plan = tmp_path_factory.mktemp("exported") / "net.safetensors", Plan.uniform(network(), "linear-4")
    model = trained()
    tune(model, plan, DATA, SETTINGS, 0)
    export(model.eval(), plan, DATA.train.images(slice(0, 1)), path)
    return path


def told(file: Path, *options: object) -> Done:
    return finish(start(file.parent, "accuracy", file, "--data", "digits", *options, program=WITHOUT_TORCH))


def test_costs_and_accuracies_without_torch(file):
    """Against the library; isaac converts without loss."""
    done = told(file, "--chip", "isaac", "--images", 100, "--draws", 2, "--json")
    assert done.code == 0, done.err
    found, artifact, data = json.loads(done.out), load(file), load_data("digits")
    assert found["ideal_accuracy"] == accuracy(artifact, data.test_x[:100], data.test_y[:100]) > 0.8
    assert found["array_accuracy"] == found["ideal_accuracy"]
    assert len(found["drawn_accuracy"]) == 2 and found["images"] == 100
    report = simulate(artifact.network, load_chip("isaac"), artifact.plan)
    assert found["latency_ns"] == report.latency_ns
    assert 0.3 * report.energy_pj < found["energy_pj"] < 3 * report.energy_pj  # of its own data, not half of all bits
    assert json.loads((file.parent / "test_reads.jsonl").read_text().splitlines()[-1])["purpose"] == file.name


def test_people_see_energy_latency_and_accuracies(file):
    done = told(file, "--chip", "sram-rom", "--images", 50)
    assert done.code == 0, done.err
    for word in ("integers without arrays", "J per image", "latency", "50 test images of digits"):
        assert word in done.out
    assert "worst draw" not in done.out  # cells of SRAM are ideal


def test_a_coarse_converter_costs_accuracy(file, tmp_path):
    fine, coarse = (measure_file(file, chip, "digits", Asked("chip", 1, 100)) for chip in ("isaac", _coarse(tmp_path)))
    assert coarse.array_accuracy < fine.array_accuracy - 0.05 and coarse.ideal_accuracy == fine.ideal_accuracy


def _coarse(folder: Path) -> str:
    """ISAAC with converters of two bits."""
    chip = yaml.safe_load((ROOT / "cimsim/chips/isaac.yaml").read_text())
    level = chip["root"]
    while "inside" in level:
        level = level["inside"]
    level["parts"]["adc"]["bits"] = 2
    (folder / "coarse.yaml").write_text(yaml.safe_dump(chip))
    return str(folder / "coarse.yaml")


def test_a_file_needs_data_that_fit(file, capsys):
    with pytest.raises(InputError, match="must be one of digits, fashion_mnist"):
        measure_file(file, "isaac", None, Asked("chip", 1, 8))
    with pytest.raises(InputError, match=r"images are \(1, 28, 28\), digitsnet takes \(1, 8, 8\)"):
        measure_file(file, "isaac", "fashion_mnist", Asked("chip", 1, 8))
    assert "--workers = 3: is not for an exported network" in refused(capsys, "accuracy", file, "--workers", 3)
    assert "--chip = isaac: is not for a run" in refused(capsys, "accuracy", file.parent, "--chip", "isaac")
    assert "No such file" in refused(capsys, "accuracy", "none.safetensors", "--data", "digits")


def test_a_run_is_measured_without_what_its_report_needs(file, tmp_path, capsys):
    """A run of one row, made by hand."""
    study = Study(name="s", network="digitsnet", data="digits", chips=(ChipChoice(chip="isaac"),), train=SETTINGS)
    folder = RunDir(tmp_path / "run").open(study.dump(), {})
    (folder.path / "weights/net.safetensors").write_bytes(file.read_bytes())
    costs = dict.fromkeys((name for name in Row.model_fields if name.endswith(("_pj", "_ns", "_mm2", "_weight"))), 1.0)
    folder.write_row(Row(key="k", kind="train", label="l", chip="isaac", plan="k.json",
                         weights="weights/net.safetensors", **costs))  # fmt: skip
    options = ("--cells", "reram", "--draws", 1, "--images", 32, "--workers", 1)
    done = finish(start(tmp_path, "accuracy", folder.path, *options, program=WITHOUT_TORCH))
    assert done.code == 0 and "worst draw" in done.out, done.err
    assert "Report: not drawn, needs matplotlib, pandas, jinja2, plotly: pip install 'cimsim[report]'" in done.err
    assert run(capsys, "accuracy", file, "--data", "digits", "--images", 8).code == 0
