"""The inner loops of training, under one roof."""

from qat.assign import best_match
from qat.codewords import sum_by_index
from qat.e8 import E8Code, e8_code, encode_e8

__all__ = ["E8Code", "best_match", "e8_code", "encode_e8", "sum_by_index"]
