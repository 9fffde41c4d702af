"""A gate with a million connections: what one weighs, and what a message and a timer cost then."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

from figure import Figure
from place import Bench
from scaled import compare, opened, resident
from stranger import Asked, Party, make_accept, make_confirm, make_open

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.constants import SIGNALING_PORT
from wayside.core.effects import ChangeRules, Effect, SendDatagram
from wayside.core.events import ClockSet, DatagramReceived, Event, TimePassed
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.identity import Names
from wayside.core.messages import Hop, Open, decode
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Cid, Rule

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (10_000, 100_000)
OPENED, QUICK_OPENED = 10_000, 2_000
SAMPLE = 500
"""Opened by messages before the others are restored, and again in every round."""

DUE = 1_000
"""Connections whose time has come, in one tick."""

FIRST_DUE_S = 60.0
"""From the start; then one a millisecond. What is opened by messages lasts longer than a run."""

BATCH = 50
"""Opened together while memory is weighed: what they leave behind for others to use is small."""

CHUNK = 1_000
PER_HOST = 16
SERVERS = 5_000
INSIDE, OUTSIDE = IPv4Address("10.0.0.0"), IPv4Address("11.0.0.0")
OWN = Address.parse("10.255.255.254:4747")
UNLIMITED = Budget(1e15, 1e15)
NOTE = "resident memory; {} are opened by messages, the others restored as after a restart"


def measure(bench: Bench) -> Iterator[Figure]:
    """Gates of three sizes."""
    yield from opened("gate", Opened, QUICK_OPENED if bench.quick else OPENED)
    sizes = QUICK_SIZES if bench.quick else SIZES
    yield from compare("gate", GateCrowd, sizes, bench.rounds(5, 3), NOTE.format(SAMPLE))


class GateCrowd:
    """A gate between hosts that are all one party, each with a few connections."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._now = 1000.0
        self._due = self._now + FIRST_DUE_S
        self._made = 0
        self._ends = Party.unknown(), Party.unknown()
        key = Party.unknown().key
        box = TokenBox(key.public, os.urandom(32), os.urandom)
        context = GateContext(key, "gate", Names({}), Policy((), PolicyAction.ALLOW), os.urandom)
        self.gate = Gate(context, FrontDoor(box, UNLIMITED), box, Quota(10**8, 10**8))

    def fill(self) -> Mapping[str, float]:
        """A sample by messages, the others by `restore`, in no order of their deadlines."""
        model = self._sample(SAMPLE)
        order = list(range(self._count - SAMPLE))
        Random(1).shuffle(order)
        before = resident()
        for start in range(0, len(order), CHUNK):
            rules = [
                (self._like(model), FIRST_DUE_S + at / 1000) for at in order[start : start + CHUNK]
            ]
            self.gate.restore(rules, self._now)
        more = resident() - before
        assert len(self.gate.passages) == self._count
        return {"memory of one": more / len(order)}

    def round(self) -> Mapping[str, float]:
        """Open some by messages; then the time of some others comes."""
        took_s = self.open(SAMPLE)[1]
        self._due += DUE / 1000
        self._now = self._due
        began = time.perf_counter()
        self.gate.handle(TimePassed(), self._now)
        tick_s = time.perf_counter() - began
        return {
            "OPEN, ACCEPT, CONFIRM, messages/s": 3 * SAMPLE / took_s,
            "timers that come due, connections/s": DUE / tick_s,
        }

    def open(self, count: int) -> tuple[Rule, float]:
        """So many by messages: a rule that says what it is of, and seconds that the gate took."""
        self.gate.handle(ClockSet(time.time() - self._now), self._now)
        flows = [self._flow() for _ in range(count)]
        asked = [make_open(*self._ends, flow.source, flow.destination) for flow in flows]
        opens = [_in_transit(one, one.datagram) for one in asked]
        sent, open_s = self._handle(opens)
        onward = [_first_sent(effects) for effects in sent]
        hops = [_hops_of(one.data) for one in onward]
        accepts = [
            DatagramReceived(
                make_accept(self._ends[1], one, records),
                one.destination.with_port(SIGNALING_PORT),
                back.source or OWN,
                back.source is not None,
                "outside",
            )
            for one, records, back in zip(asked, hops, onward, strict=True)
        ]
        _, accept_s = self._handle(accepts)
        confirms = [
            _in_transit(one, make_confirm(one.cid, records))
            for one, records in zip(asked, hops, strict=True)
        ]
        made, confirm_s = self._handle(confirms)
        changes = [effect for effect in made[-1] if isinstance(effect, ChangeRules)]
        model = next(rule for change in changes for rule in change.put if rule.note)
        return model, open_s + accept_s + confirm_s

    def _sample(self, count: int) -> Rule:
        """So many by messages, a few at a time."""
        return [self.open(BATCH)[0] for _ in range(count // BATCH)][-1]

    def _handle(self, events: Sequence[Event]) -> tuple[list[list[Effect]], float]:
        began = time.perf_counter()
        effects = [self.gate.handle(event, self._now) for event in events]
        return effects, time.perf_counter() - began

    def _flow(self) -> Flow:
        """A 5-tuple that nobody has yet, in objects of its own, as read from a kernel."""
        number = self._made
        self._made += 1
        return Flow(
            Transport.TCP,
            Address(INSIDE + number // PER_HOST, 1024 + number % PER_HOST),
            Address(OUTSIDE + number % SERVERS, 443),
        )

    def _like(self, model: Rule) -> Rule:
        return replace(model, owner=Cid(os.urandom(16)), match=self._flow())


class Opened(GateCrowd):
    """A gate whose connections were all opened by messages."""

    def fill(self) -> Mapping[str, float]:
        """The first ones fill caches; then the others."""
        self._sample(SAMPLE)
        before = resident()
        self._sample(self._count)
        return {"memory of one, opened by messages": (resident() - before) / self._count}


def _in_transit(asked: Asked, data: bytes) -> DatagramReceived:
    source, destination = (
        one.with_port(SIGNALING_PORT) for one in (asked.source, asked.destination)
    )
    return DatagramReceived(data, source, destination, True, "inside")


def _first_sent(effects: Sequence[Effect]) -> SendDatagram:
    return next(effect for effect in effects if isinstance(effect, SendDatagram))


def _hops_of(data: bytes) -> tuple[Hop, ...]:
    message = decode(data)[1]
    assert isinstance(message, Open)
    return message.hops
