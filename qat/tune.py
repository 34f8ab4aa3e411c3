"""Fine-tuning: a float network, a plan, and the quantized network with the best validation accuracy."""

from __future__ import annotations

import copy

import torch
from torch import nn

from cimsim.study import Training
from qat.activation_schemes import PactQuantizer
from qat.attach import parameter_groups, quantize
from qat.distill import soft_targets
from qat.inputs import calibrate
from qat.schemes import Codebook
from qat.train import Tick, TrainingData, batches, one_cycle, score, set_rate, step_on
from workloads.plan import Plan

STEP_FACTOR = 0.02  # step sizes are about 1/50 of what they scale, and Adam moves all parameters alike


def tune(
    model: nn.Module, plan: Plan, data: TrainingData, settings: Training, seed: int, tick: Tick = lambda images: None
) -> float:
    """Quantize `model` by `plan` and train it, in place; returns the validation accuracy it is left with.

    After each epoch the validation images decide whether this state is the best so far. With
    `settings.distill_factor` the float model teaches too.
    """
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    teacher = copy.deepcopy(model).eval() if settings.distill_factor else None
    calibration = data.train.images(slice(0, settings.calibration_images))
    quantize(model, plan, example_input=calibration[:1], seed=seed)
    bits = max(choice.activation_bits for choice in plan.layers.values())
    calibrate(model, calibration, input_step=data.train.input_step(bits))
    optimizer = torch.optim.AdamW(tuning_groups(model, settings.tune_lr))
    total, per_epoch = settings.tune_images // settings.batch, len(data.train.y) // settings.batch
    best, best_state = -1.0, {}
    model.train()
    for step, index in enumerate(batches(len(data.train.y), settings.batch, settings.tune_images, seed + 100)):
        set_rate(optimizer, one_cycle(step, total, settings.tune_lr))
        x, y = data.train.images(index), data.train.y[index]
        if teacher is not None:
            with torch.no_grad():
                y = soft_targets(y, teacher(x), settings.distill_factor)
        step_on(model, optimizer, x, y, "fine-tuning")
        tick(settings.batch)
        if (step + 1) % per_epoch == 0 or step + 1 >= total:
            found = score(model, data.validation).accuracy
            if found > best:
                best, best_state = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_state)
    return best


def tuning_groups(model: nn.Module, rate: float) -> list[dict]:
    """Weights, codebooks and PACT's bounds at the full rate, step sizes at STEP_FACTOR of it; only weights decay."""
    own, added = parameter_groups(model, rate, weight_decay=1e-4)
    kinds = (Codebook, PactQuantizer)  # of the size of what they serve
    whole = {id(p) for module in model.modules() if isinstance(module, kinds) for p in module.parameters()}
    fast = [p for p in added["params"] if id(p) in whole]
    steps = [p for p in added["params"] if id(p) not in whole]
    return [own, {**added, "params": fast}, {**added, "params": steps, "rate_factor": STEP_FACTOR}]
