"""qat: quantization-aware training that knows what a chip makes of it."""

from __future__ import annotations

from qat.api import Tuned, capture, quantize, search, tune
from qat.attach import encode_model, unquantize
from qat.inputs import calibrate
from qat.export import export

__all__ = ["Tuned", "calibrate", "capture", "encode_model", "export", "quantize", "search", "tune", "unquantize"]
