"""An unmodified application that connects again and again, and its server.

    python connecting.py serve PORT
    python connecting.py ask ADDRESS PORT COUNT REST_MS

The client prints the time of each connect() in ms, as one JSON list. It closes every connection
and rests a moment before the next one.
"""

from __future__ import annotations

import json
import socket
import sys
import time

LIMIT_S = 5.0


def serve(port: int) -> None:
    """Accept on both families and close when the client does, for ever."""
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as service:
        service.listen(128)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            connection, _ = service.accept()
            with connection:
                connection.settimeout(LIMIT_S)
                connection.recv(1)


def ask(address: str, port: int, count: int, rest_s: float) -> list[float]:
    """Connect so many times; milliseconds each."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    took_ms: list[float] = []
    for _ in range(count):
        with socket.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(LIMIT_S)
            started = time.perf_counter()
            client.connect((address, port))
            took_ms.append((time.perf_counter() - started) * 1000)
        time.sleep(rest_s)
    return took_ms


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        _, _, to, at, times, rest_ms = sys.argv
        sys.stdout.write(json.dumps(ask(to, int(at), int(times), float(rest_ms) / 1000)))
