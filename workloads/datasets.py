"""Image data sets as uint8 arrays, found on disk or fetched, checked by hash, split by hashed index."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import subprocess
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from workloads.errors import InputError

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

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

TRAIN_IMAGES = MappingProxyType({"digits": 1_197, "fashion_mnist": 50_000})  # of the train part, for estimates
FASHION_PARTS = MappingProxyType({"train": 50_000, "arch": 5_000, "validation": 5_000})


class Dataset(NamedTuple):
    """Images uint8 [N, C, H, W] and labels int64 [N], for training and for the final test."""

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
    loaders = {"digits": _digits, "fashion_mnist": _fashion_mnist}
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
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = (np.asarray(images, np.int64) * 255 // 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    y = np.asarray(labels, np.int64)
    part = split(len(y), {"train": 4, "test": 1})
    return Dataset("digits", x[part["train"]], y[part["train"]], x[part["test"]], y[part["test"]], 10)


def _fashion_mnist(root: Path | None) -> Dataset:
    folder = _find(_forms(root) if root else _search_order()) or (None if root else _download())
    if folder is None:
        raise InputError("fashion_mnist", [_not_found(root)])
    raw = {name: _read_checked(folder, name) for name in FASHION_MD5}
    train_x, train_y, test_x, test_y = raw.values()
    train, test = (_images(train_x), _labels(train_y)), (_images(test_x), _labels(test_y))
    return Dataset("fashion_mnist", *train, *test, num_classes=10)


def _images(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28).copy()


def _labels(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8, offset=8).astype(np.int64)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cimsim"


def _forms(root: Path) -> list[Path]:
    """Where under `root` the files may lie: directly, as we download them, or as a package unpacks."""
    return [root, root / "fashion-mnist", root / DEBIAN_FOLDER.relative_to("/")]


def _search_order() -> list[Path]:
    named = os.environ.get("CIMSIM_DATA")
    roots = [Path(named)] if named else []
    roots += [_cache(), Path.cwd() / ".data"]
    return [form for root in roots for form in _forms(root)] + [DEBIAN_FOLDER]


def _find(folders: list[Path]) -> Path | None:
    """The first folder that holds all four files."""
    return next((folder for folder in folders if all(_file(folder, name) for name in FASHION_MD5)), None)


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _read_checked(folder: Path, name: str) -> bytes:
    path = _file(folder, name)
    assert path is not None
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raw, found = b"", f"unreadable ({error})"
    if found != FASHION_MD5[name]:
        want = FASHION_MD5[name]
        remedy = "delete the file and load again, to find or fetch another copy"
        raise InputError(str(path), [f"md5 of the decompressed bytes = {found}: must be {want} ({remedy})"])
    return raw


def _download() -> Path | None:
    """The four files from the first server that answers, into the cache; None if that cannot be done."""
    try:
        import pooch
    except ImportError:
        return None
    folder = _cache() / "fashion-mnist"
    for url in FASHION_URLS:
        try:
            for name in FASHION_MD5:
                pooch.retrieve(f"{url}{name}.gz", known_hash=None, fname=f"{name}.gz", path=folder)
        except OSError:  # every network error of requests is one
            continue
        return folder
    return None


def _not_found(root: Path | None) -> str:
    looked = root or f"CIMSIM_DATA, {_cache()}, .data and {DEBIAN_FOLDER}, and could not download them"
    files = ", ".join(f"{name}.gz" for name in FASHION_MD5)
    return (
        f"files = none (looked in {looked}): must be {files} (one of three ways: set CIMSIM_DATA to their "
        f"folder; or `apt-get install {DEBIAN_PACKAGE}`, without root `python -m workloads.datasets --fetch "
        f".data`; or, with a network and pooch installed, let them download from {FASHION_URLS[0]})"
    )


def fetch_debian_package(target: Path) -> bool:
    """Unpacks Debian's package into `target` without root; False if apt is not there or fails."""
    if _find(_forms(target)):
        return True
    with tempfile.TemporaryDirectory() as temp:
        try:
            _run("apt-get", "-q", "download", DEBIAN_PACKAGE, cwd=temp)
            (package,) = Path(temp).glob("*.deb")
            _run("dpkg-deb", "-x", str(package), str(target), cwd=".")
        except (OSError, subprocess.SubprocessError, ValueError):
            return False
    return _find(_forms(target)) is not None


def _run(*command: str, cwd: str) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=300)


def main() -> None:
    """`python -m workloads.datasets --fetch DIR`: makes Fashion-MNIST available, by apt or by download."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--fetch", type=Path, required=True, metavar="DIR")
    target = parser.parse_args().fetch
    try:
        data = load("fashion_mnist", target if fetch_debian_package(target) else None)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    print(f"{data.name}: {len(data.train_y)} training and {len(data.test_y)} test images, hashes are right")


if __name__ == "__main__":
    main()
