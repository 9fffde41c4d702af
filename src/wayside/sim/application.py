"""Applications: somebody who wants a connection and does not give up, and somebody who answers.

They know nothing of signaling. A client opens a socket, asks and is answered, some times over;
then it closes, or its socket breaks, and it tries again after a while with another port. TCP here
is a handshake, requests in single segments that are repeated until they are answered, and FIN or
RST; UDP is the requests alone. What comes back must be the answer to what was asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from random import Random

from wayside.core.address import Flow, Transport
from wayside.core.effects import Effect, ReportClosed, ReportOpened, ReportRefused
from wayside.core.host import Host
from wayside.core.identity import PeerIdentity
from wayside.core.rule import Cid
from wayside.kernel.packets import Packet

from .host import HostBox, Peer
from .watch import Violation
from .wire import FORGED, FORGED_NUMBER, TCP_HEADER_BYTES, Flag, build_tcp, build_udp, numbers_of

REPEAT_FIRST_S = 0.3
"""First repetition of a segment or request; doubles, as TCP's does."""

TRIES_MAX = 6
"""Then the socket breaks: after 19 s."""

ASK_WAIT_S = 8.0
"""A program that signals itself waits so long for an answer of its own machine."""

SERVER_IDLE_S = 45.0
"""A server closes a connection that is quiet for so long."""

FIRST_PORT, PORTS = 40_000, 24
"""Few ports, so that they are used again."""

OWN_PORTS = 1000
"""As many sockets as no application has in one run."""

THINKS_S = 0.001


class Expect(Enum):
    """What must have become of a wanted connection once the world is quiet."""

    UP = "up"
    REFUSED = "refused"
    EITHER = "up, refused or timed out"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A connection that an application wants. `every_s`: between requests of `size` bytes."""

    client: str
    server: str
    port: int
    transport: Transport
    expect: Expect = Expect.UP
    every_s: float = 1.0
    size: int = 100
    requests: int = 8
    own_ports: int = 0
    """The first of those that nobody else uses; 0: all share some."""

    def __str__(self) -> str:
        return f"{self.client} to {self.server}:{self.port} by {self.transport.name.lower()}"


@dataclass(slots=True)
class Progress:
    """How an application has fared. Times are true seconds; -1: never."""

    asked_at: float = -1.0
    answered_at: float = -1.0
    refused_at: float = -1.0
    failed_at: float = -1.0
    answers: int = 0
    sockets: int = 0


class Phase(Enum):
    """Of a client's socket."""

    CLOSED = "none"
    SIGNALING = "asking for permission from inside the program"
    CONNECTING = "SYN sent"
    OPEN = "asking and being answered"


@dataclass(slots=True)
class _Exchange:
    """What is being said at the moment, and how often it was. `turn` makes old timers void."""

    number: int = 0
    tries: int = 0
    turn: int = 0
    left: int = 0


