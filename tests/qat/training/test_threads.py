"""The number of threads changes no bit: a training step of every scheme, of weights and of activations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from qat.activations.schemes import ACTIVATIONS
from qat.kernels.sums import whole_mean, whole_sum
from qat.recipe import RECIPES
from qat.schemes import SCHEMES
from tests.helpers.thread_worker import WEIGHTS
from workloads.format import parse_format

torch.set_num_threads(1)
ROOT = Path(__file__).parents[3]


def hashes(*threads: int) -> list[dict[str, str]]:
    """What a worker finds on each of these numbers of threads; all work at once."""
    workers = [
        subprocess.Popen(
            [sys.executable, "tests/helpers/thread_worker.py", str(number)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(number)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in threads
    ]
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * len(threads)
    return [json.loads(output) for output in outputs]


def test_a_training_step_is_the_same_on_one_thread_and_on_two():
    one, two = hashes(1, 2)
    assert [name for name in one if one[name] != two[name]] == []
    assert {name.split()[0] for name in one} >= {*ACTIVATIONS}
    assert {RECIPES[recipe].scheme(parse_format(fmt)) for fmt, recipe in WEIGHTS} >= {*SCHEMES} - {"gumbel"}


def test_whole_sums_are_sums_and_differentiable():
    for count in (0, 1, 4096, 4097, 4096 * 4096 + 5):
        values = torch.rand(count)
        torch.testing.assert_close(whole_sum(values), values.double().sum().float())
    x = torch.randn(3, 5000, requires_grad=True)
    (grad,) = torch.autograd.grad(whole_mean(x * x), x)
    torch.testing.assert_close(grad, 2 * x.detach() / 15_000)
