"""Data sets: hashes are checked, the search order holds, splits are disjoint, complete and fixed for ever."""

from __future__ import annotations

import gzip
import hashlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.data import datasets
from workloads.data.datasets import FASHION, FASHION_PARTS, load, split
from workloads.data.files import fetch, find, forms, locate, search_order
from workloads.errors import InputError


def idx_files() -> dict[str, bytes]:
    """Two training images and one test image in the layout of the real files."""
    images = np.arange(2 * 28 * 28, dtype=np.uint8).tobytes()
    return {
        "train-images-idx3-ubyte": bytes(16) + images,
        "train-labels-idx1-ubyte": bytes(8) + bytes([3, 9]),
        "t10k-images-idx3-ubyte": bytes(16) + images[: 28 * 28],
        "t10k-labels-idx1-ubyte": bytes(8) + bytes([7]),
    }


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A world of its own: tiny files with their own hashes, no cache, no Debian folder, no network."""
    hashes = {name: hashlib.md5(raw).hexdigest() for name, raw in idx_files().items()}
    files = FASHION._replace(digests=hashes, debian_folder=tmp_path / "usr/share/datasets/fashion-mnist")
    monkeypatch.setattr(datasets, "FASHION", files)
    monkeypatch.setattr(datasets, "FETCHABLE", {files.name: files})
    monkeypatch.setattr(datasets, "FASHION_URLS", ("http://127.0.0.1:9/",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CIMSIM_DATA", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def write(folder: Path, packed: bool = True) -> Path:
    folder.mkdir(parents=True)
    for name, raw in idx_files().items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_become_arrays(tiny, packed):
    data = load("fashion_mnist", write(tiny / "here", packed))
    assert data.train_x.shape == (2, 1, 28, 28)
    assert data.train_x.dtype == np.uint8
    assert data.train_x[0, 0, 1, 2] == 30  # row-major: 28 * 1 + 2
    assert data.train_y.tolist() == [3, 9]
    assert data.train_y.dtype == np.int64
    assert data.test_x.shape == (1, 1, 28, 28)
    assert data.test_y.tolist() == [7]
    assert data.train_x.flags.writeable


def test_folders_are_searched_in_order(tiny, monkeypatch):
    """Each new folder is found before all that were there."""
    monkeypatch.setenv("CIMSIM_DATA", str(tiny / "named"))
    order = [
        tiny / "usr/share/datasets/fashion-mnist",
        tiny / "project/.data/fashion-mnist",
        tiny / "cache/cimsim",
        tiny / "named",
    ]
    for folder in order:
        write(folder)
        assert find(datasets.FASHION, search_order(datasets.FASHION)) == folder


def test_an_unpacked_debian_package_is_found(monkeypatch, tmp_path):
    folder = write(tmp_path / "usr/share/datasets/fashion-mnist")
    assert find(FASHION, forms(FASHION, tmp_path)) == folder


def test_a_folder_with_some_of_the_files_is_passed_over(tiny):
    folder = write(tiny / "some")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"looked in .*some"):
        load("fashion_mnist", folder)


def test_a_wrong_file_is_named_with_both_hashes(tiny):
    folder = write(tiny / "bad")
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"other"))
    want = hashlib.md5(idx_files()["train-labels-idx1-ubyte"]).hexdigest()
    with pytest.raises(InputError) as caught:
        load("fashion_mnist", folder)
    text = str(caught.value)
    assert str(path) in text
    assert f"{hashlib.md5(b'other').hexdigest()}: must be {want}" in text
    assert "delete the file" in text


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"abc" * 1000)[:20]], ids=["empty", "text", "cut"])
def test_a_broken_archive_is_named(tiny, content):
    folder = write(tiny / "broken")
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz: md5 .* must be .*delete the file"):
        load("fashion_mnist", folder)


def test_what_is_not_found_is_downloaded_once(tiny, monkeypatch):
    folder = write(tiny / "server")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(datasets, "FASHION_URLS", (f"http://127.0.0.1:{server.server_port}/",))
        Thread(target=server.serve_forever).start()
        try:
            first = load("fashion_mnist")
        finally:
            server.shutdown()
    assert np.array_equal(first.train_x, load("fashion_mnist").train_x)  # the server is gone
    assert locate(datasets.FASHION, None) == tiny / "cache/cimsim/fashion-mnist"


def ways_are_told(root: Path | None):
    with pytest.raises(InputError) as caught:
        load("fashion_mnist", root)
    assert len(caught.value.problems) == 1
    assert all(way in str(caught.value) for way in ("CIMSIM_DATA", "apt-get install dataset-fashion-mnist", "download"))


def test_nothing_found_names_the_three_ways(tiny):
    ways_are_told(root=None)


def test_without_apt_nothing_is_fetched(tiny, monkeypatch):
    monkeypatch.setenv("PATH", str(tiny))
    assert fetch(datasets.FASHION, tiny / "target") is False


def test_a_fetched_package_is_not_fetched_again(tiny, monkeypatch):
    monkeypatch.setenv("PATH", str(tiny))
    write(tiny / "target/fashion-mnist")
    assert fetch(datasets.FASHION, tiny / "target") is True


def test_the_fetch_command_says_what_it_has(tiny, monkeypatch, capsys):
    write(tiny / "target/fashion-mnist")
    monkeypatch.setattr("sys.argv", ["datasets", "--fetch", str(tiny / "target")])
    datasets.main()
    assert "2 training and 1 test images, hashes are right" in capsys.readouterr().out


def test_the_fetch_command_fails_with_the_remedy(tiny, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tiny))
    monkeypatch.setattr("sys.argv", ["datasets", "--fetch", str(tiny / "target")])
    with pytest.raises(SystemExit, match="2"):
        datasets.main()
    assert "CIMSIM_DATA" in capsys.readouterr().err


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(InputError, match=r"name = 'cifar': must be one of digits, fashion_mnist"):
        load("cifar")


def test_digits():
    data = load("digits")
    assert data.train_x.shape == (1437, 1, 8, 8)
    assert data.test_x.shape == (360, 1, 8, 8)
    assert (data.train_x.min(), data.train_x.max(), data.train_x.dtype) == (0, 255, np.uint8)
    assert set(np.unique(data.train_x)) == {level * 255 // 16 for level in range(17)}
    assert set(data.test_y.tolist()) == set(range(data.num_classes))
    assert np.array_equal(data.test_x, load("digits").test_x)


def published_statistics(root: Path):
    """10 balanced classes; training pixels have mean 0.2860, deviation 0.3530 (commonly used)."""
    data = load("fashion_mnist")
    assert np.bincount(data.train_y).tolist() == [6000] * 10
    assert np.bincount(data.test_y).tolist() == [1000] * 10
    counts = np.bincount(data.train_x.ravel(), minlength=256) / data.train_x.size
    levels = np.arange(256) / 255
    mean = counts @ levels
    assert mean == pytest.approx(0.2860, abs=5e-5)
    assert np.sqrt(counts @ levels**2 - mean**2) == pytest.approx(0.3530, abs=5e-5)


@pytest.mark.parametrize("check", [published_statistics if locate(FASHION, None) else ways_are_told])
def test_fashion_mnist_of_this_machine(check, tmp_path):
    """With the files, their statistics; without them, how to get them."""
    check(tmp_path)


@given(st.integers(1, 3000), st.integers(-5, 2**70))
def test_a_split_is_disjoint_and_complete(num_train, seed):
    parts = split(num_train, FASHION_PARTS, seed)
    assert list(parts) == ["train", "arch", "validation"]
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(num_train))
    assert abs(len(parts["train"]) - num_train * 50 / 60) < 1


def test_a_full_split_has_the_stated_sizes():
    assert {name: len(part) for name, part in split(60_000).items()} == FASHION_PARTS


def test_the_hash_is_splitmix64():
    """The first outputs of the published generator for state 0 decide the order of the indices."""
    outputs = np.array([0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F], np.uint64)
    assert split(3, {"all": 3})["all"].tolist() == np.argsort(outputs).tolist()
    gammas = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert np.array_equal(datasets._splitmix64(gammas), outputs)


def test_seeds_give_independent_splits():
    """Two random tenths of n share n/100 indices; the bound is four standard deviations."""
    first, second = (split(20_000, {"a": 1, "rest": 9}, seed)["a"] for seed in (0, 1))
    assert abs(len(np.intersect1d(first, second)) - 200) < 4 * np.sqrt(200)


def test_parts_are_balanced_over_the_indices():
    """The mean index of a random 5,000 of 60,000 lies within four standard errors of the middle."""
    for part in split(60_000).values():
        assert abs(part.mean() - 29_999.5) < 4 * 60_000 / np.sqrt(12 * len(part))


@pytest.mark.parametrize(("num_train", "parts", "problem"), [
    (0, FASHION_PARTS, "num_train = 0: must be 1 or more"),
    (9, {"train": -1, "test": 2}, r"parts\.train = -1: must be 1 or more"),
])  # fmt: skip
def test_impossible_splits_are_refused(num_train, parts, problem):
    with pytest.raises(InputError, match=problem):
        split(num_train, parts)
