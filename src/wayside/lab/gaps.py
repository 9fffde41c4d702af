"""A flow whose receiver writes down when it heard nothing: the gap that a move leaves.

`serve PORT` waits for TCP and UDP on one port; `ask ADDRESS PORT TRANSPORT WAY SECONDS` starts a
flow: `up` from the asker, `down` to it. TCP goes as fast as `RATE` lets it, UDP once a millisecond.
The receiver prints a JSON line for each gap that is longer than its threshold, and one at the end;
times are CLOCK_MONOTONIC's, which all namespaces share.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from wayside.core.address import IP
from wayside.lab.world import Node, Process

RATE_BYTES_S = 12_500_000
"""100 Mbit/s, paced by the kernel: it fills a window, and leaves a core to the daemons."""

THRESHOLD_MS = {"tcp": 8.0, "udp": 4.0}
"""TCP at this rate fills a buffer every 5 ms; UDP comes every millisecond."""

CHUNK_BYTES = 16384
UDP_EVERY_S = 0.001
SILENT_AFTER_S = 3.0
_SO_MAX_PACING_RATE = 47


class Receiver:
    """Notes when something comes."""

    def __init__(self, name: str, transport: str) -> None:
        self.name = name
        self._threshold_s = THRESHOLD_MS[transport] / 1000
        self._last = time.monotonic()
        self._amount = 0

    def came(self, amount: int) -> None:
        """So many bytes, or datagrams."""
        now = time.monotonic()
        if now - self._last > self._threshold_s and self._amount:
            self._say(at=self._last, gap_ms=(now - self._last) * 1000)
        self._last = now
        self._amount += amount

    def ended(self, how: str) -> None:
        """Nothing comes any more."""
        self._say(ended=how, amount=self._amount)

    def _say(self, **what: float | str) -> None:
        sys.stdout.write(json.dumps({"flow": self.name, **what}) + "\n")  # in one piece
        sys.stdout.flush()


def receive_tcp(sock: socket.socket, name: str) -> None:
    """Read to the end."""
    receiver = Receiver(name, "tcp")
    try:
        while data := sock.recv(1 << 17):
            receiver.came(len(data))
        receiver.ended("end")
    except OSError as error:
        receiver.ended(str(error))


def send_tcp(sock: socket.socket, seconds: float) -> None:
    """Send for so long, then end."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, RATE_BYTES_S)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
    chunk, until = bytes(CHUNK_BYTES), time.monotonic() + seconds
    with suppress(OSError):
        while time.monotonic() < until:
            sock.sendall(chunk)
        sock.shutdown(socket.SHUT_WR)


def receive_udp(sock: socket.socket, name: str) -> None:
    """Read until it is silent."""
    receiver = Receiver(name, "udp")
    sock.settimeout(SILENT_AFTER_S)
    with suppress(TimeoutError):
        while sock.recv(2048):
            receiver.came(1)
    receiver.ended("end")


def send_udp(sock: socket.socket, to: tuple[str, int], seconds: float) -> None:
    """Send a datagram every millisecond for so long; a lost second does not bring a burst."""
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + seconds:
        with suppress(OSError):
            sock.sendto(bytes(64), to)
        time.sleep(max(0.0, UDP_EVERY_S - (time.monotonic() - now)))


def serve(port: int) -> None:
    """Take flows of both transports, each in a thread of its own."""
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    threading.Thread(target=_serve_udp, args=(port,), daemon=True).start()
    print("ready", flush=True)
    while True:
        sock, _ = server.accept()
        threading.Thread(target=_serve_tcp, args=(sock,), daemon=True).start()


def _serve_tcp(sock: socket.socket) -> None:
    way, seconds = sock.makefile("r").readline().split()
    if way == "up":
        receive_tcp(sock, "tcp up")
    else:
        send_tcp(sock, float(seconds))
        sock.recv(1)


def _serve_udp(port: int) -> None:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    receivers: dict[object, Receiver] = {}
    while True:
        data, source = sock.recvfrom(2048)
        words = data.rstrip(b"\0").decode().split()
        if words[:1] == ["down"]:
            arguments = (sock, source, float(words[1]))
            threading.Thread(target=send_udp, args=arguments, daemon=True).start()
        else:
            receivers.setdefault(source, Receiver("udp up", "udp")).came(1)


def ask(address: str, port: int, transport: str, way: str, seconds: float) -> None:
    """Start a flow, and see it through."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        sock.connect((address, port))
        if transport == "tcp":
            sock.sendall(f"{way} {seconds}\n".encode())
            receive_tcp(sock, "tcp down") if way == "down" else send_tcp(sock, seconds)
            sock.settimeout(SILENT_AFTER_S)
            with suppress(OSError):
                sock.recv(1)
        elif way == "down":
            sock.send(f"down {seconds}".encode())
            receive_udp(sock, "udp down")
        else:
            send_udp(sock, (address, port), seconds)


# --- from the stage: processes in nodes ---


def serve_on(node: Node, port: int) -> Process:
    """Start the server of flows."""
    return node.spawn_python("wayside.lab.gaps", "serve", str(port), ready="ready")


def flows_from(node: Node, to: IP, port: int, seconds: float) -> list[Process]:
    """Start four flows: TCP and UDP, up and down."""
    return [
        node.spawn_python(
            "wayside.lab.gaps", "ask", str(to), str(port), transport, way, str(seconds)
        )
        for transport in ("tcp", "udp")
        for way in ("up", "down")
    ]


def told(process: Process) -> list[dict[str, Any]]:
    """What a process has said of gaps and ends so far."""
    return [json.loads(line) for line in process.text().splitlines() if line.startswith("{")]


def main() -> None:
    """See above."""
    role, *words = sys.argv[1:]
    if role == "serve":
        serve(int(words[0]))
    ask(words[0], int(words[1]), words[2], words[3], float(words[4]))


if __name__ == "__main__":
    main()
