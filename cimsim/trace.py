"""Timelines as Chrome trace events, which the Perfetto UI opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cimsim.events import Timeline
from cimsim.rundir import write_atomically


def trace_events(timeline: Timeline) -> dict[str, Any]:
    """One track per task, fetcher and loader; times in microseconds."""
    tracks = {name: i + 1 for i, name in enumerate(dict.fromkeys(s.track for s in timeline.slices))}
    names = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": name}} for name, tid in tracks.items()
    ]
    slices = [
        {"ph": "X", "name": s.name, "pid": 1, "tid": tracks[s.track],
         "ts": s.start_ps / 1e6, "dur": (s.end_ps - s.start_ps) / 1e6}
        for s in timeline.slices
    ]  # fmt: skip
    return {"displayTimeUnit": "ns", "traceEvents": names + slices}


def write_trace(timeline: Timeline, path: Path) -> None:
    write_atomically(path, json.dumps(trace_events(timeline)).encode())
