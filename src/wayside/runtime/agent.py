"""The host's agent: applications on one side, signaling on the other, the kernel's rules between.

It learns what applications want from their first packets or from its control socket, asks for it,
and lets the packets go when the rules are in. It answers for the services that this host offers.
Once a connection is up it only refreshes it; data never passes through here. Like the gate it
gives up its privileges before it reads a byte from the network.
"""

from __future__ import annotations

import asyncio
import os
import time

import structlog

from wayside.core.address import Address, Flow, Transport
from wayside.core.connection import State
from wayside.core.effects import (
    DeliverData,
    Effect,
    ForgetConnection,
    ReportClosed,
    ReportOpened,
    ReportRefused,
    SaveConnection,
)
from wayside.core.events import CloseRequested, DataAnswered, DatagramReceived, OpenRequested
from wayside.core.host import Host
from wayside.core.messages import Code
from wayside.core.rule import Cid
from wayside.core.virtual import VirtualAddresses
from wayside.kernel.endings import is_open
from wayside.kernel.packets import Packet, build_refusal, build_udp, parse_packet

from .asking import Asking
from .config import HostConfig, Peer
from .driver import Driver
from .eventlog import EventLog
from .first_packet import WaitingRoom
from .helper_client import Helper, HostSetup
from .names import service_of
from .recovery import recover
from .refusals import code_of
from .silence import Silence
from .store import Store
from .tap import Tap
from .udp import Received, source_towards

_log = structlog.get_logger()


