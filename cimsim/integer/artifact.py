"""The exported network, exactly as a chip stores it: packed codes, codebooks, scales, requantization, grids.

One safetensors file. Its tensors are what the chip holds; the header is one JSON string with the network,
the plan and the grid of every tensor between layers. No torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from workloads.codec import Codes, Packed, decode_integers, pack, unpack, unpack_all
from workloads.errors import InputError, problems_of
from workloads.format import WeightFormat, weight_shape
from workloads.layer import Frozen, Layer, Network
from workloads.plan import Plan
from workloads.store import write_atomically

VERSION = 2  # of the file; raised when an old file no longer means the same
STAMP_KEY = "cimsim"
FINE_BITS = 24
REMEDY = "export the model again; in a run directory, delete the file and run the same command"


class Grid(Frozen):
    """The integers of one tensor: value = step * integer, `bits` wide, two's complement if signed."""

    step: float = Field(gt=0, allow_inf_nan=False)
    bits: int = Field(ge=1, le=32)
    signed: bool

    def finer(self) -> Grid:
        """FINE_BITS signed bits, 8 of them below this step: for values whose mean will lie on this grid. A fine grid is
        its own: refined again, its range would be too small for the values."""
        return self if self.bits >= FINE_BITS else Grid(step=self.step / 256, bits=FINE_BITS, signed=True)

    @property
    def dtype(self) -> np.dtype:
        """The narrowest type that holds these integers."""
        num_bytes = 1 if self.bits <= 8 else 2 if self.bits <= 16 else 4
        return np.dtype(f"{'i' if self.signed else 'u'}{num_bytes}")

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        return (1 << (self.bits - self.signed)) - 1


class StoredLayer(NamedTuple):
    """One layer's arrays: y = (x.w * multiplier + bias + half) >> shift, half = 1 << (shift - 1)."""

    codes: NDArray[np.uint8]  # packed, code_bits each
    scale_codes: NDArray[np.uint8]  # packed, scale_bits each; empty without them
    errors: NDArray[np.uint8]  # packed signs of a pool's error term; empty without one
    scale: NDArray[np.float32]  # [O] or [1]: weight = scale * integer
    multiplier: NDArray[np.int32]  # [O]
    shift: NDArray[np.int32]  # [O]
    bias: NDArray[np.int64]  # [O]


class Header(Frozen):
    """What the file says besides arrays. `grids`: node name (or `input`) -> grid of the tensor it makes."""

    version: int = Field(default=VERSION, ge=VERSION, le=VERSION)
    network: Network
    plan: Plan
    grids: dict[str, Grid]
    pixels: Grid = Grid(step=1 / 255, bits=8, signed=False)  # of the images, before `grids["input"]`
    seed: int = 0


class Stamp(Frozen):
    """The file's one metadata string: the header, and the SHA-256 of header and tensors."""

    sha256: str
    header: Header


@dataclass(frozen=True, eq=False)
class Artifact:
    """A quantized network that needs neither torch nor its training code to run."""

    header: Header
    layers: dict[str, StoredLayer]
    codebooks: dict[str, NDArray[np.uint8]]  # id -> packed entries, entry_bits each, two's complement
    _decoded: dict[str, NDArray[np.int32]] = field(default_factory=dict, repr=False)  # what `weights_int` gave

    @property
    def network(self) -> Network:
        return self.header.network

    @property
    def plan(self) -> Plan:
        return self.header.plan

    @property
    def grids(self) -> dict[str, Grid]:
        return self.header.grids

    def with_plan(self, plan: Plan) -> Artifact:
        """The same stored network under other ADC steps or dataflows; formats must stay the same."""
        return replace(self, header=self.header.model_copy(update={"plan": plan}))

    def codebook(self, layer_name: str) -> NDArray[np.int32] | None:
        """Integer entries [K, d] (or [M, K, d]) of the layer's codebook; None for formats without one."""
        fmt = self.plan.format_of(layer_name)
        if not fmt.has_codebook:
            return None
        return unpack_entries(self.codebooks[self.plan.book_id(layer_name)], fmt)

    def codes(self, layer_name: str) -> Codes:
        """The layer's codes and scale codes, unpacked."""
        stored, shape = self.layers[layer_name], weight_shape(self._layer(layer_name))
        return unpack_all(self.plan.format_of(layer_name), Packed(*stored[:3]), shape)

    def weights_int(self, layer_name: str) -> NDArray[np.int32]:
        """The integers [O, I] that the array holds for this layer, inputs in im2col order (kh, kw, c); read-only."""
        if layer_name not in self._decoded:
            shape, table = weight_shape(self._layer(layer_name)), self.codebook(layer_name)
            found = decode_integers(self.plan.format_of(layer_name), self.codes(layer_name), shape, table)
            found.flags.writeable = False
            self._decoded[layer_name] = found
        return self._decoded[layer_name]

    def stored_bits(self) -> int:
        """Bits of all codes, scale codes, channel scales and codebooks as stored; the header is apart."""
        arrays = [array for stored in self.layers.values() for array in stored[:4]]
        return 8 * sum(array.nbytes for array in [*arrays, *self.codebooks.values()])

    def save(self, path: Path) -> None:
        """Writes the file whole or not at all. Raises RunError if it cannot be written."""
        tensors = self._tensors()
        stamp = Stamp(sha256=_digest(self.header, tensors), header=self.header)
        write_atomically(path, save(tensors, metadata={STAMP_KEY: stamp.model_dump_json()}))

    def _tensors(self) -> dict[str, NDArray]:
        tensors = {_key("codebook", book): array for book, array in self.codebooks.items()}
        for name, stored in self.layers.items():
            tensors |= {_key(name, field): np.ascontiguousarray(a) for field, a in stored._asdict().items()}
        return tensors

    def _layer(self, name: str) -> Layer:
        return next(layer for layer in self.network.layers if layer.name == name)


