"""The search: its prices, gradients and multipliers as formulas, its plans against brute force and their budgets."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cimsim.chip.reading import load_chip
from cimsim.engine.whole import simulate
from cimsim.studies.table import CostTable, build_table
from qat.modules.mixture import Mixture, relax
from qat.planning import nas
from qat.planning.aim import Aim, Budgets
from qat.planning.nas import SearchSettings, search, spread, supernet, warm
from qat.training import data as training
from qat.training.data import Split, TrainingData, training_data
from qat.training.loop import step_on, task_loss
from tests.helpers.trained_digits import DATA, FORMATS, LAYERS, network, prices, same_state, trained
from workloads.data.datasets import load
from workloads.errors import RunError
from workloads.plan import Plan

ENERGY = [[8.0, 4.0, 2.0], [40.0, 20.0, 10.0], [8.0, 4.0, 2.0]]  # 14 to 56
SHORT = SearchSettings(images=800, batch=40, lr=1e-3, arch_lr=0.1, selection_images=60)


def everything_fits(formats: dict[str, str]) -> bool:
    return True


def mixtures_of(formats: tuple[str, ...] = FORMATS, num_layers: int = 3) -> tuple[nn.Module, dict[str, Mixture]]:
    model = trained()
    return model, relax(model, dict.fromkeys(LAYERS[:num_layers], formats))


def draw_logits(mixtures: dict[str, Mixture], seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for mixture in mixtures.values():
        mixture.alpha.data.copy_(torch.randn(len(mixture.names), generator=generator))


@given(st.floats(0, 1.2))
def test_a_budget_is_refused_exactly_when_no_plan_keeps_it(share):
    table = prices(ENERGY, fixed_pj=3.0)
    assert (table.minimum_pj(), table.reference_pj()) == (17.0, 59.0)
    problem = table.budget_problem(share)
    assert bool(problem) == (share < 17 / 59)
    if problem:  # the number it prints, as printed, is one that works
        printed = float(problem.partition("less than ")[2].split()[0])
        assert not table.budget_problem(printed) and printed < 17 / 59 + 1e-4


# Probabilities and the penalty.


def test_spread_puts_each_layers_probabilities_under_its_formats():
    model = trained()
    mixtures = relax(model, {"conv1": ("linear-2", "linear-8"), "fc": ("linear-4",)})
    draw_logits(mixtures)
    p = spread(mixtures, FORMATS)
    assert p.dtype == torch.float64
    first = mixtures["conv1"].probabilities().detach()
    assert p.detach().numpy() == pytest.approx(np.array([[first[1], 0, first[0]], [0, 1, 0]]))


def test_the_gradient_of_spread_is_that_of_finite_differences():
    _, mixtures = mixtures_of()
    draw_logits(mixtures)
    for mixture in mixtures.values():
        mixture.temperature = 0.7
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()
    (spread(mixtures, FORMATS) * weight).sum().backward()
    for mixture in mixtures.values():
        for f in range(3):
            values = []
            for step in (1e-2, -2e-2):
                mixture.alpha.data[f] += step
                values.append(float((spread(mixtures, FORMATS).detach() * weight).sum()))
            mixture.alpha.data[f] += 1e-2
            assert mixture.alpha.grad is not None
            assert float(mixture.alpha.grad[f]) == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("budgets", [Budgets(20.0), Budgets(30.0, 25.0), Budgets(1e6, None, 15.0), Budgets(1e6)])
def test_the_penalty_is_the_multiplied_excess_and_its_gradient_the_formula(budgets):
    """d/d alpha_f of m max(0, E/B - 1) = (m / B) p_f (c_f - sum_j p_j c_j) where the budget is missed, else 0."""
    _, mixtures = mixtures_of()
    draw_logits(mixtures)
    table, multipliers = prices(ENERGY, fixed_pj=3.0), (1.5, 0.5, 2.0)
    costs = nas._Costs(table, budgets, multipliers)
    loss = costs.penalty(mixtures)
    loss.backward()
    p = spread(mixtures, FORMATS).detach().numpy()
    mean = (p * np.array(ENERGY)).sum(axis=1)
    expected, gradient = 0.0, np.zeros((3, 3))
    for bound, m, fixed in zip(budgets, multipliers, (3.0, 0.0, 0.0), strict=True):
        if bound is not None and mean.sum() + fixed > bound:
            expected += m * ((mean.sum() + fixed) / bound - 1)
            gradient += m / bound * p * (np.array(ENERGY) - mean[:, None])
    assert loss.item() == pytest.approx(expected)
    found = np.array([[0.0] * 3 if m.alpha.grad is None else m.alpha.grad.tolist() for m in mixtures.values()])
    assert found == pytest.approx(gradient, abs=1e-5)
    assert found.any() == (budgets != Budgets(1e6))


def test_multipliers_rise_while_a_budget_is_missed_and_fall_while_it_is_kept():
    _, mixtures = mixtures_of()
    mean = float(np.array(ENERGY).mean(axis=1).sum())
    costs = nas._Costs(prices(ENERGY), Budgets(mean / 2, mean * 2, mean), (1.0, 1.0, 1.0))
    history = [costs.multipliers]
    for _ in range(20):
        costs.penalty(mixtures)
        history.append(costs.multipliers)
    missed, kept, met = np.array(history).T
    assert np.diff(missed) == pytest.approx(costs.ASCENT)  # expected / budget - 1 = 1
    assert kept[:10] == pytest.approx(1 - costs.ASCENT / 2 * np.arange(10))
    assert kept[-1] == 0.0 and (kept >= 0).all()
    assert met == pytest.approx(np.ones(21), abs=1e-5)


# Steps.


def test_only_the_architecture_step_moves_alpha_and_moves_nothing_else():
    model, mixtures = mixtures_of()
    table = prices(ENERGY)
    costs = nas._Costs(table, Budgets(20.0), (1.0, 0.0, 0.0))
    alphas = {id(m.alpha) for m in mixtures.values()}
    arch = torch.optim.Adam([m.alpha for m in mixtures.values()], lr=0.1, betas=(0.0, 0.999))
    weights = nas._weight_optimizer(model, mixtures, 1e-2)
    held = [p for group in weights.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()} - alphas
    index = torch.arange(40)

    def snapshot() -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    def moved(before: dict[str, Tensor]) -> set[str]:
        return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}

    names = {name for name, p in model.named_parameters() if id(p) in alphas}
    nas._sample(mixtures, 0)
    before = snapshot()
    step_on(weights, partial(task_loss, model, DATA.train, index), "here")
    assert not moved(before) & names and any("original" in name for name in moved(before))
    before = snapshot()
    nas._arch_step(mixtures, arch, costs, partial(task_loss, model, DATA.arch, index))
    assert moved(before) == names


def test_the_sampled_step_has_the_gradient_of_binary_gates():
    """ProxylessNAS: dL/d alpha_i = sum_j <g, Q_j> p_j (delta_ij - p_i), with g at the sampled weight."""
    model, mixtures = mixtures_of()
    draw_logits(mixtures, 3)
    index = torch.arange(40)
    costs = nas._Costs(prices(ENERGY), Budgets(1e6), (1.0, 0.0, 0.0))  # no cost
    nas._sample(mixtures, 5)
    sampled: dict[str, Tensor] = {}
    arch = torch.optim.SGD([m.alpha for m in mixtures.values()], lr=0.0)
    nas._arch_step(mixtures, arch, costs, partial(task_loss, model, DATA.arch, index))
    twin = trained()  # a plain network that has the sampled weights as its own
    for layer, mixture in mixtures.items():
        weight = getattr(model.get_submodule(layer).parametrizations, "weight").original.detach()  # noqa: B009
        assert mixture.chosen is not None
        sampled[layer] = torch.stack([nas.Mixture.project(mixture, weight, [f])[f].value for f in range(3)])
        twin.get_submodule(layer).get_parameter("weight").data.copy_(sampled[layer][mixture.chosen])
    loss = torch.nn.functional.cross_entropy(twin(DATA.arch.images(index)), DATA.arch.y[index])
    for layer, mixture in mixtures.items():
        (g,) = torch.autograd.grad(loss, [twin.get_submodule(layer).get_parameter("weight")], retain_graph=True)
        along = (sampled[layer].detach() * g).flatten(1).sum(1)
        p = mixture.probabilities().detach()
        assert mixture.alpha.grad is not None
        expected = torch.stack([(along * p * ((torch.arange(3) == i).float() - p[i])).sum() for i in range(3)])
        torch.testing.assert_close(mixture.alpha.grad, expected, rtol=1e-3, atol=1e-6)


# Whole searches.


def test_formats_that_are_equal_stay_equally_likely_exactly():
    model, mixtures = mixtures_of(("linear-4",))
    for mixture in mixtures.values():  # the same quantizer under two names
        (one,) = mixture.candidates
        mixture.names, mixture.candidates = ("a", "b"), nn.ModuleList([one, one])
        mixture.alpha = nn.Parameter(torch.zeros(2))
        mixture.is_allowed = torch.ones(2, dtype=torch.bool)
    table = prices([[3.0, 3.0]] * 3, formats=("a", "b"))
    found = search(model, mixtures, Aim(table, Budgets(9.0), everything_fits), DATA, SHORT)
    assert found.probabilities == [[0.5, 0.5]] * 3
    assert (found.relaxation_gap, found.expected_energy_pj, found.table_energy_pj) == (0.0, 9.0, 9.0)


class Indifferent(nn.Module):
    """A network whose loss is log 10 whatever its weights are."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 0.0


