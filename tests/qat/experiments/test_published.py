"""Networks with published weights: trained on, killed and gone on with, stored, and refused with reasons."""

import json

import pytest
import torch

from qat.experiments import pretrained, pretrained_trial
from qat.experiments.pretrained import Choice, Progress, measured
from qat.experiments.pretrained_trial import COLUMNS, cells, run_published
from qat.experiments.pretrained_trial import published_trial as trial_of
from qat.storage.frozen_file import load_frozen
from tests.docs.test_docs_pretrained import small_task
from tests.helpers.command import refused

torch.set_num_threads(1)


class Killed(Exception):
    """Stands for a process that ends."""


@pytest.fixture
def small(monkeypatch):
    """EfficientNet-Lite0's task is a small one, which needs no package."""
    monkeypatch.setitem(pretrained_trial.TASKS, "lite0", lambda folder: small_task())
    monkeypatch.setattr(pretrained_trial, "require", lambda: None)


@pytest.mark.parametrize(("fmt", "recipe", "start"), [
    ("linear-3", "default", "gptq"), ("vq-4x16-e4-s0", "euclid", "nearest"), ("vq-4x16-e4-s0", "dkm", "nearest"),
    ("e8-q4", "learned-scale", "nearest"),
])  # fmt: skip
def test_a_killed_trial_ends_with_the_same_bytes(fmt, recipe, start, small, tmp_path):
    one = trial_of("efficientnet_lite0", None, 8 * 13, format=fmt, recipe=recipe, start=start, seed=3)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    row = run_published(one, whole)
    assert (row["steps"], row["seed"]) == (13, 3) and row["kl"] < row["untrained"]["kl"]
    (broken / "checkpoints").mkdir(parents=True)
    checkpoint, seen = broken / f"checkpoints/{one.key}.pt", []

    def dies(images: int) -> None:
        seen.append(images)
        if len(seen) > 8:  # after the first checkpoint
            raise Killed

    with pytest.raises(Killed):
        measured(one.choice, small_task(), Progress(checkpoint, dies))
    assert checkpoint.exists()
    run_published(one, broken)
    assert not checkpoint.exists()
    for name in (f"results/{one.key}.json", one.weights):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()


def test_the_file_holds_the_trained_network(small, tmp_path):
    one = trial_of("efficientnet_lite0", None, 80, format="linear-4", recipe="default")
    row, task = run_published(one, tmp_path), small_task()
    network = load_frozen(small_task().model, tmp_path / one.weights).eval()
    found = task.measure(network)
    assert found["kl"] == pytest.approx(row["kl"], rel=1e-4) and found["same"] == row["same"]


def test_a_finished_trial_is_read_again_and_shown(small, tmp_path):
    one = trial_of("efficientnet_lite0", None, 16, format="linear-4", recipe="default")
    row = run_published(one, tmp_path)
    path = tmp_path / f"results/{one.key}.json"
    path.write_text(json.dumps(row | {"same": 0}))
    assert run_published(one, tmp_path)["same"] == 0
    shown = dict(zip(COLUMNS, cells(row), strict=True))
    assert shown["format"] == "linear-4" and shown["steps"] == 2 and shown["after"].endswith(")")
    plain = run_published(trial_of("efficientnet_lite0", None, None, format="float", recipe="default"), tmp_path)
    assert plain["weights"] == 0 and cells(plain)[5] == "32"


def test_training_brings_outputs_nearer():
    before, after = (measured(Choice("linear-2", steps=steps), small_task()) for steps in (1, 40))
    assert after["kl"] < before["kl"] and pretrained.judged(after).endswith(")")


def test_wrong_requests_are_refused(capsys):
    assert "has data of its own" in refused(capsys, "train", "minilm", "--data", "movie")
    assert "format = " in refused(capsys, "train", "efficientnet_lite0", "--format", "linear-99")
    assert "recipe = " in refused(capsys, "train", "minilm", "--recipe", "nothing")


def test_options_that_would_do_nothing_are_refused(capsys):
    told = refused(capsys, "train", "minilm", "--plan", "linear-4", "--float-epochs", 3)
    assert "--plan = linear-4: is not for published weights" in told and "--float-epochs = 3" in told
    assert "--start = gptq: is not for a network without" in refused(capsys, "train", "lenet5", "--start", "gptq")
    told = refused(capsys, "train", "examples/digits.yaml", "--format", "linear-4", "--images", 5)
    assert "--format = linear-4: is not for a study" in told and "--images = 5" in told