class Agent:
    """The agent of one host."""

    def __init__(self, config: HostConfig, host: Host, helper: Helper, store: Store) -> None:
        self.config = config
        self.started = time.monotonic()
        self.asking = Asking()
        self.helper = helper
        self.store = store
        self.log = EventLog(config.paths.log, config.name, "host")
        self.host = host
        self.driver: Driver | None = None
        self._room = WaitingRoom()
        self._ruled: set[Cid] = set()
        self._watch: asyncio.Task[None] | None = None
        self._tap: Tap | None = None

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
        found = recover(self.host, self.store, await self.helper.rules(), time.monotonic())
        await self.helper.apply(found.orphans) if found.orphans else None
        self._ruled.update(self.host.connections)
        if found.connections:
            self.log.write("daemon.recovered", connections=found.connections)
            _log.info("recovered from the kernel", connections=found.connections)
        by_family = {4: sockets.signaling_v4, 6: sockets.signaling_v6}
        self.driver = Driver(self.host, self.helper, by_family, self.log, self._perform)
        self._tap = Tap(
            sockets, self._on_packet, self._on_ended, self._wire_to_local, self._local_to_wire
        )
        self._tap.start()
        self.driver.start(self._on_received)
        self._watch = asyncio.ensure_future(self._watch_silence())
        self._close_what_ended_meanwhile()
        self.log.write("daemon.ready")

    async def stop(self) -> None:
        """Stop listening; the kernel keeps its rules, the store what belongs to them."""
        if self.driver is not None and self._tap is not None:
            if self._watch is not None:
                self._watch.cancel()
            self._tap.stop()
            await self.driver.settled()
            self.driver.stop()
        self.helper.close()
        self.log.close()
        self.store.close()

    @property
    def dropped(self) -> dict[str, int]:
        """Datagrams dropped since the start, by named reason."""
        return dict(self.driver.dropped) if self.driver else {}

    @property
    def virtual(self) -> VirtualAddresses:
        """The addresses that applications see."""
        assert self.host.virtual is not None
        return self.host.virtual

    def peer_of(self, key: bytes) -> Peer | None:
        """What the configuration says of a key."""
        for peer in self.config.peers.values():
            if peer.identity.key == key:
                return peer
        return None

    def virtual_address(self, key: bytes, family: int) -> Address:
        """The virtual address of a peer, remembered over restarts."""
        ip = self.virtual.of(key, family)
        self.store.meet(key)
        return Address(ip, 0)

    def ask(self, cid: Cid, peer: Peer, service: str, local: Flow, data: bytes = b"") -> bool:
        """Ask for a connection; False when there is no way to the peer in that family."""
        signaling = next((a for a in peer.addresses if a.family == local.family), None)
        if signaling is None or self.driver is None:
            return False
        source = source_towards(signaling)
        if source is None:
            return False
        wire = Flow(
            local.transport,
            source.with_port(local.source.port),
            signaling.with_port(local.destination.port),
        )
        self.driver.deliver(
            OpenRequested(cid, peer.identity, service, wire, local, signaling, data)
        )
        return True

    def close(self, cid: Cid, reason: str) -> None:
        """End a connection."""
        if self.driver is not None:
            self.driver.deliver(CloseRequested(cid, reason))

    # --- from the network, and from applications ---

    def _on_received(self, received: Received) -> None:
        assert self.driver is not None
        event = DatagramReceived(received.data, received.source, received.destination)
        self.driver.deliver(event)

    def _on_packet(self, raw: bytes) -> None:
        """An application's packet that no rule rewrites. Spec: R-6.6."""
        packet = parse_packet(raw)
        if packet is None:
            assert self._tap is not None
            self._tap.tell_peer(raw)
            return
        if packet.flow.source.ip != self.virtual.own(packet.flow.family):
            return
        flow = packet.flow
        waiting = self._room.find(flow)
        known = waiting.cid if waiting else self._by_local(flow)
        if known is None:
            self._on_first_packet(packet)
            return
        connection = self.host.connections.get(known)
        assert self.driver is not None
        if connection is None or connection.state in (State.CLOSING, State.ENDED):
            self._room.take(flow)
            self._on_first_packet(packet)
        elif known in self._ruled:
            self._release(known, packet.flow, [raw])
        else:
            self._room.hold(flow, known, raw)
            if connection.state is State.ANSWERING and flow.transport is Transport.UDP:
                self._room.take(flow)
                self.driver.deliver(DataAnswered(known, packet.payload))

    def _on_first_packet(self, packet: Packet) -> None:
        flow = packet.flow
        key = self.virtual.key_of(flow.destination.ip)
        peer = self.peer_of(key) if key else None
        if flow.transport is Transport.TCP and not packet.is_syn:
            # Its connection is over. A bare ACK may come from a program that still reads what it
            # has got; only who has something to say must hear that nobody listens.
            if not packet.is_bare_ack:
                self._refuse_packets([packet.raw], closed=True)
            return
        if peer is None:
            self._refuse_packets([packet.raw], closed=False)
            return
        service = service_of(flow.destination.port)
        data = packet.payload if flow.transport is Transport.UDP else b""
        cid = Cid(os.urandom(16))
        self.log.write("packet.first", cid=cid.hex(), flow=str(flow), bytes=len(packet.raw))
        self._room.hold(flow, cid, packet.raw)
        if not self.ask(cid, peer, service, flow, data):
            self._room.take(flow)
            self._refuse_packets([packet.raw], closed=False)

    def _on_ended(self, flow: Flow) -> None:
        """A socket of an application is gone: so is its connection."""
        cid = self._by_local(flow)
        if cid is not None and not is_open(flow):
            self.close(cid, "closed by the application")

    def _close_what_ended_meanwhile(self) -> None:
        """Nobody told of the sockets that were closed while no agent ran."""
        for cid, connection in list(self.host.connections.items()):
            local = connection.agreement.local
            if local.transport is not Transport.UDP and not is_open(local):
                self.close(cid, "closed by the application while no agent ran")

    async def _watch_silence(self) -> None:
        silence = Silence(self.close)
        while True:
            await asyncio.sleep(silence.interval_s(list(self.host.connections.values())))
            connections = list(self.host.connections.values())
            if any(c.agreement.wire.transport is Transport.UDP for c in connections):
                silence.look(connections, await self.helper.rules())

    def _by_local(self, flow: Flow) -> Cid | None:
        connection = self.host.by_local(flow)
        return connection.agreement.cid if connection else None

    def _wire_to_local(self, wire: Flow) -> Flow | None:
        connection = self.host.by_wire(wire)
        return connection.agreement.local if connection else None

    def _local_to_wire(self, arrived: Flow) -> Flow | None:
        """From the 5-tuple of a peer's packet as our stack saw it to what it was on the wire."""
        connection = self.host.by_local(arrived.reversed())
        return connection.agreement.wire.reversed() if connection else None

    # --- what the machine wants of us ---

    def _perform(self, effect: Effect) -> None:
        match effect:
            case SaveConnection():
                self.store.save(effect.cid, effect.saved)
            case ForgetConnection():
                self.store.forget(effect.cid)
            case DeliverData():
                self._deliver_data(effect)
            case ReportOpened():
                self._opened(effect)
            case ReportRefused():
                self._refused(effect)
            case ReportClosed():
                self._closed(effect)
            case _:
                _log.warning("an agent has nothing to do with this", effect=type(effect).__name__)

    def _deliver_data(self, effect: DeliverData) -> None:
        assert self._tap is not None
        self._tap.inject(build_udp(effect.flow, effect.data))
        self.log.write(
            "data.delivered", cid=effect.cid.hex(), flow=str(effect.flow), bytes=len(effect.data)
        )

    def _opened(self, effect: ReportOpened) -> None:
        if not effect.refreshed:
            self.log.write(
                "connection.opened",
                cid=effect.cid.hex(),
                peer=effect.peer,
                service=effect.service,
                flow=str(effect.wire),
                lifetime_s=effect.lifetime_s,
            )
        self._ruled.add(effect.cid)
        self.asking.opened(effect)
        packets = self._room.take(effect.local)
        self._release(effect.cid, effect.local, packets[1:] if effect.carried else packets)

    def _release(self, cid: Cid, flow: Flow, packets: list[bytes]) -> None:
        """Send held packets on, through the rules that now rewrite them."""
        assert self._tap is not None
        for packet in packets:
            self._tap.release(packet)
            self.log.write("packet.released", cid=cid.hex(), flow=str(flow), bytes=len(packet))

    def _refused(self, effect: ReportRefused) -> None:
        connection = self.host.connections.get(effect.cid)
        local = connection.agreement.local if connection else self._room.flow_of(effect.cid)
        transport = local.transport.name.lower() if local else ""
        self.asking.refused(effect, transport)
        self.log.write(
            "connection.refused",
            cid=effect.cid.hex(),
            peer=effect.peer,
            service=effect.service,
            why=effect.reason,
            code=code_of(effect),
            by=effect.by,
        )
        if local is not None:
            self._refuse_packets(self._room.take(local), closed=effect.code == Code.NO_SERVICE)

    def _refuse_packets(self, packets: list[bytes], closed: bool) -> None:
        """Answer packets so that their application's connect() fails at once. Spec: R-6.6.

        `closed`: as a host without a listener would (refused), else as a network without a way
        there (no route).
        """
        assert self._tap is not None
        for raw in packets[:1]:
            answer = build_refusal(raw, closed)
            if answer is not None:
                self._tap.inject(answer)

    def _closed(self, effect: ReportClosed) -> None:
        self._ruled.discard(effect.cid)
        self.log.write(
            "connection.closed",
            cid=effect.cid.hex(),
            peer=effect.peer,
            service=effect.service,
            why=effect.reason,
        )
