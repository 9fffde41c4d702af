"""A thousand moves of eight kinds: either side, IPv4 and IPv6, hard and soft. Who is still there?

One TCP connection and one UDP flow in each family live through all of them on their sockets
(keeping.py). A host moves with both of its addresses, so each of its 500 moves is one of IPv4 and
one of IPv6. After a hard move, and after a soft one's old link has gone, every connection has to
bring something there and back that was sent after that.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from figure import Figure, percentile_99, single
from moving import Row, here_and_there, row
from place import HERE, Bench

from wayside.lab.daemons import Daemon
from wayside.lab.enclosure import PYTHON
from wayside.runtime.names import service_of

PORT = 7072
REACH = 0.999
LIMIT_S = 10.0
FAMILIES = (4, 6)
KINDS = [(who, how) for how in ("hard", "soft") for who in ("client", "server")]
AGREED_S = 0.15
"""A soft move's old link stays so long; most moves are agreed by then, and the rest turn hard."""

FIRST, NUMBERS = 3, 240
"""Of addresses on a net; after so many moves they come again."""


@dataclass(slots=True)
class Kept:
    """What became of the connections."""

    control: Path
    tried: Counter[str] = field(default_factory=Counter[str])
    lost: Counter[str] = field(default_factory=Counter[str])
    took_ms: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def check(self, kind: str) -> None:
        """Ask for all connections, after a move of this kind."""
        for name, ms in self._asked().items():
            transport, family = name.split()
            label = f"{kind}, IPv{family}"
            self.tried[label] += 1
            if ms is None:
                self.lost[label] += 1
            else:
                self.took_ms.setdefault(transport, []).append(ms)

    def _asked(self) -> dict[str, float | None]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.connect(str(self.control))
            sock.sendall(str(LIMIT_S).encode())
            return json.loads(sock.makefile().read())


def measure(bench: Bench) -> Iterator[Figure]:
    """Share of connections kept, and where they were not."""
    place = row(bench.world)
    client = bench.daemons.host(place.client.node)
    server = bench.daemons.host(place.server.node, {service_of(PORT): PORT})
    bench.daemons.start()
    kept = Kept(place.client.node.state / "kept")
    addresses = [str(client.address(server.name, family)) for family in FAMILIES]
    program = (*PYTHON, str(HERE / "keeping.py"))
    place.server.node.spawn(*program, "serve", str(PORT), ready="ready")
    words = ("ask", str(kept.control), str(PORT), *addresses)
    place.client.node.spawn(*program, *words, ready="ready")
    moves = bench.rounds(1000, 40) // len(FAMILIES)
    began = time.monotonic()
    for number in range(moves):
        move(place, kept, number)
    took_s = time.monotonic() - began
    tried, lost = kept.tried.total(), kept.lost.total()
    yield single(
        f"{moves * len(FAMILIES):,} moves, 8 kinds: connections kept",
        "%",
        (tried - lost) / tried * 100,
        reach=REACH * 100,
        note=f"{lost} lost of {tried:,} times one of 4: {said(kept.lost)}; {took_s:.0f} s; "
        f"`status` counts {counted(client)} and {counted(server)} moves of each",
    )
    for transport, samples in kept.took_ms.items():
        yield single(
            f"  from a move until {transport.upper()} has said something and heard it back",
            "ms",
            median(samples),
            samples=samples,
            note=f"99 of 100 within {percentile_99(samples):.0f} ms",
        )


def move(place: Row, kept: Kept, number: int) -> None:
    """The next move, of the next kind, and what it did."""
    who, how = KINDS[number % len(KINDS)]
    host = place.hosts[who]
    here, there = here_and_there(host)
    at = FIRST + number % NUMBERS
    if how == "hard":
        host.hard(there.box, at)
    else:
        host.soft(there.box, at)
        time.sleep(AGREED_S)
        host.leave(here.box)
    kept.check(f"{who} {how}")


def said(lost: Counter[str]) -> str:
    """Where connections were lost."""
    return ", ".join(f"{kind} {count}" for kind, count in sorted(lost.items())) or "no kind"


def counted(agent: Daemon) -> str:
    """How many moves of its connections a host knows of."""
    moves = sorted({one["moves"] for one in agent.held()})
    return " to ".join(str(one) for one in dict.fromkeys((moves[0], moves[-1]))) if moves else "no"
