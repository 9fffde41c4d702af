"""Signaling from inside a program, where no agent runs and nobody has any privilege.

The same machines, an ordinary UDP socket, and no rules: what an application's socket sees is what
is on the wire, so such a connection cannot be moved. Gates on the path make no difference between
this and an agent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import Connection, HostContext
from wayside.core.crypto import SigningKey
from wayside.core.effects import DeliverData, Effect, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, DatagramReceived, OpenRequested
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.policy import Pattern
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.kernel.plan import Change, InstalledRule

from .asking import Asking, Opened
from .config import HostConfig, Peer, load_host
from .directory import Directory
from .driver import Driver
from .errors import ConfigError, NameUnknown
from .eventlog import EventLog
from .host import policy_of
from .keyfile import read_certificate, read_key
from .names import port_of
from .udp import Received, open_signaling, source_towards

CONNECTIONS_MAX = 4096
"""One program's; each is a socket, and a process has 1,024 of those by default."""


class NoRules:
    """There is nothing to rewrite, and nobody who could."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Do nothing: without virtual addresses the machines ask for no rules."""
        assert not changes

    async def look_up(self, matches: Sequence[Flow]) -> list[InstalledRule]:
        """There are none."""
        return []


class InProcess:
    """A host's machine and its sockets, for as long as an `async with` lasts."""

    def __init__(self, config: HostConfig, key: SigningKey, port: int) -> None:
        self.config = config
        self._port = port
        self._asking = Asking()
        self._directory = Directory(config, self._asking, self._ask_plainly, self.close)
        certificate = (
            read_certificate(config.paths.certificate) if config.paths.certificate else b""
        )
        steering = config.steering
        context = HostContext(
            key,
            os.urandom,
            config.name,
            certificate,
            config.lifetime_s,
            redirectors=steering.trusted,
        )
        answering = Answering(
            Names(config.domains),
            policy_of(config.paths.policy),
            approvers=steering.approvers,
            home=steering.home,
        )
        box = TokenBox(key.public, os.urandom(32), os.urandom)
        quota = Quota(CONNECTIONS_MAX, CONNECTIONS_MAX)
        self._host = Host(context, answering, FrontDoor(box, Budget()), quota)
        self._driver: Driver | None = None

    @classmethod
    def from_config(cls, path: Path | None, answers: bool = False) -> InProcess:
        """Read host.toml; without a key file this program is a stranger with a fresh key.

        `answers`: be found at the signaling port, to be asked, and not only to ask.
        """
        config = load_host(path, {}, os.environ)
        key = read_key(config.paths.key) if config.paths.key.exists() else None
        return cls(config, key or SigningKey(os.urandom(32)), config.listen if answers else 0)

    async def __aenter__(self) -> InProcess:
        log = EventLog(None, self.config.name, "host")
        self._driver = Driver(self._host, NoRules(), open_signaling(self._port), log, self._perform)
        self._driver.start(self._on_received)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._driver is not None
        for cid in list(self._host.connections):
            self.close(cid)
        await self._driver.settled()
        self._driver.stop()

    async def peer(self, name: str) -> Peer:
        """Who has this name: from the configuration, or looked up. Raises NameUnknown."""
        return await self._directory.find(name)

    def source_towards(self, peer: Peer) -> Address:
        """Our own address on the way to a peer. Raises NameUnknown when there is no way."""
        for signaling in peer.addresses:
            source = source_towards(signaling)
            if source is not None:
                return source
        raise NameUnknown(
            f"{peer.identity} cannot be reached",
            why="this host has no route there",
            hint="ip route",
        )

    async def open(self, peer: Peer, service: str, source: Address) -> Opened:
        """Ask for a TCP connection from `source`. Raises Refused and NoAnswer.

        Packets go where the agreement says, which is elsewhere if somebody redirected it.
        """
        assert self._driver is not None
        signaling = next(a for a in peer.addresses if a.family == source.family)
        wire = Flow(Transport.TCP, source, signaling.with_port(port_of(service)))
        cid = Cid(os.urandom(16))
        outcome = self._asking.expect(cid)
        event = OpenRequested(cid, peer.identity, service, wire, wire, signaling)
        self._driver.deliver(event)
        return await outcome

    def close(self, cid: Cid) -> None:
        """Tell everyone on the way that a connection is over."""
        if self._driver is not None:
            self._driver.deliver(CloseRequested(cid))

    def expose(self, service: str, port: int, allow: Sequence[str]) -> None:
        """Answer for a service. Raises ConfigError for a pattern that is none."""
        try:
            patterns = tuple(Pattern.parse(pattern) for pattern in allow)
        except ValueError as error:
            raise ConfigError(str(error), hint="*.lab, files.lab, k..., or *") from error
        self._host.answering.services[service] = Offered(port, patterns)

    def accepted(self, sock: socket.socket) -> Connection | None:
        """The connection that an accepted socket belongs to; None when it was not signaled."""
        ours, theirs = sock.getsockname(), sock.getpeername()
        wire = Flow(
            Transport.TCP,
            Address.parse(ours[0]).with_port(ours[1]),
            Address.parse(theirs[0]).with_port(theirs[1]),
        )
        return self._host.by_wire(wire)

    def _ask_plainly(
        self, cid: Cid, peer: PeerIdentity, service: str, signaling: Address, data: bytes
    ) -> bool:
        source = source_towards(signaling)
        if source is None or self._driver is None:
            return False
        wire = Flow(Transport.NONE, source.with_port(0), signaling.with_port(0))
        self._driver.deliver(OpenRequested(cid, peer, service, wire, wire, signaling, data))
        return True

    def _on_received(self, received: Received) -> None:
        assert self._driver is not None
        self._driver.deliver(DatagramReceived(received.data, received.source, received.destination))

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, ReportOpened):
            self._asking.opened(effect)
        elif isinstance(effect, DeliverData):
            self._directory.answered(effect)
        elif isinstance(effect, ReportRefused):
            self._asking.refused(effect, "tcp")
