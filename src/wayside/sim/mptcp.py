"""MPTCP in a simulated kernel: connections of several subflows, a path manager in user space.

As Linux does it with net.mptcp.pm_type=1 (kernel/mptcp.py): whoever listens is told what happens;
a further subflow is made when the listener says so; those of the other end are taken only while
somebody listens. A subflow is what TCP is in the simulator (application.py): a handshake, here with
MP_CAPABLE or MP_JOIN (RFC 8684, section 3; without HMACs), and single segments, repeated until they
are answered. What is not answered in time goes by another subflow as well, and nothing new goes by
the silent one until it answers; in the end it is closed. The first one's socket is gone for good,
as far as anybody is told, only with its connection.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from wayside.core.address import Flow
from wayside.kernel.mptcp import Happened, MptcpEvent, Subflow
from wayside.kernel.mptcp_sockets import ListedMptcp
from wayside.kernel.packets import Packet
from wayside.kernel.plan import KernelError

from .wire import (
    FORGED,
    TCP_HEADER_BYTES,
    FiveTuple,
    Flag,
    build_tcp,
    five_tuple,
    numbers_of,
    options_of,
)

if TYPE_CHECKING:
    from .host import HostBox

REPEAT_FIRST_S = 0.3
TRIES_MAX = 6
"""As in application.py: a subflow that stays silent is closed after 19 s."""

TOLD_AFTER_S = 0.0005
"""From what happens to who hears of it by netlink."""

_KIND, _CAPABLE, _JOIN = 30, 0x01, 0x10
"""The option; subtype and version of MP_CAPABLE, subtype and flags of MP_JOIN."""


class Program(Protocol):
    """Whose connection it is."""

    def on_connected(self) -> None:
        """Its first subflow is up."""
        ...

    def on_payload(self, subflow: SubflowSocket, packet: Packet) -> None:
        """Something to read, and by which subflow it came."""
        ...

    def on_broken(self, refused: bool) -> None:
        """No subflow is left, or the other end is done."""
        ...

    def on_reset(self) -> None:
        """The machine went down."""
        ...


class Mptcp:
    """MPTCP of one host: connections by their tokens (RFC 8684, section 3.2)."""

    def __init__(self, host: HostBox) -> None:
        self.host = host
        self.listener: Listener | None = None
        self._by_token: dict[int, MptcpSocket] = {}
        self._further: dict[FiveTuple, None] = {}
        self._chance = host.place.chance.stream(f"mptcp {host.name}")

    def connect(self, flow: Flow, program: Program) -> MptcpSocket:
        """Begin a connection."""
        made = self._new(program, accepted=False)
        made.begin(flow.on_the_wire)
        return made

    def make_subflow(self, wanted: Subflow) -> None:
        """Begin a further subflow. Raises KernelError, also if the connection is over."""
        one = self._by_token.get(wanted.token)
        if one is None:
            raise KernelError("there is no such connection")
        if self.host.sockets.has(wanted.flow):
            raise KernelError("the address is in use")
        one.join(wanted)

    def on_syn(self, packet: Packet, program: Program) -> MptcpSocket | None:
        """Somebody begins a connection (it is returned), or joins one; else gets a RST."""
        flow, options = packet.flow.reversed(), options_of(packet)
        if packet.is_multipath:
            made = self._new(program, accepted=True)
            made.accept(flow, b"")
            return made
        token = int.from_bytes(options[4:8], "big") if packet.is_join else -1
        joined = self._by_token.get(token)
        if joined is None or self.listener is None or not joined.accepted:
            self.host.send(build_tcp(flow, Flag.RST, 0, 1))
        else:
            joined.accept(flow, options)
        return None

    def listed(self) -> list[ListedMptcp]:
        """Those that are up, to who asks; here none falls back."""
        up = [one for one in self._by_token.values() if any(sub.is_up for sub in one.subflows)]
        return [ListedMptcp(one.first, one.token, False) for one in up if one.first is not None]

    def is_further(self, flow: Flow) -> bool:
        """Whether this 5-tuple, as its socket sees it, is a further subflow's."""
        return five_tuple(flow) in self._further

    def clear(self) -> None:
        """The machine went down."""
        self._by_token.clear()
        self._further.clear()

    # --- for its connections ---

    def tell(self, what: Happened, token: int, flow: Flow | None, accepted: bool) -> None:
        """Whoever listens hears of it."""
        if self.listener is not None:
            event, listener = MptcpEvent(what, token, flow, accepted), self.listener
            self.host.place.clock.after(TOLD_AFTER_S, partial(self._told, listener, event))

    def bind(self, flow: Flow, socket: SubflowSocket) -> None:
        """A subflow has begun."""
        self.host.sockets.connect(flow, socket)
        if socket.number:
            self._further[five_tuple(flow)] = None

    def free(self, flow: Flow) -> None:
        """A subflow is over."""
        self.host.sockets.forget(flow)
        self._further.pop(five_tuple(flow), None)

    def over(self, token: int) -> None:
        """A connection is over."""
        self._by_token.pop(token, None)

    def _new(self, program: Program, accepted: bool) -> MptcpSocket:
        key = self._chance.randbytes(8)
        while token_of(key) in self._by_token:
            key = self._chance.randbytes(8)
        made = self._by_token[token_of(key)] = MptcpSocket(self, program, key, accepted)
        return made

    def _told(self, listener: Listener, event: MptcpEvent) -> None:
        if listener is self.listener:
            listener.happened(event)


