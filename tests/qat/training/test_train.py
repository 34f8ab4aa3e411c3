"""The training loop: what it sees and in which order, and that a killed run ends with the same bits."""

from __future__ import annotations

import os
import pickle
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qat.training import data as training
from qat.training import loop
from qat.training.checkpoint import load_checkpoint
from qat.training.data import Split, batches, training_data
from qat.training.loop import one_cycle, score, set_rate, step_on, task_loss, train_float
from tests.helpers.trained_digits import DATA, SETTINGS, same_state, trained
from workloads.activation import whole_number
from workloads.data.datasets import Dataset
from workloads.errors import InputError, RunError
from workloads.networks.zoo import build

# The order of images.


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4), st.integers(0, 5))
def test_an_epoch_is_a_permutation_cut_into_whole_batches(num, batch, epochs, seed):
    batch = min(batch, num)
    per_epoch = num // batch
    seen = list(batches(num, batch, epochs * per_epoch * batch, seed))
    assert len(seen) == epochs * per_epoch
    for epoch in range(epochs):
        indices = torch.cat(seen[epoch * per_epoch : (epoch + 1) * per_epoch]).tolist()
        assert len(indices) == len(set(indices)) == per_epoch * batch
        assert set(indices) <= set(range(num))


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 5))
def test_there_are_batches_for_at_least_the_images_asked_for(batch, images, seed):
    seen = list(batches(40, batch, images, seed))
    assert images <= len(seen) * batch < images + batch


@given(st.integers(0, 3), st.integers(0, 3))
def test_an_epochs_order_depends_on_seed_and_epoch_alone(seed, first):
    whole = list(batches(30, 10, 150, seed))
    late = list(batches(30, 10, 150 - 30 * first, seed, first=first))
    assert torch.equal(torch.cat(whole[3 * first :]), torch.cat(late))
    other = list(batches(30, 10, 30, seed + 1))
    assert not torch.equal(torch.cat(whole[:3]), torch.cat(other))
    assert not torch.equal(torch.cat(whole[:3]), torch.cat(whole[3:6]))


@pytest.mark.parametrize("batch", [0, 11])
def test_a_batch_that_no_epoch_can_fill_is_refused_not_awaited(batch):
    with pytest.raises(ValueError, match=f"batch = {batch}: must be 1 to 10"):
        next(batches(10, batch, 100, 0))


# The parts.


def numbered(num_train: int, num_test: int) -> Dataset:
    """Images that tell their own number: training images count up from 0, test images from 10,000."""
    ids = np.concatenate([np.arange(num_train), 10_000 + np.arange(num_test)])
    x = np.stack([ids // 256, ids % 256], axis=1).astype(np.uint8).reshape(-1, 2, 1, 1)
    y = (ids % 10).astype(np.int64)
    return Dataset("numbered", x[:num_train], y[:num_train], x[num_train:], y[num_train:], 10)


def test_parts_are_disjoint_complete_and_without_the_test_set(monkeypatch):
    monkeypatch.setattr(training, "load", lambda name, root=None: numbered(600, 100))
    data = training_data.__wrapped__("numbered")
    ids = [(part.x[:, 0].long() * 256 + part.x[:, 1]).flatten().tolist() for part in data]
    assert [len(part) for part in ids] == [500, 50, 50]
    assert sorted(number for part in ids for number in part) == list(range(600))
    for part, numbers in zip(data, ids, strict=True):
        assert part.y.tolist() == [number % 10 for number in numbers]


def test_the_training_data_hold_no_test_image():
    digits = training.load("digits")
    known = {(image.tobytes(), int(label)) for image, label in zip(digits.test_x, digits.test_y, strict=True)}
    for part in DATA:
        rows = zip(part.x.numpy(), part.y.tolist(), strict=True)
        assert not known & {(image.tobytes(), label) for image, label in rows}


def test_bytes_become_the_unit_interval_and_floats_stay():
    x = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    part = Split(x, torch.zeros(4))
    assert torch.equal(part.images(slice(0, 4)) * 255, x.float())
    assert (part.input_step(whole_number(8)), part.input_step(whole_number(4))) == (1 / 255, None)
    floats = Split(torch.randn(4, 1, 8, 8), part.y)
    assert torch.equal(floats.images(slice(1, 3)), floats.x[1:3]) and floats.input_step(whole_number(8)) is None


# Steps.


@given(st.integers(1, 500), st.floats(1e-5, 1.0))
def test_the_rate_rises_linearly_then_falls_to_a_thousandth(total, peak):
    rates = [one_cycle(step, total, peak) for step in range(total)]
    rise = max(1, total // 5)
    assert rates[:rise] == pytest.approx([peak * (step + 1) / rise for step in range(rise)])
    assert all(a >= b * (1 - 1e-12) for a, b in pairwise(rates[rise - 1 :]))
    assert all(1e-3 * peak <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert one_cycle(total, total, peak) == pytest.approx(1e-3 * peak) or total == 1
    half = rise + (total - rise) // 2
    if (total - rise) % 2 == 0:
        assert one_cycle(half, total, peak) == pytest.approx(peak / 2) or total == 1


def test_groups_keep_their_share_of_the_rate():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b], "rate_factor": 0.02}], lr=1.0)
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.01]


