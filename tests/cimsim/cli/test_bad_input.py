"""Bad input ends with exit code 2, failed work with 1; each message names file, key, value and bound or remedy."""

from __future__ import annotations

import copy
import errno
import gzip
import math
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from cimsim.chip.reading import CHIPS
from tests.helpers.command import TINY_STUDY, finish, refused, run, start, write_yaml
from workloads.data.datasets import FASHION_MD5
from workloads.plan import Plan
from workloads.shapes import load_network, to_yaml

CHIP = yaml.safe_load((CHIPS / "sram-rom.yaml").read_text())
REMOVED = object()


def edited(content: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with another value at `path` (`a.b.0.c`; `|` stands for a dot inside a key)."""
    whole = copy.deepcopy(content)
    *way, last = (step.replace("|", ".") for step in path.split("."))
    inner: Any = whole
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    return whole


# --- studies ---

STUDY_PROBLEMS = [
    ("nets", "lenet5", "nets: unknown key (known: name, network, data, chips"),
    ("train.epochs", 3, "train.epochs: unknown key (known: float_epochs, warm_images"),
    ("chips.0.budget", [1], "chips.0.budget: unknown key (known: chip, vary, budgets)"),
    ("network", REMOVED, "network: this key is required"),
    ("network", "lenet", "network = 'lenet': name = 'lenet': must be one of "),
    ("network", 5, "network = 5: Input should be a valid string"),
    ("name", "../up", "name = '../up': String should match pattern"),
    ("data", "mnist", "data = 'mnist': unknown data set: known are digits, fashion_mnist"),
    ("formats", ["linear-44"], "formats.0 = 'linear-44': format 'linear-44': bits = 44: must be 1 to 8"),
    ("formats", ["int4"], "formats.0 = 'int4': unknown format 'int4': known are linear-8"),
    ("formats", [], "formats: must have at least one value"),
    ("formats", ["linear-4", "linear-4"], "formats: must have each value once, but linear-4 is repeated"),
    ("first_last", "int4", "first_last = 'int4': unknown format"),
    ("seeds", [-1], "seeds.0 = -1: Input should be greater than or equal to 0"),
    ("seeds", [1, 1], "seeds: must have each value once, but 1 is repeated"),
    ("chips", [], "chips: must have at least one value"),
    ("chips.0.chip", "issac", "chips.0.chip = 'issac': no such chip file or ready chip (ready: "),
    ("chips.0.budgets", [0], "chips.0.budgets.0 = 0: Input should be greater than 0"),
    ("chips.0.budgets", [0.5, 0.5000000001], "chips.0.budgets: must have each value once, but 0.5 is repeated"),
    ("chips.0.vary", {"adc.bits": 5}, "chips.0.vary.adc.bits = 5: Input should be a valid list"),
    ("chips.0.vary", {"adc.bits": []}, "chips.0.vary.adc.bits: must have at least one value"),
    ("chips.0.vary", {"adc.bits": [0]}, "vary adc.bits = 0: Input should be greater than or equal to 1"),
    ("chips.0.vary", {"adc.bots": [5]}, "vary adc.bots = 5: no such field (known: "),
    ("chips.0.vary", {"fuse.bits": [5]}, "vary fuse.bits = 5: no such part or chip field (known: "),
    ("budgets", [math.inf], "budgets.0 = inf: Input should be a finite number"),
    ("budgets", [math.nan], "budgets.0 = nan: Input should be a finite number"),
    ("objective.energy", 1000, "objective.energy = 1000: Input should be less than or equal to 100"),
    ("train.batch", "64 images", "train.batch = '64 images': Input should be a valid integer"),
    ("train.float_lr", -0.1, "train.float_lr = -0.1: Input should be greater than 0"),
    ("images_per_weight_load", 0, "images_per_weight_load = 0: Input should be greater than or equal to 1"),
    ("activation", "int9", "activation = 'int9': must be an activation format (int2 to int8"),
    ("workers", 0, "workers = 0: Input should be greater than or equal to 1"),
]


@pytest.mark.parametrize(("path", "value", "problem"), STUDY_PROBLEMS)
def test_a_wrong_study(capsys, tmp_path, path, value, problem):
    study = TINY_STUDY | {"objective": {}}
    file = write_yaml(tmp_path / "study.yaml", edited(study, path, value))
    told = refused(capsys, "sweep", file, "--run-dir", tmp_path / "run")
    (line,) = told.splitlines()
    assert line.startswith(f"{file}: ")
    assert problem in line
    assert not (tmp_path / "run").exists()


def test_all_problems_of_a_study_are_told_at_once(capsys, tmp_path):
    study = TINY_STUDY | {"data": "mnist", "nets": 1, "seeds": [-1], "network": "lenet"}
    study["chips"] = [{"chip": "issac"}, {"chip": "isaac", "vary": {"adc.bits": [0, 99]}}]
    lines = refused(capsys, "sweep", write_yaml(tmp_path / "study.yaml", study)).splitlines()
    keys = ["chips.0.chip", "chips.1.vary", "data", "nets", "network", "seeds.0"]
    assert sorted(line.split(": ")[1].split(" = ")[0] for line in lines) == keys
    assert "adc.bits = 0: " in "".join(lines) and "adc.bits = 99: " in "".join(lines)


# --- chips ---

UNIT, TILE = "root.inside.inside.parts", "root.inside.parts"
CHIP_PROBLEMS = [
    ("note_", "x", "note_: unknown key (known: name, note, node_nm"),
    (f"{UNIT}.adc.bitz", 8, "parts.adc.bitz: unknown key (known: kind, count"),
    ("supply_v", REMOVED, "supply_v: this key is required"),
    (f"{UNIT}.adc.bits", REMOVED, "parts.adc.bits: this key is required"),
    ("node_nm", "22 nm", "node_nm = '22 nm': Input should be a valid number"),
    ("node_nm", 3, "node_nm = 3: Input should be greater than or equal to 5"),
    ("supply_v", math.inf, "supply_v = inf: Input should be a finite number"),
    (f"{UNIT}.adc.leakage_scale", math.nan, "parts.adc.leakage_scale = nan: Input should be a finite number"),
    (f"{UNIT}.adc.peak_rate_hz", 10**40, f"parts.adc.peak_rate_hz = {10**40}: Input should be less than or equal to"),
    ("clocks_hz.array", 0, "clocks_hz.array = 0: Input should be greater than 0"),
    (f"{UNIT}.adc.count", 0, "parts.adc.count = 0: Input should be greater than or equal to 1"),
    (f"{UNIT}.adc.kind", "flash", "parts.adc: Input tag 'flash'"),
    (f"{UNIT}.crossbar.rows_on", 256, "parts.crossbar: rows_on = 256: must be <= rows = 128"),
    (f"{UNIT}.crossbar.rows", 10**9, "parts.crossbar.rows = 1000000000: Input should be less than or equal to 4096"),
    (f"{TILE}.tile_buffer.capacity_bits", 1024, "tile_buffer.capacity_bits = 1024: array larger than tile: must be >="),
    ("root.inside.count", 5, "mesh: 2 x 2 places, but 5 tiles (must be equal)"),
    (f"{TILE}.index_buffer", REMOVED, "parts.codebook_rom: needs an index_buffer that streams its codes"),
    ("root", [1], "root: Input should be a valid dictionary"),
]


@pytest.mark.parametrize(("path", "value", "problem"), CHIP_PROBLEMS)
def test_an_impossible_chip(capsys, tmp_path, path, value, problem):
    file = write_yaml(tmp_path / "chip.yaml", edited(CHIP, path, value))
    for command in (("simulate", "lenet5", "--chip"), ("chips", "show")):
        told = refused(capsys, *command, file)
        assert all(line.startswith("chip.yaml: ") for line in told.splitlines())
        assert problem in told


def test_all_problems_of_a_chip_are_told_at_once(capsys, tmp_path):
    chip = edited(edited(CHIP, "node_nm", "22 nm"), f"{UNIT}.adc.count", 0)
    told = refused(capsys, "chips", "show", write_yaml(tmp_path / "chip.yaml", chip))
    assert [line.split(" = ")[0] for line in told.splitlines()] == [
        "chip.yaml: node_nm", f"chip.yaml: {UNIT}.adc.count",
    ]  # fmt: skip


# --- what a chip cannot hold or decode ---


def test_a_rom_smaller_than_the_codebook(capsys, tmp_path):
    file = write_yaml(tmp_path / "chip.yaml", edited(CHIP, f"{TILE}.codebook_rom.capacity_bits", 128))
    told = refused(capsys, "simulate", "lenet5", "--chip", file, "--plan", "vq-4x16-e4-s0")
    assert "layers.conv1.format = 'vq-4x16-e4-s0': the codebook has 256 bits, the ROM holds 128" in told


def test_books_that_fit_one_by_one_but_not_together(capsys, tmp_path):
    network = load_network("digitsnet")
    Plan.uniform(network, "vq-4x16-e4-s0", rules={"fc": "vq-8x16-e4-s0"}).save(tmp_path / "plan.json")
    file = write_yaml(tmp_path / "chip.yaml", edited(CHIP, f"{TILE}.codebook_rom.capacity_bits", 700))
    told = refused(capsys, "simulate", "digitsnet", "--chip", file, "--plan", tmp_path / "plan.json")
    assert "have 768 bits together" in told and "holds 700: share books or enlarge it" in told


def test_layers_that_a_chip_cannot_decode(capsys):
    told = refused(capsys, "simulate", "lenet5", "--chip", "isaac", "--plan", "d4-q4").splitlines()
    names = [layer.name for layer in load_network("lenet5").layers]
    assert told == [f"lenet5 on isaac: layers.{n}.format = 'd4-q4': isaac has no lattice decoder" for n in names]


def test_a_network_that_neither_fits_nor_reloads(capsys, tmp_path):
    file = write_yaml(tmp_path / "chip.yaml", edited(CHIP, "root.parts.dram", REMOVED))
    told = refused(capsys, "simulate", "lenet5", "--chip", file)
    assert "the chip has 8" in told and "add a dram part" in told


# --- networks ---

NETWORK = {
    "name": "one", "input_shape": [3, 8, 8],
    "nodes": [{"name": "conv", "op": "layer", "out_shape": [8, 6, 6],
               "layer": {"name": "conv", "kind": "conv", "in_channels": 3, "out_channels": 8, "in_size": [8, 8],
                         "kernel": [3, 3]}}],
}  # fmt: skip
NETWORK_PROBLEMS = [
    ("shape", [3], "shape: unknown key (known: name, input_shape, nodes, batch)"),
    ("nodes.0.layer.filters", 8, "nodes.0.layer.filters: unknown key (known: name, kind, in_channels"),
    ("input_shape", REMOVED, "input_shape: this key is required"),
    ("nodes", [], "nodes: at least one must be a layer"),
    ("nodes.0.op", "conv", "nodes.0.op = 'conv': Input should be 'layer', 'add'"),
    ("nodes.0.layer.kind", "dense", "nodes.0.layer.kind = 'dense': Input should be 'conv' or 'linear'"),
    ("nodes.0.layer.in_channels", 0, "nodes.0.layer.in_channels = 0: Input should be greater than or equal to 1"),
    ("nodes.0.layer.in_channels", 10**12, "nodes.0.layer.in_channels = 1000000000000: Input should be less than"),
    ("nodes.0.layer.stride", [0, 1], "nodes.0.layer.stride.0 = 0: Input should be greater than or equal to 1"),
    ("nodes.0.layer.kernel", [9, 9], "smaller than the kernel (9, 9)"),
    ("nodes.0.layer.groups", 2, "groups = 2: must divide in_channels and out_channels"),
    ("nodes.0.layer.name", "other", "nodes.conv.layer.name = 'other': must be the node's name"),
    ("nodes.0.out_shape", [8, 8, 8], "nodes.conv.out_shape = (8, 8, 8): must be (8, 6, 6), what its layer makes"),
    ("nodes.0.inputs", ["before"], "nodes.conv.inputs = ['before']: not an earlier node"),
]


@pytest.mark.parametrize(("path", "value", "problem"), NETWORK_PROBLEMS)
def test_a_wrong_network(capsys, tmp_path, path, value, problem):
    file = write_yaml(tmp_path / "net.yaml", edited(NETWORK, path, value))
    told = refused(capsys, "simulate", file)
    assert all(line.startswith(f"{file}: ") for line in told.splitlines())
    assert problem in told


def test_an_unknown_network_lists_the_known_ones(capsys):
    assert "must be one of " in refused(capsys, "simulate", "lenet")


# --- files that are no YAML ---

BROKEN = {
    "syntax": (b"name: [1, 2\nother: 3\n", "is not YAML: line 2, column 6: did not find expected"),
    "empty": (b"", "is empty: must be a mapping with"),
    "comments only": (b"# nothing\n", "is empty: must be a mapping with"),
    "a list": (b"- 1\n", "is a list: must be a mapping with"),
    "a sentence": (b"hello there\n", "is a str: must be a mapping with"),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\xff", "is not text: must be YAML in UTF-8"),
    "control characters": (b"name: \x00\n", "is not YAML: unacceptable character"),
    "python": (b"name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    "deep": (b"[" * 900 + b"]" * 900, "must be a mapping with"),
    "two documents": (b"name: a\n---\nname: b\n", "but found another document"),
    "a date that is none": (b"name: 2024-13-45\n", "is not YAML: month must be in 1..12"),
    "twice": (b"name: a\ndata: b\nname: c\n", "line 3: key 'name': is given in line 1 already: keep one of them"),
}


@pytest.mark.parametrize("command", ["sweep", "simulate", "chips show"])
@pytest.mark.parametrize(("content", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_yaml(capsys, tmp_path, command, content, problem):
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    told = refused(capsys, *command.split(), file)
    assert "file.yaml: " in told and problem in told


@pytest.mark.parametrize("command", ["sweep", "simulate", "chips show"])
def test_a_directory_or_nothing_in_place_of_a_yaml(capsys, tmp_path, command):
    folder = tmp_path / "file.yaml"
    assert "no such chip file" in (told := refused(capsys, *command.split(), folder)) or "No such file" in told
    folder.mkdir()
    assert "no such chip file" in (told := refused(capsys, *command.split(), folder)) or "Is a directory" in told


def test_every_repeated_key_is_told_and_merging_is_none(capsys, tmp_path):
    file = tmp_path / "net.yaml"
    text = to_yaml(load_network("digitsnet"))
    file.write_text(text + "name: again\ninput_shape: [1, 8, 8]\n")
    told = refused(capsys, "simulate", file)
    assert "key 'name': is given in line 1" in told and "key 'input_shape': is given in line 2" in told
    file.write_text(text.replace("stride:", "<<: {stride: [9, 9]}, stride:"))
    assert run(capsys, "simulate", file).code == 0


# --- plans and options ---


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.json"
    Plan.uniform(load_network("digitsnet"), "linear-4").save(path)
    return path


def test_a_plan_for_another_network(capsys, plan):
    assert f"{plan}: network = 'digitsnet': must be 'lenet5'" in refused(capsys, "simulate", "lenet5", "--plan", plan)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"fc"', '"fc9"', "layers.fc9: not a layer of digitsnet"),
        ('"fc"', '"fc9"', "layers.fc: missing"),
        ("linear-4", "linear-44", "layers.conv1.format = 'linear-44': format 'linear-44': bits = 44: must be 1 to 8"),
        ('"auto"', '"systolic"', "dataflow = 'systolic': Input should be 'auto', 'stationary', 'decode' or 'lookup'"),
        ('"activation": "int8"', '"activation": "int9"', "layers.conv1.activation = 'int9': must be an activation"),
        ('"format"', '"fmt"', "layers.conv1.fmt: unknown key (known: format, activation"),
        ("}", "", "Invalid JSON"),
    ],
)
def test_a_wrong_plan(capsys, plan, old, new, problem):
    plan.write_text(plan.read_text().replace(old, new))
    told = refused(capsys, "simulate", "digitsnet", "--plan", plan)
    assert problem in told
    assert all(line.startswith(f"{plan}: ") for line in told.splitlines())


def test_a_plan_that_is_nothing_known(capsys, tmp_path):
    told = refused(capsys, "simulate", "lenet5", "--plan", "nonsense")
    assert told.startswith("--plan: 'nonsense': not a file, and unknown format 'nonsense': known are linear-8")
    told = refused(capsys, "simulate", "lenet5", "--plan", tmp_path / "none.json")
    assert "none.json: (whole file): cannot be read: No such file" in told


@pytest.mark.parametrize("value", ["-1", "0", "0.5", "nan", "-inf", "many"])
def test_images_per_weight_load_is_a_number_from_one(capsys, value):
    told = refused(capsys, "simulate", "lenet5", "--images-per-weight-load", value)
    assert "--images-per-weight-load" in told


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--chip", "isaac", "--budget", "-0.5"], "Invalid value for '--budget'"),
        (["--chip", "sram-rom", "--budget", "0.5"], "--chip: 'sram-rom': the study has isaac"),
        (["--chip", "isaac", "--budget", "0.5", "--seed", "-1"], "Invalid value for '--seed'"),
    ],
)
def test_wrong_options_of_a_search(capsys, tmp_path, arguments, problem):
    file = write_yaml(tmp_path / "study.yaml", TINY_STUDY)
    assert problem in refused(capsys, "search", file, *arguments, "--run-dir", tmp_path / "run")


# --- data and training ---


def test_a_corrupt_data_file(capsys, tmp_path, monkeypatch):
    for name in FASHION_MD5:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"no images"))
    monkeypatch.setenv("CIMSIM_DATA", str(tmp_path))
    study = TINY_STUDY | {"network": "lenet5", "data": "fashion_mnist"}
    told = refused(capsys, "train", write_yaml(tmp_path / "study.yaml", study), "--run-dir", tmp_path / "run")
    assert str(tmp_path / "train-images-idx3-ubyte.gz") in told


def test_a_network_for_other_images(capsys, tmp_path):
    file = write_yaml(tmp_path / "study.yaml", TINY_STUDY | {"network": "lenet5"})
    for command in ("train", "codesign"):
        told = refused(capsys, command, file, "--run-dir", tmp_path / "run")
        assert "takes images of (1, 28, 28), those of digits are (1, 8, 8) (networks for these: digitsnet)" in told
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_key(capsys, tmp_path):
    file = write_yaml(tmp_path / "study.yaml", edited(TINY_STUDY, "train.float_lr", 1e30))
    told = refused(capsys, "train", file, "--run-dir", tmp_path / "run", code=1)
    assert "float training, step 2: the loss became nan: lower the learning rate (train.*_lr)" in told


def test_a_budget_that_no_plan_meets_names_the_least(capsys, tmp_path):
    file = write_yaml(tmp_path / "study.yaml", edited(TINY_STUDY, "chips.0.budgets", [0.01, 0.02, 0.7]))
    told = refused(capsys, "codesign", file, "--run-dir", tmp_path / "run").splitlines()
    assert len(told) == 2
    assert "chips.0.budgets: budget = 0.01: no plan on isaac needs less than 0." in told[0]
    assert not (tmp_path / "run").exists()


# --- disks ---


def test_a_file_in_place_of_the_run_directory(capsys, tmp_path):
    file = write_yaml(tmp_path / "study.yaml", TINY_STUDY)
    told = refused(capsys, "sweep", file, "--run-dir", file)
    assert told == f"{file}: cannot be created: Not a directory; name another --run-dir\n"


def test_the_run_directory_of_another_study(capsys, tmp_path):
    file = write_yaml(tmp_path / "study.yaml", TINY_STUDY)
    assert run(capsys, "sweep", file, "--run-dir", tmp_path / "run").code == 0
    write_yaml(file, TINY_STUDY | {"seeds": [1]})
    told = refused(capsys, "sweep", file, "--run-dir", tmp_path / "run")
    assert "is another study: seeds changed: remove the directory, or name another --run-dir" in told


def test_a_chip_file_that_changed_since(capsys, tmp_path):
    chip = write_yaml(tmp_path / "chip.yaml", CHIP)
    file = write_yaml(tmp_path / "study.yaml", TINY_STUDY | {"chips": [{"chip": str(chip)}]})
    assert run(capsys, "sweep", file, "--run-dir", tmp_path / "run").code == 0
    write_yaml(chip, edited(CHIP, f"{UNIT}.adc.count", 8))
    assert "the chip file has changed since" in refused(capsys, "sweep", file, "--run-dir", tmp_path / "run")


@pytest.mark.parametrize("command", [("sweep", "--run-dir"), ("simulate", "--trace")], ids=lambda command: command[0])
def test_a_full_disk(capsys, tmp_path, monkeypatch, command):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    what = write_yaml(tmp_path / "study.yaml", TINY_STUDY) if command[0] == "sweep" else "digitsnet"
    monkeypatch.setattr(os, "fsync", fail)
    told = refused(capsys, command[0], what, command[1], tmp_path / "target", code=1)
    assert "cannot be written: No space left on device; free space or fix permissions" in told


def test_a_file_size_limit_of_the_system(tmp_path):
    """A real refusal by the kernel in the middle of a sweep; with the limit gone, the same command goes on."""
    file = write_yaml(tmp_path / "study.yaml", TINY_STUDY)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    done = finish(start(tmp_path, "sweep", file, "--run-dir", "run", preexec_fn=limit))
    assert done.code == 1
    assert "cannot be written: File too large" in done.err and "Traceback" not in done.err
    assert not [path for path in Path(tmp_path / "run").rglob("*") if path.name.endswith(".part")]
    assert finish(start(tmp_path, "sweep", file, "--run-dir", "run")).code == 0
