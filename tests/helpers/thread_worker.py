"""A training step of each scheme on as many threads as the command line says: prints a hash of all it ends with."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable

import torch
from torch import Tensor

from qat.activations.clipping import STEPS
from qat.activations.schemes import ACTIVATIONS, EwgsActivation, make_activation
from qat.recipe import Recipe, parse_recipe
from qat.schemes import make_quantizer
from workloads.activation import whole_number
from workloads.format import parse_format

WEIGHTS = [
    ("linear-4", "default"), ("linear-4-t", "default"), ("linear-1-t", "default"), ("linear-4-g32-t", "default"),
    ("linear-4-t", "searched-step"), ("linear-4-odd-t", "ewgs"), ("linear-4", "ewgs"),
    ("linear-4", "dorefa"), ("linear-3-odd", "dorefa"), ("linear-1", "dorefa"),
    ("pool-128", "default"), ("e8-q4-t", "default"), ("a2-q4", "learned-scale"), ("e8-q4m2", "sigma"),
    ("vq-4x16-e4-s0", "universal"), ("vq-4x16-e4-s1-t", "universal"), ("vq-4x16-e4-s0-t", "default"),
    ("vq-4x16-e4-s0-t", "dkm"),
]  # fmt: skip

SHAPES = [(1, 100_000), (2, 100_000), (100_000, 4)]


def digest(parts: Iterable[Tensor]) -> str:
    return hashlib.sha256(b"".join(part.detach().contiguous().numpy().tobytes() for part in parts)).hexdigest()


def of_weight(fmt: str, recipe: str) -> str:
    """Its forward, its gradients, its state after a step of the optimizer, and what is then stored."""
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(3), requires_grad=True)
    quantizer = make_quantizer(parse_format(fmt), weight.detach(), recipe=parse_recipe(recipe))
    optimizer = torch.optim.SGD([weight, *quantizer.trained()], lr=1e-3)
    value = quantizer(weight)
    value.backward(torch.sin(weight.detach() * 100))
    optimizer.step()
    quantizer.after_step(weight, 0)
    quantizer.refresh(weight)
    grads = [part.grad for part in (weight, *quantizer.trained()) if part.grad is not None]
    encoded = quantizer.encode(weight)
    return digest([value, *grads, *quantizer.state_dict().values(), encoded.codes, encoded.scale])


def of_shape(fmt: str, *shape: int) -> str:
    """What is stored of a weight of extreme shape, whose sums over an output or over outputs are long."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    encoded = make_quantizer(parse_format(fmt), weight).encode(weight)
    return digest([encoded.codes, encoded.scale])


def of_activation(name: str, calibration: str) -> str:
    """Calibrated, used forward and backward, with the delta of EWGS where it has one."""
    x = torch.randn(64, 4096, generator=torch.Generator().manual_seed(4))
    recipe = Recipe.model_validate({"activation": name, "calibration": calibration})
    quantizer = make_activation(whole_number(4), recipe=recipe)
    quantizer.calibrate(x)
    x, upstream = x.requires_grad_(), torch.sin(x.detach() * 100)
    value = quantizer(x)
    value.backward(upstream)
    if isinstance(quantizer, EwgsActivation):
        quantizer.set_delta(upstream.square(), upstream)
    assert x.grad is not None
    grads = [parameter.grad for parameter in quantizer.parameters() if parameter.grad is not None]
    return digest([value, x.grad, *grads, *quantizer.state_dict().values()])


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    weights = {f"{fmt} {recipe}": of_weight(fmt, recipe) for fmt, recipe in WEIGHTS}
    activations = {f"{name} {way}": of_activation(name, way) for name in ACTIVATIONS for way in STEPS}
    shapes = {f"{fmt} {shape}": of_shape(fmt, *shape) for fmt in ("linear-4-t", "vq-4x16-e4-s0-t") for shape in SHAPES}
    print(json.dumps(weights | activations | shapes))
