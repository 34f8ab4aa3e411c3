"""The two ways a command ends badly: the user's input is wrong, or the work failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


class InputError(ValueError):
    """Wrong input (exit code 2). `problems` holds every problem found, each naming key, value and bound."""

    def __init__(self, where: str, problems: Sequence[str]):
        self.where, self.problems = where, list(problems)
        super().__init__("\n".join(f"{where}: {problem}" for problem in self.problems))

    def __reduce__(self):
        return type(self), (self.where, self.problems)


class RunError(RuntimeError):
    """The input was fine but the work could not be done (exit code 1)."""


def problems_of(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """Each problem of a pydantic error as `key.path = value: what is wrong`.

    With the `model` that was read, an unknown key is told together with the known ones.
    """
    return [_problem(item, model) for item in error.errors(include_url=False)]


def _problem(item, model: type[BaseModel] | None) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = known_keys(model, item["loc"]) if model else []
        return f"{path}: unknown key" + (f" (known: {', '.join(known)})" if known else "")
    if item["type"] == "missing":
        return f"{path}: this key is required"
    value = item["input"]
    is_short = not isinstance(value, dict | list | tuple | bytes | BaseModel)
    return f"{path} = {value!r}: {message}" if is_short else f"{path}: {message}"


def known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Keys of the record in which pydantic found the key at `location`."""
    candidates, chosen = [model], model
    for step in location[:-1]:
        if step in chosen.model_fields:
            candidates = list(_models(chosen.model_fields[str(step)].annotation)) or candidates
            chosen = candidates[0]
        else:  # an index, a key of a mapping, or the kind that picks one record of several
            kinds = {field.default: c for c in candidates if (field := c.model_fields.get("kind"))}
            chosen = kinds.get(step, chosen)
    return list(chosen.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records named in a type, from left to right."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
