"""A universal codebook: one set of entries for many networks, made once, kept in one file, never trained.

VQ4ALL (Deng et al., arXiv 2412.06875) draws it from a Gaussian kernel density estimate of the sub-vectors of
several networks, so that it can lie in ROM. Entries are whole numbers times one unit, among vectors of weights
whose channels have root mean square 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from qat.recipe import Recipe
from qat.schemes.common.codebook import Codebook, Sample, fit_entries, sample_of
from workloads.errors import InputError, problems_of
from workloads.format import WeightFormat, parse_format
from workloads.lattices import lattice_code
from workloads.layer import Frozen
from workloads.store import write_atomically

BookKind = Literal["kde", "kmeans", "e8p"]
KEY = "cimsim_book"
PER_TENSOR = 10_000  # vectors of one weight, at most, so that large layers do not outweigh the others
_RECIPE = Recipe(vector="universal", assignment="euclid", codebook="frozen", revival=False)
_REMEDY = "make the file again with qat.schemes.common.universal_book"


class BookHeader(Frozen):
    """What a book's file says besides its entries; `sha256` is of the integer entries, int8 row by row."""

    format: str
    kind: BookKind
    seed: int
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def universal_book(fmt: WeightFormat, weights: Sequence[Tensor], kind: BookKind = "kde", seed: int = 0) -> Codebook:
    """A frozen book for the weights [O, ...] of any number of networks, and for others of their like.

    `kind`: `kde`; `kmeans`; or `e8p`, the code of QuIP# as a table, which looks at no weights.
    Raises ValueError for a format without one codebook per vector, or one that E8P does not fit.
    """
    if not fmt.has_codebook or fmt.codes_per_vector > 1 or fmt.kind != "vq":
        raise ValueError(f"{fmt.name}: must be a format with one codebook (vq-8x256-e8-s0)")
    entries = _e8p_entries(fmt) if kind == "e8p" else _fitted(balanced_sample(fmt, weights, seed), fmt, kind, seed)
    return _rounded(Codebook(fmt, entries, seed, _RECIPE))


def balanced_sample(fmt: WeightFormat, weights: Sequence[Tensor], seed: int = 0) -> Tensor:
    """Vectors [N, d] of all weights, normalised per channel, at most PER_TENSOR of each. Raises ValueError if none."""
    generator = torch.Generator().manual_seed(seed)
    parts = [sample_of(weight, fmt).vectors for weight in weights]
    chosen = [part[torch.randperm(len(part), generator=generator)[:PER_TENSOR]] for part in parts]
    if not sum(map(len, chosen)):
        raise ValueError(f"weights = {len(parts)}: must have vectors that are not zero")
    return torch.cat(chosen)


def kde_entries(vectors: Tensor, num: int, seed: int = 0) -> Tensor:
    """`num` draws [num, d] from the Gaussian kernel density of vectors [N, d]: one of them, plus noise.

    Scott's bandwidth, h = sigma N^(-1 / (d + 4)) with sigma the deviation of each element (Scott 1992).
    """
    generator = torch.Generator().manual_seed(seed)
    count, d = vectors.shape
    bandwidth = vectors.std(0, correction=0) * count ** (-1 / (d + 4))
    centres = vectors[torch.randint(count, (num,), generator=generator)]
    return centres + bandwidth * torch.randn(centres.shape, generator=generator)


def _fitted(vectors: Tensor, fmt: WeightFormat, kind: BookKind, seed: int) -> Tensor:
    if kind == "kde":
        return kde_entries(vectors, fmt.num_entries, seed)
    return fit_entries(Sample(vectors), fmt, seed, _RECIPE)


def _e8p_entries(fmt: WeightFormat) -> Tensor:
    code = lattice_code("e8p")
    if (fmt.vector_length, fmt.num_entries) != (code.dimension, code.num_codewords):
        raise ValueError(
            f"{fmt.name}: e8p is {code.dimension} x {code.num_codewords}: must be vq-8x65536-e8-s0 or alike"
        )
    points = code.decode(np.arange(code.num_codewords)[:, None])
    return torch.from_numpy(points.astype(np.float32)) / (code.grid * code.sigma)


def _rounded(book: Codebook) -> Codebook:
    """Its entries as they are stored, so that a book in memory is the book from its file."""
    integers, unit = book.stored()
    return Codebook(book.fmt, integers * unit, book.seed, _RECIPE)


def book_sha256(book: Codebook) -> str:
    """Hex SHA-256 of the integer entries: what is in the ROM, whatever was trained around it."""
    return hashlib.sha256(_integers(book).tobytes()).hexdigest()


def _integers(book: Codebook) -> np.ndarray:
    return book.stored().integers.numpy().astype(np.int8)


def save_book(book: Codebook, path: Path, kind: BookKind = "kde") -> None:
    """Writes a book to one safetensors file, whole or not at all. Raises RunError if it cannot be written."""
    header = BookHeader(format=book.fmt.name, kind=kind, seed=book.seed, sha256=book_sha256(book))
    tensors = {"entries": _integers(book), "unit": book.stored().unit.numpy().astype(np.float32)}
    write_atomically(path, save(tensors, metadata={KEY: header.model_dump_json()}))


def load_book(path: Path) -> Codebook:
    """The frozen book of a file. Raises InputError if it is missing, damaged or foreign."""
    where = str(path)
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY, "")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        header = BookHeader.model_validate_json(text)
        fmt = parse_format(header.format)
    except ValidationError as error:
        raise InputError(where, [f"header.{item} ({_REMEDY})" for item in problems_of(error)]) from error
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(where, [f"(whole file): {error} ({_REMEDY})"]) from error
    entries, unit = tensors.get("entries"), tensors.get("unit")
    wanted = (fmt.num_entries, fmt.vector_length)
    if entries is None or unit is None or entries.shape != wanted or entries.dtype != np.int8 or unit.size != 1:
        raise InputError(
            where, [f"tensors = {sorted(tensors)}: must be unit and entries int8{list(wanted)} ({_REMEDY})"]
        )
    book = Codebook(fmt, torch.from_numpy(entries.astype(np.float32)) * float(unit), header.seed, _RECIPE)
    if book_sha256(book) != header.sha256:
        raise InputError(where, [f"sha256 = {header.sha256}: is not that of the entries ({_REMEDY})"])
    return book
