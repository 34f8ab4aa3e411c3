"""The hooks of a quantized model: what runs around each forward, or before a state is loaded."""

from __future__ import annotations

from typing import Any

from torch import nn

from qat.activations.inputs import INPUT
from qat.kernels.compiling import outside_graphs, refuse_export
from qat.modules import optimizers
from qat.modules.attached import quantizer_of, quantizers
from qat.modules.attention import SplitAttention, split_state
from qat.quantizer import Quantizer

_KEEPING = "_keeping_quantizers"  # an attribute of a model while its forward runs
_ORIGINAL = "parametrizations.weight.original"


def hook(model: nn.Module) -> None:
    """Sets them once, however often it is asked to."""
    if _begin not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_begin, prepend=True)
        model.register_forward_hook(_end, always_call=True)
        model.register_load_state_dict_pre_hook(_accept_float_state)


def unhook(model: nn.Module) -> None:
    """Takes them off the model, wherever its parts brought some of their own."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks, module._load_state_dict_pre_hooks):
            for handle in [h for h, one in hooks.items() if getattr(one, "hook", one) in _HOOKS]:
                del hooks[handle]
                module._forward_hooks_always_called.pop(handle, None)


def _begin(model: nn.Module, args: Any) -> None:
    refuse_export(f"{type(model).__name__}, a model in training")
    _keep(model)


@outside_graphs
def _keep(model: nn.Module) -> None:
    """Each quantizer works once, here, however often its weight is read in the forward.

    One after the other they find their code and tables in the cache, which convolutions would push out. Copies of
    a quantized model come by here too, so an optimizer of theirs is watched from now on.
    """
    found: dict[int, Quantizer] = {}
    model.__dict__[_KEEPING] = found
    for module in model.modules():
        quantizer = quantizer_of(module)
        if quantizer is not None and id(quantizer) not in found:
            found[id(quantizer)] = quantizer
            quantizer.kept, quantizer.keeps = None, True
            latent = getattr(module.parametrizations, "weight").original  # noqa: B009
            if isinstance(latent, nn.Parameter):  # torch.func.functional_call lends a tensor
                optimizers.watch(latent, quantizer.trained())
            _ = module.weight  # the value is kept


@outside_graphs
def _end(model: nn.Module, args: Any, output: Any) -> None:
    for quantizer in model.__dict__.pop(_KEEPING, {}).values():
        quantizer.kept, quantizer.keeps = None, False


def _accept_float_state(model: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """A float state dict fits a quantized model: `weight` is the latent weight, what it lacks stays as it is."""
    for name, module in model.named_modules():
        if isinstance(module, SplitAttention):
            split_state(module, state, prefix + name + "." * bool(name))
    floats = {_key(prefix, name, "weight"): _key(prefix, name, _ORIGINAL) for name in quantizers(model)}
    if floats.keys().isdisjoint(state):
        return
    for key in floats.keys() & state.keys():
        state[floats[key]] = state.pop(key)
    for key, value in model.state_dict(prefix=prefix).items():
        if ".parametrizations." in f".{key}" or INPUT in key:
            state.setdefault(key, value)


def _key(prefix: str, *parts: str) -> str:
    return prefix + ".".join(part for part in parts if part)


_HOOKS = (_begin, _end, _accept_float_state)
