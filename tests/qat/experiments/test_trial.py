"""Trials: any network in any format from one command, the same after an interruption, refused with reasons."""

from __future__ import annotations

import json

import pytest
import torch

from cimsim.studies.study import Training
from qat.experiments.trial import FLOAT, Trial, float_network, run_trials, stored_bytes, trial_of
from qat.modules.attach import quantize
from qat.recipe import RECIPES
from qat.training.data import training_data
from qat.training.tune import tune
from tests.helpers.command import refused, run
from workloads.errors import InputError
from workloads.networks.zoo import build

torch.set_num_threads(1)
TRAIN = Training(float_epochs=1, tune_images=2_400, batch=64)


def trial(fmt: str, recipe: str = "default", **choices) -> Trial:
    return Trial(network="digitsnet", data="digits", format=fmt, recipe=recipe, train=TRAIN, **choices)


CASES = [("vq-4x16-e4-s0", "default"), ("vq-4x16-e4-s0", "gumbel"), ("vq-4x16-e4-s0", "universal"),
         ("vq-4x16-e4-s0", "ema"), ("linear-3", "ewgs"),
         ("linear-3-odd", "ewgs-hessian"), ("linear-2", "lsq-kd"),
         ("vq-4x16-e4-s0", "vq4all"), ("e8-q4", "learned-scale"), ("linear-3", "noisy")]  # fmt: skip


class Killed(Exception):
    """Stands for a process that ends."""


@pytest.mark.parametrize(("fmt", "recipe"), CASES)
def test_an_interrupted_trial_ends_with_the_same_bytes(fmt, recipe, tmp_path):
    whole, broken, one = tmp_path / "whole", tmp_path / "broken", trial(fmt, recipe)
    (row,) = run_trials([one], whole)
    assert 0.15 < row["accuracy"] <= 1 and row["relative_error"] > 0
    for name in ("results", "checkpoints", "weights"):
        (broken / name).mkdir(parents=True)
    run_trials([trial(FLOAT)], broken)
    seen = 0

    def dies(images: int) -> None:
        nonlocal seen
        seen += images
        if seen > 1_500:  # after the first epoch's checkpoint
            raise Killed

    model, checkpoint = float_network(one, broken), broken / f"checkpoints/{one.key}.pt"
    with pytest.raises(Killed):
        tune(model, one.plan(model), training_data("digits"), TRAIN, 0, tick=dies,
             recipe=RECIPES[recipe], checkpoint=checkpoint)  # fmt: skip
    assert checkpoint.exists()
    run_trials([one], broken)
    for name in (f"results/{one.key}.json", f"weights/{one.key}.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()
    assert not checkpoint.exists()


def test_a_finished_trial_is_read_again(tmp_path):
    one = trial("linear-4")
    (row,) = run_trials([one], tmp_path)
    path = tmp_path / f"results/{one.key}.json"
    path.write_text(json.dumps(row | {"accuracy": 0.5}))
    assert run_trials([one], tmp_path)[0]["accuracy"] == 0.5


def test_rules_give_layers_their_own_format_or_leave_them_float():
    model = build("digitsnet", 0)
    plan = trial("linear-2", rules={"conv1": "float", "fc": "linear-8"}).plan(model)
    assert {name: layer.format for name, layer in plan.layers.items()} == {"conv2": "linear-2", "fc": "linear-8"}
    with pytest.raises(InputError, match="nothing"):
        trial("linear-2", rules={"nothing": "linear-8"}).plan(model)


def test_shared_codebooks_count_once():
    model = build("digitsnet", 0)
    quantize(model, trial("vq-4x16-e4-s0").plan(model))
    codes = sum(-(-p.numel() // 8) for name, p in model.named_parameters() if name.endswith("original"))
    scales, book = 4 * (8 + 16 + 10), 16 * 4 * 4 // 8
    assert codes + scales + book <= stored_bytes(model) <= codes + scales + book + 16  # whole bytes, and padding


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nonet",), "network = 'nonet': must be one of digitsnet"),
        (("lenet5", "--data", "movie"), "data = 'movie': does not fit lenet5"),
        (("lenet5", "--format", "linear-44"), "bits = 44: must be 1 to 8"),
        (("lenet5", "--recipe", "soup"), "recipe = 'soup': must be one of default"),
    ],
)
def test_wrong_trials_are_refused(arguments, said, tmp_path, capsys):
    assert said in refused(capsys, "train", *arguments, "--run-dir", tmp_path / "run")


def test_the_command_line_trains_a_network(tmp_path, capsys):
    done = run(capsys, "train", "digitsnet", "--format", "d4-q4", "--float-epochs", "1", "--images", "640", "--json",
               "--run-dir", tmp_path / "run")  # fmt: skip
    (row,) = json.loads(done.out)
    assert done.code == 0 and row["format"] == "d4-q4" and 0 < row["accuracy"] <= 1
    assert row == trial_result(tmp_path, row["key"])


def trial_result(folder, key: str) -> dict:
    return json.loads((folder / f"run/results/{key}.json").read_text())


def test_networks_have_their_usual_data():
    made = trial_of("text_transformer", None, 1000, 1, format="linear-4")
    assert (made.data, trial_of("resnet8", None, 1000, 1).data) == ("movie", "fashion_mnist")
