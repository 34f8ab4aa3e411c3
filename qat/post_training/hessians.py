"""Second moments of what layers read: H = sum x x^T, twice which is the Hessian of a layer's squared output error.

x is a layer's input in im2col order, as its weights [O, C/g, kernel..] lie in the array: kernel, then channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qat.modules.attached import Attached, attached

_ROWS = 4096  # inputs of a linear layer that are summed at a time


def module_of(model: nn.Module, one: Attached) -> nn.Module:
    """The layer itself."""
    return model.get_submodule(one.name)


def collect(
    model: nn.Module, wanted: set[int], batches: Sequence[tuple[Any, ...]], sums: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """Id of a quantizer -> sum over all inputs of its layers of `sums` (columns [g, I, N], float64), in forward order.

    Layers that share a weight share the sum; embeddings have no part in it.
    """
    found: dict[int, Tensor] = {}
    layers = [one for one in attached(model) if not isinstance(module_of(model, one), nn.Embedding)]
    modules = {id(module_of(model, one)): one for one in layers if id(one.quantizer) in wanted}

    def note(module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        key = id(modules[id(module)].quantizer)
        for columns in columns_of(module, args[0].detach()):
            part = sums(columns)
            found[key] = found[key] + part if key in found else part

    hooks = [module_of(model, one).register_forward_hook(note) for one in modules.values()]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(*batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was_training in modes:
            module.training = was_training
    return found


def columns_of(module: nn.Module, x: Tensor) -> Iterable[Tensor]:
    """Inputs of each output [g, I, N], float64, in im2col order (kernel, then channel), a part at a time."""
    if isinstance(module, nn.Linear):
        yield from (part.double().T[None] for part in x.reshape(-1, x.shape[-1]).split(_ROWS))
        return
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    dims = len(module.kernel_size)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = functional.pad(x.reshape(-1, *x.shape[-dims - 1 :]), module._reversed_padding_repeated_twice, mode=mode)
    for image in x.double().unflatten(1, (module.groups, -1)):
        patches = image  # [g, C/g, space.., kernel..]
        for at, (size, stride, gap) in enumerate(
            zip(module.kernel_size, module.stride, module.dilation, strict=True), start=2
        ):
            patches = patches.unfold(at, (size - 1) * gap + 1, stride)[..., ::gap]
        order = (0, *range(2 + dims, 2 + 2 * dims), 1, *range(2, 2 + dims))
        yield patches.permute(order).flatten(2 + dims).flatten(1, 1 + dims)
