"""Batch normalisation after soft weights: its statistics must be those of the weights that are stored.

Schemes that train on a mixture of codewords (DKM, Gumbel, VQ4ALL) gather running statistics of the mixture; with the
snapped weights of inference these are wrong, and the network with them (ResNet-8, DKM: 28 % instead of 83 %).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from qat.modules.attached import quantizers
from qat.training.data import Split

IMAGES, BATCH = 2560, 128  # the first images of the training part: no draw, so that a resumed run sees the same


def needs_statistics(model: nn.Module) -> bool:
    """Whether the model normalises batches and trains on weights other than those that it stores."""
    is_soft = any(not quantizer.is_exact for quantizer in quantizers(model).values())
    return is_soft and any(isinstance(module, _BatchNorm) for module in model.modules())


@torch.no_grad()
def estimate_statistics(model: nn.Module, part: Split) -> None:
    """Running means and variances anew, from the part's first images and the weights of inference: the plain average
    over batches. Training, which normalises by its own batches, does not notice."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta, was_training = [norm.momentum for norm in norms], model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None
    for start in range(0, min(IMAGES, len(part.y)), BATCH):
        model(part.images(slice(start, min(start + BATCH, len(part.y)))))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(was_training)
