"""Ways to compute a layer on a chip. A new one is a file here and a line in DATAFLOWS."""

from cimsim.dataflow import decode, lookup, pool, stationary
from cimsim.dataflow.work import LayerWork

__all__ = ["DATAFLOWS", "LayerWork"]

# Each has refusal(case) -> reason, work(case, codes=None) -> LayerWork, and USUAL_FOR: the kinds of format for which it
# is asked first. `codes` are the layer's real indices [O, sub-vectors, books].
DATAFLOWS = {"stationary": stationary, "decode": decode, "lookup": lookup, "pool": pool}
