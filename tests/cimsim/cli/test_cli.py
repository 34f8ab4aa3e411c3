"""The front door: every command answers, prints pure JSON when asked, and needs only what it uses."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys

import jsonschema
import pytest
import yaml

from cimsim.chip.reading import load_chip
from cimsim.cli.main import app
from cimsim.studies.study import load_study
from tests.helpers.command import ROOT, TINY_STUDY, finish, refused, run, start, write_yaml

COMMANDS = (
    "simulate",
    "map",
    "diff",
    "validate",
    "sensitivity",
    "sweep",
    "train",
    "search",
    "codesign",
    "accuracy",
    "report",
    "formats",
    "init",
    "chips list",
    "chips show",
)
BLOCKED = ("torch", "sklearn", "pandas", "matplotlib", "plotly", "jinja2", "dask", "distributed")


def strict_json(text: str):
    """JSON without the words NaN and Infinity, which are none."""
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_version(capsys):
    assert run(capsys, "--version") == (0, "cimsim 0.1.0\n", "")


def test_the_list_of_commands_is_whole():
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    names |= {f"chips {command.name}" for command in app.registered_groups[0].typer_instance.registered_commands}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("command", ["", "chips", *COMMANDS])
def test_every_help_has_an_example(capsys, command):
    done = run(capsys, *command.split(), "--help")
    assert done.code == 0
    assert f"Example: cimsim {command}" in done.out


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "init"])
def test_every_table_has_json(capsys, command):
    assert "--json" in run(capsys, *command.split(), "--help").out


@pytest.mark.parametrize("command", ["simulate lenet5", "chips list", "chips show isaac", "formats"])
def test_json_is_all_that_stands_on_standard_output(capsys, command):
    done = run(capsys, *shlex.split(command), "--json")
    assert done.code == 0
    assert strict_json(done.out)
    assert done.err == ""


@pytest.mark.parametrize("plan", ["linear-4", "vq-4x16-e4-s0"])
def test_people_see_layers_totals_and_warnings(capsys, monkeypatch, plan):
    """At 100 columns no line is longer, and every figure has its unit."""
    monkeypatch.setenv("COLUMNS", "100")
    done = run(capsys, "simulate", "lenet5", "--chip", "sram-rom", "--plan", plan)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 100
    for word in ("layer", "bottleneck", "conv1", plan, "J per image", "cycles of the array clock", "mm2", "TOPS/W"):
        assert word in done.out
    assert "warning: " in done.err


def test_the_simulated_figures_are_those_of_the_library(capsys):
    from cimsim import Plan, load_network, simulate

    network = load_network("lenet5")
    report = simulate(network, load_chip("sram-rom"), Plan.uniform(network, "linear-4"))
    told = strict_json(run(capsys, "simulate", "lenet5", "--chip", "sram-rom", "--plan", "linear-4", "--json").out)
    assert told == json.loads(json.dumps(report.to_dict()))


def test_images_per_weight_load_spreads_the_loading(capsys):
    energy = [
        strict_json(
            run(capsys, "simulate", "lenet5", "--chip", "sram-rom", "--images-per-weight-load", n, "--json").out
        )
        for n in (1, 4, "inf")
    ]
    load = energy[0]["weight_load_pj"]
    dynamic = [report["dynamic_pj"] for report in energy]
    assert dynamic[0] - dynamic[1] == pytest.approx(load * 3 / 4)
    assert dynamic[0] - dynamic[2] == pytest.approx(load)
    assert energy[2]["images_per_weight_load"] == "inf"


def test_a_trace_opens_in_perfetto(capsys, tmp_path):
    path = tmp_path / "trace.json"
    assert run(capsys, "simulate", "digitsnet", "--trace", path).code == 0
    events = json.loads(path.read_text())["traceEvents"]
    assert {"B", "E", "C", "M"} == {event["ph"] for event in events}


def test_the_bill_of_materials_adds_up(capsys):
    """ISAAC prints 65.8 W and 85.4 mm2 for the chip, 24.08 mW for an in-situ unit."""
    bill = strict_json(run(capsys, "chips", "show", "isaac", "--json").out)
    total = {row["level"]: row for row in bill["bill"] if row["component"] == "total"}
    parts = [row["power_mw"] for row in bill["bill"] if row["level"] == "ima" and row["component"] != "total"]
    assert sum(parts) == pytest.approx(total["ima"]["power_mw"]) == pytest.approx(24.08, rel=0.01)
    assert bill["power_mw"] == total["chip"]["power_mw"] == pytest.approx(65_808, rel=0.01)
    assert bill["area_mm2"] == total["chip"]["area_mm2"] == pytest.approx(85.4, rel=0.01)
    assert all(len(source) == 2 for source in bill["sources"])


@pytest.mark.parametrize(("what", "load"), [("chip", load_chip), ("study", load_study)])
def test_a_starter_is_valid_and_has_its_schema(capsys, tmp_path, what, load):
    path = tmp_path / f"my_{what}.yaml"
    assert run(capsys, "init", what, path).code == 0
    assert load(path).name
    text = path.read_text()
    schema = json.loads((tmp_path / f"my_{what}.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(yaml.safe_load(text))), schema)
    assert text.startswith(f"# yaml-language-server: $schema=./my_{what}.schema.json\n")
    assert text.count("#") > 8
    assert strict_json(run(capsys, "init", what, "--json").out) == schema
    assert "exists already" in refused(capsys, "init", what, path)
    assert path.read_text() == text


def test_a_starter_needs_a_folder_and_a_known_kind(capsys, tmp_path):
    assert "is not a folder" in refused(capsys, "init", "chip", tmp_path / "none/chip.yaml")
    assert "must be chip or study" in refused(capsys, "init", "network")


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_may_stand_anywhere(capsys, place):
    arguments = ["simulate", "nothing"]
    arguments.insert(place, "--debug")
    done = run(capsys, *arguments)
    assert done.code == 2
    assert "Traceback" in done.err and "InputError: network: name = 'nothing'" in done.err


def test_debug_changes_nothing_that_works(capsys):
    assert run(capsys, "formats", "--json", "--debug") == run(capsys, "formats", "--json")


@pytest.mark.parametrize("arguments", [["frobnicate"], ["simulate"], ["simulate", "lenet5", "--chips", "isaac"], []])
def test_a_wrong_command_line_is_bad_input(capsys, arguments):
    done = run(capsys, *arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_the_simulator_needs_no_extra(tmp_path):
    """With torch and its friends absent, everything but training and reports works, and those say what they need."""
    study = write_yaml(tmp_path / "study.yaml", TINY_STUDY)
    program = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\nfrom cimsim.cli.main import main\nmain()"
    commands = (["simulate", "resnet8", "--json"], ["sweep", study, "--json"], ["chips", "show", "isaac"],
                ["init", "chip"], ["codesign", study], ["report", "."])  # fmt: skip
    done = [finish(process) for process in [start(tmp_path, *command, program=program) for command in commands]]
    assert [d.code for d in done] == [0, 0, 0, 0, 2, 2], done
    assert strict_json(done[0].out)["network"] == "resnet8"
    assert len(strict_json(done[1].out)) == 2
    assert "needs torch, sklearn" in done[4].err and "pip install 'cimsim[all]'" in done[4].err
    assert "needs matplotlib, pandas" in done[5].err


def test_a_full_disk_behind_standard_output_is_told(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cimsim", "formats", "--json"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "output: No space left on device: free space or fix permissions\n"


def test_ctrl_c_is_told_in_a_line(tmp_path):
    """The interrupt comes while the command works, at a place of our choosing."""
    program = (
        "import os, signal, sys\nsys.argv[0] = 'cimsim'\nfrom cimsim.cli import main\nfrom cimsim.engine import whole\n"
        "def wait(*_, **__): os.kill(os.getpid(), signal.SIGINT); signal.pause()\n"
        "whole.simulate = wait\nmain.main()"
    )
    process = start(
        tmp_path, "simulate", "lenet5", program=program,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    done = finish(process)
    assert done.code == 130
    assert done.err == "interrupted: the same command goes on where it stopped\n"
