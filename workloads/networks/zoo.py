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

from workloads.data.text import LENGTH, UNKNOWN
from workloads.errors import InputError
from workloads.networks.blocks import Add


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


class VGG16(nn.Module):
    """Configuration D of Simonyan, Zisserman (ICLR 2015, table 1), for [N, 3, 224, 224] and 1,000 classes.

    Layers are numbered as in torchvision, so that its state dict fits.
    """

    def __init__(self):
        super().__init__()
        steps: list[nn.Module] = []
        num_in = 3
        for num_out, repeats in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(repeats):
                steps += [nn.Conv2d(num_in, num_out, 3, padding=1), nn.ReLU()]
                num_in = num_out
            steps.append(nn.MaxPool2d(2))
        self.features, self.flatten = nn.Sequential(*steps), nn.Flatten()
        hidden = [nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.features(x)))  # features are [N, 512, 7, 7]


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise 3x3 and projection 1x1 convolution, added to the input where shapes are equal."""

    def __init__(self, num_in: int, num_out: int, expansion: int, stride: int):
        super().__init__()
        width = num_in * expansion
        steps = [_conv_norm_relu(num_in, width, 1)] if expansion > 1 else []
        steps += [_conv_norm_relu(width, width, 3, stride, groups=width)]
        self.conv = nn.Sequential(*steps, nn.Conv2d(width, num_out, 1, bias=False), nn.BatchNorm2d(num_out))
        self.add = Add() if stride == 1 and num_in == num_out else None

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.add is None else self.add(x, self.conv(x))


def _conv_norm_relu(num_in: int, num_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out), nn.ReLU6())


class MobileNetV2(nn.Module):
    """Sandler et al., CVPR 2018, table 2, for [N, 3, 224, 224] and 1,000 classes; layers have torchvision's names."""

    def __init__(self):
        super().__init__()
        steps: list[nn.Module] = [_conv_norm_relu(3, 32, 3, 2)]
        num_in = 32
        for expansion, num_out, repeats, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for i in range(repeats):
                steps.append(InvertedResidual(num_in, num_out, expansion, 1 if i else stride))
                num_in = num_out
        self.features = nn.Sequential(*steps, _conv_norm_relu(num_in, 1280, 1))
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.avgpool(self.features(x))))


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


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution to four times the width, and a shortcut (He et al., CVPR 2016, figure 5).

    The 3x3 convolution has the stride, as in torchvision and most published weights; the paper's first has it.
    """

    def __init__(self, num_in: int, width: int, stride: int):
        super().__init__()
        num_out = 4 * width
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(num_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(width), nn.ReLU()
        self.conv3, self.bn3 = nn.Conv2d(width, num_out, 1, bias=False), nn.BatchNorm2d(num_out)
        self.add, self.relu3 = Add(), nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or num_in != num_out:
            shortcut = nn.Conv2d(num_in, num_out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))))
        return self.relu3(self.add(self.bn3(self.conv3(y)), self.downsample(x)))


class ResNetStage(NamedTuple):
    """Blocks of one size. Every stage but the first of a network halves the image."""

    block: type[BasicBlock] | type[Bottleneck]
    width: int
    num_blocks: int

    @property
    def num_out(self) -> int:
        return self.width * (4 if self.block is Bottleneck else 1)


class ResNet(nn.Module):
    """A stem, stages named layer1, layer2, ..., global average pooling and one linear layer."""

    def __init__(self, stem: Stem, stages: tuple[ResNetStage, ...], num_classes: int):
        super().__init__()
        self.conv1, self.maxpool = stem.conv, stem.pool
        num_in = stem.conv.out_channels
        self.bn1, self.relu = nn.BatchNorm2d(num_in), nn.ReLU()
        self.num_stages = len(stages)
        for number, stage in enumerate(stages):
            first = stage.block(num_in, stage.width, 1 if number == 0 else 2)
            rest = [stage.block(stage.num_out, stage.width, 1) for _ in range(stage.num_blocks - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(first, *rest))
            num_in = stage.num_out
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(num_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(self.flatten(self.avgpool(x)))


def _small_resnet(in_channels: int, num_blocks: int) -> ResNet:
    """The CIFAR family of He et al., section 4.2: 16-32-64 channels and a 3x3 stem without pooling."""
    stem = Stem(nn.Conv2d(in_channels, 16, 3, padding=1, bias=False), nn.Identity())
    return ResNet(stem, tuple(ResNetStage(BasicBlock, width, num_blocks) for width in (16, 32, 64)), num_classes=10)


def _imagenet_resnet(block: type[BasicBlock] | type[Bottleneck], num_blocks: tuple[int, ...]) -> ResNet:
    """The ImageNet family of He et al., table 1, for [N, 3, 224, 224]."""
    stem = Stem(nn.Conv2d(3, 64, 7, 2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1))
    stages = (ResNetStage(block, width, count) for width, count in zip((64, 128, 256, 512), num_blocks, strict=True))
    return ResNet(stem, tuple(stages), num_classes=1000)


def resnet8() -> ResNet:
    """One block per stage, for [N, 1, 28, 28] and 10 classes."""
    return _small_resnet(in_channels=1, num_blocks=1)


def resnet20() -> ResNet:
    """Three blocks per stage, for [N, 3, 32, 32] and 10 classes."""
    return _small_resnet(in_channels=3, num_blocks=3)


def resnet18() -> ResNet:
    """The smallest ImageNet network of He et al., table 1, for [N, 3, 224, 224]."""
    return _imagenet_resnet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> ResNet:
    """He et al., table 1, for [N, 3, 224, 224]."""
    return _imagenet_resnet(Bottleneck, (3, 4, 6, 3))


def _text_transformer(num_classes: int) -> nn.Module:
    from workloads.networks.transformer import TextTransformer  # which is built on this module

    return TextTransformer(num_classes)


def _efficientnet_lite0() -> nn.Module:
    from workloads.networks.pretrained import EfficientNetLite0  # which is built on this module

    return EfficientNetLite0()


class KnownNetwork(NamedTuple):
    """How to make a network and the input of one sample: (channels, height, width), or (words,) of integers."""

    make: Callable[[], nn.Module]
    input_shape: tuple[int, int, int] | tuple[int]


IMAGENET = (3, 224, 224)
NETWORKS = {
    "digitsnet": KnownNetwork(DigitsNet, (1, 8, 8)),
    "lenet5": KnownNetwork(LeNet5, (1, 28, 28)),
    "efficientnet_lite0": KnownNetwork(_efficientnet_lite0, IMAGENET),
    "mobilenet_v2": KnownNetwork(MobileNetV2, IMAGENET),
    "resnet8": KnownNetwork(resnet8, (1, 28, 28)),
    "resnet18": KnownNetwork(resnet18, IMAGENET),
    "resnet20": KnownNetwork(resnet20, (3, 32, 32)),
    "resnet50": KnownNetwork(resnet50, IMAGENET),
    "text_transformer": KnownNetwork(partial(_text_transformer, num_classes=2), (LENGTH,)),
    "text_transformer_wordnet": KnownNetwork(partial(_text_transformer, num_classes=45), (LENGTH,)),
    "vgg8": KnownNetwork(VGG8, (3, 32, 32)),
    "vgg16": KnownNetwork(VGG16, IMAGENET),
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