def pack_entries(entries: NDArray[np.integer], fmt: WeightFormat) -> NDArray[np.uint8]:
    """Packs signed codebook entries [.., d] in two's complement of `entry_bits`; with one bit, their signs."""
    return pack(entries > 0 if fmt.entry_bits == 1 else entries.astype(np.int64), fmt.entry_bits)


def unpack_entries(packed: NDArray[np.uint8], fmt: WeightFormat) -> NDArray[np.int32]:
    """The signed entries [K, d] (or [M, K, d]) of a packed codebook."""
    raw = unpack(packed, fmt.entry_bits, fmt.codebook_bits // fmt.entry_bits).astype(np.int32)
    sign = 1 << (fmt.entry_bits - 1)
    entries = 2 * raw - 1 if fmt.entry_bits == 1 else (raw ^ sign) - sign
    books = [fmt.codes_per_vector] if fmt.codes_per_vector > 1 else []
    return entries.reshape(*books, fmt.num_entries, fmt.vector_length)


def load(path: Path) -> Artifact:
    """Reads an artifact. Raises InputError if the file is missing, damaged, foreign or of another version."""
    where = str(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise InputError(where, [f"(whole file): {error} ({REMEDY})"]) from error
    text = metadata.get(STAMP_KEY)
    if text is None:
        raise InputError(where, [f"header.{STAMP_KEY}: missing, so not an exported network ({REMEDY})"])
    stamp = _read_stamp(where, text)
    artifact = _assemble(where, stamp.header, tensors)
    if stamp.sha256 != _digest(stamp.header, tensors):
        raise InputError(where, [f"sha256 = {stamp.sha256}: is not that of the content ({REMEDY})"])
    return artifact


def _read_stamp(where: str, text: str) -> Stamp:
    try:
        stamp = Stamp.model_validate_json(text)
        stamp.header.plan.check(stamp.header.network)
    except ValidationError as error:
        raise InputError(where, [f"{item} ({REMEDY})" for item in problems_of(error)]) from error
    except ValueError as error:
        raise InputError(where, [f"header.plan: {error} ({REMEDY})"]) from error
    return stamp


def _assemble(where: str, header: Header, tensors: dict[str, NDArray]) -> Artifact:
    expected = _expected(header)
    problems = [f"{key}: not a tensor of this network" for key in sorted(set(tensors) - set(expected))]
    for key, (dtype, size) in expected.items():
        have = tensors.get(key)
        if have is None or have.dtype != dtype or have.shape != (size,):
            found = "missing" if have is None else f"{have.dtype}{list(have.shape)}"
            problems.append(f"{key} = {found}: must be {np.dtype(dtype)}[{size}]")
    grids = {"input", *(node.name for node in header.network.nodes)}
    problems += [f"header.grids.{name}: missing" for name in sorted(grids - set(header.grids))]
    if problems:
        raise InputError(where, [f"{problem} ({REMEDY})" for problem in problems])
    layers = {
        layer.name: StoredLayer(*(tensors[_key(layer.name, field)] for field in StoredLayer._fields))
        for layer in header.network.layers
    }
    books = {book: tensors[_key("codebook", book)] for book in header.plan.codebooks()}
    return Artifact(header, layers, books)


def _expected(header: Header) -> dict[str, tuple[type, int]]:
    """Tensor name -> dtype and length that the header's plan requires."""
    expected: dict[str, tuple[type, int]] = {}
    for layer in header.network.layers:
        fmt, outputs = header.plan.format_of(layer.name), layer.num_outputs
        shape = weight_shape(layer)
        expected[_key(layer.name, "codes")] = np.uint8, -(-fmt.num_codes(layer) * fmt.code_bits // 8)
        expected[_key(layer.name, "scale_codes")] = np.uint8, -(-prod(fmt.scale_shape(shape)) * fmt.scale_bits // 8)
        expected[_key(layer.name, "errors")] = np.uint8, -(-fmt.num_errors(shape) // 8)
        expected[_key(layer.name, "scale")] = np.float32, fmt.num_scales(outputs)
        expected[_key(layer.name, "multiplier")] = np.int32, outputs
        expected[_key(layer.name, "shift")] = np.int32, outputs
        expected[_key(layer.name, "bias")] = np.int64, outputs
    for book, fmt in header.plan.codebooks().items():
        expected[_key("codebook", book)] = np.uint8, -(-fmt.codebook_bits // 8)
    return expected


def _digest(header: Header, tensors: dict[str, NDArray]) -> str:
    """Hex SHA-256: without it, a damaged code would decode to some other weight."""
    digest = hashlib.sha256(header.model_dump_json().encode())
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].tobytes())
    return digest.hexdigest()


def _key(owner: str, field: str) -> str:
    return f"{owner}/{field}"
