"""Plans named on the command line: a JSON file, or one format for all layers."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from workloads.errors import InputError, problems_of
from workloads.format import parse_format
from workloads.layer import Network
from workloads.plan import Plan


def read_plan(text: str, network: Network) -> Plan:
    """The plan of this file, or the uniform plan of this format. Raises InputError."""
    path = Path(text)
    if not path.exists():
        try:
            parse_format(text)
        except ValueError as error:
            raise InputError("--plan", [f"{text!r}: not a file, and {error}"]) from None
        return Plan.uniform(network, text)
    try:
        plan = Plan(**json.loads(path.read_text()))
        plan.check(network)
    except ValidationError as error:
        raise InputError(str(path), problems_of(error)) from None
    except (ValueError, TypeError, OSError) as error:
        raise InputError(str(path), [str(error)]) from None
    return plan
