"""SimPy: what two tiles can want at once. Job order, mesh links, outer memory and index buffers."""

from cimsim.events.machine import run
from cimsim.events.tasks import MEMORY, Edge, JobId, Load, Setup, Slice, Stream, Task, TaskTimes, Timeline

__all__ = ["MEMORY", "Edge", "JobId", "Load", "Setup", "Slice", "Stream", "Task", "TaskTimes", "Timeline", "run"]
