"""Networks without weights: the ready ones in shapes/ and the user's own, as YAML or ONNX files."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from workloads.errors import InputError, problems_of
from workloads.layer import Network
from workloads.yamlfile import read_mapping


def network_names() -> list[str]:
    """The names of the ready networks, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_network(name_or_path: str | Path) -> Network:
    """A ready network by name, or any network by the path of its YAML or ONNX file.

    Raises InputError with every problem of a bad file, or with the known names for an unknown one.
    """
    path = Path(name_or_path)
    if path.suffix == ".onnx":
        from workloads.onnx.graph import read_onnx  # an extra, which most networks do not need

        return read_onnx(path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in network_names():
            known = ", ".join(network_names())
            problem = f"name = {str(name_or_path)!r}: must be one of {known}, or the path of a .yaml or .onnx file"
            raise InputError("network", [problem])
        path = _folder() / f"{name_or_path}.yaml"
    return _read(path)


def to_yaml(network: Network) -> str:
    """The text that `load_network` reads back: one line per node, only what differs from the defaults."""
    lines = [f"name: {network.name}", f"input_shape: {list(network.input_shape)}", "nodes:"]
    for node in network.nodes:
        fields = node.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=float("inf"))
        lines.append(f"- {text.strip()}")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> Network:
    data = read_mapping(path, "name, input_shape, nodes")
    try:
        return Network.model_validate(data)
    except ValidationError as error:
        raise InputError(str(path), problems_of(error, Network)) from error


def _folder() -> Path:
    return Path(__file__).parent / "shapes"
