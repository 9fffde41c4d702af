"""Links: a packet goes in at one end and comes out at the other, later, twice, or not at all.

Each direction keeps its order unless it is told to reorder, has a rate and a short queue. What
happens to a packet is decided when it goes in, from the link's own stream of chance. Whoever sits
on the path is a `Tap`: it sees every packet and says what goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Protocol

from .clock import Clock

QUEUE_S_MAX = 0.5
"""How long a packet may wait for a slow link: a router's buffer; beyond it the packet is lost."""

Deliver = Callable[[bytes], None]


@dataclass(slots=True)
class Conditions:
    """How a link is at the moment. Seconds, probabilities, bytes, bytes a second."""

    delay_s: float = 0.005
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    mtu: int = 1500
    rate: float | None = None
    cut: bool = False


class Tap(Protocol):
    """Somebody on the path."""

    def see(self, raw: bytes, end: int) -> list[bytes]:
        """What goes on in place of this packet, towards the end 0 or 1."""
        ...


@dataclass(slots=True)
class _Way:
    """One direction of a link."""

    deliver: Deliver
    free_at: float = 0.0
    last_at: float = 0.0


@dataclass(slots=True)
class Counters:
    """Packets of a link: put in, lost on it."""

    sent: int = 0
    lost: int = 0


@dataclass(slots=True)
class Link:
    """A link between its ends 0 and 1."""

    name: str
    clock: Clock
    chance: Random
    conditions: Conditions
    nature: Conditions
    taps: list[Tap] = field(default_factory=list[Tap])
    counters: Counters = field(default_factory=Counters)
    _ways: dict[int, _Way] = field(default_factory=dict[int, _Way])

    def attach(self, end: int, deliver: Deliver) -> None:
        """Whatever comes out at this end goes to `deliver`."""
        self._ways[end] = _Way(deliver)

    def send(self, raw: bytes, towards: int) -> None:
        """Put a packet in; it comes out at the end `towards`."""
        if not self.taps:
            self.inject(raw, towards)
            return
        packets = [raw]
        for tap in self.taps:
            packets = [more for one in packets for more in tap.see(one, towards)]
        for one in packets:
            self.inject(one, towards)

    def inject(self, raw: bytes, towards: int) -> None:
        """As `send`, past those who sit on the path: from one of them."""
        now, random, state = self.clock.now, self.chance.random, self.conditions
        self.counters.sent += 1
        # Every packet draws the same numbers, whatever becomes of it.
        lost, twice, late, jitter = random(), random(), random(), random()
        way = self._ways[towards]
        start = now if now > way.free_at else way.free_at
        if state.cut or lost < state.loss or start - now > QUEUE_S_MAX:
            self.counters.lost += 1
            return
        if state.rate is not None:
            start += len(raw) / state.rate
            way.free_at = start
        arrival = start + state.delay_s + jitter * state.jitter_s
        if late < state.reorder:
            arrival += 2 * state.delay_s + state.jitter_s
        else:
            arrival = max(arrival, way.last_at)
            way.last_at = arrival
        self.clock.at(arrival, partial(way.deliver, raw))
        if twice < state.duplicate:
            self.clock.at(arrival + state.delay_s, partial(way.deliver, raw))
