"""A host with 100,000 connections: what one weighs at either end, and what refreshing them costs.

Two hosts face each other without a gate between them; all connections of the one are with the
other. A connection that was restored, and not yet refreshed, lacks the OPEN that it keeps to answer
repetitions: so those that were opened by messages weigh more, and all do after a third of a
lifetime. While they are weighed, the other end is a new host for every few of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

from figure import Figure
from place import Bench
from scaled import compare, opened, resident, sent

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import encode_body
from wayside.core.connection import HostContext
from wayside.core.constants import LIFETIME_S, SIGNALING_PORT
from wayside.core.crypto import SigningKey
from wayside.core.effects import SaveConnection, SendDatagram
from wayside.core.events import DatagramReceived, Event, OpenRequested, TimePassed
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.core.saved import Saved, read_saved
from wayside.core.virtual import VirtualAddresses

SIZES = (10_000, 100_000)
OPENED, QUICK_OPENED = 3_000, 1_000
SAMPLE = 100
"""Opened by messages before the others are restored."""

DUE = 200
"""Refreshes that are due in one tick."""

STEP_S = 0.005
"""Between the refreshes of two connections: all of them take 500 s, most of them more than this
runs, and none is refreshed twice."""

SERVICE, SERVICE_PORT = "https", 8443
PORTS = 60_000
CLIENT, SERVER = (Address(IPv4Address(ip), SIGNALING_PORT) for ip in ("10.1.0.2", "10.2.0.2"))
UNLIMITED = Budget(1e15, 1e15)
EPOCH_S = 1_800_000_000.0


def measure(bench: Bench) -> Iterator[Figure]:
    """Both ends of connections that were opened, then hosts of two sizes."""
    count = QUICK_OPENED if bench.quick else OPENED
    yield from opened("initiator", OpenedHere, count)
    yield from opened("responder", OpenedThere, count)
    note = f"resident memory; {SAMPLE} are opened by messages, the others restored"
    yield from compare("host", HostCrowd, SIZES, bench.rounds(5, 3), note)


class HostCrowd:
    """A client with very many connections to a server, and that server."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._now = 1000.0
        self._made = 0
        self._keys = SigningKey(os.urandom(32)), SigningKey(os.urandom(32))
        self.client, self.server = make_host(self._keys[0]), make_host(self._keys[1])

    def fill(self) -> Mapping[str, float]:
        """A sample by messages, the others by `restore`, in no order of their deadlines."""
        models = self.open(SAMPLE)
        order = list(range(self._count - SAMPLE))
        Random(1).shuffle(order)
        cids = [Cid(os.urandom(16)) for _ in order]
        found: dict[str, float] = {}
        ends = ("initiator", self.client), ("responder", self.server)
        for (name, host), model in zip(ends, models, strict=True):
            before = resident()
            for number, (cid, at) in enumerate(zip(cids, order, strict=True)):
                saved = encode_body(like(model, SAMPLE + number))
                host.restore(cid, read_saved(saved), self._now + at * STEP_S)
            found[f"memory of one, {name}, restored"] = (resident() - before) / len(order)
            assert len(host.connections) == self._count
        self._now += LIFETIME_S / 6
        return found

    def round(self) -> Mapping[str, float]:
        """Let some refreshes come due, and carry them to their end."""
        self._now += DUE * STEP_S
        client, server = self.client, self.server
        opens, asked_s = self._tell(client, [TimePassed()])
        accepts, answered_s = self._tell(server, arriving(opens, CLIENT, SERVER))
        confirms, believed_s = self._tell(client, arriving(accepts, SERVER, CLIENT))
        _, confirmed_s = self._tell(server, arriving(confirms, CLIENT, SERVER))
        assert len(opens) == len(accepts) == len(confirms) >= DUE - 1
        messages = 2 * len(opens)
        return {
            "initiator's OPEN and ACCEPT, messages/s": messages / (asked_s + believed_s),
            "responder's OPEN and CONFIRM, messages/s": messages / (answered_s + confirmed_s),
        }

    def open(self, count: int) -> tuple[Saved, Saved]:
        """So many by messages; what the two ends saved of the last one."""
        saved: list[Saved] = []
        for _ in range(count):
            asked = self.client.handle(self._request(), self._now)
            made = self.server.handle(arriving(sent(asked), CLIENT, SERVER)[0], self._now)
            up = self.client.handle(arriving(sent(made), SERVER, CLIENT)[0], self._now)
            done = self.server.handle(arriving(sent(up), CLIENT, SERVER)[0], self._now)
            effects = [one for one in (*up, *done) if isinstance(one, SaveConnection)]
            saved = [read_saved(one.saved) for one in effects]
        first, second = saved
        return first, second

    def _request(self) -> OpenRequested:
        port, step = 1024 + self._made % PORTS, self._made // PORTS
        self._made += 1
        peer = self._keys[1].public
        assert self.client.virtual is not None
        here, there = self.client.virtual.own(4), self.client.virtual.of(peer, 4)
        wire = CLIENT.with_port(port), SERVER.with_port(SERVICE_PORT + step)
        local = Address(here, port), Address(there, SERVICE_PORT + step)
        return OpenRequested(
            Cid(os.urandom(16)),
            PeerIdentity(peer),
            SERVICE,
            Flow(Transport.TCP, *wire),
            Flow(Transport.TCP, *local),
            SERVER,
        )

    def _tell(self, host: Host, events: Sequence[Event]) -> tuple[list[SendDatagram], float]:
        began = time.perf_counter()
        effects = [effect for event in events for effect in host.handle(event, self._now)]
        took_s = time.perf_counter() - began
        return sent(effects), took_s


class OpenedHere(HostCrowd):
    """A client all of whose connections were opened by messages."""

    NAME = "memory of one, opened by messages"

    def fill(self) -> Mapping[str, float]:
        """The first ones fill caches; then the others."""
        self._open_some()
        before = resident()
        for _ in range(self._count // SAMPLE):
            self._open_some()
        return {self.NAME: (resident() - before) / self._count}

    def _open_some(self) -> None:
        self.open(SAMPLE)
        self.server = make_host(self._keys[1])


class OpenedThere(OpenedHere):
    """A server all of whose connections were opened by messages."""

    def _open_some(self) -> None:
        self.open(SAMPLE)
        self.client = make_host(self._keys[0])


def make_host(key: SigningKey) -> Host:
    """A host that offers one service to all."""
    context = HostContext(key, os.urandom, "host", epoch_s=EPOCH_S)
    box = TokenBox(key.public, os.urandom(32), os.urandom)
    services = {SERVICE: Offered(SERVICE_PORT)}
    return Host(
        context,
        Answering(Names({}), Policy((), PolicyAction.ALLOW), services),
        FrontDoor(box, UNLIMITED),
        Quota(10**8, 10**8),
        VirtualAddresses(key.public),
    )


def like(model: Saved, number: int) -> Saved:
    """The same connection from another port, and with another one of the service's, in the end."""
    port, step = 1024 + number % PORTS, number // PORTS

    def other(address: Address) -> Address:
        is_service = address.port == SERVICE_PORT
        return address.with_port(SERVICE_PORT + step if is_service else port)

    return replace(
        model,
        wire_source=other(model.wire_source),
        wire_destination=other(model.wire_destination),
        local_source=other(model.local_source),
        local_destination=other(model.local_destination),
    )


def arriving(
    datagrams: Sequence[SendDatagram], source: Address, destination: Address
) -> list[DatagramReceived]:
    """These datagrams as they come in at the other host."""
    return [DatagramReceived(one.data, source, destination) for one in datagrams]
