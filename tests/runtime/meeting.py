"""A rendezvous' daemon with its real machine and store, and hosts that are machines in memory.

    host 10.0.0.1 ─┐
    host 10.0.0.2 ─┼── datagrams handed over, no network ── daemon 10.9.0.1 ── SQLite, or a double
    ...            ┘

What the driver would send is given to the host with that address, and its answer to the daemon.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext
from wayside.core.crypto import SigningKey
from wayside.core.effects import ChangeRules, DeliverData, Effect, ReportRefused, SendDatagram
from wayside.core.events import ClockSet, DatagramReceived, Event, OpenRequested
from wayside.core.host import Answering, Host
from wayside.core.identity import Names, PeerIdentity, key_text, sign_certificate
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.kernel.plan import Change, InstalledRule
from wayside.runtime import driver
from wayside.runtime.control_types import InviteReply, InviteRequest
from wayside.runtime.enrolment import Invitation
from wayside.runtime.helper_client import GateSetup, GateSockets, Helper
from wayside.runtime.keyfile import new_key
from wayside.runtime.locations import LocationStore, LocationStoreUnavailable
from wayside.runtime.rendezvous import RendezvousDaemon
from wayside.runtime.rendezvous_config import load_rendezvous
from wayside.runtime.udp import open_signaling

HERE = Address(IPv4Address("10.9.0.1"), 4747)
ALLOW = Policy(default=PolicyAction.ALLOW)


class QuietHelper:
    """A helper that takes every rule, and has none; `setups`: what it was told to be."""

    def __init__(self) -> None:
        self.setups: list[GateSetup] = []

    async def setup_gate(self, setup: GateSetup) -> None:
        self.setups.append(setup)

    async def open_sockets(self, role: str, port: int) -> GateSockets:
        return GateSockets(*(sock for _ in range(5) for sock in open_signaling(0).values()))

    async def rules(self) -> list[InstalledRule]:
        return []

    async def apply(self, changes: Sequence[Change]) -> None:
        pass

    async def look_up(self, matches: Sequence[Flow]) -> list[InstalledRule]:
        return []

    def close(self) -> None:
        pass


@dataclass
class Peer:
    """A host: its machine, and what it was told."""

    host: Host
    at: Address
    told: list[Effect] = field(default_factory=list[Effect])

    @property
    def key(self) -> bytes:
        return self.host.context.key.public

    @property
    def answers(self) -> list[bytes]:
        return [one.data for one in self.told if isinstance(one, DeliverData)]

    @property
    def refusals(self) -> list[ReportRefused]:
        return [one for one in self.told if isinstance(one, ReportRefused)]


class Meeting:
    """The daemon and the hosts that talk to it."""

    def __init__(self, daemon: RendezvousDaemon, domain: SigningKey) -> None:
        self.daemon = daemon
        self.domain = domain
        self.peers: dict[Address, Peer] = {}

    def peer(self, number: int, name: str = "") -> Peer:
        """A host at 10.0.0.`number`; with a name the domain vouches for it."""
        key = SigningKey(number.to_bytes(32, "big"))
        certificate = b""
        if name:
            certificate = sign_certificate(self.domain, name, key.public, 2**33)
        context = HostContext(key, os.urandom, name, certificate)
        box = TokenBox(key.public, bytes(32), context.entropy)
        answering = Answering(Names({}), ALLOW)
        host = Host(context, answering, FrontDoor(box, Budget()), Quota(100, 100))
        host.context.redirectors = (self.key,)
        peer = Peer(host, Address(IPv4Address("10.0.0.0") + number, 4747))
        self.peers[peer.at] = peer
        return peer

    @property
    def key(self) -> bytes:
        """The rendezvous' public key."""
        return self.daemon.gate.context.key.public

    def ask(
        self, peer: Peer, service: str, data: bytes = b"", whom: bytes = b"", cid: int = 1
    ) -> None:
        """Let a host open a connection by way of the rendezvous, without packets if to itself."""
        transport = Transport.TCP if whom else Transport.NONE
        port = 40000 + cid if whom else 0
        wire = Flow(transport, peer.at.with_port(port), HERE.with_port(0))
        name = Cid(peer.at.ip.packed[3:] + bytes([cid]) * 15)
        to = PeerIdentity(whom or self.key)
        self._tell(peer, OpenRequested(name, to, service, wire, wire, HERE, data))

    def send(self, data: bytes, to: Address) -> bool:
        """What the daemon's driver sends."""
        peer = self.peers.get(to)
        if peer is not None:
            event = DatagramReceived(data, HERE, to)
            asyncio.get_running_loop().call_soon(self._tell, peer, event)
        return peer is not None

    async def settle(self, turns: int = 200) -> None:
        """Let everything happen that is under way; the store has a thread of its own."""
        for _ in range(turns):
            with suppress(LocationStoreUnavailable):
                await self.daemon.whereabouts.store.count()
            await asyncio.sleep(0)

    def _tell(self, peer: Peer, event: Event) -> None:
        now = asyncio.get_running_loop().time()
        peer.host.handle(ClockSet(time.time() - now), now)
        effects = peer.host.handle(event, now)
        for effect in effects:
            peer.told.append(effect)
            sent = effect.then if isinstance(effect, ChangeRules) else (effect,)
            for datagram in sent:
                if isinstance(datagram, SendDatagram) and datagram.destination == HERE:
                    self._deliver(datagram.data, peer.at)

    def _deliver(self, data: bytes, source: Address) -> None:
        assert self.daemon.driver is not None
        self.daemon.driver.deliver(DatagramReceived(data, source, HERE))


@asynccontextmanager
async def meeting(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: LocationStore,
    policy: str = "",
    more: str = "",
) -> AsyncGenerator[Meeting]:
    """A running rendezvous for the domain `lab`; `policy`: the text of its policy file."""
    domain, key = new_key(folder / "lab.key"), new_key(folder / "rendezvous.key")
    lines = [
        'name = "meet"',
        f'state = "{folder}"',
        'key = "rendezvous.key"',
        'domain_key = "lab.key"',
        f'addresses = ["{HERE.ip}"]',
        more,
    ]
    if policy:
        (folder / "policy.toml").write_text(policy)
        lines.append('policy = "policy.toml"')
    lines += ["[domains]", f'lab = "{key_text(domain.public)}"']
    (folder / "rendezvous.toml").write_text("\n".join(lines))
    config = load_rendezvous(folder / "rendezvous.toml", {}, {})
    helper = cast(Helper, QuietHelper())
    daemon = RendezvousDaemon(config, key, bytes(32), helper, store)
    place = Meeting(daemon, domain)

    def send(_: Any, data: bytes, to: Address, source: Address | None = None) -> bool:
        return place.send(data, to)

    monkeypatch.setattr(driver, "send", send)
    await daemon.start((), ())
    try:
        async with asyncio.timeout(20):
            yield place
    finally:
        await daemon.stop()


async def invited(place: Meeting, name: str, lifetime_s: float = 60.0) -> Invitation:
    """An invitation, as the control socket gives it out."""
    reply = await place.daemon.answer(InviteRequest(name=name, lifetime_s=lifetime_s))
    assert isinstance(reply, InviteReply)
    return Invitation.parse(reply.invitation)
