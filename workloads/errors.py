"""The two ways a command ends badly: the user's input is wrong, or the work failed."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError


class InputError(ValueError):
    """Wrong input (exit code 2). `problems` holds every problem found, each naming key, value and bound."""

    def __init__(self, where: str, problems: Sequence[str]):
        self.where, self.problems = where, list(problems)
        super().__init__("\n".join(f"{where}: {problem}" for problem in self.problems))

    def __reduce__(self):
        return type(self), (self.where, self.problems)


class RunError(RuntimeError):
    """The input was fine but the work could not be done (exit code 1)."""


def problems_of(error: ValidationError) -> list[str]:
    """Each problem of a pydantic error as `key.path = value: what is wrong`."""
    return [_problem(item) for item in error.errors(include_url=False)]


def _problem(item) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown key"
    if item["type"] == "missing":
        return f"{path}: this key is required"
    value = item["input"]
    return f"{path} = {value!r}: {message}" if not isinstance(value, dict | list) else f"{path}: {message}"
