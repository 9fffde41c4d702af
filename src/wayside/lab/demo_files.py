"""The download of the demo: a web server that takes its time, and a curl that is looked at.

The server is Python's, but that the kernel paces what it sends: so a file of some tens of megabytes
takes seconds also where everything is on one machine. `Download` looks at the file that curl
writes every few milliseconds: a time without growth is a pause that a person would see.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from wayside.lab.world import Node

SMALL_BYTES, LARGE_BYTES = 2_000_000, 48_000_000
RATE_BYTES_S = 8_000_000
"""Six seconds for the large one: time to move in the middle, and to look at the rest."""

LOOK_S = 0.002
LIMIT_S = 20.0
_SO_MAX_PACING_RATE = 47


class _Paced(SimpleHTTPRequestHandler):
    """Sends no faster than RATE_BYTES_S, and keeps little in the kernel."""

    def setup(self) -> None:
        """Ask the kernel for the pace."""
        super().setup()
        self.connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, RATE_BYTES_S)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)


class _DualStack(ThreadingHTTPServer):
    address_family = socket.AF_INET6


class Download:
    """An unmodified curl that fetches the large file by name, in a node."""

    def __init__(self, node: Node, url: str) -> None:
        self._path = node.state / "download"
        self._path.unlink(missing_ok=True)
        argv = ("curl", "-sS", "--noproxy", "*", "-o", str(self._path), url)
        self._curl = node.spawn(*argv)
        self._pauses: list[tuple[float, float]] = []
        threading.Thread(target=self._look, name="download", daemon=True).start()

    def _look(self) -> None:
        size, since = 0, time.monotonic()
        while not self._curl.ended:
            time.sleep(LOOK_S)
            now, grown = time.monotonic(), self.bytes
            if grown == size:
                continue
            if size:
                self._pauses.append((now, now - since))
            size, since = grown, now

    @property
    def bytes(self) -> int:
        """How much of it is here."""
        return self._path.stat().st_size if self._path.exists() else 0

    @property
    def ended(self) -> bool:
        """Whether curl has ended."""
        return self._curl.ended

    def longest_pause_s(self, moved: float) -> float:
        """The longest time without growth that ended after a moment (monotonic s)."""
        return max((pause_s for end, pause_s in self._pauses if end > moved), default=0.0)

    def wait(self) -> str:
        """Wait for curl's end; the SHA-256 of what it wrote, or what it said was wrong."""
        if self._curl.wait(LIMIT_S):
            return self._curl.text().strip()
        return hashlib.sha256(self._path.read_bytes()).hexdigest()


def serve(node: Node, port: int) -> None:
    """Start the server over a folder with `file`, small, and `large`, of random bytes."""
    folder = node.state / "www"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(SMALL_BYTES))
    (folder / "large").write_bytes(os.urandom(LARGE_BYTES))
    node.spawn_python("wayside.lab.demo_files", str(port), str(folder), ready="ready")


def checksum(node: Node) -> str:
    """The SHA-256 of the large file, in hex."""
    return hashlib.sha256((node.state / "www" / "large").read_bytes()).hexdigest()


def main() -> None:
    """The server: PORT FOLDER."""
    port, folder = sys.argv[1:]
    with _DualStack(("::", int(port)), partial(_Paced, directory=folder)) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
