"""The page of pretrained networks: its intervals and tables, what it measures on small networks, what it asks for."""

from __future__ import annotations

import copy
import json
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from docs.made import figures, pretrained
from docs.made.pretrained import ROWS, TRAINED, Row, block, result_path, rows_of, run
from qat.experiments import tasks
from qat.experiments.pretrained import change, measured, wilson
from qat.experiments.tasks import (
    SPLITS,
    TRAIN_PHOTOS,
    PublishedTask,
    agreement,
    embeddings,
    fit_probes,
    moments,
    split_photos,
)
from qat.experiments.trial import FLOAT
from workloads.data.files import Packaged
from workloads.errors import InputError
from workloads.format import parse_format

torch.set_num_threads(1)


@pytest.mark.parametrize(("same", "count"), [(0, 80), (1, 80), (46, 80), (79, 80), (80, 80)])
def test_the_interval_is_wilsons(same, count):
    """(p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z the normal's 97.5 % point."""
    z, p = 1.959964, same / count
    middle, half = p + z * z / 2 / count, z * sqrt(p * (1 - p) / count + z * z / 4 / count**2)
    low, high = (100 * (middle + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    assert wilson(same, count) == f"{100 * same / count:.0f} % ({low:.0f} to {high:.0f})"


def test_changes_have_a_paired_t_interval():
    """Differences 1, 2, 3 points: mean 2, deviation 1, t of two degrees of freedom 4.3027."""
    assert change([0.51, 0.62, 0.73], [0.5, 0.6, 0.7]) == f"+2.0 ± {4.3027 / sqrt(3):.1f}"


def test_agreement_of_known_outputs():
    wanted = torch.eye(8)[:2] * 9 + torch.arange(8.0)
    assert agreement(wanted, wanted) == {"same": 2, "crops": 2, "top5": 1.0, "kl": pytest.approx(0, abs=1e-6)}
    found = agreement(wanted, wanted.flip(1))
    p, q = wanted.double().softmax(1), wanted.flip(1).double().softmax(1)
    assert found["kl"] == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-5)
    first = [set(np.argsort(-row)[:5].tolist()) for row in wanted.numpy()]
    other = [set(np.argsort(-row)[:5].tolist()) for row in wanted.flip(1).numpy()]
    assert found["top5"] == pytest.approx(np.mean([len(a & b) / 5 for a, b in zip(first, other, strict=True)]))


def test_photographs_of_training_and_test_have_nothing_in_common():
    names = (*TRAIN_PHOTOS, "flower", "rocket")
    train, test = split_photos({name: np.full((10, 1), i) for i, name in enumerate(names)})
    assert (len(train), len(test)) == (10 * len(TRAIN_PHOTOS), 20)
    assert not np.intersect1d(train, test).size


class Net(nn.Module):
    """Plain, depthwise and pointwise convolutions with norms, and a linear layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv_stem, self.bn0 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.project, self.bn2 = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn0(self.conv_stem(x)).relu()
        x = self.bn2(self.project(self.bn1(self.depthwise(x)).relu()))
        return self.fc(x.relu().mean((2, 3)))


def small_task() -> PublishedTask:
    model, generator = Net().eval(), torch.Generator().manual_seed(1)
    x = torch.randn(24, 3, 8, 8, generator=generator)
    known = moments(model, x)
    with torch.no_grad():
        for name, (mean, variance) in known.items():  # a trained norm has about these
            norm = model.get_submodule(name)
            norm.get_buffer("running_mean").copy_(mean)
            norm.get_buffer("running_var").copy_(variance)
    known, wanted = moments(model, x), model(x).detach()

    def measure(net: nn.Module) -> dict[str, object]:
        with torch.no_grad():
            return agreement(wanted, net(x))

    def loss(net: nn.Module, index: Tensor) -> Tensor:
        return functional.mse_loss(net(x[index]), wanted[index])

    return PublishedTask(model, ("conv_stem", "fc", "*depthwise*"), [x], measure, loss, 24, 8, 1e-3,
                lambda net: moments(net, x, known))  # fmt: skip


@pytest.mark.parametrize(("name", "method"), [("linear-3", "gptq"), ("vq-4x16-e4-s0", "hessian"), ("e8-q4", "nearest")])
def test_a_row_counts_the_bits_of_its_format_and_leaves_the_network_alone(name, method):
    task, fmt = small_task(), parse_format(name)
    before = copy.deepcopy(task.model.state_dict())
    found = measured(Row("", name, method).choice, task)
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())
    assert (found["weights"], found["eight_weights"]) == (16 * 16, 16 * 27 + 16 * 9 + 160)
    codes = 16 * 16 * fmt.vector_bits // fmt.vector_length
    assert 8 * found["bytes"] == codes + fmt.codebook_bits + 16 * 32  # a float scale per output
    assert found["eight_bytes"] == found["eight_weights"] + 4 * (16 + 16 + 10)
    assert 0 < found["relative_error"] < 0.5
    assert found["corrected"]["kl"] < found["kl"]


def test_float_and_activations_and_training():
    task = small_task()
    none = measured(Row("", FLOAT).choice, task)
    assert (none["weights"], none["bytes"]) == (0, 0) and none["kl"] < 1e-3
    weights_only, with_inputs = (measured(Row("", "linear-2", activation=fmt).choice, task) for fmt in ("", "int2"))
    assert with_inputs["kl"] != weights_only["kl"] and with_inputs["bytes"] == weights_only["bytes"]
    trained = measured(Row("", "linear-2", steps=30).choice, task)
    assert trained["untrained"]["kl"] == pytest.approx(weights_only["corrected"]["kl"], rel=1e-3)
    assert trained["kl"] < trained["untrained"]["kl"] and "corrected" not in trained


def test_correction_gives_each_norm_the_moments_of_float_outputs_and_does_nothing_to_float():
    task = small_task()
    before = copy.deepcopy(task.model.state_dict())
    known = moments(task.model, task.calibration[0])
    moments(task.model, task.calibration[0], known)
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())
    net = copy.deepcopy(task.model)
    with torch.no_grad():  # a gain before the first norm is made up for, but for the offset of variances
        net.get_parameter("conv_stem.weight").mul_(1.5)
    moments(net, task.calibration[0], known)
    torch.testing.assert_close(net(task.calibration[0]), task.model(task.calibration[0]), rtol=1e-3, atol=1e-3)


def test_embeddings_keep_their_order_whatever_is_batched_together():
    ids = torch.tensor([[5, 6, 7, 8], [5, 0, 0, 0], [9, 4, 0, 0], [3, 2, 1, 0]])

    class Sums(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            return ids.float().sum(1, keepdim=True)

    assert embeddings(Sums(), ids, batch=2)[:, 0].tolist() == [26, 5, 13, 6]


def test_probes_are_one_per_split_and_learn():
    rng = np.random.default_rng(0)
    known, y = rng.normal(size=(300, 4)).astype(np.float32), np.repeat([0, 1], 150)
    known[:, 0] += 4 * y
    probes = fit_probes(known, y)
    assert len(probes) == SPLITS and min(probe.score(known, y) for probe in probes) > 0.9


def made_up(row: Row, name: str) -> dict[str, object]:
    image = {"same": 40, "crops": 80, "top5": 0.5, "kl": 1.25}
    text = {"accuracies": [0.7, 0.72, 0.71], "float_accuracies": [0.75, 0.76, 0.77], "cosine": 0.9}
    told = image if name == "lite0" else text
    extra = {"untrained": told, "step_seconds": 1.5} if row.steps else {"corrected": image}
    sizes = {"weights": 1000, "bytes": 250, "eight_weights": 1000, "eight_bytes": 1000, "relative_error": 0.125}
    return {**row._asdict(), "network": name, **sizes, **told, **extra}


def test_the_page_shows_every_result_and_names_one_that_is_missing(tmp_path):
    for name in ("lite0", "minilm"):
        (tmp_path / name).mkdir()
        for row in rows_of(name):
            result_path(tmp_path, name, row).write_text(json.dumps(made_up(row, name)))
    text = block(tmp_path)
    line = next(line for line in text.splitlines() if "`d4-q4`" in line)
    assert line == "| D4, q = 4 | `d4-q4` | nearest | 2.00 | 5.00 | 0.125 | 50 % (39 to 61) | 50 % | 1.25 | " \
                   "50 % (39 to 61) | 1.25 |"  # fmt: skip
    assert "| 71.0 % | -5.0 ± 2.5 | 0.900 |" in text and "| 1.5 | 50 % (39 to 61) |" in text
    for part in text.split("\n\n"):
        assert len({row.count("|") for row in part.splitlines()}) == 1  # as many cells in every line
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == (
        3 + sum(len(rows_of(name)) for name in ("lite0", "minilm")) + 3
    )
    gone = result_path(tmp_path, "minilm", ROWS[3])
    gone.unlink()
    with pytest.raises(InputError, match=rf"{gone.name}: missing: must be there \(`python -m docs\.made\.pretrained`"):
        block(tmp_path)


def test_rows_are_different_and_formats_exist():
    for name in ("lite0", "minilm"):
        keys = [row.key for row in rows_of(name)]
        assert len(set(keys)) == len(keys)
    assert all(parse_format(row.format) for row in (*ROWS, *TRAINED) if row.format != FLOAT)


def test_what_is_there_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setitem(pretrained.TASKS, "lite0", lambda folder: small_task())
    monkeypatch.setattr(pretrained, "rows_of", lambda name: [Row("a", "linear-4"), Row("b", "linear-2")])
    kept = tmp_path / "lite0" / f"{Row('a', 'linear-4').key}.json"
    kept.parent.mkdir()
    kept.write_text("kept")
    run(["lite0"], tmp_path)
    assert kept.read_text() == "kept" and len(list(kept.parent.iterdir())) == 2
    monkeypatch.setitem(pretrained.TASKS, "lite0", lambda folder: pytest.fail("nothing is left to measure"))
    run(["lite0"], tmp_path)


def test_missing_packages_are_told_all_at_once_and_unknown_networks():
    gone = [Packaged(f"no-such-{name}==1", "x") for name in ("one", "two", "two")]
    with pytest.raises(InputError, match=r"(?s)pip install --no-deps no-such-one==1.*no-deps no-such-two==1") as caught:
        tasks.require(gone)
    assert str(caught.value).count("pip install") == 2
    with pytest.raises(InputError, match="lite1: must be one of lite0, minilm"):
        pretrained.main(["lite1"])


def test_the_page_has_its_block():
    assert [mark for mark, _, _ in figures.blocks(pretrained.PAGE.read_text(), "pretrained.md")] == ["pretrained"]
