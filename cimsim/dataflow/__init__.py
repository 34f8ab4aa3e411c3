"""Ways to compute a layer on a chip. A new one is a file here and a line in DATAFLOWS."""

from cimsim.dataflow import decode, lookup, pool, stationary
from cimsim.dataflow.work import LayerWork

__all__ = ["DATAFLOWS", "LayerWork"]

# each has refusal(layer, format, chip) -> reason and work(layer, format, chip, activation bits) -> LayerWork
DATAFLOWS = {"stationary": stationary, "decode": decode, "lookup": lookup, "pool": pool}
