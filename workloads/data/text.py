"""Labelled texts as a fixed number of integers each.

A word is a run of letters and digits in lower case, with apostrophes inside (`isn't`); all else separates words.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

PAD, UNKNOWN = 0, 1  # the ids of no word and of a word outside the vocabulary
VOCABULARY_SIZE = 8_000  # ids in all
LENGTH = 32  # words: all of 92 % of the movie snippets and of 99 % of the WordNet glosses

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class Labelled(NamedTuple):
    """Texts and their labels int64 [N]."""

    texts: list[str]
    y: np.ndarray


class Texts(NamedTuple):
    """Labelled texts for training and for the final test."""

    name: str
    train: Labelled
    test: Labelled
    num_classes: int


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text.lower())


def vocabulary(texts: Iterable[str], size: int = VOCABULARY_SIZE) -> dict[str, int]:
    """Ids 2, 3, ... of the most frequent words, ties in alphabetical order; `size` counts padding and unknown, too."""
    counts = Counter(word for text in texts for word in words(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: rank + 2 for rank, word in enumerate(ranked[: size - 2])}


def encode(texts: Sequence[str], ids: Mapping[str, int], length: int = LENGTH) -> np.ndarray:
    """Ids int64 [N, length] of the first words of each text, filled up with padding at the end."""
    x = np.full((len(texts), length), PAD, np.int64)
    for row, text in zip(x, texts, strict=True):
        found = [ids.get(word, UNKNOWN) for word in words(text)[:length]]
        row[: len(found)] = found
    return x


def movie_snippets(sdist: bytes) -> Labelled:
    """10,568 sentences of film reviews: is their mean rating by 20 people positive (1) or negative (0)?

    From vaderSentiment's source archive (Hutto, Gilbert: VADER, ICWSM 2014). The 37 sentences rated 0 are left out.
    """
    inner = _member(sdist, "additional_resources/hutto_ICWSM_2014.tar.gz")
    lines = _member(inner, "movieReviewSnippets_GroundTruth.txt").decode().splitlines()
    rated = [(float(rating), text) for _, rating, text in (line.split("\t") for line in lines) if float(rating)]
    return Labelled([text for _, text in rated], np.array([rating > 0 for rating, _ in rated], np.int64))


def _member(archive: bytes, ending: str) -> bytes:
    """The one file of a tar archive whose name ends so."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (member,) = (member for member in tar.getmembers() if member.name.endswith(ending))
        file = tar.extractfile(member)
        assert file is not None
        return file.read()


def glosses(data: Iterable[bytes]) -> Labelled:
    """117,659 definitions, in the order of the `data.*` files, and which of 45 lexicographer files each is from.

    WordNet 3.0 (Fellbaum, MIT Press 1998; the format is that of its page wndb(5)): the label is the second
    field, the definition stands after the bar and ends before the first quoted example.
    """
    lines = [line for raw in data for line in raw.decode().splitlines() if not line.startswith("  ")]
    parts = [line.partition(" | ") for line in lines]
    texts = [gloss.partition('; "')[0].strip() for _, _, gloss in parts]
    return Labelled(texts, np.array([head.split(" ", 2)[1] for head, _, _ in parts], np.int64))
