"""YAML files as plain mappings; broken, empty or ambiguous ones are refused with the line at fault."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from workloads.errors import InputError

if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader
else:
    from yaml import CSafeLoader as SafeLoader  # ten times faster


class _Loader(SafeLoader):
    """A safe loader that notes keys given twice, of which YAML would silently keep the last."""

    def __init__(self, text: str):
        super().__init__(text)
        self.repeated: list[str] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first_lines:
                where = f"line {line}: key {key.value!r}: is given in line {first_lines[key.value]} already"
                self.repeated.append(f"{where}: keep one of them")
            first_lines.setdefault(key.value, line)
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, what: str, where: str = "") -> dict[str, Any]:
    """The keys of a YAML file. `what` says what it must hold, `where` is its name in messages (default: the path).

    Raises InputError for a file that cannot be read, is not YAML, has a key twice, or is no mapping.
    """
    where = where or str(path)
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        data = loader.get_single_data()
    except OSError as error:
        raise InputError(where, [f"(whole file): cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise InputError(where, ["(whole file): is not text: must be YAML in UTF-8"]) from None
    except RecursionError:
        raise InputError(where, ["(whole file): is nested too deeply"]) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(where, [f"(whole file): is not YAML: {_reason(error)}"]) from None
    if loader.repeated:
        raise InputError(where, loader.repeated)
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"is a {type(data).__name__}"
        raise InputError(where, [f"(whole file): {found}: must be a mapping with {what}"])
    return data


def _reason(error: Exception) -> str:
    """Line, column and problem where PyYAML knows them, in one line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'syntax error'}"
