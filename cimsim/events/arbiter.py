"""A shared thing granted to one job at a time: oldest request first, then lowest job id.

Requests of one instant are all collected before anything is granted (the grant event has the lowest
priority at that instant), so a tie never depends on the order in which processes were created.
"""

from __future__ import annotations

from heapq import heappop, heappush

import simpy
from simpy.events import Event

AFTER_COMPLETIONS = 2  # SimPy orders one instant by priority: 0 urgent, 1 normal, then this


class Arbiter:
    """One link or channel. `wait_ps` sums what jobs waited for it, `busy_ps` what they held it."""

    def __init__(self, env: simpy.Environment):
        self.env = env
        self.waiting: list[tuple[int, tuple, int, Event]] = []
        self.is_busy = self.is_armed = False
        self.wait_ps = self.busy_ps = self.requests = 0

    def request(self, job: tuple) -> Event:
        """An event that fires when `job` (a tuple of integers, its id) holds the thing."""
        event = self.env.event()
        self.requests += 1
        heappush(self.waiting, (self.env.now, job, self.requests, event))
        self._arm()
        return event

    def release(self) -> None:
        self.is_busy = False
        self.busy_ps += self.env.now - self.granted_ps
        self._arm()

    def _arm(self) -> None:
        if self.waiting and not self.is_busy and not self.is_armed:
            self.is_armed = True
            decide = Event(self.env)
            decide._ok, decide._value = True, None
            decide.callbacks = [self._grant]
            self.env.schedule(decide, priority=AFTER_COMPLETIONS)  # type: ignore[arg-type]

    def _grant(self, _: Event) -> None:
        self.is_armed, self.is_busy = False, True
        since, _job, _order, event = heappop(self.waiting)
        self.granted_ps = self.env.now
        self.wait_ps += self.env.now - since
        event.succeed()


class Milestone:
    """A count that only grows; processes wait until it reaches a value."""

    def __init__(self, env: simpy.Environment):
        self.env, self.count, self.asked = env, 0, 0
        self.waiting: list[tuple[int, int, Event]] = []

    def add(self, amount: int = 1) -> None:
        self.count += amount
        while self.waiting and self.waiting[0][0] <= self.count:
            heappop(self.waiting)[2].succeed()

    def reach(self, count: int) -> Event | None:
        """None if already reached, else the event of reaching it."""
        if self.count >= count:
            return None
        event = self.env.event()
        self.asked += 1
        heappush(self.waiting, (count, self.asked, event))
        return event
