"""What is stored is what was counted, comes back the same, and a damaged file is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cimsim.integer.artifact import Header, Stamp, load, pack_entries, unpack_entries
from cimsim.integer.forward import run
from tests.helpers.integer_network import IMAGES, NETWORK, artifact_of
from workloads.errors import InputError, RunError
from workloads.format import DEFAULT_FORMATS, parse_format

ODD_FORMATS = (
    "linear-3", "linear-1", "linear-3-odd", "linear-4-g5", "linear-2-t", "vq-3x5-e5-s0", "vq-4x16-e4-s2",
    "vq-4x16-e4-s1-abs", "vq-3x16x2-e4-s0", "vq-3x16-e4-s0-out", "vq-9x16-e4-s0-kernel", "vq-5x16-e4-s0-flat",
    "e8-q3", "e8-q4m2", "a2-q4", "e8p", "e8-r8", "pool-32", "vq-4x16-e4-s0-h2",
)  # fmt: skip


@pytest.mark.parametrize("fmt", [*DEFAULT_FORMATS, *ODD_FORMATS])
def test_stored_bits_are_counted_bits(fmt):
    artifact = artifact_of((fmt,))
    assert artifact.stored_bits() == artifact.plan.bits(NETWORK).total


@pytest.mark.parametrize("sharing", ["network", "layer"])
def test_a_shared_book_is_stored_once(sharing):
    artifact = artifact_of(("vq-4x16-e4-s0", "linear-4", "vq-4x16-e4-s0", "vq-8x256-e4-s0"), sharing=sharing)
    assert len(artifact.codebooks) == {"network": 2, "layer": 3}[sharing]
    assert artifact.stored_bits() == artifact.plan.bits(NETWORK).total


@pytest.mark.parametrize("fmt", [*DEFAULT_FORMATS, *ODD_FORMATS])
def test_a_file_comes_back_the_same(fmt, tmp_path):
    artifact = artifact_of((fmt,), seed=3)
    artifact.save(tmp_path / "net.safetensors")
    back = load(tmp_path / "net.safetensors")
    assert back.header == artifact.header
    for layer in NETWORK.layers:
        for ours, theirs in zip(artifact.layers[layer.name], back.layers[layer.name], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(artifact.weights_int(layer.name), back.weights_int(layer.name))
    np.testing.assert_array_equal(run(artifact, IMAGES), run(back, IMAGES))


def test_saving_twice_writes_the_same_bytes_and_no_litter(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    artifact_of(("linear-4",)).save(one)
    artifact_of(("linear-4",)).save(two)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(tmp_path.iterdir()) == [one, two]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net"
    artifact_of(("linear-4",)).save(path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(RunError, match="net: cannot be written"):
        artifact_of(("linear-2",)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_entries_are_twos_complement(bits):
    fmt = parse_format(f"vq-3x7-e{bits}-s0")
    entries = np.random.default_rng(0).integers(-(1 << (bits - 1)), 1 << (bits - 1), (7, 3))
    packed = pack_entries(entries, fmt)
    assert len(packed) == -(-fmt.codebook_bits // 8)
    np.testing.assert_array_equal(unpack_entries(packed, fmt), entries)


# Files that must be refused.


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "net.safetensors"
    artifact_of(("linear-4", "vq-4x16-e4-s0")).save(path)
    return path


def _refused(path, *said):
    with pytest.raises(InputError) as error:
        load(path)
    for text in (str(path), "export the model again", *said):
        assert text in str(error.value)


def test_a_missing_file(tmp_path):
    _refused(tmp_path / "none.safetensors")


@pytest.mark.parametrize("length", [0, 1, 8, 100, -1])
def test_a_truncated_file(path, length):
    path.write_bytes(path.read_bytes()[:length])
    _refused(path)


def test_one_flipped_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    _refused(path, "sha256", "is not that of the content")


def test_a_foreign_file(path):
    save_file({"weight": np.zeros(3)}, path)
    _refused(path, "not an exported network")


@pytest.mark.parametrize(("old", "new", "said"), [
    ('"version":2', '"version":9', "header.version = 9"),
    ('"step":0.3', '"step":-1', "header.grids.conv1.step = -1"),
    ('"format":"linear-4"', '"format":"linear-99"', "linear-99"),
    ('{"version"', '{{', "JSON"),
    ('"fc":{"format"', '"fd":{"format"', "layers.fc: missing"),
    ('"grids":{"input"', '"grids":{"inputs"', "header.grids.input: missing"),
])  # fmt: skip
def test_a_header_that_is_wrong(path, old, new, said):
    tensors = load_file(path)
    text = artifact_of(("linear-4", "vq-4x16-e4-s0")).header.model_dump_json()
    assert old in text
    save_file(tensors, path, metadata={"cimsim": f'{{"sha256":"","header":{text.replace(old, new, 1)}}}'})
    _refused(path, said)


def test_tensors_of_another_plan(path):
    header = artifact_of(("linear-8", "vq-4x16-e4-s0")).header
    text = Stamp(sha256="", header=header).model_dump_json()
    save_file({**load_file(path), "more": np.zeros(1)}, path, metadata={"cimsim": text})
    _refused(path, "more: not a tensor of this network", "conv1/codes = uint8[36]: must be uint8[72]")


def test_headers_are_frozen():
    header = artifact_of(("linear-4",)).header
    assert Header.model_validate_json(header.model_dump_json()) == header
