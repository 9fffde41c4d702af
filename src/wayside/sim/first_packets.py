"""The first packets of a simulated host's applications: held while a connection is asked for.

As runtime/agent.py and runtime/first_packet.py: what no rule rewrites comes to the agent, which
asks for a connection, and sends it on when the rules are in, or tells the application at once that
there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wayside.core.address import Flow, Transport
from wayside.core.connection import State
from wayside.core.effects import ReportOpened, ReportRefused
from wayside.core.events import DataAnswered
from wayside.core.messages import Code
from wayside.core.rule import Cid
from wayside.kernel.multipaths import asked_by
from wayside.kernel.packets import Packet, build_refusal

from .wire import packet_of

if TYPE_CHECKING:
    from .host import HostBox

HELD_MAX = 8
"""Packets held for one flow while a connection is asked for, as in runtime/first_packet.py."""

_OVER = (State.CLOSING, State.ENDED)


@dataclass(slots=True)
class Waiting:
    """An application's packets that wait for a connection."""

    cid: Cid
    packets: list[bytes] = field(default_factory=list[bytes])


class FirstPackets:
    """Those of one host, by the flow of its packets; MPTCP's are TCP's here."""

    def __init__(self, host: HostBox) -> None:
        self._host = host
        self._waiting: dict[Flow, Waiting] = {}
        self._ruled: dict[Cid, None] = {}

    def start(self, cids: Iterable[Cid]) -> None:
        """A new agent, which has the rules of these connections."""
        self._ruled = dict.fromkeys(cids)

    def clear(self) -> None:
        """The agent is dead: what it held is lost."""
        self._waiting.clear()

    def take(self, packet: Packet) -> None:
        """An application's packet that no rule rewrites."""
        box, flow = self._host, packet.flow
        host, driver = box.host, box.driver
        assert host is not None
        assert driver is not None
        held = self._waiting.get(flow)
        by_flow = host.by_local(flow)
        known = held.cid if held else by_flow.agreement.cid if by_flow else None
        connection = host.connections.get(known) if known else None
        if known is None or connection is None or connection.state in _OVER:
            self._waiting.pop(flow, None)
            self._ask_for(packet)
        elif known in self._ruled:
            box.send(packet.raw, released=True)
        else:
            self._hold(flow, known, packet.raw)
            if connection.state is State.ANSWERING:
                self._waiting.pop(flow, None)
                udp = flow.transport is Transport.UDP
                driver.deliver(DataAnswered(known, packet.payload if udp else packet.tcp_header))

    def opened(self, effect: ReportOpened) -> None:
        """The rules are in."""
        self._ruled[effect.cid] = None

    def release(self, effect: ReportOpened) -> None:
        """What waited for it goes."""
        held = self._waiting.pop(effect.local.on_the_wire, None)
        packets = held.packets if held else []
        for raw in packets[1:] if effect.carried else packets:
            self._host.send(raw, released=True)

    def refused(self, effect: ReportRefused) -> None:
        """Who waits is told."""
        found = [flow for flow, held in self._waiting.items() if held.cid == effect.cid]
        for flow in found:
            for raw in self._waiting.pop(flow).packets[:1]:
                self._answer(raw, closed=effect.code == Code.NO_SERVICE)

    def ended(self, cid: Cid) -> None:
        """A connection's rules are gone."""
        self._ruled.pop(cid, None)

    def _ask_for(self, packet: Packet) -> None:
        box, flow = self._host, packet.flow
        host = box.host
        assert host is not None
        assert host.virtual is not None
        key = host.virtual.key_of(flow.destination.ip)
        peer = box.durable.peers.get(key) if key else None
        if peer is None or (flow.transport is Transport.TCP and not packet.is_syn):
            self._answer(packet.raw, closed=peer is not None)
            return
        wanted = asked_by(packet) if box.settings.mptcp else flow
        if wanted is None:
            self._answer(packet.raw, closed=False)
            return
        cid = Cid(box.entropy(16))
        self._hold(flow, cid, packet.raw)
        udp = flow.transport is Transport.UDP
        data = packet.payload if udp else packet.tcp_header if packet.is_syn else b""
        if not box.ask(cid, wanted, str(flow.destination.port), data, peer):
            self._waiting.pop(flow, None)
            self._answer(packet.raw, closed=False)

    def _hold(self, flow: Flow, cid: Cid, raw: bytes) -> None:
        held = self._waiting.setdefault(flow, Waiting(cid))
        if len(held.packets) < HELD_MAX:
            held.packets.append(raw)

    def _answer(self, raw: bytes, closed: bool) -> None:
        """Tell an application at once that there is no connection."""
        answer = build_refusal(raw, closed)
        packet = packet_of(answer) if answer else None
        if packet is not None:
            self._host.sockets.deliver(packet)
        elif answer is not None:
            self._host.sockets.error(answer)
