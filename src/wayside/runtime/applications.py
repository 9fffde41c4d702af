"""This host's own applications: their packets that no rule rewrites, and the sockets they close.

A packet to a peer's virtual address without a rule is the first of a connection (R-6.6), or comes
too early, or belongs to a connection whose way is gone for the moment: it waits here. When the
rules are in, it goes on through them; if the connection is refused, it is answered as a network
would answer.

While a host has lost its address, TCP's repetitions, and what else a program says, would be lost
and TCP would wait longer each time. So the rule that sends them off is taken out; they come
here, the newest are kept, and leave at the very moment when the new way is there. The first of them
is what TCP misses most: it needs no timer of its own to find out that there is a way again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import structlog

from wayside.core.address import Flow, Transport
from wayside.core.connection import Connection, State
from wayside.core.effects import DeliverData, Punch, ReportOpened, ReportRefused
from wayside.core.events import DataAnswered, DatagramReceived
from wayside.core.host import Host
from wayside.core.messages import Code
from wayside.core.rule import Cid
from wayside.kernel.endings import is_open
from wayside.kernel.names import LINK_MTU, PUNCH_URGENT
from wayside.kernel.packets import (
    Packet,
    build_ack,
    build_refusal,
    build_syn,
    build_udp,
    parse_packet,
)
from wayside.kernel.plan import Change, KernelError, Put, Remove

from .driver import RuleKeeper
from .eventlog import EventLog
from .first_packet import WaitingRoom
from .helper_client import Sockets
from .tap import Tap

HELD_MAX = 4096
"""Connections whose packets wait for a new way; those beyond wait for their own timers."""

BUSY_WAITS_S = (0.1, 0.4)
"""Who was given a port at the same moment as we has it for good by then. Who is busy still when
asked a third time has no port or no room: the user should know."""

AGAIN_S = (0.005, 0.015)
"""A kernel takes rules in 1 to 10 ms, however far away it is."""

_log = structlog.get_logger()


class Applications:
    """What the agent does with applications' packets.

    `ask`: asks for a connection (cid, first packet), False: there is no way; `close`: ends one;
    `deliver`: an application's answer to a datagram that rode on an OPEN, or what the network says
    of an OPEN, to the machine.
    """

    def __init__(
        self,
        host: Host,
        rules: RuleKeeper,
        log: EventLog,
        ask: Callable[[Cid, Packet], bool],
        close: Callable[[Cid, str], None],
        deliver: Callable[[DataAnswered | DatagramReceived], None],
    ) -> None:
        self._host = host
        self._rules = rules
        self._log = log
        self._ask = ask
        self._close = close
        self._deliver = deliver
        self._room = WaitingRoom()
        self._ruled: set[Cid] = set(host.connections)
        self._held: set[Cid] = set()
        self._again: dict[Cid, int] = {}
        """Connections that were asked for again because somebody was busy, and how often."""
        self._changes: set[asyncio.Task[None]] = set()
        self._tap: Tap | None = None

    def start(self, sockets: Sockets) -> None:
        """Listen to applications; close what they closed while nobody listened."""
        self._ruled.update(self._host.connections)
        self._tap = Tap(
            sockets,
            self._on_packet,
            self._on_ended,
            self._wire_to_local,
            self._local_to_wire,
            self._on_returned,
        )
        self._tap.start()
        for cid, connection in list(self._host.connections.items()):
            local = connection.agreement.local
            if local.transport.is_tcp and not is_open(local):
                self._close(cid, "closed by the application while no agent ran")

    def stop(self) -> None:
        """Listen no more."""
        if self._tap is not None:
            self._tap.stop()

    # --- what applications do ---

    def _on_packet(self, raw: bytes) -> None:
        """An application's packet that no rule rewrites. Spec: R-6.6."""
        packet = parse_packet(raw)
        if packet is None:
            assert self._tap is not None
            self._tap.tell_peer(raw)
            return
        flow = packet.flow
        assert self._host.virtual is not None
        if flow.source.ip != self._host.virtual.own(flow.family):
            return
        waiting = self._room.find(flow)
        known = waiting.cid if waiting else self._by_local(flow)
        if known is None:
            self._on_first_packet(packet)
            return
        connection = self._host.connections.get(known)
        if connection is None and known in self._again:
            self._room.hold(flow, known, raw)
        elif connection is None or connection.state in (State.CLOSING, State.ENDED):
            self._room.take(flow)
            self._on_first_packet(packet)
        elif known in self._ruled:
            self._release(known, flow, [raw])
        elif known in self._held:
            if len(raw) <= LINK_MTU:  # a larger one is several, for a link to cut up
                self._room.hold(flow, known, raw, newest=True)
        else:
            self._room.hold(flow, known, raw)
            if connection.state is State.ANSWERING:
                self._room.take(flow)
                udp = flow.transport is Transport.UDP
                self._deliver(DataAnswered(known, packet.payload if udp else packet.tcp_header))

    def _on_first_packet(self, packet: Packet) -> None:
        flow = packet.flow
        if flow.transport is Transport.TCP and not packet.is_syn:
            # Its connection is over. A bare ACK may come from a program that still reads what it
            # has got; only who has something to say must hear that nobody listens.
            if not packet.is_bare_ack:
                self._refuse_packets([packet.raw], closed=True)
            return
        cid = Cid(os.urandom(16))
        self._log.write("packet.first", cid=cid.hex(), flow=str(flow), bytes=len(packet.raw))
        if not self._ask_for(cid, [packet.raw]):
            self._refuse_packets([packet.raw], closed=False)

    def _on_ended(self, flow: Flow) -> None:
        """A socket of an application is gone: so is its connection."""
        cid = self._by_local(flow)
        if cid is not None and not is_open(flow):
            self._close(cid, "closed by the application")

    def _on_returned(self, flow: Flow, data: bytes) -> None:
        """Nobody takes signaling where we asked."""
        self._deliver(DatagramReceived(data, flow.destination, flow.source, returned=True))

    def _by_local(self, flow: Flow) -> Cid | None:
        connection = self._host.by_local(flow)
        return connection.agreement.cid if connection else None

    def _wire_to_local(self, wire: Flow) -> Flow | None:
        connection = self._host.by_wire(wire)
        return connection.agreement.local if connection else None

    def _local_to_wire(self, arrived: Flow) -> Flow | None:
        """From the 5-tuple of a peer's packet as our stack saw it to what it was on the wire."""
        connection = self._host.by_local(arrived.reversed())
        return connection.agreement.wire.reversed() if connection else None

    # --- what becomes of their connections ---

    def flow_of(self, cid: Cid) -> Flow | None:
        """The flow, as its socket sees it, that waits for a connection."""
        return self._room.flow_of(cid)

    def deliver(self, effect: DeliverData) -> None:
        """Give an application what came with a message: a datagram, or TCP's SYN. Spec: R-12.8."""
        assert self._tap is not None
        build = build_syn if effect.flow.transport.is_tcp else build_udp
        packet = build(effect.flow, effect.data)
        if packet is None:  # no TCP header: who asked gets no answer from the application
            return
        self._tap.inject(packet)
        self._log.write(
            "data.delivered", cid=effect.cid.hex(), flow=str(effect.flow), bytes=len(effect.data)
        )

    def punch(self, effect: Punch) -> None:
        """Send a packet of a connection, as the wire has it: no rule fits it. Spec: R-12.6."""
        assert self._tap is not None
        flow, data = effect.flow, effect.data
        if flow.transport is Transport.UDP:
            packet = build_udp(flow, data)
        else:
            packet = build_syn(flow, data, PUNCH_URGENT) if data else build_ack(flow, PUNCH_URGENT)
        if packet is not None:
            self._tap.send(packet)
            self._log.write("packet.punched", cid=effect.cid.hex(), flow=str(flow), bytes=len(data))

    def opened(self, effect: ReportOpened) -> None:
        """The rules are in: what waited for them goes."""
        self._ruled.add(effect.cid)
        self._again.pop(effect.cid, None)
        packets = self._room.take(effect.local)
        self._release(effect.cid, effect.local, packets[1:] if effect.carried else packets)
        if effect.cid in self._held:
            self._held.discard(effect.cid)
            self._carry_on(effect.cid, effect.local, packets)

    def _carry_on(self, cid: Cid, local: Flow, packets: list[bytes]) -> None:
        """There is a way again: the rule goes back in, and TCP is woken.

        The machine does not know that the rule was out; if the way is the old one, it still is.
        The other end's rules change at our CONFIRM, a little after the first segment comes there:
        its answer may go astray. So the newest is said again, as networks do, too.
        """
        connection = self._host.connections.get(cid)
        if connection is None:
            return
        self._change([Put(rule) for rule in connection.agreement.outbound], [])
        if packets and local.transport is not Transport.UDP:
            loop = asyncio.get_running_loop()
            for after_s in AGAIN_S:
                loop.call_later(after_s, self._release, cid, local, packets[-1:])

    def refused(self, effect: ReportRefused, local: Flow) -> None:
        """Somebody said no: so does the network, as far as the application can tell.

        Who is busy is asked again first: a NAT whose port was taken has another. Spec: R-8.7.
        """
        packets = self._room.take(local)
        times = self._again.pop(effect.cid, 0)
        if effect.code != Code.BUSY or not packets or times >= len(BUSY_WAITS_S):
            self._refuse_packets(packets, closed=effect.code == Code.NO_SERVICE)
            return
        cid = Cid(os.urandom(16))
        self._again[cid] = times + 1
        for raw in packets:
            self._room.hold(local, cid, raw)
        asyncio.get_running_loop().call_later(BUSY_WAITS_S[times], self._ask_again, cid, local)

    def _ask_again(self, cid: Cid, local: Flow) -> None:
        waiting = self._room.find(local)
        if waiting is None or waiting.cid != cid:  # so many others waited that it was forgotten
            self._again.pop(cid, None)
            return
        packets = self._room.take(local)
        if not self._ask_for(cid, packets):
            self._again.pop(cid, None)
            self._refuse_packets(packets, closed=False)

    def _ask_for(self, cid: Cid, packets: list[bytes]) -> bool:
        """Hold packets of an application and ask for their connection; False: there is no way."""
        first = parse_packet(packets[0])
        assert first is not None, "a packet that was held before"
        for raw in packets:
            self._room.hold(first.flow, cid, raw)
        if self._ask(cid, first):
            return True
        self._room.take(first.flow)
        return False

    def ended(self, cid: Cid) -> None:
        """A connection is over."""
        self._ruled.discard(cid)
        self._held.discard(cid)

    # --- while there is no way ---

    def hold(self, connections: list[Connection]) -> None:
        """Take in what these say, until their new way is there, or the old one is back."""
        changes: list[Change] = []
        for connection in connections:
            about = connection.agreement
            if about.cid in self._held or not about.outbound or len(self._held) >= HELD_MAX:
                continue
            self._held.add(about.cid)
            self._ruled.discard(about.cid)
            changes += map(Remove, about.outbound)
        if changes:
            self._change(changes, [])

    def resume(self, connections: list[Connection]) -> None:
        """Send off what these said meanwhile; they are where they were."""
        back = [one.agreement for one in connections if one.agreement.cid in self._held]
        changes: list[Change] = [Put(rule) for about in back for rule in about.outbound]
        if changes:
            self._change(changes, [(about.cid, about.local) for about in back])

    def _change(self, changes: list[Change], then: list[tuple[Cid, Flow]]) -> None:
        asked = self._rules.apply(changes)  # now, so that it stands in line before what comes next
        task = asyncio.ensure_future(self._changed(asked, then))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _changed(self, asked: Awaitable[None], then: list[tuple[Cid, Flow]]) -> None:
        try:
            await asked
        except KernelError as error:
            _log.warning("packets without a way cannot be held", why=str(error))
            return
        for cid, local in then:
            if cid in self._held:
                self._held.discard(cid)
                self._ruled.add(cid)
                self._release(cid, local, self._room.take(local))

    def _release(self, cid: Cid, flow: Flow, packets: list[bytes]) -> None:
        """Send held packets on, through the rules that now rewrite them."""
        assert self._tap is not None
        for packet in packets:
            self._tap.release(packet)
            self._log.write("packet.released", cid=cid.hex(), flow=str(flow), bytes=len(packet))

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
