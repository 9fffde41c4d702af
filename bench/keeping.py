"""An unmodified application with connections that it wants to keep, and its server.

    python keeping.py serve PORT
    python keeping.py ask CONTROL PORT ADDRESS...

To each address the asker has one TCP connection and one UDP flow, on the same sockets as long as
they live; numbers go over each every 5 ms, and the server says them back. Who asks at the Unix
socket CONTROL with a number of seconds gets, as JSON, for each connection the milliseconds until a
number came back that was sent after the question, or null if none did within that time. What did
not answer is opened anew, and counts as new.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

EVERY_S = 0.005
POLL_S = 0.002
NUMBER_BYTES = 8
CONNECT_S = 5.0


@dataclass(slots=True)
class Kept:
    """One connection. `sent`, `back`: the last number that went, and that came back."""

    address: str
    port: int
    transport: str
    sent: int = 0
    back: int = 0
    sock: socket.socket | None = None

    @property
    def name(self) -> str:
        """For people, and for the measure."""
        return f"{self.transport} {6 if ':' in self.address else 4}"

    def open(self) -> None:
        """Begin, or begin again; the old socket's threads end with it."""
        if self.sock is not None:
            self.sock.close()
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        how = socket.SOCK_STREAM if self.transport == "tcp" else socket.SOCK_DGRAM
        self.sock = sock = socket.socket(family, how)
        sock.settimeout(CONNECT_S)
        sock.connect((self.address, self.port))
        sock.settimeout(None)
        if self.transport == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = self.back = 0
        for work in (self._send, self._hear):
            threading.Thread(target=work, args=(sock,), daemon=True).start()

    def _send(self, sock: socket.socket) -> None:
        while sock.fileno() >= 0:
            number = self.sent + 1
            try:
                sock.sendall(number.to_bytes(NUMBER_BYTES, "big"))
            except OSError:
                if self.transport == "tcp":
                    return
            self.sent = number
            time.sleep(EVERY_S)

    def _hear(self, sock: socket.socket) -> None:
        rest = b""
        while sock.fileno() >= 0:
            try:
                data = sock.recv(1 << 16)
            except OSError:
                if self.transport == "tcp":
                    return
                time.sleep(EVERY_S)
                continue
            if not data:
                return
            rest = (rest + data) if self.transport == "tcp" else data
            whole = len(rest) - len(rest) % NUMBER_BYTES
            if whole:
                self.back = int.from_bytes(rest[whole - NUMBER_BYTES : whole], "big")
            rest = rest[whole:]


def ask(control: str, port: int, addresses: list[str]) -> None:
    """Keep connections, and say how they are, for ever."""
    kept = [Kept(at, port, transport) for at in addresses for transport in ("tcp", "udp")]
    for one in kept:
        one.open()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(control)
        server.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            asker, _ = server.accept()
            with asker, suppress(OSError):
                seen = check(kept, float(asker.recv(64)))
                asker.sendall(json.dumps(seen).encode())


def check(kept: list[Kept], limit_s: float) -> dict[str, float | None]:
    """See above."""
    began = time.monotonic()
    wanted = {one.name: one.sent + 2 for one in kept}
    seen: dict[str, float | None] = {one.name: None for one in kept}
    while None in seen.values() and time.monotonic() < began + limit_s:
        for one in kept:
            if seen[one.name] is None and one.back >= wanted[one.name]:
                seen[one.name] = (time.monotonic() - began) * 1000
        time.sleep(POLL_S)
    for one in kept:
        if seen[one.name] is None:
            with suppress(OSError):
                one.open()
    return seen


def serve(port: int) -> None:
    """Say back what comes, on both transports and families."""
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", port))
    threading.Thread(target=echo_datagrams, args=(datagrams,), daemon=True).start()
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            sock, _ = server.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=echo, args=(sock,), daemon=True).start()


def echo(sock: socket.socket) -> None:
    """Until the other end closes."""
    with sock, suppress(OSError):
        while data := sock.recv(1 << 16):
            sock.sendall(data)


def echo_datagrams(sock: socket.socket) -> None:
    """For ever."""
    while True:
        with suppress(OSError):
            data, source = sock.recvfrom(2048)
            sock.sendto(data, source)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        ask(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