@pytest.mark.parametrize("share", [0.28, 0.5])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_where_accuracy_is_free_each_budget_is_kept_by_the_expected_cost(which, share, monkeypatch):
    monkeypatch.setattr(nas, "ARCH_EVERY", 1)
    model, mixtures = mixtures_of()
    bound = share * 56.0
    bounds: list[float | None] = [1e9, None, None]
    bounds[which] = bound
    table = prices(ENERGY)
    settings = SHORT._replace(images=60 * 5, batch=5, multipliers=(1.0, 0.0, 0.0))

    def fits(formats: dict[str, str]) -> bool:
        return table.cost_of(formats)[which] <= bound

    found = search(Indifferent(model), mixtures, Aim(table, Budgets(*bounds), fits), DATA, settings)
    expected = (np.array(found.probabilities) * np.array(ENERGY)).sum()
    assert expected <= 1.01 * bound
    assert table.cost_of(found.formats)[which] <= bound


@pytest.fixture(scope="module")
def isaac_table() -> CostTable:
    return build_table(network(), load_chip("isaac"), (*FORMATS, "d4-q4"), fixed_formats={"conv1": "linear-8"})


def searched(table: CostTable, share: float, data: TrainingData = DATA, seed: int = 0):
    chip, bound = load_chip("isaac"), share * table.reference_pj()

    def energy_pj(formats: dict[str, str]) -> float:
        plan = Plan.uniform(network(), "linear-8", rules=formats)
        return simulate(network(), chip, plan).energy_pj

    model = trained()
    mixtures = supernet(model, table.candidates(), data.train, activation="int8", num_calibration=128, seed=seed)
    settings = SHORT._replace(seed=seed)
    warm(model, mixtures, data, settings)
    found = search(
        model, mixtures, Aim(table, Budgets(bound), lambda formats: energy_pj(formats) <= bound), data, settings
    )
    return model, found, energy_pj(found.formats) / bound


