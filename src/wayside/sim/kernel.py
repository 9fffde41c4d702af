"""A machine's kernel: the rules in force, and a queue of transactions that takes its time.

The rules are the data plane's own double (kernel/memory.py). As in the runtime's helper, one
transaction is under way at a time, what turns up meanwhile goes with the next one, and the one
who asked is told afterwards. A kernel outlives the agent that was killed; what it was doing at
that moment it may have finished or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from wayside.core.address import Flow
from wayside.kernel.memory import MemoryDataPlane, Verdict
from wayside.kernel.plan import Change, InstalledRule, KernelError, Put

from .clock import Clock, LocalClock
from .wire import five_tuple

Done = Callable[[KernelError | None], None]
Found = Callable[[list[InstalledRule]], None]
Applied = Callable[[Sequence[Change]], None]


@dataclass(slots=True)
class KernelConditions:
    """Seconds that a transaction takes, and the probability that it is refused."""

    latency_s: float = 0.0005
    failing: float = 0.0


@dataclass(frozen=True, slots=True)
class Ruled:
    """What a box's rules are for. `lifetime_s`: what packets renew one to, seconds.

    `forwards`: other people's packets, as at a gate; a host's rules are about its own.
    """

    lifetime_s: float
    forwards: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    changes: Sequence[Change]
    done: Done
    fails: bool


class _Plane(MemoryDataPlane):
    """The data plane's double, which looks for rules that are over only when one can be."""

    _soonest = 0.0

    def apply(self, changes: Sequence[Change]) -> None:
        """Make all changes or none."""
        super().apply(changes)
        self._soonest = 0.0

    def verdict(self, flow: Flow, octets: int = 0) -> Verdict:
        """Show a packet to the rules."""
        return super().verdict(flow, octets) if self._held else Verdict(None, flow)

    def rules(self) -> list[InstalledRule]:
        """All rules that are in force."""
        return super().rules() if self._held else []

    def _expire(self) -> None:
        # A packet makes a rule live longer, never shorter: what was the soonest still is, or later.
        if self._clock() < self._soonest:
            return
        super()._expire()
        ends = [one.expires_at for one in self._held.values() if one.expires_at is not None]
        self._soonest = min(ends, default=inf)


class Kernel:
    """Rules and the queue in front of them. `applied` is told of every change that was made."""

    def __init__(
        self,
        clock: Clock,
        local: LocalClock,
        ruled: Ruled,
        chance: Random,
        applied: Applied,
    ) -> None:
        self.nature = KernelConditions()
        self.conditions = KernelConditions()
        self._clock = clock
        self._local = local
        self._ruled = ruled
        self.plane = self._new_plane()
        self._chance = chance
        self._applied = applied
        self._waiting: list[_Asked] = []
        self._batch: list[_Asked] = []

    def submit(self, changes: Sequence[Change], done: Done) -> None:
        """Ask for changes; `done` hears when they are made, or why not."""
        self.submit_all([(changes, done)])

    def submit_all(self, asked: Sequence[tuple[Sequence[Change], Done]]) -> None:
        """Ask for several at once: nothing that others ask for comes between them."""
        for changes, done in asked:
            put = any(isinstance(change, Put) for change in changes)
            fails = self._chance.random() < self.conditions.failing and put
            self._waiting.append(_Asked(changes, done, fails))
        if not self._batch:
            self._begin()

    def rules(self) -> list[InstalledRule]:
        """All rules in force."""
        return self.plane.rules()

    def look_up(self, matches: Sequence[Flow], done: Found) -> None:
        """What there is of these rules; `done` hears it when the kernel has looked."""
        keys = [five_tuple(match) for match in matches]

        def look() -> None:
            done([found for found in self.rules() if five_tuple(found.rule.match) in keys])

        self._clock.after(self.conditions.latency_s, look)

    def agent_died(self) -> None:
        """What waits is lost; what is under way may have been done, and nobody hears of it."""
        self._waiting.clear()
        if self._batch and self._chance.random() < 0.5:
            self._apply([_Asked(one.changes, _nobody, one.fails) for one in self._batch])
        self._batch = []

    def boot(self) -> None:
        """The machine starts: there are no rules."""
        self._waiting.clear()
        self._batch = []
        self.plane = self._new_plane()

    def _new_plane(self) -> _Plane:
        return _Plane(lambda: self._local.now, self._ruled.lifetime_s, self._ruled.forwards)

    def _begin(self) -> None:
        self._batch, self._waiting = self._waiting, []
        batch = self._batch
        self._clock.after(self.conditions.latency_s, lambda: self._finish(batch))

    def _finish(self, batch: list[_Asked]) -> None:
        if batch is not self._batch:
            return
        self._apply(batch)
        self._batch = []
        if self._waiting:
            self._begin()

    def _apply(self, batch: list[_Asked]) -> None:
        for one in batch:
            error = KernelError("made to fail") if one.fails else None
            if error is None:
                try:
                    self.plane.apply(one.changes)
                    self._applied(one.changes)
                except KernelError as failure:
                    error = failure
            one.done(error)


def _nobody(error: KernelError | None) -> None:
    pass
