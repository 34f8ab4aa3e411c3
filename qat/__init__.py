"""qat: quantization-aware training that knows what a chip makes of it."""

from __future__ import annotations

from qat.api import Tuned, capture, search, tune
from qat.attach import after_step, encode_model, float_state_dict, parameter_groups, quantize, unquantize
from qat.export import export
from qat.freeze import decode, encode, freeze, show, stored, summary
from qat.inputs import calibrate
from qat.ptq import ptq, release
from qat.quantizer import Encoded

__all__ = [
    "Encoded", "Tuned", "after_step", "calibrate", "capture", "decode", "encode", "encode_model", "export",
    "float_state_dict", "freeze", "parameter_groups", "ptq", "quantize", "release", "search", "show", "stored",
    "summary", "tune", "unquantize",
]  # fmt: skip
