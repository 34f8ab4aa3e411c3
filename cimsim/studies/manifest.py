"""The manifest of a run: versions, commit, machine, seeds, content hashes."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from cimsim import __version__
from cimsim.chip.reading import load_chip
from cimsim.studies.study import Study

PACKAGES = ("torch", "numpy", "numba", "simpy", "pydantic", "scikit-learn", "dask")
CPUINFO = Path("/proc/cpuinfo")


def manifest(study: Study) -> dict[str, Any]:
    """What made the run of a study, as far as its results may depend on it."""
    return {
        "version": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "mkl_cbwr": os.environ.get("MKL_CBWR", ""),  # which paths of MKL training takes
        "cpu": {"vendor": _vendor(), "features": _features()},
        "chips": {choice.chip: {"hash": load_chip(choice.chip).content_hash()} for choice in study.chips},
        "data": {"name": study.data},
        "seeds": list(study.seeds),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _vendor() -> str:
    """As the processor says, where the system tells."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("vendor_id", "CPU implementer")))
    return next(names, platform.machine())


def _features() -> list[str]:
    """The vector instructions that numpy uses."""
    found: Any = np.show_config(mode="dicts")
    return list(found.get("SIMD Extensions", {}).get("found", []))


def _commit() -> str:
    """The commit of this source tree, with `+` if it has changes; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
