"""qat: quantization-aware training that knows what a chip makes of it."""

from __future__ import annotations

from qat import repeatable  # noqa: F401  before torch loads
from qat.activations.inputs import calibrate
from qat.api import Tuned, search, tune
from qat.modules.attach import float_state_dict, quantize, unquantize
from qat.modules.attached import encode_model
from qat.modules.upkeep import after_step, parameter_groups
from qat.post_training.ptq import ptq, release
from qat.quantizer import Encoded
from qat.storage.export import export
from qat.storage.freeze import decode, encode, freeze, show, stored, summary
from workloads.capture.trace import capture

__all__ = [
    "Encoded", "Tuned", "after_step", "calibrate", "capture", "decode", "encode", "encode_model", "export",
    "float_state_dict", "freeze", "parameter_groups", "ptq", "quantize", "release", "search", "show", "stored",
    "summary", "tune", "unquantize",
]  # fmt: skip
