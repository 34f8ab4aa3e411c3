"""What EWGS (Lee et al., CVPR 2021) asks of the whole network: output scales from a batch, and its curvature.

Both are for models quantized with `Recipe.linear` or `Recipe.activation` = "ewgs"; what is trained otherwise stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from qat.activations.schemes import EwgsActivation
from qat.kernels.sums import whole_sum
from qat.modules.attached import attached
from qat.schemes.ewgs import EwgsQuantizer

PROBES = 10  # random vectors of Hutchinson's estimate


def match_outputs(model: nn.Module, *inputs: Tensor) -> None:
    """Sets each layer's output scale so that its outputs keep their mean size, as published: times E|o| / E|o_q|.

    One forward pass in eval mode, which sees every layer with its float and with its quantized weight on the same
    input, both without bias. Embeddings, which add nothing up, stay as they are.
    """
    layers = [(model.get_submodule(one.name), one) for one in attached(model)]
    hooks = [
        module.register_forward_hook(_matching(one.quantizer, one.weight.detach()))
        for module, one in layers
        if isinstance(one.quantizer, EwgsQuantizer) and not isinstance(module, nn.Embedding)
    ]
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


def _matching(quantizer: EwgsQuantizer, weight: Tensor) -> Callable[..., None]:
    def match(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        with _weight_is(quantizer, torch.zeros_like(weight)):
            bias = module.forward(*args)
        with _weight_is(quantizer, weight):
            outputs = module.forward(*args)
        channel = -1 if isinstance(module, nn.Linear) else 1
        sizes = [(part - bias).movedim(channel, 0).flatten(1).abs().mean(1) for part in (outputs, output)]
        quantizer.match(*sizes)

    return match


@contextmanager
def _weight_is(quantizer: EwgsQuantizer, weight: Tensor) -> Iterator[None]:
    """Meanwhile, whoever reads the quantized weight sees this one."""
    before = quantizer.kept, quantizer.keeps
    quantizer.kept, quantizer.keeps = weight, True
    try:
        yield
    finally:
        quantizer.kept, quantizer.keeps = before


def update_deltas(model: nn.Module, loss: Callable[[], Tensor], *, probes: int = PROBES, seed: int = 0) -> None:
    """Sets how much rounding errors turn gradients, from the Hessian of the loss: once per epoch, as published.

    `loss` runs the model on a batch and returns its loss. Changes nothing but `delta`, of weights and activations.
    """
    outputs: dict[Any, list[Tensor]] = {}

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:  # images on a fixed grid do not
            outputs.setdefault(module, []).append(output)

    owners = [module for module in model.modules() if isinstance(module, EwgsQuantizer | EwgsActivation)]
    hooks = [module.register_forward_hook(note) for module in owners]
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the one attention with a second derivative
            value = loss()
    finally:
        for hook in hooks:
            hook.remove()
    if not outputs:
        return
    seen = {id(output): (module, output) for module, parts in outputs.items() for output in parts}
    found = curvatures(value, [output for _, output in seen.values()], probes, seed)
    for module in outputs:
        pairs = [pair for (owner, _), pair in zip(seen.values(), found, strict=True) if owner is module]
        if isinstance(module, EwgsActivation):
            module.set_delta(*(torch.cat([part.flatten() for part in parts]) for parts in zip(*pairs, strict=True)))
        else:
            module.set_delta(*(torch.stack(parts).sum(0) for parts in zip(*pairs, strict=True)))


def curvatures(value: Tensor, tensors: list[Tensor], probes: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(estimate of the Hessian's diagonal, gradient) of a loss for each of the tensors inside its graph.

    Hutchinson's estimate, as in Bekas, Kokiopoulou and Saad (2007): the mean of v * (H v) over vectors v of signs.
    One product serves all tensors, so what couples two of them must average out.
    """
    grads = torch.autograd.grad(value, tensors, create_graph=True, materialize_grads=True)
    generator = torch.Generator().manual_seed(seed)
    diagonals = [torch.zeros_like(tensor) for tensor in tensors]
    for _ in range(probes):
        signs = [torch.randint(0, 2, t.shape, generator=generator).to(t) * 2 - 1 for t in tensors]
        along = sum(whole_sum(grad * sign) for grad, sign in zip(grads, signs, strict=True))
        if not isinstance(along, Tensor) or not along.requires_grad:  # a loss without any curvature
            break
        products = torch.autograd.grad(along, tensors, retain_graph=True, materialize_grads=True)
        for diagonal, sign, product in zip(diagonals, signs, products, strict=True):
            diagonal.add_(sign * product / probes)
    return [(diagonal, grad.detach()) for diagonal, grad in zip(diagonals, grads, strict=True)]
