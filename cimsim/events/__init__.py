"""SimPy: what two tiles can want at once. Job order, mesh links, outer memory and index buffers."""

from cimsim.events.machine import run
from cimsim.events.tasks import Edge, Load, Task, Timeline

__all__ = ["Edge", "Load", "Task", "Timeline", "run"]
