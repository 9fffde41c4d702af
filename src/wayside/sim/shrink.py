"""The shortest schedule of faults that still fails: delta debugging, then shorter faults.

Because every purpose of a world draws from a stream of its own, leaving a fault out changes
nothing but that fault. A schedule counts as failing when the same checker finds something, be it
at another moment. Zeller and Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .faults import Fault
from .world import Result, World

RUNS_MAX = 200
"""Tries; at a quarter of a second each a minute."""

Schedule = tuple[Fault, ...]


class Shrinker:
    """Shrinks the schedule of one failed run. `fails`: whether a schedule still does."""

    def __init__(self, fails: Callable[[Schedule], bool]) -> None:
        self.tried = 0
        self._fails = fails

    def shrink(self, schedule: Schedule) -> Schedule:
        """The shortest one that was found in RUNS_MAX tries."""
        if self._try(()):
            return ()
        schedule = self._fewer(schedule)
        return self._shorter(schedule)

    def _fewer(self, schedule: Schedule) -> Schedule:
        parts = 2
        while len(schedule) > 1:
            size = max(1, len(schedule) // parts)
            for at in range(0, len(schedule), size):
                rest = schedule[:at] + schedule[at + size :]
                if self._try(rest):
                    schedule, parts = rest, max(2, parts - 1)
                    break
            else:
                if size == 1:
                    break
                parts = min(len(schedule), parts * 2)
        return schedule

    def _shorter(self, schedule: Schedule) -> Schedule:
        for at, fault in enumerate(schedule):
            for part in (0.1, 0.25, 0.5):
                short = replace(fault, lasts_s=round(fault.lasts_s * part, 3))
                tried = (*schedule[:at], short, *schedule[at + 1 :])
                if self._try(tried):
                    schedule = tried
                    break
        return schedule

    def _try(self, schedule: Schedule) -> bool:
        if self.tried >= RUNS_MAX:
            return False
        self.tried += 1
        return self._fails(schedule)


def shrink(failed: Result) -> Result:
    """Run a failed world again with ever fewer faults; the result of the shortest that fails."""

    def fails(schedule: Schedule) -> bool:
        return _again(failed, schedule).check == failed.check

    shortest = Shrinker(fails).shrink(failed.schedule)
    return _again(failed, shortest)


def _again(failed: Result, schedule: Schedule) -> Result:
    return World(failed.world, failed.seed, schedule).run()