def test_a_step_is_gradient_descent_on_the_mean_cross_entropy():
    model = nn.Linear(3, 4)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    loss = F.cross_entropy(model(x), y)
    (expected,) = torch.autograd.grad(loss, [model.weight])
    before = model.weight.detach().clone()
    value = step_on(torch.optim.SGD(model.parameters(), lr=0.25), lambda: F.cross_entropy(model(x), y), "here")
    assert value == loss.item()
    torch.testing.assert_close(model.weight.detach(), before - 0.25 * expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_ends_the_run_and_names_the_key(bad):
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    with pytest.raises(RunError, match=r"step 3: the loss became (nan|-?inf).*train\.\*_lr"):
        step_on(optimizer, lambda: model(torch.full((1, 2), bad)).sum(), "step 3")
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("batch", [1, 7, 120, 1000])
@pytest.mark.parametrize("images", [None, 50, 10_000])
def test_score_is_the_plain_mean(batch, images):
    model, part = trained(), DATA.validation
    num = min(images or 120, 120)
    model.train()
    found = score(model, part, images, batch)
    assert model.training
    with torch.no_grad():
        logits = model.eval()(part.x[:num].float() / 255)
    assert found.loss == pytest.approx(F.cross_entropy(logits, part.y[:num]).item(), rel=1e-5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == part.y[:num]).double().mean().item())


# Whole runs.

THREE = SETTINGS.model_copy(update={"float_epochs": 3})


class Killed(Exception):
    """As if the process had been killed."""


def killer(after: int):
    left = [after]

    def tick(images: int) -> None:
        left[0] -= images
        if left[0] < 0:
            raise Killed

    return tick


def test_training_learns():
    before, after = score(build("digitsnet", 0), DATA.validation), score(trained(), DATA.validation)
    assert before.accuracy < 0.3 and after.accuracy > 0.8


def test_epochs_follow_each_other_as_one_stream_of_batches():
    found = train_float(build("digitsnet", 1), DATA, THREE, 1)
    model = build("digitsnet", 1).to(memory_format=torch.channels_last)  # pyright: ignore
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    for step, index in enumerate(batches(len(DATA.train.y), THREE.batch, 3 * 1_160, seed=1)):
        set_rate(optimizer, one_cycle(step, 3 * 29, THREE.float_lr))
        step_on(optimizer, partial(task_loss, model, DATA.train, index), "here")
    assert same_state(found, model)


@pytest.mark.parametrize("epochs_done", [0.5, 1.0, 1.7, 2.2])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, epochs_done, monkeypatch):
    path = tmp_path / "float.pt"
    uninterrupted = train_float(build("digitsnet", 1), DATA, THREE, 1)
    with pytest.raises(Killed):
        train_float(build("digitsnet", 1), DATA, THREE, 1, checkpoint=path, tick=killer(int(epochs_done * 1160)))
    assert path.exists() == (epochs_done >= 1)
    steps, images = [], list[int]()
    monkeypatch.setattr(loop, "step_on", lambda *args: steps.append(args) or step_on(*args))
    resumed = train_float(build("digitsnet", 1), DATA, THREE, 1, checkpoint=path, tick=images.append)
    assert same_state(resumed, uninterrupted)
    assert (len(steps), sum(images)) == ((3 - int(epochs_done)) * 29, 3 * 1160)
    again = train_float(build("digitsnet", 1), DATA, THREE, 1, checkpoint=path)  # done: not one step more
    assert same_state(again, uninterrupted) and len(steps) == (3 - int(epochs_done)) * 29


def test_float_training_sees_its_own_part_only():
    nothing = Split(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    alone = train_float(build("digitsnet", 0), DATA._replace(arch=nothing, validation=nothing), SETTINGS, 0)
    assert same_state(alone, trained())


# Checkpoints.


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "float.pt"
    train_float(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), DATA, SETTINGS, 0, checkpoint=path)
    return path


def test_a_truncated_checkpoint_is_named_with_its_remedy(checkpoint):
    assert load_checkpoint(checkpoint)["done"] == SETTINGS.float_epochs * 29
    whole = checkpoint.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        checkpoint.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"float\.pt: is not a readable checkpoint.*delete it"):
            load_checkpoint(checkpoint)


class Bomb:
    """Pickles as a call that leaves a trace when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path):
    plain, zipped, trace = tmp_path / "plain.pt", tmp_path / "zipped.pt", tmp_path / "trace"
    plain.write_bytes(pickle.dumps({"model": Bomb(trace), "epoch": 1}, protocol=2))
    torch.save({"model": Bomb(trace), "epoch": 1}, zipped)
    for path in (plain, zipped):
        with pytest.raises(InputError, match="not a readable checkpoint"):
            load_checkpoint(path)
        assert not trace.exists()
    pickle.loads(plain.read_bytes())
    assert trace.is_dir()  # the bomb is one
