"""What a command line calls a plan or a layout: a JSON file, or one format for all layers."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from cimsim.deploy.deployment import Layout
from workloads.errors import InputError, problems_of
from workloads.format import parse_format
from workloads.layer import Network
from workloads.plan import Plan


def read_plan(text: str, network: Network) -> Plan:
    """The plan of this file, or the uniform plan of this format. Raises InputError."""
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        return _read(path, network)
    try:
        parse_format(text)
    except ValueError as error:
        raise InputError("--plan", [f"{text!r}: not a file, and {error}"]) from None
    return Plan.uniform(network, text)


def read_layout(path: Path) -> Layout:
    """The layout that `cimsim map` wrote. Raises InputError."""
    try:
        return Layout.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(str(path), problems_of(error, Layout)) from None
    except OSError as error:
        raise InputError(str(path), [f"(whole file): cannot be read: {error.strerror}"]) from None


def _read(path: Path, network: Network) -> Plan:
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(str(path), problems_of(error, Plan)) from None
    except OSError as error:
        raise InputError(str(path), [f"(whole file): cannot be read: {error.strerror}"]) from None
    if plan.network != network.name:
        raise InputError(str(path), [f"network = {plan.network!r}: must be {network.name!r}, which it is used for"])
    try:
        plan.check(network)
    except ValueError as error:
        raise InputError(str(path), str(error).split("; ")) from None
    return plan
