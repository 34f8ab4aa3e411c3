"""Data-parallel training: every process keeps the same weights and codebooks, without exchanging counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
RECIPES = ("default", "ema")


def run_two(meeting: Path) -> list[dict[str, list[dict]]]:
    """What the two processes print; they meet at a file and talk over the loopback interface."""
    command = [sys.executable, "tests/helpers/ddp_worker.py", str(meeting), *RECIPES]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(command, cwd=ROOT, env={**settings, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        outputs = [worker.communicate(timeout=120)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_two_processes_keep_identical_weights_and_codebooks(tmp_path):
    first, second = run_two(tmp_path / "meeting")
    for recipe in RECIPES:
        runs = [*first[recipe], *second[recipe]]  # each process trains twice
        assert len({run["hash"] for run in runs}) == 1
        assert runs[0]["revived"] >= 6 and len({run["revived"] for run in runs}) == 1
        assert first[recipe][0]["losses"] != second[recipe][0]["losses"]  # their data are their own
    assert first["default"][0]["hash"] != first["ema"][0]["hash"]
