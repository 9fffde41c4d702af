"""The sockets of a simulated host: who gets which packet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.packets import Packet

from .wire import FiveTuple, five_tuple, is_out_of_window, mtu_told, quoted_flow, turned

if TYPE_CHECKING:
    from .mptcp import Mptcp


class Socket(Protocol):
    """What an application does with what comes in."""

    def on_packet(self, packet: Packet) -> None:
        """A packet for it."""
        ...

    def on_refused(self) -> None:
        """An ICMP error says that there is no way, or nobody, there."""
        ...

    def on_mtu(self, mtu: int) -> None:
        """Packets must not be larger than this."""
        ...

    def on_reset(self) -> None:
        """The machine went down."""
        ...


class Sockets:
    """Connected sockets by the flow of what they send, listening ones by port, and MPTCP's."""

    def __init__(self, mptcp: Mptcp) -> None:
        self.mptcp = mptcp
        self._connected: dict[FiveTuple, Socket] = {}
        self._listening: dict[tuple[Transport, int], Socket] = {}

    def connect(self, flow: Flow, socket: Socket) -> None:
        """This socket sends with this 5-tuple."""
        self._connected[five_tuple(flow)] = socket

    def listen(self, transport: Transport, port: int, socket: Socket) -> None:
        """This socket takes whatever comes to this port; it stays over a restart of the machine."""
        self._listening[transport, port] = socket

    def forget(self, flow: Flow) -> None:
        """A connected socket is closed."""
        self._connected.pop(five_tuple(flow), None)

    def has(self, flow: Flow) -> bool:
        """Whether there is a connected socket that sends with this 5-tuple."""
        return five_tuple(flow) in self._connected

    def has_port(self, source: Address) -> bool:
        """Whether some connected TCP socket has this own address and port."""
        mine = (Transport.TCP.protocol, int(source.ip), source.port)
        return any(key[:3] == mine for key in self._connected)

    def clear(self) -> None:
        """The machine went down, and all its programs with it."""
        gone = list(self._connected.values())
        self._connected.clear()
        for socket in [*gone, *self._listening.values()]:
            socket.on_reset()

    def deliver(self, packet: Packet) -> bool:
        """Give a packet to its socket; False when there is none."""
        if is_out_of_window(packet):
            return True
        flow = packet.flow
        socket = self._connected.get(turned(five_tuple(flow)))
        if socket is None:
            socket = self._listening.get((flow.transport, flow.destination.port))
        if socket is None:
            return False
        socket.on_packet(packet)
        return True

    def error(self, raw: bytes) -> None:
        """An ICMP error, to the socket whose packet it is about."""
        about = quoted_flow(raw)
        socket = self._connected.get(five_tuple(about)) if about else None
        if socket is None:
            return
        mtu = mtu_told(raw)
        if mtu is not None:
            socket.on_mtu(mtu)
        else:
            socket.on_refused()
