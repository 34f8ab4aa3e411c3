"""What the documents show is true: commands run, outputs are the real ones, links lead somewhere, examples load."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from cimsim.chip.reading import load_chip
from cimsim.studies.study import load_study
from cimsim.validation import left_out
from docs.made import figures
from reports.frames import read_run
from tests.helpers.fake_run import write_run
from workloads.errors import InputError, RunError

ROOT = figures.ROOT
EXAMPLES = ROOT / "examples"
DOCUMENTS = [path.relative_to(ROOT).as_posix() for path in figures.DOCUMENTS]
# Slow commands, with those that read what they made; tests/cimsim/cli/test_cli.py gives them smaller studies.
SLOW = ("codesign", "train", "search", "report")
MAX_IMAGE_BYTES, MAX_DECISION_LINES = 300_000, 60


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def fenced(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(document), re.M | re.S)


def commands(document: str) -> list[str]:
    lines = [line for block in fenced(document, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("cimsim ")]


def is_slow(command: str) -> bool:
    return command.split()[1] in SLOW or "runs/" in command


@pytest.fixture
def folder(tmp_path):
    """An empty place from which the examples are reached as from the repository's root."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    return tmp_path


def output_blocks() -> list[tuple[str, str]]:
    """(command, content) of every shown output whose last digit no other machine changes: nothing trained."""
    found = []
    for document in DOCUMENTS:
        text = text_of(document)
        found += [(mark.removeprefix("output: "), text[start:end])
                  for mark, start, end in figures.blocks(text, document) if mark.startswith("output: ")]  # fmt: skip
    return [(command, content) for command, content in found if "own_module" not in command]


def quick_commands(document: str) -> list[str]:
    """Those that no earlier document has run, and of which no output is shown: that is compared below."""
    earlier = DOCUMENTS[: DOCUMENTS.index(document)]
    known = {command for name in earlier for command in commands(name)} | {command for command, _ in output_blocks()}
    return [command for command in commands(document) if command not in known and not is_slow(command)]


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if quick_commands(name)])
def test_quick_commands_run(document, folder):
    for command in quick_commands(document):
        assert len(figures.output(command, folder).splitlines()) > 2


@pytest.mark.parametrize("command", [c for name in DOCUMENTS for c in commands(name) if is_slow(c)])
def test_slow_commands_name_what_exists(command):
    for word in shlex.split(command, comments=True):
        if word.startswith("examples/"):
            load_study(ROOT / word)


@pytest.mark.parametrize(("command", "content"), output_blocks())
def test_shown_outputs_are_the_real_ones(command, content, folder):
    """`python -m docs.made.figures` writes them anew."""
    assert figures.output(command, folder) + "\n" == content


def test_the_readme_opens_with_a_simulation():
    assert output_blocks()[0][0] == "cimsim simulate resnet18 --chip isaac"
    assert text_of("README.md").index("cimsim simulate resnet18") < 500


def test_your_own_module(folder):
    shown = figures.output("python examples/own_module.py 1280", folder)
    assert shown.count("nJ per image") == 3
    assert (folder / "runs/own_module.png").stat().st_size > 10_000


def test_the_readme_shows_the_own_module_example():
    """Its lines are the example's, in their order, and fewer than twenty."""
    (block,) = fenced("README.md", "python")
    lines = [line for line in block.splitlines() if line]
    rest = iter((EXAMPLES / "own_module.py").read_text().splitlines())
    assert len(lines) < 20
    assert all(line in rest for line in lines)


def test_the_guide_shows_its_own_files():
    """Lines of the chip and of the targets are those of the example's files, in their order."""
    (chip,) = fenced("docs/describe-a-chip.md", "yaml")
    (targets,) = (block for block in fenced("docs/describe-a-chip.md", "text") if block.startswith("quantity,"))
    for shown, name in ((chip, "own_macro.yaml"), (targets, "own_macro.csv")):
        rest = iter((EXAMPLES / name).read_text().splitlines())
        assert all(line in rest for line in shown.splitlines()), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_local_links_resolve(document):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text_of(document))
    assert not [target for target in targets if not (ROOT / document).parent.joinpath(target).exists()]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_yaml_loads(path):
    if "root" in yaml.safe_load(path.read_text()):
        assert load_chip(path).num_tiles >= 1
    else:
        study = load_study(path)
        assert all(load_chip(one.chip, variant) for one in study.chips for variant in [{}, *study.sweep.settings(one)])


