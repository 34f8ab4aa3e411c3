"""The front door: anyone's module in, a plan or a tuned copy out, and the module as it was."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, TensorDataset

import qat
from cimsim.chip.reading import load_chip
from cimsim.engine.whole import simulate
from cimsim.studies.table import build_table
from qat import api, capture, search, tune
from qat.modules.attached import quantizers
from qat.training.loop import score
from tests.helpers.trained_digits import DATA, same_state
from workloads.errors import InputError
from workloads.networks.blocks import Add
from workloads.plan import Plan

ROOT = Path(__file__).parents[2]
X = torch.cat([part.x for part in DATA])[:600]
Y = torch.cat([part.y for part in DATA])[:600]
FORMATS = ("linear-8", "linear-4", "linear-2")


class Residual(nn.Module):
    """A user's own block: batch norm, a shortcut, an addition that is a module."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.add, self.relu = Add(), nn.ReLU()
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.stem(x)))
        x = self.relu(self.add(self.norm2(self.conv(x)), x))
        return self.head(torch.flatten(x, 1))


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))


def trained(module: nn.Module, x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for start in range(0, 4 * 600, 100):
        index = (torch.arange(100) + start) % 600
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            module(x[index].float() / (255 if x.dtype == torch.uint8 else 1)), Y[index]
        ).backward()
        optimizer.step()
    return module


@pytest.fixture(params=["sequential, bytes", "sequential, floats", "residual, bytes", "residual, floats"])
def problem(request) -> tuple[nn.Module, Tensor]:
    kind, _, what = request.param.partition(", ")
    x = X if what == "bytes" else X.float() / 100 - 1  # floats of both signs
    torch.manual_seed(1)
    return trained(plain() if kind == "sequential" else Residual(), x), x


@pytest.mark.parametrize("is_training", [True, False])
def test_search_and_tune_on_a_users_module_which_stays_as_it_was(problem, is_training):
    model, x = problem
    model.train(is_training)
    before, chip = copy.deepcopy(model), load_chip("isaac")
    plan = search(model, x, Y, chip, budget=0.8, formats=FORMATS, images=900)
    found = tune(model, plan, x, Y, images=1_500)

    assert same_state(model, before)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert all(p.requires_grad and p.grad is not None for p in model.parameters())
    for module in model.modules():
        assert not module._forward_pre_hooks and not module._forward_hooks
        assert not parametrize.is_parametrized(module)

    network = capture(model, x[:1].float(), "network")
    plan.check(network)
    reference_pj = build_table(network, chip, FORMATS).reference_pj()
    assert simulate(network, chip, plan).energy_pj <= 0.8 * reference_pj
    assert {name: q.fmt.name for name, q in quantizers(found.model).items()} == {
        name: choice.format for name, choice in plan.layers.items()
    }
    assert found.accuracy == score(found.model, api._training_data(x, Y).validation).accuracy > 0.6


def test_the_same_seed_gives_the_same_plan_and_weights():
    model, chip = trained(plain(), X), load_chip("sram-rom")
    formats = ("linear-8", "vq-4x16-e4-s0", "d4-q4")
    plans = [search(model, X, Y, chip, budget=0.95, formats=formats, images=600, seed=3) for _ in range(2)]
    assert plans[0] == plans[1]
    a, b = (tune(model, plans[0], X, Y, images=600, seed=3) for _ in range(2))
    assert a.accuracy == b.accuracy and same_state(a.model, b.model)


def test_a_few_hundred_images_are_enough():
    """Their parts are smaller than a usual batch; that must end, not wait."""
    model = trained(plain(), X)
    plan = search(model, X[:300], Y[:300], load_chip("isaac"), budget=1.0, formats=FORMATS, images=300)
    assert tune(model, plan, X[:90], Y[:90], images=90).accuracy >= 0


def test_a_budget_nobody_can_keep_is_refused_before_any_training(monkeypatch):
    monkeypatch.setattr(api, "supernet", lambda *args: pytest.fail("training began"))
    model, chip = plain(), load_chip("isaac")
    table = build_table(capture(model, X[:1].float(), "network"), chip, FORMATS)
    least = table.minimum_pj() / table.reference_pj()
    with pytest.raises(InputError, match=r"budget = 0\.01: no plan on isaac needs less than") as raised:
        search(model, X, Y, chip, budget=0.01, formats=FORMATS)
    printed = float(str(raised.value).partition("less than ")[2].split()[0])
    assert least <= printed < least + 1e-4


