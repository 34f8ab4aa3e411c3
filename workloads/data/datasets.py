"""Data sets of images or texts, found on disk or fetched, checked by hash, split by hashed index."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from workloads.data import text
from workloads.data.files import Files, cache, fetch, locate, not_found, read
from workloads.data.text import Labelled, Texts
from workloads.errors import InputError

# MD5 of the decompressed bytes: Debian repacks the gzip files, so the hashes of those differ by source.
FASHION_MD5 = MappingProxyType(
    {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
)

# The authors' repository and their own mirror (Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv 1708.07747).
FASHION_URLS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)

FASHION = Files(
    "fashion_mnist", FASHION_MD5, "fashion-mnist",
    "dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist"),
    ways=(
        "`apt-get install dataset-fashion-mnist`, without root `python -m workloads.data.datasets --fetch .data`",
        f"with a network and pooch installed, let them download from {FASHION_URLS[0]}",
    ),
)  # fmt: skip
MOVIE = Files(
    "movie",
    {"vaderSentiment-3.3.2.tar.gz": "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"},
    "movie", "vaderSentiment==3.3.2", None,
    ways=(
        "`python -m workloads.data.datasets --fetch .data movie`",
        "`pip download --no-deps --no-binary :all: vaderSentiment==3.3.2` into it",
    ),
)  # fmt: skip
WORDNET = Files(
    "wordnet",
    {
        "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
        "data.verb": "adcf43e35b581e8036d8b5a52d63d9cd3d3b4870b2720d3c03c799df44777bc2",
        "data.adj": "c89120dfc1f046ddff4a631bf9b7e9fa1a36b5e86565a23bf82dbe14f30b88a7",
        "data.adv": "444a63bf3955080ab7524f5079cfc07ff9bc682cb98bdb1db73b0fb9829f1139",
    },
    "wordnet", "wordnet-base", Path("/usr/share/wordnet"),
    ways=("`apt-get install wordnet-base`, without root `python -m workloads.data.datasets --fetch .data wordnet`",),
)  # fmt: skip
FETCHABLE = MappingProxyType({files.name: files for files in (FASHION, MOVIE, WORDNET)})

TRAIN_IMAGES = MappingProxyType({"digits": 1_197, "fashion_mnist": 50_000})  # of the train part, for estimates
FASHION_PARTS = MappingProxyType({"train": 50_000, "arch": 5_000, "validation": 5_000})


class Dataset(NamedTuple):
    """Images uint8 [N, C, H, W] or word ids int64 [N, T], and labels int64 [N], for training and for the final test."""

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int


def load(name: str, root: Path | None = None) -> Dataset:
    """The data set of this name; with `root`, its files are looked for in that folder only.

    Raises InputError for an unknown name, a missing data set or a file whose hash is wrong.
    """
    loaders = {"digits": _digits, "fashion_mnist": _fashion_mnist, "movie": _movie, "wordnet": _wordnet}
    if name not in loaders:
        raise InputError("dataset", [f"name = {name!r}: must be one of {', '.join(loaders)}"])
    return loaders[name](root)


def split(num_train: int, parts: Mapping[str, int] = FASHION_PARTS, seed: int = 0) -> dict[str, np.ndarray]:
    """Disjoint index arrays int64, one per part, that together cover 0 .. num_train - 1, in hashed order.

    Sizes are as in `parts` if they add up to num_train, else in that proportion.
    Raises InputError unless all counts are positive.
    """
    counts = {"num_train": num_train, **{f"parts.{part}": size for part, size in parts.items()}}
    if problems := [f"{key} = {value}: must be 1 or more" for key, value in counts.items() if value < 1]:
        raise InputError("split", problems)
    order = _hashed_order(num_train, seed)
    ends = np.cumsum(list(parts.values())) * num_train // sum(parts.values())
    return dict(zip(parts, np.split(order, ends[:-1]), strict=True))


def _hashed_order(num: int, seed: int) -> np.ndarray:
    """Indices sorted by SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): the same on every machine."""
    start = _splitmix64(np.array([seed & (2**64 - 1)], np.uint64))
    hashes = _splitmix64(start + np.arange(1, num + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.argsort(hashes, kind="stable").astype(np.int64)


def _splitmix64(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _digits(root: Path | None) -> Dataset:
    """The 1,797 8x8 digits inside scikit-learn; a fixed fifth of them, by hashed index, is the test set."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("digits", ["come with scikit-learn, which is missing: pip install scikit-learn"]) from None
    images, labels = load_digits(return_X_y=True)
    x = (np.asarray(images, np.int64) * 255 // 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    y = np.asarray(labels, np.int64)
    part = split(len(y), {"train": 4, "test": 1})
    return Dataset("digits", x[part["train"]], y[part["train"]], x[part["test"]], y[part["test"]], 10)


def _fashion_mnist(root: Path | None) -> Dataset:
    folder = locate(FASHION, root) or (None if root else _download())
    if folder is None:
        raise not_found(FASHION, root)
    train_x, train_y, test_x, test_y = read(FASHION, folder)
    train, test = (_images(train_x), _labels(train_y)), (_images(test_x), _labels(test_y))
    return Dataset("fashion_mnist", *train, *test, num_classes=10)


def _images(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28).copy()


def _labels(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8, offset=8).astype(np.int64)


def _download() -> Path | None:
    """The four files from the first server that answers, into the cache; None if that cannot be done."""
    try:
        import pooch
    except ImportError:
        return None
    folder = cache() / FASHION.folder
    for url in FASHION_URLS:
        try:
            for name in FASHION_MD5:
                pooch.retrieve(f"{url}{name}.gz", known_hash=None, fname=f"{name}.gz", path=folder)
        except OSError:  # every network error of requests is one
            continue
        return folder
    return None


def movie_texts(root: Path | None = None) -> Texts:
    """Sentences of film reviews and their sentiment, as strings. Raises InputError like `load`."""
    (sdist,) = _read_texts(MOVIE, root)
    return _divided("movie", text.movie_snippets(sdist), num_classes=2)


def wordnet_texts(root: Path | None = None) -> Texts:
    """WordNet's definitions and the lexicographer file of each, as strings. Raises InputError like `load`."""
    return _divided("wordnet", text.glosses(_read_texts(WORDNET, root)), num_classes=45)


def _read_texts(files: Files, root: Path | None) -> list[bytes]:
    folder = locate(files, root)
    if folder is None:
        raise not_found(files, root)
    return read(files, folder)


def _divided(name: str, all_texts: Labelled, num_classes: int) -> Texts:
    """A fixed tenth of the texts, by hashed index, is the test set."""
    part = split(len(all_texts.y), {"train": 9, "test": 1})
    train, test = (Labelled([all_texts.texts[i] for i in part[key]], all_texts.y[part[key]]) for key in part)
    return Texts(name, train, test, num_classes)


def _movie(root: Path | None) -> Dataset:
    return _encoded(movie_texts(root))


def _wordnet(root: Path | None) -> Dataset:
    return _encoded(wordnet_texts(root))


def _encoded(texts: Texts) -> Dataset:
    """The vocabulary is that of the training texts alone."""
    ids = text.vocabulary(texts.train.texts)
    train_x, test_x = (text.encode(part.texts, ids) for part in (texts.train, texts.test))
    return Dataset(texts.name, train_x, texts.train.y, test_x, texts.test.y, texts.num_classes)


def main() -> None:
    """`python -m workloads.data.datasets --fetch DIR [NAME ...]`: makes data available, by apt, pip or download."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--fetch", type=Path, required=True, metavar="DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FETCHABLE)}; default fashion_mnist")
    arguments = parser.parse_args()
    names, problems = arguments.names or [FASHION.name], []
    if unknown := [name for name in names if name not in FETCHABLE]:
        parser.error(f"NAME = {', '.join(unknown)}: must be one of {', '.join(FETCHABLE)}")
    for name in names:
        fetched = fetch(FETCHABLE[name], arguments.fetch)
        try:
            data = load(name, arguments.fetch if fetched else None)
        except InputError as error:
            problems.append(str(error))
            continue
        kind = "images" if data.train_x.ndim == 4 else "texts"
        print(f"{name}: {len(data.train_y)} training and {len(data.test_y)} test {kind}, hashes are right")
    if problems:
        parser.exit(2, "\n".join(problems) + "\n")


if __name__ == "__main__":
    main()
