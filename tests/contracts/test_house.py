"""The rules of the house that no linter knows: sizes, opening sentences, units in names, light imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cimsim", "qat", "workloads", "reports")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "examples", "docs", ".ci")
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60

# Paths of one machine. The bracketed letter keeps these patterns from matching themselves.
PRIVATE = re.compile(r"(?<![\w.])/wor[k]\b|\bshare[d]/|/tm[p]/w\b|/op[t]/(wheels|pypi)|\bworkplac[e]\b")

# What only an extra installs; the simulator must import without it.
EXTRAS = {"torch", "sklearn", "dask", "distributed", "pandas", "matplotlib", "plotly", "onnx"}

# How the name of a number must end: its unit, or the word for a number without one.
UNITS = re.compile(
    r"(^|_)(pj|fj|nj|uj|mj|j|ps|ns|us|ms|s|um2|mm2|f2|nm|um|mm|uw|mw|w|hz|v|mv|c|k|ohm|ff|bits|bytes|ticks|cycles"
    r"|accuracy|loss|writes|points|percent|fraction|share|shares|ratio|factor|density|scale|probability|probabilities|gap|lr|per_\w+)$"
)
PURE = {
    *("step", "slope", "exponent", "temperature", "tolerance", "momentum", "ema_momentum", "sign", "shift"),
    *("learning_rate", "weight_decay", "sigma", "low", "high", "x", "y", "multipliers", "vary"),
    # In the unit of the thing they speak of, or exponents of an objective.
    *("Change.before", "Change.after", "CheckPoint.value", "Assumption.nominal", "Stated.at"),
    *("Multipliers.energy", "Multipliers.latency", "Multipliers.area", "Target.value", "Target.band", "Unit.size"),
    *("PublishedFigure.value", "PublishedFigure.band", "Side.typical", "Side.bound", "Row.contention_gap_latency"),
    *("_Compared.published", "_Compared.found", "_Compared.band"),
    *("Verdict.published", "Verdict.modelled", "Verdict.band", "Quantity.find", "Fitted.logs", "Fitted.deviations"),
    *("Interval.median", "Interval.nominal", "Sensitivity.at_low", "Sensitivity.at_high"),
}


def _files() -> list[Path]:
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    every = (path for path in (*ROOT.glob("*"), *inside) if path.is_file())
    return sorted(path for path in every if "__pycache__" not in path.parts)


FILES = _files()
MODULES = [path for path in FILES if path.suffix == ".py"]
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in MODULES}
OURS = {name: tree for name, tree in TREES.items() if name.split("/")[0] in PACKAGES and tree.body}
MAX_POSITIONAL, MAX_FILES_IN_FOLDER = 5, 22
FRONT_DOORS = {"qat/modules/attention.py:forward"}  # torch's own signature


def test_no_file_mentions_a_private_path():
    texts = {path: path.read_text(errors="ignore") for path in FILES if path.name != ".coverage"}
    found = {str(path.relative_to(ROOT)): match[0] for path, text in texts.items() if (match := PRIVATE.search(text))}
    assert not found


def test_every_module_opens_with_a_sentence():
    openings = {name: (ast.get_docstring(tree) or "").split("\n\n")[0] for name, tree in TREES.items() if tree.body}
    assert not [name for name, opening in openings.items() if not opening.rstrip().endswith((".", ":"))]


def test_files_fit_in_the_head():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES}


def test_opening_sentences_name_one_thing():
    """Whoever needs an "and" for what a module is has two modules."""
    openings = {name: re.split(r"(?<=[.:;])\s", ast.get_docstring(tree) or "")[0] for name, tree in OURS.items()}
    assert not {name: text for name, text in openings.items() if re.search(r"\band\b", text)}


def test_no_class_name_means_two_things():
    names = [(owner.name, name) for name, owner in _nodes(ast.ClassDef) if name in OURS and owner.name[0] != "_"]
    seen: dict[str, list[str]] = {}
    for owner, name in names:
        seen.setdefault(owner, []).append(name)
    assert not {owner: where for owner, where in seen.items() if len(where) > 1}


def test_functions_have_few_positional_parameters():
    """Commands and compiled loops apart, which their callers name or which cannot."""
    found = {}
    for name, node in _nodes(ast.FunctionDef):
        positional = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args) if arg.arg not in ("self", "cls")]
        is_apart = name.startswith("cimsim/cli/") or re.search(
            "njit|intrinsic", ast.dump(ast.Module(node.decorator_list, []))
        )
        if name in OURS and not is_apart and len(positional) > MAX_POSITIONAL:
            found[f"{name}:{node.name}"] = len(positional)
    assert not set(found) - FRONT_DOORS


def test_folders_are_not_full():
    folders = [path.parent for path in MODULES if path.is_relative_to(ROOT / path.relative_to(ROOT).parts[0])]
    inside = Counter(folder.relative_to(ROOT).as_posix() for folder in folders)
    assert not {folder: count for folder, count in inside.items() if count > MAX_FILES_IN_FOLDER}


def test_functions_fit_on_a_screen():
    functions = [(name, node) for name, node in _nodes(ast.FunctionDef, ast.AsyncFunctionDef)]
    lengths = {f"{name}:{node.name}": node.end_lineno - node.lineno + 1 for name, node in functions}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES}


def test_float_fields_carry_their_unit():
    """A record's field annotated with float names its unit at its end, or is a pure number."""
    fields = [
        f"{owner.name}.{field.target.id}"
        for name, owner in _nodes(ast.ClassDef)
        if name.startswith(PACKAGES)
        for field in owner.body
        if isinstance(field, ast.AnnAssign) and re.search(r"\bfloat\b", ast.unparse(field.annotation))
    ]
    assert not [field for field in fields if not _has_unit(field)]


def _has_unit(field: str) -> bool:
    name = field.rpartition(".")[2]
    return not PURE.isdisjoint({field, name}) or UNITS.search(name) is not None


@pytest.mark.parametrize(
    ("name", "is_clear"), [("Part.energy_pj", True), ("Macro.tops_per_w", True), ("Part.energy", False)]
)
def test_units_are_recognised(name, is_clear):
    assert _has_unit(name) is is_clear


def test_the_simulator_imports_without_the_extras():
    """Every module of cimsim and its command line, so that an architect needs no torch and starts fast."""
    names = [_dotted(name) for name in TREES if name.startswith("cimsim/") and name != "cimsim/__main__.py"]
    program = f"import {', '.join(names)}\nimport sys\nprint(*{EXTRAS!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_every_direct_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {_bare(item) for group in (project["dependencies"], *extras.values()) for item in group} - {"cimsim"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert {_bare(line) for line in lines if line and not line.startswith("#")} == wanted


def _nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    return ((name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, kinds))


def _dotted(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _bare(requirement: str) -> str:
    return re.split(r"[\[=<>]", requirement)[0].lower()