class Unsupported(nn.Module):
    """Two operations that have no counterpart on a chip."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(1, 4, 3), nn.LocalResponseNorm(2), nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.head(torch.flatten(self.act(self.conv(x)), 1)))


def test_every_operation_without_a_counterpart_is_listed():
    model = Unsupported()
    before = copy.deepcopy(model)
    with pytest.raises(InputError) as raised:
        search(model, X, Y, load_chip("isaac"), budget=0.8, images=200)
    assert len(raised.value.problems) >= 2
    assert "act" in str(raised.value) and "sin" in str(raised.value)
    assert same_state(model, before)


def test_books_that_fit_the_rom_one_by_one_need_not_fit_together():
    """Plans whose books overflow it are passed over, not an error."""
    model, chip = trained(Residual(), X), load_chip("sram-rom")
    books = ("vq-4x256-e4-s0", "vq-8x256-e4-s0", "vq-4x512-e4-s0")  # 4, 8 and 8 kbit; the ROM holds 16
    plan = search(model, X, Y, chip, budget=1.5, formats=books, images=300)
    assert len(plan.codebooks()) < 3
    network = capture(model, X[:1].float(), "network")
    mixed = Plan.uniform(network, "linear-8", rules=dict(zip(plan.layers, books, strict=True)))
    with pytest.raises(InputError, match="bits together"):
        simulate(network, chip, mixed)


def test_a_format_the_chip_cannot_hold_is_told():
    with pytest.raises(InputError, match="no format is left"):
        search(plain(), X, Y, load_chip("isaac"), budget=0.8, formats=("d4-q4",), images=200)


def test_the_package_offers_what_the_front_door_needs():
    chips = {"search", "tune", "capture", "export"}
    training = {"quantize", "calibrate", "parameter_groups", "after_step", "float_state_dict", "summary", "unquantize"}
    storage = {"freeze", "stored", "encode", "decode", "Encoded"}
    assert chips | training | storage <= set(qat.__all__)
    assert all(hasattr(qat, name) for name in qat.__all__)


def test_the_package_imports_without_what_only_some_commands_need():
    slow = {
        "sklearn",
        "dask",
        "distributed",
        "pandas",
        "matplotlib",
        "plotly",
        "onnx",
        "torch._dynamo",
        "torch._inductor",
    }
    program = f"import qat, sys\nprint(*{slow!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_a_users_own_loop_from_float_to_frozen_and_back():
    """The whole life of a module, with its own optimizer and loader, through the package alone."""
    x = X.float() / 255
    model = trained(Residual(), X)
    before, floats = copy.deepcopy(model), {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    plan = Plan.uniform(model, "vq-4x16-e4-s0", rules={"stem": "linear-8", "head": "linear-4"})
    assert qat.quantize(model, plan, example_input=x[:1], optimizer=optimizer) is model
    qat.calibrate(model, DataLoader(TensorDataset(x[:200], Y[:200]), batch_size=100))
    float_accuracy, losses = _accuracy(before, x), []
    for step in range(20):
        index = torch.arange(60) + 10 * step
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[index]), Y[index])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert set(qat.after_step(model, step)) == {"revived"}
    assert sum(losses[-5:]) < sum(losses[:5]) and _accuracy(model, x) > float_accuracy - 0.1

    rows = {row["layer"]: row for row in qat.summary(model)}
    assert [row["format"] for row in rows.values()] == ["linear-8", "vq-4x16-e4-s0", "linear-4"]
    assert rows["stem"]["relative_error"] < rows["head"]["relative_error"] < rows["conv"]["relative_error"]
    encoded = qat.encode_model(model)
    restored = Residual()
    restored.load_state_dict(qat.float_state_dict(model))
    assert set(qat.float_state_dict(model)) == set(floats)

    frozen = qat.freeze(copy.deepcopy(model).eval())
    assert torch.equal(frozen(x), model.eval()(x))
    assert torch.equal(qat.decode(qat.stored(frozen.conv)), qat.decode(encoded["conv"]))
    assert same_state(qat.unquantize(model), restored)


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor) -> float:
    found = float((model.eval()(x).argmax(1) == Y).float().mean())
    model.train()
    return found
