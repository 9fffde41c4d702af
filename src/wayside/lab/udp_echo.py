"""A UDP service and its client, as plain as can be: neither knows of wayside.

    python -m wayside.lab.udp_echo serve PORT
    python -m wayside.lab.udp_echo ask ADDRESS PORT [--count N] [--from PORT] ...

The client prints one JSON object: the round-trip time of every datagram in ms (null: lost), and
the errors that the socket reported.
"""

from __future__ import annotations

import argparse
import json
import socket
import time

LOST_MAX = 5
"""So many lost in a row: nobody is there, and no more are sent."""


def serve(port: int) -> None:
    """Answer every datagram with itself, over IPv6 and IPv4, for ever."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as service:
        service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        service.bind(("::", port))
        print("ready", flush=True)
        while True:
            data, source = service.recvfrom(65536)
            service.sendto(data, source)


def ask(
    address: str,
    port: int,
    *,
    count: int,
    interval_s: float,
    size: int,
    from_port: int,
    limit_s: float,
) -> dict[str, object]:
    """Send datagrams one after another on one connected socket and time the answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    rtts_ms: list[float | None] = []
    errors: list[str] = []
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.bind(("", from_port))
        client.connect((address, port))
        for number in range(count):
            if rtts_ms[-LOST_MAX:] == [None] * LOST_MAX:
                break
            started = time.monotonic()
            try:
                client.send(number.to_bytes(4, "big").ljust(size, b"."))
                rtts_ms.append(_answer(client, number, started, limit_s))
            except OSError as error:
                errors.append(f"{number}: {error.strerror}")
                rtts_ms.append(None)
            time.sleep(max(0.0, started + interval_s - time.monotonic()))
        return {"rtts_ms": rtts_ms, "errors": errors, "from_port": client.getsockname()[1]}


def _answer(client: socket.socket, number: int, started: float, limit_s: float) -> float | None:
    while True:
        left_s = started + limit_s - time.monotonic()
        if left_s <= 0:
            return None
        client.settimeout(left_s)
        try:
            answer = client.recv(65536)
        except TimeoutError:
            return None
        if answer[:4] == number.to_bytes(4, "big"):
            return (time.monotonic() - started) * 1000


def main() -> None:
    """Read the arguments and serve or ask."""
    parser = argparse.ArgumentParser(prog="udp_echo")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve").add_argument("port", type=int)
    asking = commands.add_parser("ask")
    asking.add_argument("address")
    asking.add_argument("port", type=int)
    asking.add_argument("--count", type=int, default=1)
    asking.add_argument("--interval", type=float, default=0.0, metavar="S")
    asking.add_argument("--bytes", type=int, default=64)
    asking.add_argument("--from", type=int, default=0, dest="from_port", metavar="PORT")
    asking.add_argument("--limit", type=float, default=2.0, metavar="S")
    chosen = parser.parse_args()
    if chosen.command == "serve":
        serve(chosen.port)
        return
    answer = ask(
        chosen.address,
        chosen.port,
        count=chosen.count,
        interval_s=chosen.interval,
        size=chosen.bytes,
        from_port=chosen.from_port,
        limit_s=chosen.limit,
    )
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
