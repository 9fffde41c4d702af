"""A flood of small datagrams, and how many arrive: for whoever does not want them.

    python -m wayside.lab.flood ADDRESS PORT FROM_PORT RATE SECONDS
    python -m wayside.lab.flood sink PORT

Sends UDP datagrams of 64 bytes (IPv4 headers included) from one socket, at a rate and for a time
that are bounded, whatever the arguments say. `sink` takes them and says nothing. `Arriving` counts
them at a node in nftables (a table of the lab's), before all rules of that node's own. Who is to
flood asks first, with one datagram, and is let in; then nobody listens there any more.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time

from wayside.core.address import IP
from wayside.lab.daemons import Daemon
from wayside.lab.enclosure import PYTHON
from wayside.lab.world import Node, Process

MODULE = "wayside.lab.flood"
PAYLOAD = b"unwanted".ljust(36, b".")
RATE_MAX, SECONDS_MAX = 5_000, 30.0
BEAT_S = 0.01

TABLE = """
table inet lab_flood {{
    counter arrived {{}}
    chain arriving {{
        type filter hook prerouting priority -600; policy accept;
        udp dport {port} counter name arrived
    }}
}}
"""


class Arriving:
    """Counts what arrives at a node for a UDP port."""

    def __init__(self, node: Node, port: int) -> None:
        self._node = node
        node.run("nft", "-f", "-", stdin=TABLE.format(port=port))

    def packets(self) -> int:
        """So many until now."""
        return self._node.counted("lab_flood", "arrived")

    def rate(self, seconds: float) -> float:
        """Packets a second, while so much time passes."""
        before, started = self.packets(), time.monotonic()
        time.sleep(seconds)
        return (self.packets() - before) / (time.monotonic() - started)


def serve_sink(node: Node, port: int) -> Process:
    """Start a service that takes datagrams."""
    return node.spawn_python(MODULE, "sink", str(port), ready="ready")


def ask_first(host: Daemon, to: IP, port: int, from_port: int) -> int:
    """One datagram, which the host's agent signals for; how many connections that has opened."""
    host.node.run(*PYTHON, "-m", MODULE, str(to), str(port), str(from_port), "5", "1")
    return sum(record.event == "connection.opened" for record in host.events())


def start(host: Daemon, to: IP, port: int, from_port: int, rate: int, seconds: float) -> Process:
    """Kill the host's agent, so that nobody there hears a STOP, and flood."""
    host.kill()
    words = (str(to), str(port), str(from_port), str(rate), str(seconds))
    return host.node.spawn(*PYTHON, "-m", MODULE, *words)


def filtered_after_ms(receiver: Daemon, gate: Daemon) -> float | None:
    """From a receiver's first STOP to a gate's first filter, by their logs; None: no filter."""
    sent = [r for r in receiver.events() if (r.event, r.type) == ("datagram.sent", "STOP")]
    made = [r for r in gate.events() if (r.event, r.action) == ("rule.installed", "drop")]
    return (made[0].time - sent[0].time) * 1000 if made and sent else None


def flood(address: str, port: int, from_port: int, rate: float, seconds: float) -> int:
    """Send them; how many were sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    rate, end, sent = min(rate, RATE_MAX), time.monotonic() + min(seconds, SECONDS_MAX), 0
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(("", from_port))
        sock.connect((address, port))
        started = time.monotonic()
        while (now := time.monotonic()) < end:
            while sent < (now - started) * rate:
                with contextlib.suppress(OSError):  # an error that came back for an earlier one
                    sock.send(PAYLOAD)
                sent += 1
            time.sleep(BEAT_S)
    return sent


def sink(port: int) -> None:
    """Take what comes, over IPv6 and IPv4, for ever."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as service:
        service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        service.bind(("::", port))
        print("ready", flush=True)
        while True:
            service.recv(65536)


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1] == "sink":
        sink(int(sys.argv[2]))
        return
    address, port, from_port, rate, seconds = sys.argv[1:]
    sent = flood(address, int(port), int(from_port), float(rate), float(seconds))
    print(json.dumps({"sent": sent}), flush=True)


if __name__ == "__main__":
    main()
