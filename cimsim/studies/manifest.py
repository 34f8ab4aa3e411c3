"""What made a run: versions, commit, seeds and content hashes."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cimsim import __version__
from cimsim.chip.reading import load_chip
from cimsim.studies.study import Study

PACKAGES = ("torch", "numpy", "numba", "simpy", "pydantic", "scikit-learn", "dask")


def manifest(study: Study) -> dict[str, Any]:
    """Versions, commit, seeds and content hashes."""
    return {
        "version": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "chips": {choice.chip: {"hash": load_chip(choice.chip).content_hash()} for choice in study.chips},
        "data": {"name": study.data},
        "seeds": list(study.seeds),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this source tree, with `+` if it has changes; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
