"""A shared thing granted to one job at a time: oldest request first, then lowest job id.

All that happens at one instant happens before anything is granted, and everything that is free and wanted
is then granted together, so that a tie never depends on the order in which processes were created.
"""

from __future__ import annotations

from heapq import heappop, heappush

import simpy
from simpy.events import Event

from cimsim.events.tasks import JobId, Slice

AFTER_COMPLETIONS = 2  # SimPy orders one instant by priority: 0 urgent, 1 normal, then this


def now(env: simpy.Environment) -> int:
    """The time in ps; SimPy types it as a float."""
    return int(env.now)


class Referee:
    """Calls the arbiters that have something to grant, once all else at this instant is done."""

    def __init__(self, env: simpy.Environment):
        self.env = env
        self.ready: list[Arbiter] = []

    def add(self, arbiter: Arbiter) -> None:
        if not self.ready:
            decide = Event(self.env)
            decide._ok, decide._value = True, None
            decide.callbacks = [self._decide]
            self.env.schedule(decide, priority=AFTER_COMPLETIONS)  # type: ignore[arg-type]
        self.ready.append(arbiter)

    def _decide(self, _: Event) -> None:
        ready, self.ready = self.ready, []
        for arbiter in ready:
            arbiter.grant()


class Arbiter:
    """One link or channel. `busy_ps` is how long jobs held it."""

    def __init__(self, env: simpy.Environment, referee: Referee, name: str = "", log: list[Slice] | None = None):
        self.env, self.referee, self.name, self.log = env, referee, name, log
        self.waiting: list[tuple[int, JobId, Event]] = []
        self.is_busy = self.is_called = False
        self.busy_ps = self.granted_ps = 0
        self.holder: JobId = ()

    def request(self, job: JobId) -> Event:
        """An event that fires when `job`, an id that no other waiting job has, holds the thing."""
        event = Event(self.env)
        heappush(self.waiting, (now(self.env), job, event))
        self._call()
        return event

    def release(self) -> None:
        self.is_busy = False
        self.busy_ps += now(self.env) - self.granted_ps
        if self.log is not None and now(self.env) > self.granted_ps:
            self.log.append(Slice(("link", self.name), "hold", self.holder, self.granted_ps, now(self.env)))
        self._call()

    def grant(self) -> None:
        self.is_called, self.is_busy = False, True
        self.granted_ps = now(self.env)
        _, self.holder, event = heappop(self.waiting)
        event.succeed()

    def _call(self) -> None:
        if self.waiting and not self.is_busy and not self.is_called:
            self.is_called = True
            self.referee.add(self)


class Milestone:
    """A count that only grows; one process at a time waits until it reaches a value."""

    def __init__(self, env: simpy.Environment):
        self.env, self.count = env, 0
        self.waiting: list[tuple[int, Event]] = []

    def add(self, amount: int = 1) -> None:
        self.count += amount
        if self.waiting:
            due = [event for count, event in self.waiting if count <= self.count]
            self.waiting = [(count, event) for count, event in self.waiting if count > self.count]
            for event in due:
                event.succeed()

    def reach(self, count: int) -> Event:
        """The event of reaching `count`; ask only while it is not reached."""
        event = Event(self.env)
        self.waiting.append((count, event))
        return event
