"""Faults: what goes wrong in a world, when, where and for how long; drawn from the seed.

A schedule is a plain list, so that the shrinker can leave parts of it out. Everything in it ends
with `World.heal`, after which the world has to become well by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random


class Kind(Enum):
    """What goes wrong. The value says what `amount` means."""

    LOSS = "probability that a packet on the link is lost"
    DELAY = "seconds more on the link, and half as many of jitter"
    DUPLICATE = "probability that a packet on the link comes twice"
    REORDER = "probability that a packet on the link is late"
    PARTITION = "nothing passes the link"
    MTU = "bytes that the link takes"
    RATE = "bytes a second that the link takes"
    KILL = "the agent is killed, and started again at the end"
    POWER = "the machine loses power, and is booted at the end"
    REFUSE_RULES = "probability that the kernel refuses a transaction"
    SLOW_RULES = "seconds that the kernel takes for a transaction"
    CLOCK = "seconds that the wall clock jumps; it jumps back at the end"
    LINK_DOWN = "the host's first interface is down"
    READDRESS = "the host's first interface gets another address in the place of the old one"
    MOVE = "the host's first interface gets another address, and has the old one until the end"
    STORE_LIES = "probability that the store answers something else"
    STORE_LOSES = "probability that the store does not keep a location"
    EAVESDROP = "somebody on the link reads, replays and forges, times a second"
    MODIFY = "somebody on the link edits signaling, probability"
    GUESS = "somebody off the path forges without knowing, times a second"
    SPOOF = "somebody sends OPENs in a host's name, times a second"
    FLOOD = "somebody with a good key asks for connections, a second"
    STEAL = "somebody off the path uses tokens of former messages, times a second"
    MISLEAD = "somebody on the link forges REDIRECTs; times a second that it also looks around"
    REUSE = "somebody on the link uses approvals that it saw, times a second"
    REGISTER = "somebody on the link replays and forges registrations, times a second"
    TAKE_OVER = "somebody on the link moves connections that it saw, times a second"
    POSE = "somebody poses as a gate before the host, times a second"
    LIE = "the gate shows each side something else, probability"


LINK_KINDS = (
    Kind.LOSS,
    Kind.DELAY,
    Kind.DUPLICATE,
    Kind.REORDER,
    Kind.PARTITION,
    Kind.MTU,
    Kind.RATE,
    Kind.EAVESDROP,
    Kind.MODIFY,
    Kind.STEAL,
    Kind.MISLEAD,
    Kind.REUSE,
    Kind.REGISTER,
    Kind.TAKE_OVER,
)
BOX_KINDS = (Kind.KILL, Kind.POWER, Kind.REFUSE_RULES, Kind.SLOW_RULES, Kind.CLOCK)
HOST_KINDS = (Kind.SPOOF, Kind.POSE)
MOVING_KINDS = (Kind.LINK_DOWN, Kind.READDRESS, Kind.MOVE)
STORE_KINDS = (Kind.STORE_LIES, Kind.STORE_LOSES)
GATE_KINDS = (Kind.LIE,)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: from `at`, for `lasts_s`. `target`: a link or a box. Seconds."""

    kind: Kind
    at: float
    lasts_s: float
    target: str
    amount: float = 0.0

    @property
    def until(self) -> float:
        """When it ends."""
        return self.at + self.lasts_s

    def __str__(self) -> str:
        name = self.kind.name.lower().replace("_", "-")
        amount = f" {self.amount:g}" if self.amount else ""
        return f"{self.at:8.3f} s  {name}{amount} at {self.target} for {self.lasts_s:.3f} s"


@dataclass(frozen=True, slots=True)
class Targets:
    """What a world has that can go wrong. `clients`: who is impersonated; `movers`: who moves."""

    links: Sequence[str]
    boxes: Sequence[str]
    gates: Sequence[str]
    clients: Sequence[str]
    movers: Sequence[str]
    stores: Sequence[str]


def draw(chance: Random, targets: Targets, count: int, until: float) -> tuple[Fault, ...]:
    """A schedule of so many faults, all over by `until`."""
    found: list[Fault] = []
    for _ in range(count):
        kind = chance.choice(list(Kind))
        where = _places(kind, targets)
        target = chance.choice(where) if where else ""
        at = chance.uniform(0.5, until - 1)
        lasts_s = min(chance.uniform(0.2, 12), until - at)
        amount = _amount(kind, chance)
        if target:
            found.append(Fault(kind, round(at, 3), round(lasts_s, 3), target, amount))
    return tuple(sorted(found, key=lambda fault: fault.at))


def _places(kind: Kind, targets: Targets) -> Sequence[str]:
    if kind in LINK_KINDS:
        return targets.links
    if kind in BOX_KINDS:
        return targets.boxes
    if kind in HOST_KINDS:
        return targets.clients
    if kind in MOVING_KINDS:
        return targets.movers
    if kind in STORE_KINDS:
        return targets.stores
    return targets.gates if kind in GATE_KINDS else ("world",)


def _amount(kind: Kind, chance: Random) -> float:
    ranges = {
        Kind.LOSS: (0.05, 0.7),
        Kind.DELAY: (0.02, 0.8),
        Kind.DUPLICATE: (0.05, 0.5),
        Kind.REORDER: (0.05, 0.5),
        Kind.MTU: (1280, 1400),
        Kind.RATE: (5_000, 100_000),
        Kind.REFUSE_RULES: (0.1, 1.0),
        Kind.SLOW_RULES: (0.01, 0.5),
        Kind.CLOCK: (-4000, 4000),
        Kind.STORE_LIES: (0.1, 1.0),
        Kind.STORE_LOSES: (0.1, 1.0),
        Kind.EAVESDROP: (1, 10),
        Kind.MODIFY: (0.05, 0.8),
        Kind.GUESS: (1, 10),
        Kind.SPOOF: (0.5, 4),
        Kind.POSE: (0.5, 2),
        Kind.FLOOD: (1, 6),
        Kind.STEAL: (1, 10),
        Kind.MISLEAD: (0.1, 0.2),
        Kind.REUSE: (1, 10),
        Kind.REGISTER: (1, 10),
        Kind.TAKE_OVER: (1, 10),
        Kind.LIE: (0.2, 1.0),
    }
    low, high = ranges.get(kind, (0.0, 0.0))
    amount = chance.uniform(low, high)
    return float(round(amount)) if kind in (Kind.MTU, Kind.RATE) else round(amount, 3)
