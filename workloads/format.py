"""How a layer's weights are stored: linear codes, codebook indices or lattice codes.

A format is known by its name, the same in the CLI, in CSV files and in plans:
`linear-4`, `vq-8x256-e4-s0` (d x K, entry bits, scale bits), `d4-q4`, `e8-q4`.
"""

from __future__ import annotations

import re
from math import ceil, log2
from typing import NamedTuple

from workloads.layer import Layer

SCALE_BITS = 32  # one float32 scale per output channel, in every format


class WeightFormat(NamedTuple):
    """One storage format. `vector_length` weights share one code of `code_bits` bits."""

    name: str
    kind: str  # "linear" | "vq" | "lattice" | "pool"
    vector_length: int  # d; 1 for linear
    code_bits: int  # bits of one code: the number itself, a codebook index, or a lattice code
    array_bits: int  # width of the signed integers the array holds after decoding
    num_entries: int = 0  # K; 0 when there is no codebook
    entry_bits: int = 0
    scale_bits: int = 0  # integer scale code per vector
    lattice: str = ""  # see workloads.lattice
    radix: int = 0  # q
    codes_per_vector: int = 1  # additive codebooks, or digits M of a hierarchical lattice code
    axis: str = "in"  # along which vectors are cut: "in" (im2col order), "out", "kernel" or "flat"
    group: int = 0  # linear: consecutive inputs that share one integer scale code; 0: none
    scale_per: str = "channel"  # who has a float32 scale: each output "channel", or the whole "tensor"
    levels: str = "midtread"  # linear: code c means c ("midtread") or the odd integer 2 c + 1 ("midrise")
    signed_scale: bool = False  # vq: a vector's scale code has a sign bit, so that the book needs half the entries
    rotation: int = 0  # inputs are turned by a randomised Hadamard rotation of blocks this long; 0: not
    pruned: int = 0  # pool: per cent of the error term's bits that are not stored

    @property
    def has_codebook(self) -> bool:
        return self.num_entries > 0

    @property
    def codebook_bits(self) -> int:
        """Bits of one codebook: K * d * entry_bits (0 without one)."""
        return self.num_entries * self.vector_length * self.entry_bits

    @property
    def bits_per_weight(self) -> float:
        """Code and scale-code bits per weight, without padding, codebook and channel scales."""
        return (self.code_bits + self.scale_bits) / self.vector_length

    def num_codes(self, layer: Layer) -> int:
        """Codes stored for a layer: vectors lie inside one output and are padded per output."""
        return layer.num_outputs * ceil(layer.num_inputs / self.vector_length)

    def bits(self, layer: Layer) -> FormatBits:
        """Bits that storing `layer` takes, by purpose; the shared codebook is not included."""
        codes = self.num_codes(layer)
        used = layer.num_weights * self.code_bits // self.vector_length
        index, scale_codes = codes * self.code_bits, codes * self.scale_bits
        container = _byte_padded(index) + _byte_padded(scale_codes)
        channel_scales = layer.num_outputs * SCALE_BITS
        return FormatBits(used, scale_codes + channel_scales, container - scale_codes - used)


class FormatBits(NamedTuple):
    """Bits of one stored layer: `index` of real weights, `scale` codes and channel scales, `padding`."""

    index: int
    scale: int
    padding: int

    @property
    def total(self) -> int:
        return self.index + self.scale + self.padding


def _byte_padded(bits: int) -> int:
    return ceil(bits / 8) * 8


def _linear(match: re.Match[str]) -> WeightFormat:
    bits = int(match[1])
    return WeightFormat(match[0], "linear", 1, _in_range(match[0], "bits", bits, 2, 8), bits)


def _vq(match: re.Match[str]) -> WeightFormat:
    d, k, entry, scale = (int(text) for text in match.groups())
    name = match[0]
    _in_range(name, "d", d, 1, 32)
    _in_range(name, "K", k, 2, 65536)
    _in_range(name, "entry bits", entry, 2, 8)
    _in_range(name, "scale bits", scale, 0, 4)
    return WeightFormat(name, "vq", d, max(1, ceil(log2(k))), entry + scale, k, entry, scale)


def _lattice(match: re.Match[str]) -> WeightFormat:
    name, lattice, q = match[0], match[1], int(match[2])
    _in_range(name, "q", q, 2, 4)
    d = {"d4": 4, "e8": 8}[lattice]
    array_bits = {2: 4, 3: 5, 4: 5}[q]  # quarter-grid integers of the shifted code; checked in tests
    return WeightFormat(name, "lattice", d, ceil(d * log2(q)), array_bits, lattice=lattice, radix=q)


def _in_range(name: str, what: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"format {name!r}: {what} = {value}: must be {low} to {high}")
    return value


# One entry per family: pattern of its names -> how to read one.
FORMATS = {
    r"linear-(\d+)": _linear,
    r"vq-(\d+)x(\d+)-e(\d+)-s(\d+)": _vq,
    r"(d4|e8)-q(\d+)": _lattice,
}

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


def parse_format(name: str) -> WeightFormat:
    """The format of this name. Raises ValueError that lists the known families."""
    for pattern, build in FORMATS.items():
        if match := re.fullmatch(pattern, name):
            return build(match)
    raise ValueError(f"unknown format {name!r}: known are {', '.join(DEFAULT_FORMATS)} and their variations")
