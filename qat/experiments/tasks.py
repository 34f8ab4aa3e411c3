"""What networks with published weights are judged by: photographs, and film reviews."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qat.training.distill import soft_loss
from workloads.data.datasets import movie_texts
from workloads.data.files import Packaged, packaged
from workloads.data.photos import PHOTOS, photos
from workloads.errors import InputError
from workloads.networks.pretrained import (
    EFFICIENTNET_LITE0,
    MINILM,
    MINILM_VOCABULARY,
    as_input,
    efficientnet_lite0,
    minilm,
    word_pieces,
)
from workloads.store import content_key

SEED = 0
TRAIN_PHOTOS = ("camera", "coffee", "motorcycle_left", "china")  # the others are for the test
CALIBRATION_CROPS = (0, 6, 8)  # of each of them
POOL_TEXTS, PROBE_TEXTS, CALIBRATION_TEXTS, TEXT_LENGTH = 3_000, 2_000, 32, 64  # texts; word pieces
SPLITS, SPLIT_TEXTS = 5, 160  # test sets of the probe, disjoint
PROBE_C = 10.0  # inverse regularisation: embeddings have length 1
VARIANCE_OFFSET = 1e-5  # a channel that is constant on all crops has a ratio, too
BATCH = {"lite0": 8, "minilm": 32}  # of a training step
SETTINGS = (SEED, TRAIN_PHOTOS, CALIBRATION_CROPS, POOL_TEXTS, PROBE_TEXTS, CALIBRATION_TEXTS, TEXT_LENGTH, SPLITS,
            SPLIT_TEXTS, PROBE_C)  # fmt: skip


class PublishedTask(NamedTuple):
    """A float network, the layers that stay at 8 bits, inputs to calibrate on, and how it is judged and taught."""

    model: nn.Module
    eight_bit: tuple[str, ...]  # patterns
    calibration: list[Tensor]
    measure: Callable[[nn.Module], dict[str, Any]]
    loss: Callable[[nn.Module, Tensor], Tensor]  # of training samples with these indices
    num_samples: int
    batch: int
    lr: float
    correct: Callable[[nn.Module], object] | None = None  # makes up for quantization in place, without gradients


def split_photos(every: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Crops uint8 [N, 3, H, W] of the training photographs, and of all others."""
    train = [crops for name, crops in every.items() if name in TRAIN_PHOTOS]
    return np.concatenate(train), np.concatenate([crops for name, crops in every.items() if name not in TRAIN_PHOTOS])


def lite0_task(folder: Path) -> PublishedTask:
    """Crops of four photographs calibrate and teach, those of the eight others test."""
    model, every = efficientnet_lite0().to(memory_format=torch.channels_last), photos()  # pyright: ignore
    train, test = (as_input(torch.from_numpy(crops)) for crops in split_photos(every))
    per_photo = len(train) // len(TRAIN_PHOTOS)
    chosen = [photo * per_photo + crop for photo in range(len(TRAIN_PHOTOS)) for crop in CALIBRATION_CROPS]
    calibration = [train[chosen].contiguous(memory_format=torch.channels_last)]
    wanted, taught, known = logits(model, test), logits(model, train), moments(model, calibration[0])

    def measure(net: nn.Module) -> dict[str, Any]:
        return agreement(wanted, logits(net, test))

    def loss(net: nn.Module, index: Tensor) -> Tensor:
        return soft_loss(net(train[index]), taught[index])

    def correct(net: nn.Module) -> object:
        return moments(net, calibration[0], known)

    eight_bit = ("conv_stem", "fc", "*depthwise*")
    return PublishedTask(model, eight_bit, calibration, measure, loss, len(train), BATCH["lite0"], 1e-4, correct)


