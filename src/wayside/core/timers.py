"""The timers of a machine: one enum, a line each, and the times they are set to."""

from __future__ import annotations

import heapq
from enum import Enum

from .rule import Cid


class Timer(Enum):
    """All timers of all machines."""

    RETRANSMIT = "say it again"
    GIVE_UP = "nobody answers"
    REFRESH = "ask again before the rules go"
    OFFER = "say again that we agree; or: the application has had its moment to answer"
    EXPIRE = "the lifetime is over; or: forget a connection that has ended"


class Timers:
    """Which timers run, and until when (monotonic seconds)."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at: dict[Timer, float] = {}

    def start(self, timer: Timer, at: float) -> None:
        """Run a timer until `at`, whether it ran before or not."""
        self._at[timer] = at

    def stop(self, *timers: Timer) -> None:
        """Stop timers; those that do not run, too. With none named: all."""
        for timer in timers or tuple(self._at):
            self._at.pop(timer, None)

    def take_due(self, now: float) -> list[Timer]:
        """Stop and return those whose time has come, the earliest first."""
        due = sorted((at, timer.name, timer) for timer, at in self._at.items() if at <= now)
        for _, _, timer in due:
            del self._at[timer]
        return [timer for _, _, timer in due]

    @property
    def deadline(self) -> float | None:
        """The next time that one is due; None when none runs."""
        return min(self._at.values(), default=None)


class Deadlines:
    """When each of many connections is due next, however often that changes.

    A heap with old entries in it, which are thrown out when they are more than the others.
    """

    SLACK = 64

    def __init__(self) -> None:
        self._at: dict[Cid, float] = {}
        self._heap: list[tuple[float, Cid]] = []

    def set(self, cid: Cid, at: float | None) -> None:
        """This connection is due then, and at no other time; None: not at all."""
        if at is None:
            self._at.pop(cid, None)
        elif self._at.get(cid) != at:
            self._at[cid] = at
            heapq.heappush(self._heap, (at, cid))
        if len(self._heap) > 2 * len(self._at) + self.SLACK:
            self._heap = [(at, cid) for cid, at in self._at.items()]
            heapq.heapify(self._heap)

    def take_due(self, now: float) -> list[Cid]:
        """Stop and return those whose time has come, the earliest first."""
        due: list[Cid] = []
        while (at := self.next) is not None and at <= now:
            _, cid = heapq.heappop(self._heap)
            del self._at[cid]
            due.append(cid)
        return due

    @property
    def next(self) -> float | None:
        """When the next one is due; None when none is."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
