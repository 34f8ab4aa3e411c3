"""Texts as the word pieces of an uncased BERT, from its vocabulary file alone.

Devlin et al., NAACL 2019, with the greedy longest match of Wu et al., arXiv 1609.08144, section 4.1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

MAX_LETTERS = 100  # of a word; a longer one is unknown as a whole
CHINESE = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def read_vocabulary(raw: bytes) -> dict[str, int]:
    """Piece to id, one piece per line."""
    return {piece: i for i, piece in enumerate(raw.decode().split("\n")) if piece}


def encode(texts: Sequence[str], ids: Mapping[str, int], length: int = 128) -> np.ndarray:
    """Ids int64 [N, T] of `[CLS] pieces [SEP]`, filled up with [PAD] = 0 to the longest text, at most `length`."""
    rows = [[ids["[CLS]"], *_pieces(text, ids)[: length - 2], ids["[SEP]"]] for text in texts]
    x = np.full((len(rows), max(map(len, rows), default=0)), ids["[PAD]"], np.int64)
    for row, found in zip(x, rows, strict=True):
        row[: len(found)] = found
    return x


def _pieces(text: str, ids: Mapping[str, int]) -> list[int]:
    return [i for word in words(text) for i in _split(word, ids)]


def words(text: str) -> list[str]:
    """Lower-case words without accents; each punctuation mark and each Chinese character is a word."""
    # letter by letter, as in the trained network's tokenizer: the whole word would give Greek's final sigma
    kept = "".join(" " if letter.isspace() else letter.lower() for letter in text if not _is_control(letter))
    plain = unicodedata.normalize("NFD", kept)
    spaced = (f" {letter} " if _stands_alone(letter) else letter for letter in plain if not _is_accent(letter))
    return "".join(spaced).split()


def _is_control(letter: str) -> bool:
    return letter == "\ufffd" or (unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\t\n\r")


def _is_accent(letter: str) -> bool:
    return unicodedata.category(letter) == "Mn"


def _stands_alone(letter: str) -> bool:
    is_ascii_mark = "!" <= letter <= "~" and not letter.isalnum()
    is_mark = is_ascii_mark or unicodedata.category(letter).startswith("P")
    return is_mark or any(low <= ord(letter) <= high for low, high in CHINESE)


def _split(word: str, ids: Mapping[str, int]) -> list[int]:
    """The longest known piece from the left, again and again; inner pieces carry `##`."""
    found: list[int] = []
    start = 0
    while start < len(word) <= MAX_LETTERS:
        marked = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if marked + word[start:end] in ids), None)
        if end is None:
            break
        found.append(ids[marked + word[start:end]])
        start = end
    return found if start == len(word) else [ids["[UNK]"]]
