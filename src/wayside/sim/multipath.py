"""Applications that use MPTCP: as those of application.py, with the sockets of mptcp.py.

They know of no subflow. What they ask is asked by any of them, and the socket breaks when none is
left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wayside.core.address import Flow
from wayside.kernel.packets import Packet

from .application import SERVER_IDLE_S, THINKS_S, Client, Phase, Server, Wanted
from .host import HostBox, Peer
from .mptcp import MptcpSocket, SubflowSocket


class MultipathClient(Client):
    """Keeps one wanted MPTCP connection up. `lost`: the last socket that broke."""

    def __init__(self, box: HostBox, peer: Peer, wanted: Wanted) -> None:
        self.socket: MptcpSocket | None = None
        self.lost: MptcpSocket | None = None
        super().__init__(box, peer, wanted)

    def start_again(self) -> None:
        """Be done with the socket that there is, and take another."""
        if self._phase is Phase.OPEN:
            self._finish()

    def on_connected(self) -> None:
        """The first subflow is up."""
        self._phase = Phase.OPEN
        self._next()

    def on_payload(self, subflow: SubflowSocket, packet: Packet) -> None:
        """An answer."""
        if self._phase is Phase.OPEN:
            self._on_answer(packet.payload)

    def on_broken(self, refused: bool) -> None:
        """No subflow is left."""
        self.lost, self.socket = self.socket, None
        if refused:
            self.on_refused()
        elif self._phase is not Phase.CLOSED:
            self._break()

    def on_reset(self) -> None:
        """The machine went down."""
        self.socket = None
        super().on_reset()

    def _connect(self) -> None:
        assert self._flow is not None
        self._phase = Phase.CONNECTING
        self.socket = self._box.sockets.mptcp.connect(self._flow, self)

    def _say(self) -> None:
        if self.socket is not None:
            self.socket.say(self._said.number, self._question())

    def _finish(self) -> None:
        done, self.socket = self.socket, None
        if done is not None:
            done.finish()
        self._drop_socket()
        self._again(self._chance.uniform(0.2, 1.0) * self.wanted.every_s)

    def _drop_socket(self) -> None:
        left, self.socket = self.socket, None
        if left is not None:
            left.close()
        super()._drop_socket()


@dataclass(slots=True)
class _Accepted:
    """A connection of the server's."""

    server: MultipathServer
    first: Flow

    def on_connected(self) -> None:
        """It is up when it was asked for."""

    def on_payload(self, subflow: SubflowSocket, packet: Packet) -> None:
        """A question."""
        self.server.on_question(self.first, subflow, packet)

    def on_broken(self, refused: bool) -> None:
        """The client is done, or gone."""
        self.server.forget(self.first)

    def on_reset(self) -> None:
        """The machine went down: its listening socket hears of it."""


@dataclass(slots=True)
class MultipathServer(Server):
    """Answers on one port of one host. `sockets`: by the flow of their first subflow."""

    sockets: dict[Flow, MptcpSocket] = field(default_factory=dict[Flow, MptcpSocket])

    def on_packet(self, packet: Packet) -> None:
        """Somebody connects, or joins; the rest is of connections that are over."""
        flow = packet.flow.reversed()
        if packet.is_syn:
            made = self.box.sockets.mptcp.on_syn(packet, _Accepted(self, flow))
            if made is not None:
                self.sockets[flow] = made
                self.open[flow] = self.box.place.clock.now
                self.box.place.clock.after(SERVER_IDLE_S, lambda: self._tidy(flow))
        else:
            self._on_segment(packet, flow)

    def on_question(self, first: Flow, subflow: SubflowSocket, packet: Packet) -> None:
        """A question, by one of the subflows."""
        self.check_asker(packet)
        self.open[first] = self.box.place.clock.now
        answer = b"answer to " + packet.payload.partition(b" ")[2]
        self.box.place.clock.after(THINKS_S, lambda: subflow.answer(packet, answer))

    def forget(self, first: Flow) -> None:
        """A connection is over."""
        self.open.pop(first, None)
        self.sockets.pop(first, None)

    def on_reset(self) -> None:
        """The machine went down."""
        self.open.clear()
        self.sockets.clear()

    def _close(self, flow: Flow) -> None:
        socket = self.sockets.get(flow)
        self.forget(flow)
        if socket is not None:
            socket.close()
