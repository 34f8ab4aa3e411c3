"""How a layer's weights are stored: linear codes, codebook indices, lattice codes or a shared pool of columns.

A format is known by its name, the same in the CLI, in CSV files and in plans. `FORMATS` lists the families:
`linear-4` (bits), `vq-8x256-e4-s0` (d x K, entry bits, scale bits; `x2` after K: two books, added), `d4-q4`,
`e8-q4m2`, `e8p`, `e8-r8` (lattices: radix and digits, or ball), `pool-128` (CIMPool). What may follow:
`-odd` (levels are odd integers), `-g64` (a scale code per 64 inputs), `-abs` (scale codes have a sign),
`-out`, `-kernel`, `-flat` (along what vectors are cut), `-t` (one scale per tensor), `-h64` (rotated inputs).
"""

from __future__ import annotations

import re
from math import ceil, log2, prod
from typing import NamedTuple

from workloads.lattices import lattice_code
from workloads.layer import Layer

SCALE_BITS = 32  # a float32 scale per output channel, or per tensor
GROUP_SCALE_BITS = 4  # the integer scale code of a linear group
POOL_SCALE_BITS = 4  # the integer multiples of a pool column and of the error's signs, one of each per layer
USUAL_PRUNED_PERCENT = 50  # of a pool's error term, unless its name says otherwise
POOL_GROUP = 32  # outputs that take their columns from one part of the pool, no column twice; and the columns of a part


class WeightFormat(NamedTuple):
    """One storage format. A vector of `vector_length` weights has `codes_per_vector` codes of `code_bits` bits."""

    name: str
    kind: str  # "linear" | "vq" | "lattice" | "pool"
    vector_length: int  # d; 1 for linear
    code_bits: int  # bits of one code: the number itself, a codebook index, a lattice code, a pool column
    array_bits: int  # width of the signed integers the array holds after decoding
    num_entries: int = 0  # K of one book; 0 when there is no codebook
    entry_bits: int = 0
    scale_bits: int = 0  # of an integer scale code, its sign included; one per vector, or per linear group
    lattice: str = ""  # "d4"
    code: str = ""  # lattice code, see workloads.lattices: "d4-q4"
    codes_per_vector: int = 1  # books that are added, or digits M of a hierarchical lattice code
    axis: str = "in"  # along what vectors are cut, see workloads.codec: "in", "out", "kernel" or "flat"
    group: int = 0  # linear: consecutive inputs that share a scale code; 0: none
    scale_per: str = "channel"  # who has a float32 scale: each output "channel", or the whole "tensor"
    is_odd: bool = False  # linear: code c means the odd integer 2 c + 1
    signed_scale: bool = False  # vq: scale codes have a sign, so that the book needs half the entries
    rotation: int = 0  # blocks of this many inputs go through a randomised Hadamard rotation; 0: none
    pruned_percent: int = 0  # pool: inputs whose error term is not stored

    @property
    def has_codebook(self) -> bool:
        return self.num_entries > 0

    @property
    def codebook_bits(self) -> int:
        """Bits of the codebook: books * K * d * entry_bits (0 without one)."""
        num_books = self.codes_per_vector if self.has_codebook else 0
        return num_books * self.num_entries * self.vector_length * self.entry_bits

    @property
    def vector_bits(self) -> int:
        """Bits of all codes of one vector, without its scale code."""
        return self.code_bits * self.codes_per_vector

    @property
    def bits_per_weight(self) -> float:
        """Code, scale-code and error bits per weight, without padding, codebook and float scales."""
        shared = {"vq": self.vector_length, "linear": self.group}.get(self.kind, 0)
        scale = self.scale_bits / shared if shared else 0.0
        error = 1 - self.pruned_percent / 100 if self.kind == "pool" else 0.0
        return self.vector_bits / self.vector_length + scale + error

    def code_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(rows, vectors in a row) of the codes of a weight [O, C/g, ...]; each row is padded to whole vectors."""
        outputs, inputs, d = shape[0], prod(shape[1:]), self.vector_length
        if self.axis == "out":
            return inputs, ceil(outputs / d)
        return (1, ceil(outputs * inputs / d)) if self.axis == "flat" else (outputs, ceil(inputs / d))

    def scale_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the integer scale codes of a weight; (0,) for a format without."""
        if self.kind == "pool":
            return (2,)
        if self.group:
            return shape[0], ceil(prod(shape[1:]) / self.group)
        return self.code_shape(shape) if self.scale_bits else (0,)

    def num_errors(self, shape: tuple[int, ...]) -> int:
        """Stored bits of the error term: a pool's signs of the inputs that are not pruned, per output."""
        return shape[0] * num_kept(prod(shape[1:]), self.pruned_percent) if self.kind == "pool" else 0

    def num_scales(self, outputs: int) -> int:
        """Float32 scales of a layer."""
        return outputs if self.scale_per == "channel" else 1

    def input_bits(self, driven_bits: int) -> int:
        """Width of the integers streamed into the array: a rotation adds a sign and log2(block) bits."""
        return driven_bits + self.rotation.bit_length()

    def num_codes(self, layer: Layer) -> int:
        """Codes stored for a layer."""
        return prod(self.code_shape(weight_shape(layer))) * self.codes_per_vector

    def bits(self, layer: Layer) -> FormatBits:
        """Bits that storing `layer` takes, by purpose; the shared codebook is not included."""
        shape = weight_shape(layer)
        errors, scale_codes = self.num_errors(shape), prod(self.scale_shape(shape)) * self.scale_bits
        index = self.num_codes(layer) * self.code_bits
        used = layer.num_weights * self.vector_bits // self.vector_length + errors
        container = _byte_padded(index) + _byte_padded(scale_codes) + _byte_padded(errors)
        scales = self.num_scales(layer.num_outputs) * SCALE_BITS
        return FormatBits(used, scale_codes + scales, container - scale_codes - used)