class Listener(Protocol):
    """Who hears of MPTCP: the agent."""

    def happened(self, event: MptcpEvent) -> None:
        """The kernel says so."""
        ...


def token_of(key: bytes) -> int:
    """By which a connection is joined, of its key, 8 bytes (RFC 8684, section 3.2)."""
    return int.from_bytes(sha256(key).digest()[:4], "big")


class MptcpSocket:
    """A connection; `key`: of this end, 8 bytes. `accepted`: the other end has asked for it."""

    def __init__(self, kernel: Mptcp, program: Program, key: bytes, accepted: bool) -> None:
        self.kernel = kernel
        self.program = program
        self.key, self.peers_key = key, b""
        self.accepted = accepted
        self.subflows: list[SubflowSocket] = []
        self.first: Flow | None = None
        self._saying: tuple[int, bytes] | None = None
        self._turn = 0

    @property
    def token(self) -> int:
        """By which this kernel knows it."""
        return token_of(self.key)

    def begin(self, flow: Flow) -> None:
        """The first subflow."""
        self.first = flow
        option = bytes([_KIND, 4, _CAPABLE, 0x01])
        self._new(flow, 0, option).say((0, b""))

    def join(self, wanted: Subflow) -> None:
        """A further one."""
        token = token_of(self.peers_key).to_bytes(4, "big")
        option = bytes([_KIND, 12, _JOIN, wanted.number]) + token + bytes(4)
        self._new(wanted.flow, wanted.number, option).say((0, b""))

    def accept(self, flow: Flow, options: bytes) -> None:
        """The other end's; `options`: of its MP_JOIN, or none."""
        if not options:
            self.first = flow
            option = bytes([_KIND, 12, _CAPABLE, 0x01]) + self.key
        else:
            option = bytes([_KIND, 16, _JOIN, options[3]]) + bytes(12)
        self._new(flow, options[3] if options else 0, option).accept()

    def say(self, number: int, payload: bytes) -> None:
        """Have this answered, by whichever subflow; `number`: not that of anything before."""
        self._saying = (number, payload)
        self.push()

    def finish(self) -> None:
        """All is said: tell the other end, and close."""
        for one in list(self.subflows):
            one.finish()
        self.close()

    def close(self) -> None:
        """It is over, at this end."""
        left, self.subflows = self.subflows, []
        for one in left:
            one.close()
        self.kernel.over(self.token)
        self.kernel.tell(Happened.CLOSED, self.token, None, self.accepted)
        for flow in dict.fromkeys([*(one.flow for one in left), *filter(None, [self.first])]):
            self.kernel.host.socket_ended(flow)

    # --- for its subflows ---

    def up(self, subflow: SubflowSocket, option: bytes) -> None:
        """A subflow's handshake is done; `option`: what the other end said in it."""
        if subflow.number:
            self._tell(Happened.SUBFLOW_ESTABLISHED, subflow)
            self.push()
            return
        self.peers_key = option[4:12]
        self._tell(Happened.ESTABLISHED, subflow)
        self.program.on_connected()

    def heard(self, subflow: SubflowSocket, packet: Packet) -> None:
        """Something came by a subflow: new, unless what it answers has been answered before."""
        _, number = numbers_of(packet)
        if self.accepted:
            self.program.on_payload(subflow, packet)
        elif self._saying is not None and self._saying[0] == number:
            self._saying = None
            self.program.on_payload(subflow, packet)
        else:
            self.push()

    def push(self) -> None:
        """What is to be said goes by one that is not silent, each in its turn."""
        if self._saying is None:
            return
        lively = [one for one in self.subflows if one.is_up and not one.stale]
        free = [one for one in lively if one.says is None]
        if free and all(one.says != self._saying for one in lively):
            self._turn += 1
            free[self._turn % len(free)].say(self._saying)

    def lost(self, subflow: SubflowSocket, refused: bool) -> None:
        """A subflow is over, and not because the connection is."""
        subflow.close()
        self.subflows.remove(subflow)
        self._tell(Happened.SUBFLOW_CLOSED, subflow)
        if not self.subflows:
            self.close()
            self.program.on_broken(refused)
            return
        if subflow.flow != self.first:
            self.kernel.host.socket_ended(subflow.flow)
        self.push()

    def ended(self) -> None:
        """The other end is done."""
        self.close()
        self.program.on_broken(refused=True)

    def reset(self) -> None:
        """The machine went down."""
        if self.subflows:
            self.subflows = []
            self.program.on_reset()

    def _new(self, flow: Flow, number: int, option: bytes) -> SubflowSocket:
        made = SubflowSocket(self, flow, number, option)
        self.subflows.append(made)
        self.kernel.bind(flow, made)
        return made

    def _tell(self, what: Happened, subflow: SubflowSocket) -> None:
        self.kernel.tell(what, self.token, subflow.flow, self.accepted)


