"""Commands as a user gives them: inside this process where that is enough, as a process of their own where not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import yaml

ROOT = Path(__file__).parents[2]
TINY_STUDY = {
    **yaml.safe_load((ROOT / "examples/digits.yaml").read_text()),
    "chips": [{"chip": "isaac", "budgets": [0.7]}],
    "formats": ["linear-8", "linear-2"],
    "baselines": ["linear-2"],
    "train": {"float_epochs": 2, "warm_images": 320, "search_images": 320, "tune_images": 640, "batch": 32,
              "calibration_images": 64, "selection_images": 64, "trials": 2, "test_images": 64},
    "workers": 1,
}  # fmt: skip


class Done(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def run(capsys, *arguments: object) -> Done:
    """`cimsim ARGUMENTS` in this process."""
    from cimsim.cli.main import main

    code = 0
    with mock.patch.object(sys, "argv", ["cimsim", *map(str, arguments)]):
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    return Done(code, *capsys.readouterr())


def refused(capsys, *arguments: object, code: int = 2) -> str:
    """What a command that must fail tells: never a traceback, and nothing on standard output."""
    done = run(capsys, *arguments)
    assert done.code == code, done
    assert done.out == ""
    assert "Traceback" not in done.err and "internal error" not in done.err, done.err
    return done.err


def start(folder: Path, *arguments: object, program: str = "", **options: Any) -> subprocess.Popen[str]:
    """`cimsim ARGUMENTS` (or a Python `program` with them) as the leader of a process group, in `folder`."""
    code = ["-c", program] if program else ["-m", "cimsim"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *code, *map(str, arguments)], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> Done:
    """Waits for the end of a started command."""
    out, err = process.communicate(timeout=300)
    return Done(process.returncode, out, err)


def write_yaml(path: Path, content: object) -> Path:
    """`content` as a YAML file."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def wait_until(is_so: Callable[[], bool], seconds: float = 300) -> None:
    """Looks again and again; a busy machine is given time."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.002)


def group_is_gone(process: subprocess.Popen[str]) -> bool:
    """Whether no process is left of those that a started command began."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False
