"""One long MPTCP transfer, by programs that know MPTCP and nothing of wayside.

`serve PORT` takes parcels; `send ADDRESS PORT SECONDS [tcp]` sends one for so long. Both say every
tenth of a second how many bytes there are so far, and at the end their digest; the sender also says
how many further subflows its kernel has (MPTCP_INFO), and whether it has fallen back to TCP. Times
are CLOCK_MONOTONIC's, which all namespaces share.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time

IPPROTO_MPTCP = 262
"""Python's socket.IPPROTO_MPTCP exists only where it was compiled with a header that has it."""

CHUNK_BYTES = 1 << 16
EVERY_S = 0.1
_SOL_MPTCP, _MPTCP_INFO, _INFO_BYTES = 284, 1, 32
_FLAGS_AT, _FALLBACK = 8, 1


class Told:
    """Prints how far it is."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._said = 0.0

    def add(self, data: bytes, **more: int) -> None:
        """So much more has passed."""
        self._digest.update(data)
        self._bytes += len(data)
        now = time.monotonic()
        if now - self._said > EVERY_S:
            self._said = now
            say(at=now, bytes=self._bytes, **more)

    def ended(self, how: str) -> None:
        """Nothing more comes."""
        say(at=time.monotonic(), ended=how, bytes=self._bytes, digest=self._digest.hexdigest())


def say(**what: float | str) -> None:
    """Print a line."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def serve(port: int) -> None:
    """Take parcels, one after the other."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM, IPPROTO_MPTCP) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::", port))
        server.listen()
        print("ready", flush=True)
        while True:
            sock, _ = server.accept()
            with sock:
                take(sock)


def take(sock: socket.socket) -> None:
    """Read a parcel to its end."""
    told = Told()
    try:
        while data := sock.recv(CHUNK_BYTES):
            told.add(data)
        told.ended("end")
    except OSError as error:
        told.ended(str(error))


def send(address: str, port: int, seconds: float, kind: str = "mptcp") -> None:
    """Send a parcel; `kind`: mptcp or tcp."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    chunk, told = os.urandom(CHUNK_BYTES), Told()
    protocol = IPPROTO_MPTCP if kind == "mptcp" else socket.IPPROTO_TCP
    with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
        sock.connect((address, port))
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                sock.sendall(chunk)
                told.add(chunk, **about(sock))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)
            told.ended("end")
        except OSError as error:
            told.ended(str(error))


def about(sock: socket.socket) -> dict[str, int]:
    """What the kernel says of its subflows beside the first."""
    try:
        info = sock.getsockopt(_SOL_MPTCP, _MPTCP_INFO, _INFO_BYTES)
    except OSError:  # not MPTCP any more
        return {"subflows": 0, "fallback": 1}
    flags = int.from_bytes(info[_FLAGS_AT : _FLAGS_AT + 4], sys.byteorder)
    return {"subflows": info[0], "fallback": flags & _FALLBACK}


def main() -> None:
    """See above."""
    role, *words = sys.argv[1:]
    if role == "serve":
        serve(int(words[0]))
    send(words[0], int(words[1]), float(words[2]), *words[3:])


if __name__ == "__main__":
    main()