class FormatBits(NamedTuple):
    """Bits of one stored layer: `index` of real weights, `scale` codes and float scales, `padding`."""

    index: int
    scale: int
    padding: int

    @property
    def total(self) -> int:
        return self.index + self.scale + self.padding


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """Shape [O, C/g, kh, kw] of a layer's weight."""
    return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel


def num_kept(num_inputs: int, pruned_percent: int) -> int:
    """How many inputs of each output have a stored error."""
    return num_inputs - num_inputs * pruned_percent // 100


def _byte_padded(bits: int) -> int:
    return ceil(bits / 8) * 8


def _linear(match: re.Match[str]) -> WeightFormat:
    name, bits, group = match[0], int(match["bits"]), int(match["group"] or 0)
    is_odd = match["odd"] is not None or bits == 1
    _in_range(name, "bits", bits, 1, 8)
    scale_bits = GROUP_SCALE_BITS if group else 0
    array_bits = bits + is_odd + scale_bits
    return WeightFormat(name, "linear", 1, bits, array_bits, scale_bits=scale_bits, group=group, is_odd=is_odd,
                        scale_per=_scale_per(match))  # fmt: skip


def _vq(match: re.Match[str]) -> WeightFormat:
    d, k, books, entry, scale = (int(match[part] or 1) for part in ("d", "k", "books", "entry", "scale"))
    name, is_signed = match[0], match["abs"] is not None
    _in_range(name, "d", d, 1, 32)
    _in_range(name, "K", k, 2, 65536)
    _in_range(name, "books", books, 1, 8)
    _in_range(name, "entry bits", entry, 2, 16)
    _in_range(name, "scale bits", scale, 0, 8)
    sum_bits = entry + ceil(log2(books)) + scale
    return WeightFormat(
        name, "vq", d, max(1, ceil(log2(k))), sum_bits, k, entry, scale + is_signed, codes_per_vector=books,
        axis=match["axis"] or "in", scale_per=_scale_per(match), signed_scale=is_signed,
        rotation=_rotation(match),
    )  # fmt: skip


def _lattice(match: re.Match[str]) -> WeightFormat:
    name, code = match[0], lattice_code(match["code"])
    return WeightFormat(
        name, "lattice", code.dimension, code.code_bits, code.array_bits, lattice=code.lattice, code=code.name,
        codes_per_vector=code.num_digits, axis=match["axis"] or "in", scale_per=_scale_per(match),
        rotation=_rotation(match),
    )  # fmt: skip


def _pool(match: re.Match[str]) -> WeightFormat:
    name, size, pruned = match[0], int(match["size"]), int(match["pruned"] or USUAL_PRUNED_PERCENT)
    _in_range(name, "columns", size, POOL_GROUP, 512)
    _in_range(name, "pruned per cent", pruned, 0, 100)
    if size % POOL_GROUP:
        raise ValueError(f"format {name!r}: columns = {size}: must be a multiple of {POOL_GROUP}")
    code_bits, array_bits = ceil(log2(POOL_GROUP)), POOL_SCALE_BITS + 3  # two multiples of at most 16
    return WeightFormat(name, "pool", size, code_bits, array_bits, size, 1, POOL_SCALE_BITS, pruned_percent=pruned)


