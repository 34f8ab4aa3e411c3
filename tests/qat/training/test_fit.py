"""The loop that all training shares: its pauses, best state and second start; its end at a loss that is no number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from qat.planning import nas
from qat.planning.aim import Aim, Budgets
from qat.planning.nas import SearchSettings, search, supernet, warm
from qat.training.loop import Schedule, Steps, fit
from tests.helpers.trained_digits import DATA, LAYERS, prices, same_state, trained
from workloads.errors import RunError

SHORT = SearchSettings(images=1_200, batch=40, lr=1e-3, arch_lr=0.1, selection_images=60, temperature=(2.0, 0.5))
FORMATS = ("linear-8", "linear-2", "vq-4x16-e4-s0")
ENERGY = [[8.0, 2.0, 1.0], [40.0, 10.0, 5.0], [8.0, 2.0, 1.0]]


class Killed(Exception):
    """As if the process had been killed."""


def killer(after: int):
    left = [after]

    def tick(images: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return tick


# A weight that goes down by the rate at each step, since its loss is itself.


def falling(num_steps: int, judge=None, checkpoint: Path | None = None, **how) -> tuple[nn.Module, float, int]:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=9.0)

    def value() -> float:
        return judge(-model.weight.item())

    steps = Steps("falling", optimizer, lambda step, index: model.weight.sum(), accuracy=value if judge else None)
    schedule = Schedule(num_steps, lambda step: 2.0**-step, pause_every=3)
    found = fit(model, [torch.arange(4)] * num_steps, steps, schedule, checkpoint=checkpoint, **how)
    return model, found.best_accuracy, found.steps


def test_each_step_has_its_rate_and_each_batch_is_told():
    told: list[int] = []
    model, _, num_done = falling(5, tick=told.append)
    assert -model.weight.item() == 1 + 1 / 2 + 1 / 4 + 1 / 8 + 1 / 16
    assert (told, num_done) == ([4] * 5, 5)


def test_the_best_of_all_pauses_is_left():
    """Pauses are after 3, 6 and 7 steps; the judge likes one sum best."""
    seen: list[float] = []

    def judge(value: float) -> float:
        seen.append(value)
        return -abs(value - (2 - 2**-5))

    model, best, _ = falling(7, judge)
    assert seen == [2 - 2**-2, 2 - 2**-5, 2 - 2**-6]
    assert (-model.weight.item(), best) == (2 - 2**-5, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_it_at_the_step_that_is_named(bad):
    model = nn.Linear(1, 1)

    def loss(step: int, index: Tensor) -> Tensor:
        return model.weight.sum() * 0 + (bad if step == 2 else 1.0)

    steps = Steps("falling", torch.optim.SGD(model.parameters(), 1.0), loss)
    with pytest.raises(RunError, match=rf"falling, step 3: the loss became {bad}"):
        fit(model, [torch.arange(1)] * 5, steps, Schedule(5, lambda step: 1.0, pause_every=5))


@pytest.mark.parametrize("killed_after", [0, 2, 3, 5, 6, 7])
def test_a_killed_run_does_again_only_what_came_after_the_last_pause(killed_after, tmp_path):
    path, told = tmp_path / "falling.pt", list[int]()
    with pytest.raises(Killed):
        falling(8, lambda value: -value, path, tick=killer(killed_after))
    model, best, num_done = falling(8, lambda value: -value, path, tick=told.append)
    whole, best_of_whole, _ = falling(8, lambda value: -value)
    assert same_state(model, whole) and best == best_of_whole
    assert num_done == 8 - killed_after // 3 * 3 and sum(told) == 32


# The supernet, whose search moves probabilities and multipliers, too.


def warmed(checkpoint: Path | None = None, **how):
    model = trained()
    mixtures = supernet(
        model, dict.fromkeys(LAYERS, FORMATS), DATA.train, activation="int8", num_calibration=64, seed=0
    )
    warm(model, mixtures, DATA, SHORT, checkpoint=checkpoint, **how)
    return model, mixtures


@pytest.mark.parametrize("killed_after", [6, 7, 20, 29])
def test_a_killed_supernet_ends_with_the_same_bits(killed_after, tmp_path, monkeypatch):
    monkeypatch.setattr(nas, "PAUSE_EVERY", 7)
    whole, mixtures = warmed()
    with pytest.raises(Killed):
        warmed(tmp_path / "warm.pt", tick=killer(killed_after))
    model, others = warmed(tmp_path / "warm.pt")
    assert same_state(model, whole)

    aim, path = Aim(prices(ENERGY, formats=FORMATS), Budgets(20.0), lambda formats: True), tmp_path / "search.pt"
    found = search(whole, mixtures, aim, DATA, SHORT)
    with pytest.raises(Killed):
        search(model, others, aim, DATA, SHORT, checkpoint=path, tick=killer(killed_after))
    model, others = warmed(tmp_path / "warm.pt")
    assert search(model, others, aim, DATA, SHORT, checkpoint=path) == found
    assert same_state(model, whole)