def test_the_study_with_seeds_is_the_main_one():
    main, seeded = (load_study(EXAMPLES / f"{name}.yaml") for name in ("fashion_mnist", "fashion_mnist_seeds"))
    assert all(set(few.budgets) < set(all_.budgets) for few, all_ in zip(main.chips, seeded.chips, strict=True))
    assert main.model_copy(update={"name": seeded.name, "seeds": (0, 1, 2), "chips": seeded.chips}) == seeded
    fewer = [one.model_copy(update={"budgets": ()}) for one in main.chips]
    assert fewer == [one.model_copy(update={"budgets": ()}) for one in seeded.chips]
    assert seeded.name == Path(figures.DEFAULT_RUN).name == "fashion_mnist_seeds"


def test_every_example_is_listed():
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".yaml")}
    assert names == set(re.findall(r"\[(\w+\.(?:py|yaml))\]", text_of("examples/README.md")))


def test_the_readme_has_every_part_of_the_study():
    marks = [mark for mark, _, _ in figures.blocks(text_of("README.md"), "README.md")]
    assert {"made", "results", "verdict"} <= set(marks)


def test_images_are_small_and_decisions_short():
    assert all(path.stat().st_size < MAX_IMAGE_BYTES for path in figures.IMAGES.iterdir())
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [int(path.name[:3]) for path in decisions] == list(range(1, len(decisions) + 1))
    assert all(len(path.read_text().splitlines()) <= MAX_DECISION_LINES for path in decisions)


# --- the program that fills the marked blocks ---


def test_blocks_are_filled_by_kind(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("a\n<!-- made -->\nold\n<!-- end -->\nb\n<!-- results: x, y -->\n<!-- end -->\n")
    figures.refresh(path, {"made": lambda _: "new", "results": lambda labels: f"of {labels}"})
    once = path.read_text()
    assert once == "a\n<!-- made -->\nnew\n<!-- end -->\nb\n<!-- results: x, y -->\nof x, y\n<!-- end -->\n"
    figures.refresh(path, {"results": lambda labels: f"of {labels}"})
    assert path.read_text() == once


@pytest.mark.parametrize("marks", ["made", "end", "made end end", "made results end end"])
def test_open_blocks_are_refused(marks):
    text = "".join(f"<!-- {mark} -->\n" for mark in marks.split())
    with pytest.raises(InputError, match=r"page\.md: marks: each"):
        figures.blocks(text, "page.md")


def test_a_study_becomes_table_verdict_and_provenance(tmp_path):
    run = read_run(write_run(tmp_path / "run", seeds=(0, 1, 2)))
    rows = figures.results(run).splitlines()
    one_plan_per_row = run.results[run.results["kind"].isin(["search", "uniform", "all_vq"])]
    assert len(rows) > 10 and all(row.count("|") == 7 for row in rows)
    assert sum("±" in row for row in rows) >= one_plan_per_row[["chip", "label"]].drop_duplicates().shape[0]
    assert len(figures.results(run, "uniform linear-4").splitlines()) == 4  # head, rule and two chips
    assert "seeds 0, 1, 2" in figures.made(run) and "cimsim 0.1.0" in figures.made(run)
    assert figures.verdict(run).count("**") == 4


def test_drawn_arrays_become_a_table(tmp_path):
    path = write_run(tmp_path / "run", seeds=(0, 1))
    with pytest.raises(InputError, match="cimsim accuracy"):
        figures.drawn(read_run(path))
    (path / "cells").mkdir()
    for seed, mean in ((0, 0.5), (1, 0.7)):
        row = {"key": f"k{seed}", "label": "a", "kind": "uniform", "chip": "isaac", "seed": seed, "energy_pj": 1e3,
               "cells": "pcm", "images": 10, "fill": 0.25, "array_accuracy": 0.8, "drawn": [mean, mean]}  # fmt: skip
        (path / f"cells/k{seed}.json").write_text(json.dumps(row))
    (line,) = figures.drawn(read_run(path), "a, b").splitlines()[2:]
    assert (
        line == "| isaac | a | pcm | 1 nJ | 25 % | 80.00 % | 60.00 % ± 18.37 | −20.00 points | 50.00 % | 4 |"
    )  # 3.182 s / 2
    assert len(figures.drawn(read_run(path), "b").splitlines()) == 2


def test_a_missing_study_is_named(tmp_path):
    with pytest.raises(InputError, match=r"results\.csv: missing: must be there \(`make docs`"):
        figures.redraw_study(tmp_path / "none")


def test_a_failing_command_is_told(tmp_path):
    with pytest.raises(RunError, match="no such chip"):
        figures.output("cimsim simulate lenet5 --chip nowhere", tmp_path)


def test_the_readme_quotes_what_chips_left_out_show():
    """The error to expect on an unseen chip, as the command says now."""
    found = left_out()["typical_factor"]
    quoted = ", ".join(f"{about} {found[about]['left_out']:.1f}" for about in ("energy", "area", "time"))
    assert f"typical factor either way on a chip left out: {quoted}" in " ".join(text_of("README.md").split())