def _scale_per(match: re.Match[str]) -> str:
    return "tensor" if match["tensor"] else "channel"


def _rotation(match: re.Match[str]) -> int:
    block = int(match["block"] or 0)
    if block & (block - 1) or block == 1:
        raise ValueError(f"format {match[0]!r}: rotation block = {block}: must be a power of two, 2 or more")
    return block


def _in_range(name: str, what: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"format {name!r}: {what} = {value}: must be {low} to {high}")
    return value


def _name_of(fmt: WeightFormat) -> str:
    """The one name of all that mean this format (`pool-128` of `pool-128-p50`)."""
    odd, group = "-odd" * (fmt.is_odd and fmt.code_bits > 1), f"-g{fmt.group}" * (fmt.group > 0)
    books = f"x{fmt.codes_per_vector}" * (fmt.codes_per_vector > 1)
    scale_bits, signed = fmt.scale_bits - fmt.signed_scale, "-abs" * fmt.signed_scale
    stem = {
        "linear": f"linear-{fmt.code_bits}{odd}{group}",
        "vq": f"vq-{fmt.vector_length}x{fmt.num_entries}{books}-e{fmt.entry_bits}-s{scale_bits}{signed}",
        "lattice": fmt.code,
        "pool": f"pool-{fmt.num_entries}" + f"-p{fmt.pruned_percent}" * (fmt.pruned_percent != USUAL_PRUNED_PERCENT),
    }[fmt.kind]
    axis, tensor = f"-{fmt.axis}" * (fmt.axis != "in"), "-t" * (fmt.scale_per == "tensor")
    return stem + axis + tensor + f"-h{fmt.rotation}" * (fmt.rotation > 0)


_AXIS, _TENSOR, _ROTATION = r"(-(?P<axis>out|kernel|flat))?", r"(?P<tensor>-t)?", r"(-h(?P<block>\d+))?"

# One entry per family: pattern of its names -> how to read one.
FORMATS = {
    r"linear-(?P<bits>\d+)(?P<odd>-odd)?(-g(?P<group>[1-9]\d*))?" + _TENSOR: _linear,
    r"vq-(?P<d>\d+)x(?P<k>\d+)(x(?P<books>\d+))?-e(?P<entry>\d+)-s(?P<scale>\d+)(?P<abs>-abs)?"
    + _AXIS + _TENSOR + _ROTATION: _vq,
    r"(?P<code>[adez]\d-(q\d+(m\d+)?|r\d+)|e8p)" + _AXIS + _TENSOR + _ROTATION: _lattice,
    r"pool-(?P<size>\d+)(-p(?P<pruned>\d+))?": _pool,
}  # fmt: skip

# What a study tries where it names no formats.
DEFAULT_FORMATS = (
    "linear-8",
    "linear-4",
    "linear-2",
    "vq-4x16-e4-s0",
    "vq-4x256-e4-s0",
    "vq-8x256-e4-s0",
    "d4-q4",
    "e8-q4",
)

# One of each family, for lists and for the tests of what holds for all formats.
EXAMPLE_FORMATS = (
    *DEFAULT_FORMATS,
    "linear-1", "linear-3-odd", "linear-4-g32", "linear-4-t",
    "vq-4x64-e4-s2", "vq-4x64-e4-s1-abs", "vq-4x16-e4-s0-out", "vq-9x64-e4-s0-kernel", "vq-4x16-e4-s0-flat",
    "vq-4x16x2-e6-s0", "vq-8x256-e4-s0-h8",
    "z4-q4", "a2-q4", "d8-q3", "e8-q2", "e8-q4m2", "e8p", "e8-r8", "e8-q4-h8",
    "pool-128", "pool-32-p0",
)  # fmt: skip


def parse_format(name: str) -> WeightFormat:
    """The format of this name; its own name is the shortest one. Raises ValueError that lists the known families."""
    for pattern, build in FORMATS.items():
        if match := re.fullmatch(pattern, name):
            fmt = build(match)
            return fmt._replace(name=_name_of(fmt))
    raise ValueError(f"unknown format {name!r}: known are {', '.join(EXAMPLE_FORMATS)} and their variations")
