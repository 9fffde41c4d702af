"""Where a rendezvous keeps locations: a store as runtime/locations.py asks for, and a bad one.

A newer location is never lost for an older one, what was forgotten leaves its order for a while,
and what has expired is gone. Who keeps the store may be somebody else: while it is `conditions` so,
it withholds, answers with what was there before, or with bytes of its own making. R-10.3: nobody
is worse off for that than if nothing were known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from wayside.core.effects import KeepLocation

from .clock import Clock

TOMBSTONE_S = 120.0
"""As in runtime/locations.py."""

HISTORY_MAX = 64
"""Records that a bad store remembers of one host."""

Forge = Callable[[bytes], bytes]
"""From a record that is kept of a host: another one."""


@dataclass(slots=True)
class StoreConditions:
    """How a store is at the moment: seconds for an answer, the probability that it lies."""

    latency_s: float = 0.001
    lies: float = 0.0
    lost: float = 0.0


@dataclass(slots=True)
class _Kept:
    record: bytes
    order: int
    until: float


_Key = tuple[bytes, int]


@dataclass(slots=True)
class Store:
    """Locations by key and address family. `forge`: how a liar makes records up."""

    clock: Clock
    chance: Random
    forge: Forge
    conditions: StoreConditions = field(default_factory=StoreConditions)
    lied: bool = False
    """Whether it ever did."""
    _kept: dict[_Key, _Kept] = field(default_factory=dict[_Key, _Kept])
    _history: dict[_Key, list[bytes]] = field(default_factory=dict[_Key, list[bytes]])

    def keep(self, asked: KeepLocation) -> None:
        """Keep a location, or forget one, unless a newer one is there."""
        key, now = (asked.key, asked.family), self.clock.now
        if self.chance.random() < self.conditions.lost:
            self.lied = True
            return
        kept = self._kept.get(key)
        if kept is not None and kept.until > now and kept.order > asked.order:
            return
        record = asked.record if asked.lifetime_s else b""
        self._kept[key] = _Kept(record, asked.order, now + (asked.lifetime_s or TOMBSTONE_S))
        self._history.setdefault(key, []).append(asked.record)
        del self._history[key][:-HISTORY_MAX]

    def find(self, key: bytes, family: int, done: Callable[[bytes], None]) -> None:
        """What is kept of a host; `done` hears it after a while."""
        self.clock.after(self.conditions.latency_s, lambda: done(self._answer((key, family))))

    def _answer(self, key: _Key) -> bytes:
        kept = self._kept.get(key)
        record = kept.record if kept is not None and kept.until > self.clock.now else b""
        if self.chance.random() >= self.conditions.lies:
            return record
        self.lied = True
        old = self._history.get(key, [])
        match self.chance.randrange(4):
            case 0:
                return b""
            case 1 if old:
                return self.chance.choice(old)
            case 2:
                others = [one for records in self._history.values() for one in records]
                return self.chance.choice(others) if others else b""
            case _:
                return self.forge(record)
