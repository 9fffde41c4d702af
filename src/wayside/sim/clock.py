"""Time that jumps from one thing to do to the next, and the clocks of machines that disagree.

One `Clock` rules a world. What is to be done at the same moment is done in the order in which it
was asked for, so a run depends on nothing but its seed. Every simulated machine has a `LocalClock`
of its own: it started at some other time, runs a little fast or slow, and its wall clock may be
wrong and may jump.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

EPOCH_S = 1_800_000_000.0
"""Unix time, seconds, when a world begins."""

STEPS_MAX = 300_000
"""Things done in one world, fifty times as many as usual; one that does more is in a loop."""

Action = Callable[[], None]


class Endless(Exception):
    """A world did more than STEPS_MAX things: something answers itself without end."""


class Clock:
    """The one true time of a world, seconds from 0, and what is to come."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._coming: list[tuple[float, int, Action]] = []
        self._number = 0

    def at(self, when: float, action: Action) -> None:
        """Do this then; at once, in its turn, when that is past."""
        self._number += 1
        when = max(when, self.now)
        heapq.heappush(self._coming, (when, self._number, action))

    def after(self, wait_s: float, action: Action) -> None:
        """Do this so many seconds from now."""
        self.at(self.now + wait_s, action)

    def run(self, until: float) -> None:
        """Let time pass until then. Raises Endless."""
        coming, pop = self._coming, heapq.heappop
        while coming and coming[0][0] <= until:
            self.now, _, action = pop(coming)
            self.steps += 1
            if self.steps > STEPS_MAX:
                raise Endless(f"{STEPS_MAX} steps, and it is only {self.now:.3f} s")
            action()
        self.now = until


class LocalClock:
    """What one machine believes. `rate`: its seconds in one true second; `wrong_s`: wall clock."""

    def __init__(
        self, clock: Clock, base_s: float, rate: float = 1.0, wrong_s: float = 0.0
    ) -> None:
        self.wrong_s = wrong_s
        self._clock = clock
        self._started = clock.now
        self._base_s = base_s
        self._rate = rate

    @property
    def now(self) -> float:
        """Monotonic seconds of this machine."""
        return self._base_s + (self._clock.now - self._started) * self._rate

    @property
    def epoch_s(self) -> float:
        """Unix time at this machine's monotonic 0, as it believes."""
        return EPOCH_S + self._clock.now + self.wrong_s - self.now

    def true_time(self, local: float) -> float:
        """When, in true time, this machine's monotonic clock shows `local`."""
        return self._started + (local - self._base_s) / self._rate

    def restart(self, base_s: float) -> None:
        """The machine was booted: its monotonic clock starts anew."""
        self._started, self._base_s = self._clock.now, base_s