class SubflowSocket:
    """A subflow. `number`: its address id, 0: the first; `option`: what its handshake says.

    `says`: the number and bytes of what has not been answered; `stale`: not in time.
    """

    def __init__(self, owner: MptcpSocket, flow: Flow, number: int, option: bytes) -> None:
        self.flow = flow
        self.number = number
        self.is_up = self.stale = False
        self.says: tuple[int, bytes] | None = None
        self._owner = owner
        self._option = option
        self._payload_max = 1400
        self._tries = self._timers = 0
        self._is_over = False

    def say(self, said: tuple[int, bytes]) -> None:
        """Say it until it is answered; before the handshake: a SYN."""
        self.says, self._tries = said, 0
        self._again()

    def accept(self) -> None:
        """It was asked for by the other end."""
        self.is_up = True
        if self.number:
            self._owner.up(self, b"")
        else:
            self._owner.kernel.tell(Happened.ESTABLISHED, self._owner.token, self.flow, True)
        self._send(Flag.SYN | Flag.ACK, 0, 1)

    def answer(self, packet: Packet, payload: bytes) -> None:
        """Answer what has come by it."""
        if not self._is_over:
            seq, _ = numbers_of(packet)
            self._send(Flag.ACK | Flag.PSH, 1, seq, payload)

    def finish(self) -> None:
        """Tell the other end that the connection is over."""
        if self.is_up:
            self._send(Flag.FIN | Flag.ACK, 1, 1)

    def close(self) -> None:
        """It is over."""
        if not self._is_over:
            self._is_over = True
            self._timers += 1
            self._owner.kernel.free(self.flow)

    def on_packet(self, packet: Packet) -> None:
        """Something came."""
        flags = Flag(packet.tcp_flags)
        if self._is_over or packet.payload.startswith(FORGED):
            return
        if flags & Flag.RST:
            self._owner.lost(self, refused=True)
        elif flags & Flag.FIN:
            self._owner.ended()
        elif flags & Flag.SYN:
            self._on_syn(packet, flags)
        elif packet.payload and self.is_up:
            self._fresh()
            self._owner.heard(self, packet)

    def on_refused(self) -> None:
        """No such way, or nobody there."""
        if not self._is_over:
            self._owner.lost(self, refused=True)

    def on_mtu(self, mtu: int) -> None:
        """Path MTU discovery; each subflow has a path of its own."""
        headers = (20 if self.flow.family == 4 else 40) + TCP_HEADER_BYTES
        self._payload_max = max(64, mtu - headers)

    def on_reset(self) -> None:
        """The machine went down."""
        self._is_over = True
        self._timers += 1
        self._owner.reset()

    def _on_syn(self, packet: Packet, flags: Flag) -> None:
        if not flags & Flag.ACK:
            self._send(Flag.SYN | Flag.ACK, 0, 1)  # ours was lost
        elif not self.is_up:
            self.is_up = True
            self._fresh()
            self._owner.up(self, options_of(packet))

    def _fresh(self) -> None:
        self.says, self.stale = None, False
        self._timers += 1

    def _again(self) -> None:
        if self.says is None:
            return
        if self._tries >= TRIES_MAX:
            self._owner.lost(self, refused=False)
            return
        if self._tries == 1:
            self.stale = True
            self._owner.push()
            if self._is_over:
                return
        self._tries += 1
        self._later(REPEAT_FIRST_S * 2 ** (self._tries - 1))
        if self.is_up:
            self._send(Flag.ACK | Flag.PSH, self.says[0], 1, self.says[1])
        else:
            self._send(Flag.SYN, 0, 0)

    def _later(self, wait_s: float) -> None:
        self._timers += 1
        timer = self._timers

        def go() -> None:
            if timer == self._timers and not self._is_over:
                self._again()

        self._owner.kernel.host.place.clock.after(wait_s, go)

    def _send(self, flags: Flag, seq: int, ack: int, payload: bytes = b"") -> None:
        option = self._option if flags & Flag.SYN else b""

        def built() -> bytes:
            return build_tcp(self.flow, flags, seq, ack, payload[: self._payload_max], option)

        mtu = self._owner.kernel.host.send(built())
        if mtu is not None:
            self.on_mtu(mtu)
            self._owner.kernel.host.send(built())
