"""The host's agent: applications on one side, signaling on the other, the kernel's rules between.

It learns what applications want from their first packets or from its control socket, asks for it,
and lets the packets go when the rules are in. It answers for the services that this host offers.
Once a connection is up it only refreshes it, and moves it when this host does; data never passes
through here. Like the gate it gives up its privileges before it reads a byte from the network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from wayside.core.address import Address, Flow, Transport
from wayside.core.asker import Asker
from wayside.core.codec import decode_body
from wayside.core.effects import (
    DeliverData,
    Effect,
    ForgetConnection,
    Punch,
    ReportClosed,
    ReportOpened,
    ReportRefused,
    SaveConnection,
)
from wayside.core.events import (
    CloseRequested,
    DataAnswered,
    DatagramReceived,
    OpenRequested,
    SourcesChanged,
    StopRequested,
)
from wayside.core.host import Host
from wayside.core.identity import PeerIdentity
from wayside.core.messages import Redirect, RedirectTerms, decode
from wayside.core.rule import Cid
from wayside.core.virtual import VirtualAddresses
from wayside.kernel.packets import Packet
from wayside.kernel.plan import KernelError
from wayside.kernel.recovery import recover

from .applications import Applications
from .asking import Asking
from .config import HostConfig, Peer
from .directory import Directory
from .driver import Driver
from .eventlog import EventLog
from .helper_client import Helper, HostSetup
from .moves import Moves
from .names import service_of
from .paths import PathKeeper
from .registering import Registrations
from .reports import log_report
from .silence import Silence
from .store import Store
from .subflows import Subflows
from .udp import Received

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Running:
    """What an agent has from its start to its end. `watch`: looks for silence."""

    driver: Driver
    silence: Silence
    watch: asyncio.Task[None]


class Agent:
    """The agent of one host."""

    def __init__(self, config: HostConfig, host: Host, helper: Helper, store: Store) -> None:
        self.config = config
        self.helper = helper
        self.store = store
        self.host = host
        self.asking = Asking()
        self.log = EventLog(config.paths.log, config.name, "host")
        self.applications = Applications(
            host, helper, self.log, self._ask_for_packet, self.close, self._deliver
        )
        about = (config.listen, self._on_settled, self._addresses_of)
        paths = PathKeeper(host, helper, self._deliver, *about)
        self.moves = Moves(host, self._deliver, self.applications, self._on_network_changed, paths)
        self.registrations = Registrations(config.steering.registers, self.ask_plainly)
        self.directory = Directory(config, self.asking, self.ask_plainly, self._answered, store)
        self.subflows = Subflows(host, helper, self.log, self._deliver, self.close)
        self._running: _Running | None = None

    async def start(self) -> None:
        """Set up the kernel's part, read back what it held before, and listen."""
        virtual = self.virtual
        setup = HostSetup(
            own_v4=str(virtual.own(4)),
            own_v6=str(virtual.own(6)),
            v4_prefix="198.18.0.0/15",
            v6_prefix=str(self.config.ipv6_prefix),
            signaling_port=self.config.listen,
        )
        await self.helper.setup_host(setup)
        sockets = await self.helper.open_sockets("host", self.config.listen)
        installed, stored = await self.helper.rules(), self.store.connections()
        found = recover(self.host, stored, installed, time.monotonic())
        for cid in found.forgotten:
            self.store.forget(cid)
        if found.changes:
            await self.helper.apply(found.changes)
        if found.connections:
            self.log.write("daemon.recovered", connections=found.connections)
            _log.info("recovered from the kernel", connections=found.connections)
        by_family = {4: sockets.signaling_v4, 6: sockets.signaling_v6}
        driver = Driver(self.host, self.helper, by_family, self.log, self._perform)
        silence = Silence(self.close)
        watch = asyncio.ensure_future(self._watch_silence(silence))
        self._running = _Running(driver, silence, watch)
        self.applications.start(sockets)
        driver.start(self._on_received)
        if self.config.mptcp:
            self.subflows.start(await self.helper.watch_mptcp())
        self.moves.start()
        self.registrations.start()
        self.log.write("daemon.ready")

    async def stop(self) -> None:
        """Stop listening; the kernel keeps its rules, the store what belongs to them."""
        if self._running is not None:
            self._running.watch.cancel()
            self.registrations.stop()
            self.moves.stop()
            self.subflows.stop()
            self.applications.stop()
            await self._running.driver.settled()
            self._running.driver.stop()
        self.helper.close()
        self.log.close()
        self.store.close()

    @property
    def dropped(self) -> dict[str, int]:
        """Datagrams dropped since the start, by named reason."""
        return dict(self._running.driver.dropped) if self._running else {}

    @property
    def virtual(self) -> VirtualAddresses:
        """The addresses that applications see."""
        assert self.host.virtual is not None
        return self.host.virtual

    def virtual_address(self, key: bytes, family: int) -> Address:
        """The virtual address of a peer, remembered over restarts."""
        ip = self.virtual.of(key, family)
        self.store.meet(key)
        return Address(ip, 0)

    def ask(self, cid: Cid, peer: Peer, service: str, local: Flow, data: bytes = b"") -> bool:
        """Ask for a connection; False when there is no way to the peer in that family."""
        signaling = next((a for a in peer.addresses if a.family == local.family), None)
        if signaling is not None and self.moves.paths is not None:
            signaling = self.moves.paths.towards(peer.identity.key, signaling)
        source = self.moves.source_towards(signaling) if signaling else None
        if signaling is None or source is None:
            return False
        wire = Flow(
            local.transport,
            source.with_port(local.source.port),
            signaling.with_port(local.destination.port),
        )
        self._deliver(OpenRequested(cid, peer.identity, service, wire, local, signaling, data))
        return True

    def ask_plainly(
        self, cid: Cid, peer: PeerIdentity, service: str, signaling: Address, data: bytes
    ) -> bool:
        """Ask for a connection without packets; False when there is no way there."""
        source = self.moves.source_towards(signaling)
        if source is None:
            return False
        wire = Flow(Transport.NONE, source.with_port(0), signaling.with_port(0))
        self._deliver(OpenRequested(cid, peer, service, wire, wire, signaling, data))
        return True

    def close(self, cid: Cid, reason: str) -> None:
        """End a connection."""
        self._deliver(CloseRequested(cid, reason))

    def stop_packets(self, asked: StopRequested) -> None:
        """Have a connection's packets to us dropped on the way."""
        self._deliver(asked)

    def _deliver(
        self,
        event: DataAnswered
        | CloseRequested
        | OpenRequested
        | SourcesChanged
        | DatagramReceived
        | StopRequested,
    ) -> None:
        if self._running is not None:
            self._running.driver.deliver(event)

    def _answered(self, cid: Cid) -> None:
        """A question was answered: its connection is over, and makes room for a registration."""
        self.close(cid, "")
        self.registrations.try_now()

    def _on_network_changed(self) -> None:
        self.registrations.try_now()

    def _on_settled(self) -> None:
        self.moves.look_soon()
        self.subflows.look_soon()

    def _addresses_of(self, key: bytes) -> Sequence[Address]:
        peer = self.directory.peer_of(key)
        return peer.addresses if peer else ()

    def _ask_for_packet(self, cid: Cid, packet: Packet) -> bool:
        """Ask for the connection that an application's first packet begins."""
        flow = packet.flow
        key = self.virtual.key_of(flow.destination.ip)
        peer = self.directory.peer_of(key) if key else None
        udp = flow.transport is Transport.UDP
        data = packet.payload if udp else packet.tcp_header if packet.is_syn else b""
        wanted = self.subflows.wanted(packet)
        return (
            peer is not None
            and wanted is not None
            and self.ask(cid, peer, service_of(flow.destination.port), wanted, data)
        )

    def _on_received(self, received: Received) -> None:
        assert self._running is not None
        event = DatagramReceived(received.data, received.source, received.destination)
        if received.data[4:5] != bytes([Redirect.TYPE]):
            self._running.driver.deliver(event)
            return
        cid = Cid(received.data[16:32])
        before = self._redirects(cid)
        self._running.driver.deliver(event)
        if self._redirects(cid) > before:  # believed and followed
            self.moves.redirected(cid, redirector(received.data))

    def _redirects(self, cid: Cid) -> int:
        connection = self.host.connections.get(cid)
        attempt = connection.attempt if isinstance(connection, Asker) else None
        return attempt.counts.redirects if attempt else 0

    async def _watch_silence(self, silence: Silence) -> None:
        while True:
            await asyncio.sleep(silence.interval_s(list(self.host.connections.values())))
            connections = list(self.host.connections.values())
            due = silence.due(connections)
            try:
                silence.look(connections, await self.helper.look_up(due) if due else [])
            except KernelError as error:
                _log.warning("silence is not watched", why=str(error))

    # --- what the machine wants of us ---

    def _perform(self, effect: Effect) -> None:
        match effect:
            case SaveConnection():
                self.store.save(effect.cid, effect.saved)
            case ForgetConnection():
                self.store.forget(effect.cid)
            case DeliverData():
                if not self.directory.answered(effect):
                    self.applications.deliver(effect)
            case Punch():
                self.applications.punch(effect)
            case ReportOpened():
                self._opened(effect)
            case ReportRefused():
                self._refused(effect)
            case ReportClosed():
                self._closed(effect)
            case _:
                _log.warning("an agent has nothing to do with this", effect=type(effect).__name__)

    def _opened(self, effect: ReportOpened) -> None:
        log_report(self.log, effect)
        if effect.wire.transport is not Transport.NONE:
            self.applications.opened(effect)
        if self._running is not None:
            self._running.silence.opened(effect)
        self.moves.opened(effect)
        self.subflows.opened(effect)
        self.registrations.opened(effect)
        self.asking.opened(effect)

    def _refused(self, effect: ReportRefused) -> None:
        connection = self.host.connections.get(effect.cid)
        local = connection.agreement.local if connection else None
        local = local or self.applications.flow_of(effect.cid)
        self.asking.refused(effect, local.transport.name.lower() if local else "")
        log_report(self.log, effect)
        if local is not None:
            self.applications.refused(effect, local)
        self.subflows.refused(effect)
        self.moves.ended(effect.cid)
        self.registrations.ended(effect)

    def _closed(self, effect: ReportClosed) -> None:
        self.applications.ended(effect.cid)
        self.subflows.ended(effect.cid)
        self.moves.ended(effect.cid)
        log_report(self.log, effect)
        self.registrations.ended(effect)


def redirector(datagram: bytes) -> bytes:
    """Who says so in a REDIRECT that was believed: a key, 32 bytes."""
    _, message = decode(datagram)
    assert isinstance(message, Redirect)
    return decode_body(RedirectTerms, message.signed).from_key
