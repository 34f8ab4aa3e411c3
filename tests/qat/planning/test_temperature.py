"""The temperature of a search: its schedule, its gradient, what it does to the probabilities, and where it is set."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cimsim.studies.study import Training, load_study
from qat.experiments.stages import search_settings
from qat.modules.mixture import relax
from qat.planning import nas
from qat.planning.aim import Aim, Budgets
from qat.planning.nas import SearchResult, SearchSettings, annealed, search
from qat.training.loop import task_loss
from tests.helpers.trained_digits import DATA, FORMATS, LAYERS, prices, trained
from workloads.errors import InputError

ENERGY = [[8.0, 4.0, 2.0], [40.0, 20.0, 10.0], [8.0, 4.0, 2.0]]
SHORT = SearchSettings(images=1_200, batch=40, lr=1e-3, arch_lr=0.1, selection_images=60)
TEMPERATURES = st.floats(1e-3, 1e3)


@given(TEMPERATURES, TEMPERATURES, st.integers(2, 300))
def test_it_goes_from_the_first_to_the_last_by_equal_ratios(start, end, num_steps):
    found = [annealed((start, end), step, num_steps) for step in range(num_steps)]
    assert (found[0], found[-1]) == (start, pytest.approx(end))
    ratios = [after / before for before, after in pairwise(found)]
    assert ratios == pytest.approx([(end / start) ** (1 / (num_steps - 1))] * (num_steps - 1))


def test_a_search_of_one_step_has_the_first_temperature():
    assert annealed((3.0, 0.5), 0, 1) == 3.0


def searched(temperature: tuple[float, float], budget_pj: float = 20.0) -> SearchResult:
    model = trained()
    mixtures = relax(model, dict.fromkeys(LAYERS, FORMATS))
    aim = Aim(prices(ENERGY), Budgets(budget_pj), lambda formats: True)
    return search(model, mixtures, aim, DATA, SHORT._replace(temperature=temperature))


def test_annealing_leaves_sharper_probabilities():
    """Of a budget that only the cheapest plan keeps, to which all layers are drawn."""

    def surest(temperature: tuple[float, float]) -> np.ndarray:
        return np.array(searched(temperature, budget_pj=14.0).probabilities).max(axis=1)

    plain, cooled, heated = (surest(t) for t in ((1.0, 1.0), (1.0, 0.1), (1.0, 10.0)))
    assert (cooled > plain).all() and (plain > heated).all()


def test_each_architecture_step_has_its_temperature(monkeypatch):
    """30 weight steps with 10 architecture steps between them."""
    seen: list[float] = []
    real = nas._arch_step

    def noted(mixtures, *rest) -> None:
        (temperature,) = {mixture.temperature for mixture in mixtures.values()}
        seen.append(temperature)
        real(mixtures, *rest)

    monkeypatch.setattr(nas, "_arch_step", noted)
    searched((2.0, 0.25))
    assert seen == pytest.approx(np.geomspace(2.0, 0.25, 10))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(temperature):
    """Task loss of the soft mixture plus penalty, at logits that are not equal."""
    model = trained().eval()
    mixtures = relax(model, dict.fromkeys(LAYERS, FORMATS))
    nas._heat(mixtures, temperature)
    generator = torch.Generator().manual_seed(0)
    for mixture in mixtures.values():
        mixture.alpha.data.copy_(0.3 * torch.randn(len(FORMATS), generator=generator))
    loss, index = partial(task_loss, model, DATA.arch), torch.arange(100)

    def total() -> torch.Tensor:
        return loss(index) + nas._Costs(prices(ENERGY), Budgets(20.0), (1.0, 0.0, 0.0)).penalty(mixtures)

    total().backward()
    step = 2e-2 * temperature
    for mixture in mixtures.values():
        for f in range(len(FORMATS)):
            values = []
            for move in (step, -2 * step):
                mixture.alpha.data[f] += move
                values.append(float(total().detach()))
            mixture.alpha.data[f] += step
            assert mixture.alpha.grad is not None
            slope = (values[0] - values[1]) / (2 * step)
            assert float(mixture.alpha.grad[f]) == pytest.approx(slope, rel=1e-2, abs=2e-4 / temperature)


STUDY = """
name: cooling
network: digitsnet
data: digits
chips: [{{chip: isaac}}]
train: {{batch: 32, temperature: {temperature}}}
"""


def written(folder: Path, temperature: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(STUDY.format(temperature=temperature))
    return path


def test_the_study_says_it(tmp_path):
    study = load_study(written(tmp_path, "[2.0, 0.2]"))
    assert search_settings(study, 100, seed=0).temperature == (2.0, 0.2)
    assert Training().temperature == SHORT.temperature == (1.0, 1.0)


@pytest.mark.parametrize("temperature", ["[1.0, 0.0]", "[-1.0, 1.0]", "[1.0]", "[.nan, 1.0]", "[.inf, 1.0]"])
def test_what_is_no_temperature_is_refused(temperature, tmp_path):
    with pytest.raises(InputError, match="temperature"):
        load_study(written(tmp_path, temperature))