class Client:
    """Keeps one wanted connection up."""

    def __init__(self, box: HostBox, peer: Peer, wanted: Wanted) -> None:
        self.wanted = wanted
        self.progress = Progress()
        self._box = box
        self._peer = peer
        self._chance: Random = box.place.chance.stream(f"client {wanted}")
        self._phase = Phase.CLOSED
        self._flow: Flow | None = None
        self._cid: Cid | None = None
        self._payload_max = 1400
        self._said = _Exchange()
        self._stopped = False
        self._again(self._chance.uniform(0, 2))

    def stop(self) -> None:
        """Close, and want nothing any more."""
        self._stopped = True
        if self._phase is Phase.OPEN:
            self._finish()
        self._drop_socket()

    @property
    def flow(self) -> Flow | None:
        """What its socket sends with, while it has one."""
        return self._flow

    @property
    def host(self) -> Host | None:
        """The machine that signals for it, while that runs."""
        return self._box.host

    @property
    def box(self) -> HostBox:
        """Where it runs."""
        return self._box

    @property
    def peer(self) -> PeerIdentity:
        """Whom it wants to talk to."""
        return self._peer.identity

    @property
    def is_open(self) -> bool:
        """Whether it talks to its server at the moment."""
        return self._phase is Phase.OPEN and self.progress.answered_at > self.progress.asked_at

    @property
    def can_survive(self) -> bool:
        """Whether its socket need not know where its host is."""
        return self._box.settings.virtual

    def went_on(self, since: float) -> bool:
        """Whether it was answered, or was done, since then, with the socket that it had."""
        progress = self.progress
        return progress.failed_at <= since and (
            progress.answered_at > since or self._phase is not Phase.OPEN
        )

    # --- opening ---

    def _open(self) -> None:
        if self._stopped or self._phase is not Phase.CLOSED:
            return
        flow = self._free_flow()
        if flow is None:
            self._again(0.5)
            return
        self._flow = flow
        self._said.number, self._said.left = 0, self.wanted.requests
        self.progress.sockets += 1
        self.progress.asked_at = self._now
        self._box.sockets.connect(flow, self)
        if self._box.settings.virtual:
            self._connect()
            return
        self._phase = Phase.SIGNALING
        self._turn(ASK_WAIT_S, self._break)
        cid = self._cid = Cid(self._box.entropy(16))
        self._box.listeners[cid] = self._on_report
        if not self._box.ask(cid, flow, str(self.wanted.port), b"", self._peer):
            self._break()

    def _free_flow(self) -> Flow | None:
        for _ in range(PORTS):
            port = FIRST_PORT + self._chance.randrange(PORTS)
            if self.wanted.own_ports:
                port = self.wanted.own_ports + self.progress.sockets % OWN_PORTS
            ports = (port, self.wanted.port)
            flow = self._box.local_flow(self._peer.identity.key, self.wanted.transport, ports)
            if flow is not None and not self._box.sockets.has(flow):
                return flow
        return None

    def _connect(self) -> None:
        self._said.tries = 0
        if self.wanted.transport is Transport.TCP:
            self._phase = Phase.CONNECTING
        else:
            self._phase = Phase.OPEN
            self._said.number = self._chance.randrange(1, 1 << 30)
        self._say()

    def _on_report(self, effect: Effect) -> None:
        """A machine inside this program reports."""
        if self._phase is Phase.SIGNALING and isinstance(effect, ReportOpened):
            if effect.local != self._flow and self._flow is not None:
                self._box.sockets.forget(self._flow)
                self._flow = effect.local
                self._box.sockets.connect(effect.local, self)
            self._connect()
        elif isinstance(effect, ReportRefused):
            if effect.code:
                self.progress.refused_at = self._now
            self._break()
        elif isinstance(effect, ReportClosed):
            self._break()

    # --- talking ---

    def _say(self) -> None:
        """Say what is to be said now, again and again; then give up."""
        said, flow = self._said, self._flow
        if flow is None:
            return
        if said.tries >= TRIES_MAX:
            self._break()
            return
        said.tries += 1
        self._turn(REPEAT_FIRST_S * 2 ** (said.tries - 1), self._say)
        mtu = self._box.send(self._packet(flow))
        if mtu is not None:
            self._shrink(mtu)

    def _packet(self, flow: Flow) -> bytes:
        if self._phase is Phase.CONNECTING:
            return build_tcp(flow, Flag.SYN, 0, 0)
        payload = self._question()
        if flow.transport is Transport.TCP:
            return build_tcp(flow, Flag.ACK | Flag.PSH, self._said.number, 1, payload)
        return build_udp(flow, payload)

    def _question(self) -> bytes:
        text = f"ask {self.wanted} {self._said.number} ".encode()
        return text.ljust(min(self.wanted.size, self._payload_max), b".")

    def on_packet(self, packet: Packet) -> None:
        """An answer, or the end."""
        if packet.payload.startswith(FORGED):
            return
        if packet.flow.transport is Transport.TCP:
            flags = Flag(packet.tcp_flags)
            if flags & (Flag.RST | Flag.FIN):
                self.on_refused()
                return
            if self._phase is Phase.CONNECTING and flags & Flag.SYN:
                self._phase = Phase.OPEN
                self._next()
                return
        if packet.payload and self._phase is Phase.OPEN:
            self._on_answer(packet.payload)

    def _on_answer(self, payload: bytes) -> None:
        words = payload.rstrip(b".").decode()
        if not words.startswith(f"answer to {self.wanted} "):
            raise Violation("delivery", f"{self.wanted} was told: {words}")
        if words.split(" ")[-2] != str(self._said.number):
            return
        self.progress.answered_at = self._now
        self.progress.answers += 1
        self._said.left -= 1
        if self._said.left > 0:
            self._turn(self._chance.uniform(0.5, 1.5) * self.wanted.every_s, self._next)
        else:
            self._finish()

    def _next(self) -> None:
        self._said.number += 1
        self._said.tries = 0
        self._say()

    def _shrink(self, mtu: int) -> None:
        headers = (20 if self._peer.signaling.family == 4 else 40) + TCP_HEADER_BYTES
        self._payload_max = max(64, mtu - headers)
        self._turn(0.01, self._say)

    # --- ending ---

    def _finish(self) -> None:
        """All was asked: close, and come again later."""
        flow = self._flow
        if flow is not None and flow.transport is Transport.TCP:
            self._box.send(build_tcp(flow, Flag.FIN | Flag.ACK, self._said.number + 1, 1))
        self._drop_socket()
        self._again(self._chance.uniform(0.2, 1.0) * self.wanted.every_s)

    def _break(self) -> None:
        self.progress.failed_at = self._now
        self._drop_socket()
        self._again(self._chance.uniform(0.5, 3.0))

    def _drop_socket(self) -> None:
        self._said.turn += 1
        self._phase = Phase.CLOSED
        flow, self._flow = self._flow, None
        cid, self._cid = self._cid, None
        if cid is not None:
            self._box.listeners.pop(cid, None)
            self._box.close(cid, "closed by the program")
        if flow is None:
            return
        self._box.sockets.forget(flow)
        # Nobody tells an agent of the end of a UDP socket; half of the programs do it themselves.
        if flow.transport is Transport.TCP or self._chance.random() < 0.5:
            self._box.socket_ended(flow)

    def on_refused(self) -> None:
        """No such way, or nobody there: at once, and not a timeout."""
        if self._phase is not Phase.CLOSED:
            self.progress.refused_at = self._now
            self._break()

    def on_mtu(self, mtu: int) -> None:
        """Path MTU discovery."""
        if self._phase is Phase.OPEN:
            self._shrink(mtu)

    def on_reset(self) -> None:
        """The machine went down; this program starts again with it."""
        self._said.turn += 1
        self._phase, self._flow, self._cid = Phase.CLOSED, None, None
        self._again(self._chance.uniform(1, 2))

    def _again(self, wait_s: float) -> None:
        self._turn(wait_s, self._open)

    def _turn(self, wait_s: float, action: object) -> None:
        self._said.turn += 1
        turn = self._said.turn

        def go() -> None:
            if self._said.turn == turn and callable(action):
                action()

        self._box.place.clock.after(wait_s, go)

    @property
    def _now(self) -> float:
        return self._box.place.clock.now


