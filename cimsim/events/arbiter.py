"""A shared thing granted to one job at a time: oldest request first, then lowest job id.

All that happens at one instant happens before anything is granted, and everything that is free and wanted
is then granted together, so that a tie never depends on the order in which processes were created.
"""

from __future__ import annotations

from heapq import heappop, heappush

import simpy
from simpy.events import Event

from cimsim.events.tasks import JobId, Slice


class Clock(simpy.Environment):
    """SimPy's environment, instant by instant: first all that can move, then grants, which may let others move.

    Processes that somebody wakes go on within the instant without an event of their own in the queue. `ps` is the time.
    """

    def __init__(self) -> None:
        super().__init__(initial_time=0)
        self.ps = 0
        self.woken: list[Event] = []
        self.ready: list[Arbiter] = []  # free and wanted

    def run_all(self) -> None:
        """Until nobody can move any more. As `simpy.Environment.run`, but for what is told above."""
        queue, woken = self._queue, self.woken
        while True:
            if woken:
                event = woken.pop()
            elif queue and queue[0][0] <= self.ps:
                event = heappop(queue)[3]
            elif self.ready:
                ready, self.ready = self.ready, []
                for arbiter in ready:
                    arbiter.grant()
                continue
            elif queue:
                self._now, self.ps = queue[0][0], int(queue[0][0])
                continue
            else:
                return
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks or ():
                callback(event)
            if not event._ok:  # a process has failed
                raise event._value


class Arbiter:
    """One link or channel. `busy_ps` is how long jobs held it."""

    def __init__(self, clock: Clock, name: str = "", log: list[Slice] | None = None):
        self.clock, self.name, self.log = clock, name, log
        self.waiting: list[tuple[int, JobId, int, Event]] = []
        self.is_busy = self.is_called = False
        self.busy_ps = self.granted_ps = 0
        self.holder: JobId = ()

    def request(self, job: JobId) -> Event:
        """An event that fires when `job`, an id that no other waiting job has, holds the thing: until `release`."""
        return self._wait(job, -1, Event(self.clock))

    def serve(self, job: JobId, duration_ps: int) -> Event:
        """An event that fires when `job` has held the thing for a time. Its value is when it got it."""
        event = Event(self.clock)
        event.callbacks = [self._served]
        return self._wait(job, duration_ps, event)

    def _wait(self, job: JobId, duration_ps: int, event: Event) -> Event:
        heappush(self.waiting, (self.clock.ps, job, duration_ps, event))
        if not self.is_busy and not self.is_called:
            self.is_called = True
            self.clock.ready.append(self)
        return event

    def _served(self, _: Event) -> None:
        self.release()

    def release(self) -> None:
        now_ps = self.clock.ps
        self.is_busy = False
        self.busy_ps += now_ps - self.granted_ps
        if self.log is not None and now_ps > self.granted_ps:
            self.log.append(Slice(self.granted_ps, now_ps, ("link", self.name), "hold", self.holder))
        if self.waiting:
            self.is_called = True
            self.clock.ready.append(self)

    def grant(self) -> None:
        self.is_called, self.is_busy = False, True
        self.granted_ps = self.clock.ps
        _, self.holder, duration_ps, event = heappop(self.waiting)
        event._ok, event._value = True, self.granted_ps
        if duration_ps < 0:
            self.clock.woken.append(event)
        else:
            self.clock.schedule(event, delay=duration_ps)


class Milestone:
    """A count that only grows; processes wait until it reaches a value."""

    def __init__(self, clock: Clock):
        self.clock, self.count, self.asked = clock, 0, 0
        self.waiting: list[tuple[int, int, Event]] = []

    def add(self, amount: int = 1) -> None:
        self.count += amount
        while self.waiting and self.waiting[0][0] <= self.count:
            event = heappop(self.waiting)[2]
            event._ok, event._value = True, None
            self.clock.woken.append(event)

    def reach(self, count: int) -> Event:
        """The event of reaching `count`; ask only while it is not reached."""
        event = Event(self.clock)
        self.asked += 1
        heappush(self.waiting, (count, self.asked, event))
        return event
