"""Both ends of very many set-ups, in one process: the load for a gate.

OPENs are signed beforehand; ACCEPTs are signed as they are needed, because they cover the token
that the gate has just made. A window of set-ups is under way at any time: one that is done (its
CONFIRM has come through the gate, which has then put its rules into the kernel) lets the next one
start. Whatever is lost is not sent again, and counts as not done.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence

from stranger import Asked, Party, make_accept, make_confirm, make_open, socket_in

from wayside.core.address import Address
from wayside.core.constants import HEADER_BYTES, SIGNALING_PORT
from wayside.core.messages import Accept, Confirm, Open, decode
from wayside.core.rule import Cid

WINDOW = 64
"""Set-ups under way. With 32 the gate waits for the load now and then, 128 changes nothing."""

READS = 32
QUIET_S = 0.2
"""Nothing came for so long: what was under way is lost."""

FIRST_PORT, PORTS = 1024, 60_000


class Load:
    """An initiator at `near`, a responder at `far`; `nodes`: where they are, by name."""

    def __init__(
        self, nodes: tuple[str, str], ends: tuple[Party, Party], near: Address, far: Address
    ) -> None:
        self._asker, self._answerer = ends
        self._near, self._far = near, far
        self._near_socket = socket_in(nodes[0], str(near.ip))
        self._far_socket = socket_in(nodes[1], str(far.ip))
        self._asked: dict[Cid, Asked] = {}
        self._made = 0
        self.latencies_s: list[float] = []
        self._started: dict[Cid, float] = {}

    def close(self) -> None:
        """Give the ports back."""
        self._near_socket.close()
        self._far_socket.close()

    def prepare(self, count: int) -> list[Asked]:
        """So many OPENs, each for a 5-tuple of its own."""
        made: list[Asked] = []
        for number in range(self._made, self._made + count):
            source = self._near.with_port(FIRST_PORT + number % PORTS)
            destination = self._far.with_port(5201 + number // PORTS)
            made.append(make_open(self._asker, self._answerer, source, destination))
        self._made += count
        return made

    def run(self, opens: Sequence[Asked], limit_s: float) -> tuple[int, float]:
        """Set up as many of these as there is time for; how many were done, in how many seconds."""
        poll = select.poll()
        for sock in (self._near_socket, self._far_socket):
            poll.register(sock, select.POLLIN)
        waiting = iter(opens)
        done = under_way = 0
        started = last = time.monotonic()
        while last - started < limit_s:
            while under_way < WINDOW and (asked := next(waiting, None)) is not None:
                self._ask(asked)
                under_way += 1
            if not under_way:
                break
            if not poll.poll(QUIET_S * 1000):
                under_way = 0
            finished = self._read_far()
            self._read_near()
            done += finished
            under_way = max(0, under_way - finished)
            last = time.monotonic()
        return done, last - started

    def settle(self) -> int:
        """Finish what is under way; how many were done."""
        done = 0
        until = time.monotonic() + QUIET_S
        while time.monotonic() < until:
            finished = self._read_far()
            self._read_near()
            done += finished
        self._asked.clear()
        return done

    def _ask(self, asked: Asked) -> None:
        self._asked[asked.cid] = asked
        self._started[asked.cid] = time.monotonic()
        self._near_socket.sendto(asked.datagram, (str(self._far.ip), SIGNALING_PORT))

    def _read_near(self) -> None:
        """An ACCEPT came back: the initiator confirms."""
        for data, _ in _read(self._near_socket):
            if data[4] == Accept.TYPE:
                header, message = decode(data)
                assert isinstance(message, Accept)
                confirm = make_confirm(header.cid, message.hops)
                self._near_socket.sendto(confirm, (str(self._far.ip), SIGNALING_PORT))

    def _read_far(self) -> int:
        """OPENs are answered; CONFIRMs, which are counted, end a set-up."""
        finished = 0
        for data, source in _read(self._far_socket):
            if data[4] == Open.TYPE:
                header, message = decode(data)
                assert isinstance(message, Open)
                accept = make_accept(self._answerer, self._asked[header.cid], message.hops)
                self._far_socket.sendto(accept, source)
            elif data[4] == Confirm.TYPE:
                cid = Cid(data[16:HEADER_BYTES])
                if self._asked.pop(cid, None) is not None:
                    finished += 1
                    self.latencies_s.append(time.monotonic() - self._started.pop(cid))
        return finished


def _read(sock: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    found: list[tuple[bytes, tuple[str, int]]] = []
    for _ in range(READS):
        try:
            found.append(sock.recvfrom(2048))
        except BlockingIOError:
            break
    return found