@dataclass(slots=True)
class Server:
    """Answers on one port of one host."""

    box: HostBox
    open: dict[Flow, float] = field(default_factory=dict[Flow, float])
    """By the flow of its own packets: when it last heard something."""
    numbers: dict[Flow, int] = field(default_factory=dict[Flow, int])
    """What it says first in each of these TCP connections; nobody can tell it before."""
    chance: Random = field(init=False)

    def __post_init__(self) -> None:
        self.chance = self.box.place.chance.stream(f"server {self.box.name}")

    def on_packet(self, packet: Packet) -> None:
        """A question, or the end of them."""
        flow = packet.flow.reversed()
        if packet.payload.startswith(FORGED):
            return
        if packet.flow.transport is Transport.TCP and not self._on_segment(packet, flow):
            return
        if not packet.payload:
            return
        self.check_asker(packet)
        answer = b"answer to " + packet.payload.partition(b" ")[2]
        clock = self.box.place.clock
        clock.after(THINKS_S, lambda: self._answer(flow, packet, answer))

    def check_asker(self, packet: Packet) -> None:
        """The address that the application sees is that of who asks."""
        host = self.box.host
        if host is None or host.virtual is None:
            return
        key = host.virtual.key_of(packet.flow.source.ip)
        _, asker, _, asked, *_ = packet.payload.decode().split(" ")
        if asked.partition(":")[0] != self.box.name:
            raise Violation("delivery", f"{self.box.name} got what was for {asked}")
        node = self.box.network.nodes[asker]
        if key is not None and isinstance(node, HostBox) and key != node.key:
            raise Violation("delivery", f"{self.box.name} takes {asker} for somebody else")

    def _on_segment(self, packet: Packet, flow: Flow) -> bool:
        """Keep the connection's state; True when there is something to answer."""
        flags, now = Flag(packet.tcp_flags), self.box.place.clock.now
        if flags & (Flag.RST | Flag.FIN):
            self._close(flow)
            return False
        if flags & Flag.SYN:
            self._accept(flow, now)
            return False
        if flow not in self.open:
            seq, ack = numbers_of(packet)
            self.box.send(build_tcp(flow, Flag.RST, ack, seq))
            return False
        self.open[flow] = now
        return True

    def _accept(self, flow: Flow, now: float) -> None:
        if flow not in self.open:
            self.box.sockets.connect(flow, self)
            self.box.place.clock.after(SERVER_IDLE_S, lambda: self._tidy(flow))
        self.open[flow] = now
        number = self.numbers.setdefault(flow, self.chance.randrange(FORGED_NUMBER))
        self.box.send(build_tcp(flow, Flag.SYN | Flag.ACK, number, 1))

    def _tidy(self, flow: Flow) -> None:
        heard = self.open.get(flow)
        if heard is None:
            return
        left = heard + SERVER_IDLE_S - self.box.place.clock.now
        if left > 0:
            self.box.place.clock.after(left + 0.1, lambda: self._tidy(flow))
        else:
            self._close(flow)

    def _close(self, flow: Flow) -> None:
        if self.open.pop(flow, None) is not None:
            self.numbers.pop(flow, None)
            self.box.sockets.forget(flow)
            self.box.socket_ended(flow)

    def _answer(self, flow: Flow, packet: Packet, answer: bytes) -> None:
        if flow.transport is Transport.UDP:
            self.box.send(build_udp(flow, answer))
        elif flow in self.open:
            seq, _ = numbers_of(packet)
            number = self.numbers[flow] + 1
            self.box.send(build_tcp(flow, Flag.ACK | Flag.PSH, number, seq, answer))

    def close_all(self) -> None:
        """Close every connection."""
        for flow in list(self.open):
            self._close(flow)

    def on_refused(self) -> None:
        """A client that is gone is found out by its silence."""

    def on_mtu(self, mtu: int) -> None:
        """Answers are as short as their questions, whose senders have been told."""

    def on_reset(self) -> None:
        """The machine went down."""
        self.open.clear()
        self.numbers.clear()
