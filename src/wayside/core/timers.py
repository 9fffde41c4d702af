"""The timers of a machine: one enum, a line each, and the times they are set to."""

from __future__ import annotations

from enum import Enum


class Timer(Enum):
    """All timers of all machines."""

    RETRANSMIT = "say it again"
    GIVE_UP = "nobody answers"
    REFRESH = "ask again before the rules go"
    EXPIRE = "the lifetime is over"
    LINGER = "forget a connection that has ended"


class Timers:
    """Which timers run, and until when (monotonic seconds)."""

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