def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Of images [N, 3, H, W], a few at a time."""
    with torch.inference_mode():
        parts = [model(part.contiguous(memory_format=torch.channels_last)) for part in x.split(20)]
        return torch.cat(parts).clone()


class Moments(NamedTuple):
    """Of what a batch norm reads, by channel."""

    mean: Tensor
    variance: Tensor


def moments(model: nn.Module, batch: Tensor, wanted: Mapping[str, Moments] | None = None) -> dict[str, Moments]:
    """Name of a batch norm -> moments of its input.

    With `wanted`, those of the float network on the same batch, each norm is corrected on the way, in place, before
    the next one sees anything: its mean moves by the difference and its variance grows by the ratio (the empirical
    bias correction of Nagel et al.: Data-Free Quantization, ICCV 2019, of variances too).
    """
    found: dict[str, Moments] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
            variance, mean = torch.var_mean(args[0], (0, 2, 3), correction=0)
            found[name] = Moments(mean, variance)
            if wanted is not None:
                norm.get_buffer("running_mean").add_(mean - wanted[name].mean)
                ratio = (variance + VARIANCE_OFFSET) / (wanted[name].variance + VARIANCE_OFFSET)
                norm.get_buffer("running_var").mul_(ratio)

        return hook

    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    hooks = [norm.register_forward_pre_hook(note(name)) for name, norm in norms.items()]
    try:
        with torch.no_grad():
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def agreement(wanted: Tensor, found: Tensor) -> dict[str, Any]:
    """How often the first class is the same, how much of five first ones, and KL(wanted || found) in nats."""
    same = wanted.argmax(1) == found.argmax(1)
    five, other = wanted.topk(5).indices, found.topk(5).indices
    shared = (five[:, :, None] == other[:, None]).any(2).float().mean()
    return {"same": int(same.sum()), "crops": len(same), "top5": float(shared), "kl": float(soft_loss(found, wanted))}


def minilm_task(folder: Path) -> PublishedTask:
    """Training snippets calibrate and teach, test snippets test: probes of sentiment see float embeddings in training.

    The probe of split s: logistic regression on PROBE_TEXTS snippets drawn with seed s, tested on the sth set.
    """
    model, texts = minilm(), movie_texts()
    order = np.random.default_rng(SEED).permutation(len(texts.train.y))[:POOL_TEXTS]
    pool = word_pieces([texts.train.texts[i] for i in order], TEXT_LENGTH)
    tests = np.random.default_rng(SEED).permutation(len(texts.test.y))[: SPLITS * SPLIT_TEXTS]
    test = word_pieces([texts.test.texts[i] for i in tests], TEXT_LENGTH)
    name = f"minilm-{content_key(SEED, POOL_TEXTS, TEXT_LENGTH)}.npy"
    known = _kept(folder / name, lambda: embeddings(model, pool))
    probes = fit_probes(known.numpy(), texts.train.y[order])
    wanted, labels = embeddings(model, test), np.split(texts.test.y[tests], SPLITS)

    def accuracies(found: Tensor) -> list[float]:
        return [float(p.score(x, y)) for p, x, y in zip(probes, np.split(found.numpy(), SPLITS), labels, strict=True)]

    of_float = accuracies(wanted)

    def measure(net: nn.Module) -> dict[str, Any]:
        found = embeddings(net, test)
        cosine = float((found * wanted).sum(1).mean())
        return {"accuracies": accuracies(found), "float_accuracies": of_float, "cosine": cosine}

    def loss(net: nn.Module, index: Tensor) -> Tensor:
        return (1 - (net(_cut(pool[index])) * known[index]).sum(1)).mean()

    calibration = [_cut(pool[:CALIBRATION_TEXTS])]
    return PublishedTask(model, ("tokens", "positions"), calibration, measure, loss, len(pool), BATCH["minilm"], 1e-4)


def fit_probes(known: np.ndarray, y: np.ndarray) -> list[Any]:
    """One logistic regression per split, each from its own draw of embeddings [N, C] and labels [N]."""
    from sklearn.linear_model import LogisticRegression

    draws = [np.random.default_rng(split).permutation(len(y))[:PROBE_TEXTS] for split in range(SPLITS)]
    return [LogisticRegression(C=PROBE_C, max_iter=1000).fit(known[draw], y[draw]) for draw in draws]


def embeddings(model: nn.Module, ids: Tensor, batch: int = 40) -> Tensor:
    """Of word pieces [N, T], texts of like length together, in the given order."""
    order = (ids != 0).sum(1).argsort(stable=True)
    with torch.inference_mode():
        found = torch.cat([model(_cut(ids[part])) for part in order.split(batch)])
    return found[order.argsort()].clone()


def _cut(ids: Tensor) -> Tensor:
    """Without columns that are padding in all rows."""
    return ids[:, : int((ids != 0).sum(1).max())]


def _kept(path: Path, make: Callable[[], Tensor]) -> Tensor:
    """From the file if it is there."""
    if not path.exists():
        part = path.with_suffix(".part.npy")
        np.save(part, make().numpy())
        part.replace(path)
    return torch.from_numpy(np.load(path))


TASKS: dict[str, Callable[[Path], PublishedTask]] = {"lite0": lite0_task, "minilm": minilm_task}


def require(files: Iterable[Packaged] = (EFFICIENTNET_LITE0, MINILM, MINILM_VOCABULARY, *PHOTOS)) -> None:
    """Raises InputError with the commands that install what is missing, all at once; then also for missing texts."""
    problems: dict[str, None] = {}  # in order, each once
    for file in files:
        try:
            packaged(file)
        except InputError as error:
            problems[str(error)] = None
    if problems:
        raise InputError("packages", list(problems))
    movie_texts()
