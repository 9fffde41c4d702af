"""Flows at a steady pace, whose receivers write down when they heard nothing.

    python flowing.py serve KIND PORT
    python flowing.py ask KIND ADDRESS PORT WAY SECONDS

KIND is `tcp`, `mptcp` or `udp`, WAY is `up` (from the asker) or `down`. A receiver prints a JSON
line for each gap that is longer than its threshold, and ten times a second that it heard something.

TCP goes at 100 Mbit/s, UDP once a millisecond. The pace of TCP is the sender's own, because the
kernel paces no MPTCP socket on request, and what carries both must be the same. At full speed two
flows would take both cores of a small machine, and every gap would be the scheduler's.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress

IPPROTO_MPTCP = 262
"""Python's socket.IPPROTO_MPTCP exists only where it was compiled with a header that has it."""

PROTOCOLS = {"tcp": 0, "mptcp": IPPROTO_MPTCP}
CHUNK_BYTES = 16384
BUFFER_BYTES = 1 << 19
CHUNK_EVERY_S = CHUNK_BYTES / 12_500_000
UDP_EVERY_S = 0.001
THRESHOLD_S = 0.004
"""Three of either's paces."""

HEARD_EVERY_S = 0.1


class Receiver:
    """Notes when something comes."""

    def __init__(self, name: str, threshold_s: float = THRESHOLD_S) -> None:
        self._name = name
        self._threshold_s = threshold_s
        self._last = 0.0
        self._said = 0.0

    def came(self) -> None:
        """Now."""
        now = time.monotonic()
        if self._last and now - self._last > self._threshold_s:
            self._say(at=self._last, gap_ms=(now - self._last) * 1000)
        self._last = now
        if now - self._said > HEARD_EVERY_S:
            self._said = now
            self._say(heard=now)

    def _say(self, **what: float) -> None:
        sys.stdout.write(json.dumps({"flow": self._name, **what}) + "\n")  # in one piece
        sys.stdout.flush()


def receive(sock: socket.socket, name: str) -> None:
    """Read to the end."""
    receiver = Receiver(name)
    with suppress(OSError):
        while sock.recv(1 << 17):
            receiver.came()


def send(sock: socket.socket, seconds: float) -> None:
    """Send bulk at the pace; what could not be sent in time does not bring a burst."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    chunk, due = bytes(CHUNK_BYTES), time.monotonic()
    until = due + seconds
    with suppress(OSError):
        while due < until:
            sock.sendall(chunk)
            due = max(due + CHUNK_EVERY_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


def send_datagrams(sock: socket.socket, to: tuple[str, int], seconds: float) -> None:
    """One every millisecond; what cannot be sent is lost, as an application would have it."""
    due = time.monotonic()
    until = due + seconds
    while due < until:
        with suppress(OSError):
            sock.sendto(bytes(64), to)
        due = max(due + UDP_EVERY_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def serve(kind: str, port: int) -> None:
    """Take flows until the end; TCP's each in a thread of its own."""
    how = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET6, how, PROTOCOLS.get(kind, 0)) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::", port))
        if kind != "udp":
            server.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        if kind == "udp":
            serve_datagrams(server)
        while True:
            sock, _ = server.accept()
            threading.Thread(target=answer, args=(sock,), daemon=True).start()


def answer(sock: socket.socket) -> None:
    """As the asker's first line says."""
    way, seconds = sock.makefile("r").readline().split()
    if way == "up":
        receive(sock, "tcp up")
    else:
        send(sock, float(seconds))


def serve_datagrams(server: socket.socket) -> None:
    """Hear one flow, and send another to whoever wants it."""
    receiver = Receiver("udp up")
    while True:
        data, source = server.recvfrom(2048)
        way, *seconds = data.rstrip(b"\0").decode().split() or ["up"]
        if way == "down":
            arguments = (server, source, float(seconds[0]))
            threading.Thread(target=send_datagrams, args=arguments, daemon=True).start()
        else:
            receiver.came()


def ask(kind: str, address: str, port: int, way: str, seconds: float) -> None:
    """Start a flow, and see it through."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    how = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    with socket.socket(family, how, PROTOCOLS.get(kind, 0)) as sock:
        sock.connect((address, port))
        if kind == "udp" and way == "up":
            send_datagrams(sock, (address, port), seconds)
            return
        sock.sendall(f"{way} {seconds}\n".encode())
        if way == "down":
            receive(sock, f"{'udp' if kind == 'udp' else 'tcp'} down")
        else:
            send(sock, seconds)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        ask(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], float(sys.argv[6]))