@pytest.mark.parametrize("share", [0.75, 0.85, 1.1])
def test_the_chosen_plan_keeps_its_budget_in_the_whole_simulation(isaac_table, share):
    _, found, used = searched(isaac_table, share)
    assert used <= 1
    assert found.formats.keys() == set(LAYERS)
    expected = (np.array(found.probabilities) * np.where(isaac_table.allowed, isaac_table.energy_pj, 0)).sum()
    assert found.expected_energy_pj == pytest.approx(expected + isaac_table.fixed_energy_pj)
    assert found.table_energy_pj == pytest.approx(isaac_table.cost_of(found.formats)[0])
    assert found.relaxation_gap == pytest.approx(found.expected_energy_pj / found.table_energy_pj - 1)


def test_masked_formats_and_held_layers_are_left_alone(isaac_table):
    """The lattice has no decoder on this chip, and the first layer is held at 8 bits."""
    assert "d4-q4" in str(isaac_table.masked) and isaac_table.candidates()["conv1"] == ["linear-8"]
    for seed in range(2):
        _, found, _ = searched(isaac_table, 0.75, seed=seed)
        p = np.array(found.probabilities)
        assert (p[~isaac_table.allowed] == 0).all() and p.sum(axis=1) == pytest.approx(1)
        assert found.formats["conv1"] == "linear-8" and "d4-q4" not in found.formats.values()


def test_where_no_plan_fits_the_search_says_so():
    model, mixtures = mixtures_of()
    aim = Aim(prices(ENERGY), Budgets(20.0), lambda formats: False)
    with pytest.raises(RunError, match=r"paper: none of the \d+ most probable plans keeps the budgets"):
        search(model, mixtures, aim, DATA, SHORT)


def test_the_same_seed_searches_the_same_way(isaac_table):
    first, again = searched(isaac_table, 0.75), searched(isaac_table, 0.75)
    assert first[1] == again[1] and same_state(first[0], again[0])


def test_test_labels_are_without_influence(isaac_table, monkeypatch):
    plain = searched(isaac_table, 0.75)
    digits = load("digits")
    shuffled = np.random.default_rng(0).permutation(digits.test_y)
    assert (shuffled != digits.test_y).mean() > 0.5
    monkeypatch.setattr(training, "load", lambda name, root=None: digits._replace(test_y=shuffled))
    blind = searched(isaac_table, 0.75, training_data.__wrapped__("digits"))
    assert blind[1] == plain[1] and same_state(blind[0], plain[0])


def test_each_part_has_its_own_use():
    """Weights learn from `train` alone where no architecture step needs `arch`, plans come from `validation`."""
    model, mixtures = mixtures_of()
    warm(model, mixtures, DATA, SHORT)
    other, others = mixtures_of()
    nothing = Split(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    warm(other, others, DATA._replace(arch=nothing, validation=nothing), SHORT)
    assert same_state(model, other)
