"""A rendezvous with 100,000 mobile hosts: what one weighs, how many move and are found a second.

Every host registers by messages: OPEN, ACCEPT, CONFIRM, each signed and checked as on a wire. In a
round some of them move to other addresses, and strangers look for others, which the rendezvous
redirects. Only the rendezvous' own time counts; the store is a dict (what the stores can do is
measured in `locations.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from random import Random

from figure import Figure
from place import Bench
from scaled import compare, resident, sent

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import Agreement, HostContext
from wayside.core.constants import LOCATION_SERVICE, SIGNALING_PORT
from wayside.core.crypto import SigningKey
from wayside.core.effects import Effect, FindLocation, KeepLocation, SendDatagram
from wayside.core.ends import Initiator
from wayside.core.events import (
    DatagramReceived,
    Event,
    LocationFound,
    MessageReceived,
    OpenRequested,
    SourcesChanged,
)
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.messages import Redirect, decode
from wayside.core.policy import Policy, PolicyAction
from wayside.core.rendezvous import Rendezvous
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.core.way import Box, Relaying

SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (1_000, 10_000)
MOBILE = 300
"""Hosts that are kept whole, to move and to be looked for; the others only registered."""

HERE = Address(IPv4Address("10.9.0.1"), SIGNALING_PORT)
EPOCH_S = 1_800_000_000.0
UNLIMITED = Budget(1e15, 1e15)


def measure(bench: Bench) -> Iterator[Figure]:
    """Rendezvous of some sizes, a decade apart."""
    sizes = QUICK_SIZES if bench.quick else SIZES
    note = "resident memory of the machine; all hosts registered by messages"
    yield from compare("rendezvous", RendezvousCrowd, sizes, bench.rounds(5, 3), note)


class RendezvousCrowd:
    """A rendezvous, the hosts that registered, and where they are."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._now = 1000.0
        self._chance = Random(count)
        self._rendezvous = make_rendezvous()
        self._store: dict[bytes, bytes] = {}
        self._mobile: list[Initiator] = []
        self._asker = SigningKey(os.urandom(32))

    def fill(self) -> Mapping[str, float]:
        """Let all register, a hundred a second."""
        before = resident()
        for number in range(self._count):
            self._now += 0.01 if number < MOBILE else 0.0
            host = self._register(number)
            if number < MOBILE:
                self._mobile.append(host)
        weight = (resident() - before) / self._count
        assert len(self._rendezvous.host.connections) == len(self._store) == self._count
        return {"memory of one host": weight}

    def round(self) -> Mapping[str, float]:
        """Let the mobile ones move, then look for them."""
        self._now += 1.0
        moved_s, looked_s = 0.0, 0.0
        for host in self._mobile:
            source = IPv4Address(0x0B000000 + self._chance.randrange(1 << 24))
            event = SourcesChanged({HERE.ip: source})
            moved_s += self._exchange(host, host.handle(event, self._now))
        for number, host in enumerate(self._mobile):
            looked_s += self._look_for(host.host.key.public, number)
        return {
            "moves, hosts/s": len(self._mobile) / moved_s,
            "look-ups, OPENs/s": len(self._mobile) / looked_s,
        }

    def _register(self, number: int) -> Initiator:
        source = Address(IPv4Address(0x0A000000 + number), 0)
        wire = Flow(Transport.NONE, source, HERE.with_port(0))
        host = self._initiator(SigningKey(os.urandom(32)), self._key, wire, LOCATION_SERVICE)
        peer, cid = host.agreement.peer, host.agreement.cid
        asked = OpenRequested(cid, peer, LOCATION_SERVICE, wire, wire, HERE)
        self._exchange(host, host.handle(asked, self._now))
        return host

    def _look_for(self, key: bytes, number: int) -> float:
        """One OPEN for a host, answered by REDIRECT; seconds that the rendezvous took."""
        source = Address(IPv4Address(0x0C000000 + number), 40000)
        wire = Flow(Transport.TCP, source, HERE.with_port(0))
        asker = self._initiator(self._asker, key, wire, "https")
        peer, cid = asker.agreement.peer, asker.agreement.cid
        (opened,) = sent(
            asker.handle(OpenRequested(cid, peer, "https", wire, wire, HERE), self._now)
        )
        answers, took_s = self._tell(arriving(opened, source))
        (answer,) = sent(answers)
        assert isinstance(decode(answer.data)[1], Redirect)
        return took_s

    def _initiator(self, key: SigningKey, whom: bytes, wire: Flow, service: str) -> Initiator:
        context = HostContext(key, os.urandom, lifetime_s=3600.0, epoch_s=EPOCH_S)
        cid = Cid(os.urandom(16))
        return Initiator(context, Agreement(cid, PeerIdentity(whom), service, wire, wire))

    @property
    def _key(self) -> bytes:
        return self._rendezvous.host.context.key.public

    def _exchange(self, host: Initiator, effects: Sequence[Effect]) -> float:
        """Carry what a host says to its end; seconds that the rendezvous took."""
        took_s = 0.0
        coming = sent(effects)
        while coming:
            answers: list[SendDatagram] = []
            for datagram in coming:
                at = host.attempt.wire.source if host.attempt else host.agreement.wire.source
                said, seconds = self._tell(arriving(datagram, at))
                answers += sent(said)
                took_s += seconds
            coming.clear()
            for answer in answers:
                header, message = decode(answer.data)
                received = MessageReceived(
                    header, message, HERE, answer.destination, False, "", answer.data, False
                )
                coming += sent(host.handle(received, self._now))
        return took_s

    def _tell(self, event: Event) -> tuple[list[Effect], float]:
        began = time.perf_counter()
        effects = self._rendezvous.handle(event, self._now)
        took_s = time.perf_counter() - began
        for effect in list(effects):
            if isinstance(effect, KeepLocation):
                self._store[effect.key] = effect.record
            elif isinstance(effect, FindLocation):
                record = self._store.get(effect.key, b"")
                found, more_s = self._tell(LocationFound(record, effect.asked, effect.opened))
                effects, took_s = effects + found, took_s + more_s
        return effects, took_s


def arriving(datagram: SendDatagram, source: Address) -> DatagramReceived:
    """A datagram as the rendezvous gets it."""
    return DatagramReceived(datagram.data, source.with_port(SIGNALING_PORT), HERE)


def make_rendezvous() -> Rendezvous:
    """One that lets everybody register and be found."""
    key, secret = SigningKey(os.urandom(32)), os.urandom(32)
    tokens = TokenBox(key.public, secret, os.urandom)
    door, names = FrontDoor(tokens, UNLIMITED), Names({})
    allow = Policy(default=PolicyAction.ALLOW)
    context = HostContext(key, os.urandom, lifetime_s=3600.0, epoch_s=EPOCH_S)
    answering = Answering(names, allow, {LOCATION_SERVICE: Offered(0)})
    gated = GateContext(
        key, "rendezvous", names, allow, os.urandom, 3600.0, EPOCH_S, Box(relay=Relaying())
    )
    host = Host(context, answering, door, Quota(1 << 20, 1 << 20))
    return Rendezvous(host, Gate(gated, door, tokens, Quota(1 << 20, 1 << 20)), door)
