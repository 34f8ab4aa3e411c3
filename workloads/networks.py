"""The project's own networks as plain torch modules, built from a seed.

Layer names follow torchvision (`layer2.0.conv1`), so its ResNet-18 state dict fits. Additions, pools and
activations are modules of their own, so that hooks see every tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from workloads.errors import InputError
from workloads.text import LENGTH, UNKNOWN


class Add(nn.Module):
    """The sum of two tensors of one shape, as a module that hooks can see."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class LeNet5(nn.Module):
    """LeNet-5 for [N, 1, 28, 28] (LeCun et al., Proc. IEEE 86(11), 1998, with ReLU and max pooling)."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1, self.relu3 = nn.Linear(400, 120), nn.ReLU()
        self.fc2, self.relu4 = nn.Linear(120, 84), nn.ReLU()
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))  # [N, 6, 14, 14]
        x = self.pool2(self.relu2(self.conv2(x)))  # [N, 16, 5, 5]
        x = self.relu3(self.fc1(self.flatten(x)))  # [N, 120]
        return self.fc3(self.relu4(self.fc2(x)))


class DigitsNet(nn.Module):
    """Two small convolutions for the 8x8 digits [N, 1, 8, 8]: trains in seconds, for tests."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()
        self.pool, self.flatten = nn.MaxPool2d(2), nn.Flatten()
        self.fc = nn.Linear(16 * 4 * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))  # [N, 16, 8, 8]
        return self.fc(self.flatten(self.pool(x)))


class VGG8(nn.Module):
    """VGG-8 for [N, 3, 32, 32]: C128-C128-P-C256-C256-P-C512-C512-P-FC1024-FC10, as in DNN+NeuroSim.

    Peng, Huang, Jiang, Lu, Yu: DNN+NeuroSim V2.0, IEEE TCAD 40(11), 2021.
    """

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.stage1 = self._stage(3, 128)
        self.stage2 = self._stage(128, 256)
        self.stage3 = self._stage(256, 512)
        self.flatten = nn.Flatten()
        self.fc1, self.relu, self.fc2 = nn.Linear(512 * 4 * 4, 1024), nn.ReLU(), nn.Linear(1024, num_classes)

    @staticmethod
    def _stage(num_in: int, num_out: int) -> nn.Sequential:
        steps: list[nn.Module] = []
        for channels in (num_in, num_out):
            conv = nn.Conv2d(channels, num_out, 3, padding=1, bias=False)
            steps += [conv, nn.BatchNorm2d(num_out), nn.ReLU()]
        return nn.Sequential(*steps, nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(x)))  # [N, 512, 4, 4]
        return self.fc2(self.relu(self.fc1(self.flatten(x))))


class Stem(NamedTuple):
    """What comes before the stages of a ResNet."""

    conv: nn.Conv2d
    pool: nn.Module


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016); 1x1 convolution where the shape changes."""

    def __init__(self, num_in: int, num_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(num_out), nn.ReLU()
        self.conv2 = nn.Conv2d(num_out, num_out, 3, padding=1, bias=False)
        self.bn2, self.add, self.relu2 = nn.BatchNorm2d(num_out), Add(), nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            shortcut = nn.Conv2d(num_in, num_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(self.add(residual, self.downsample(x)))


class ResNet(nn.Module):
    """A stem, stages of basic blocks named layer1, layer2, ..., global average pooling and one linear layer.

    Every stage but the first halves the size.
    """

    def __init__(self, stem: Stem, widths: tuple[int, ...], num_blocks: int, num_classes: int):
        super().__init__()
        self.conv1, self.maxpool = stem.conv, stem.pool
        self.bn1, self.relu = nn.BatchNorm2d(widths[0]), nn.ReLU()
        self.num_stages = len(widths)
        for stage, (num_in, num_out) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            first = BasicBlock(num_in, num_out, 1 if stage == 0 else 2)
            rest = [BasicBlock(num_out, num_out, 1) for _ in range(num_blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(self.flatten(self.avgpool(x)))


def _small_resnet(in_channels: int, num_blocks: int) -> ResNet:
    """The CIFAR family of He et al., section 4.2: 16-32-64 channels and a 3x3 stem without pooling."""
    stem = Stem(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.Identity())
    return ResNet(stem, (16, 32, 64), num_blocks, num_classes=10)


def resnet8() -> ResNet:
    """One block per stage, for [N, 1, 28, 28] and 10 classes."""
    return _small_resnet(in_channels=1, num_blocks=1)


def resnet20() -> ResNet:
    """Three blocks per stage, for [N, 3, 32, 32] and 10 classes."""
    return _small_resnet(in_channels=3, num_blocks=3)


def resnet18() -> ResNet:
    """The ImageNet network of He et al., table 1, for [N, 3, 224, 224]."""
    stem = Stem(nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1))
    return ResNet(stem, (64, 128, 256, 512), num_blocks=2, num_classes=1000)


def _text_transformer(num_classes: int) -> nn.Module:
    from workloads.transformer import TextTransformer  # which is built on this module

    return TextTransformer(num_classes)


class KnownNetwork(NamedTuple):
    """How to make a network and the input of one sample: (channels, height, width), or (words,) of integers."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, int, int] | tuple[int]


NETWORKS = {
    "digitsnet": KnownNetwork(DigitsNet, (1, 8, 8)),
    "lenet5": KnownNetwork(LeNet5, (1, 28, 28)),
    "resnet8": KnownNetwork(resnet8, (1, 28, 28)),
    "resnet18": KnownNetwork(resnet18, (3, 224, 224)),
    "resnet20": KnownNetwork(resnet20, (3, 32, 32)),
    "text_transformer": KnownNetwork(partial(_text_transformer, num_classes=2), (LENGTH,)),
    "text_transformer_wordnet": KnownNetwork(partial(_text_transformer, num_classes=45), (LENGTH,)),
    "vgg8": KnownNetwork(VGG8, (3, 32, 32)),
}


def build(name: str, seed: int) -> nn.Module:
    """The network of this name with weights drawn from `seed`; the global random state stays as it was.

    Raises InputError that lists the known names.
    """
    known = _known(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return known.make()


def example_input(name: str) -> Tensor:
    """Zeros [1, C, H, W] of the shape the network was made for, or word ids [1, T], all of them the unknown word.

    Raises InputError for an unknown name.
    """
    shape = _known(name).input_shape
    return torch.full((1, *shape), UNKNOWN) if len(shape) == 1 else torch.zeros(1, *shape)


def _known(name: str) -> KnownNetwork:
    if name not in NETWORKS:
        raise InputError("network", [f"name = {name!r}: must be one of {', '.join(NETWORKS)}"])
    return NETWORKS[name]
