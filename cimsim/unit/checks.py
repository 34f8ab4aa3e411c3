"""The bounds of a unit's jobs."""

from __future__ import annotations

from cimsim.records import ArrayJob, LoadJob


def check_job(job: ArrayJob | LoadJob, at_least_one: tuple[str, ...]) -> None:
    """Raises ValueError that names the fields below their bound: 1 for `at_least_one`, else 0."""
    numbers = {name: n for name, n in job._asdict().items() if name != "entries"}
    wrong = [f"{name} = {n}" for name, n in numbers.items() if n < (name in at_least_one)]
    if wrong:
        raise ValueError(f"{type(job).__name__}: {', '.join(wrong)}: must be >= 1 (durations >= 0)")
