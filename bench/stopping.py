"""A transfer beside a flood at its target, before STOP and after, and how long STOP takes.

    flooder ── gate1 ── gate2 ── gate3 ══ server        ══: 50 Mbit/s, the server's way in
    client ─────┘

The client's iperf3 runs all the time. The flooder's connection was allowed, its agent is killed: it
listens to nobody, and sends 64-byte datagrams as fast as one core can (blast.c), which is more
than the server's link takes. The server says STOP while the flood goes on. Rates are those of TCP
bytes at the server's door, counted by its kernel: without a flood, in it, and after STOP.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any

from figure import Figure, compared, single
from place import ALLOW_LAB, PORTS, Bench

from wayside.lab import traffic
from wayside.lab.daemons import Daemon, within
from wayside.runtime.names import service_of

RATE = "50mbit"
REACH, FILTER_MS = 0.95, 50.0
"""A round trip of this row takes less than a millisecond, and is not added."""

IPERF, SINK = PORTS
FLOOD_FROM, PAYLOAD_BYTES = 40_009, 64
WARM_S, WINDOW_S, STOP_S = 1.0, 1.5, 6
FLOOD_S = 2 * (WARM_S + WINDOW_S) + 1.5
"""The flood goes on until the last window is over; blast.c begins half a second late."""

COUNTER = f"""
table inet bench_stop {{
    counter transfer {{}}
    counter flood {{}}
    chain arriving {{
        type filter hook prerouting priority -600; policy accept;
        tcp dport {IPERF} counter name transfer
        udp dport {SINK} counter name flood
    }}
}}
"""


def measure(bench: Bench) -> Iterator[Figure]:
    """In turns, in one transfer: no flood, a flood, a flood that was stopped."""
    stage = Stage(bench)
    rounds = bench.rounds(5)
    stage.transfer(rounds * (FLOOD_S + STOP_S + WARM_S + WINDOW_S) + 10)
    without: list[float] = []
    during: list[float] = []
    after: list[float] = []
    took_ms: list[float] = []
    for _ in range(rounds):
        within(STOP_S + 5.0, lambda: not stage.filters(0))
        time.sleep(WARM_S)
        without.append(stage.mbit_s())
        flood = stage.flood()
        time.sleep(WARM_S)
        during.append(stage.mbit_s())
        took_ms.append(stage.stop())
        time.sleep(WARM_S)
        after.append(stage.mbit_s())
        flood.wait(30)
    where = [len(stage.filters(number)) for number in (1, 2)]
    kpps = stage.flooded / stage.flooded_s / 1000
    note = f"{kpps:.0f} kpps came to the server's door in the flood; filters behind gate1: {where}"
    name = "transfer in a flood, after STOP"
    yield compared(name, "Mbit/s", after, without, reach=REACH, note=note)
    yield compared("  in the flood, before STOP", "Mbit/s", during, without)
    yield single(
        "from STOP to the filter nearest to the source",
        "ms",
        median(took_ms),
        reach=FILTER_MS,
        at_most=True,
        samples=took_ms,
        note="two gates on; the logs of server and gate, one clock",
    )


class Stage:
    """The row, with its daemons. `flooded`, `flooded_s`: what arrived of floods, and how long."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.flooded, self.flooded_s = 0, 0.0
        world, daemons = bench.world, bench.daemons
        nodes = world.chain("flooder", "gate1", "gate2", "gate3", "server")
        beside, net = world.beside("client", nodes[1])
        for before, node in pairwise(nodes[1:]):
            world.route(node, net, before)
        shape = ("root", "tbf", "rate", RATE, "burst", "32kb", "latency", "20ms")
        nodes[3].run("tc", "qdisc", "add", "dev", "to-server", *shape)
        nodes[4].run("nft", "-f", "-", stdin=COUNTER)
        self.flooder, self.client = daemons.host(nodes[0]), daemons.host(beside)
        self.server = daemons.host(nodes[4], {service_of(port): port for port in PORTS})
        for number in (1, 2, 3):
            inside = [nodes[0], beside] if number == 1 else nodes[number - 1]
            daemons.gate(nodes[number], inside=inside, outside=nodes[number + 1], policy=ALLOW_LAB)
        daemons.start()
        self._blast = str(bench.compiled("blast"))
        nodes[4].spawn(str(bench.compiled("sink")), str(SINK), ready="ready")
        traffic.serve_iperf(nodes[4])
        self._to = self.flooder.address(self.server.name, 4)
        self._send(0.1).wait(10)
        self.flooder.kill()

    @property
    def gates(self) -> list[Daemon]:
        """The gates, the flooder's first."""
        return self._bench.daemons.gates

    def transfer(self, seconds: float) -> None:
        """Let the client send for so long."""
        to = self.client.address(self.server.name, 4)
        traffic.start_iperf(self.client.node, to, seconds)
        if not within(5.0, lambda: self._counted("transfer", "bytes") > 1_000_000):
            raise RuntimeError("the transfer did not begin")

    def flood(self) -> Any:
        """Let the flooder send for FLOOD_S."""
        return self._send(FLOOD_S)

    def _send(self, seconds: float) -> Any:
        words = (str(FLOOD_FROM), str(SINK), str(PAYLOAD_BYTES), str(seconds))
        pinned = ("taskset", "-c", str(self._bench.near), self._blast, str(self._to))
        return self.flooder.node.spawn(*pinned, *words)

    def mbit_s(self) -> float:
        """The transfer's rate at the server's door for a while."""
        flooded, before, started = self._arrived()
        time.sleep(WINDOW_S)
        floods, after, ended = self._arrived()
        if floods > flooded:
            self.flooded += floods - flooded
            self.flooded_s += ended - started
        return (after - before) * 8 / (ended - started) / 1e6

    def stop(self) -> float:
        """Let the server say STOP; milliseconds until the first gate has its filter."""
        before = len(self._drops())
        self.server.command("stop", self.flooder.name, "--for", f"{STOP_S}s")
        within(5.0, lambda: len(self._drops()) > before and len(self.filters(0)) == 1)
        sent = [r for r in self.server.events() if (r.event, r.type) == ("datagram.sent", "STOP")]
        made = self._drops()[before]
        said = max(r.time for r in sent if r.time < made)
        return (made - said) * 1000

    def _drops(self) -> list[float]:
        found = self.gates[0].events()
        return [r.time for r in found if (r.event, r.action) == ("rule.installed", "drop")]

    def filters(self, number: int) -> list[Any]:
        """What a gate filters."""
        return self.gates[number].status()["filters"]

    def _arrived(self) -> tuple[int, int, float]:
        flood, transfer = self._counted("flood", "packets"), self._counted("transfer", "bytes")
        return flood, transfer, time.monotonic()

    def _counted(self, name: str, what: str) -> int:
        return self.server.node.counted("bench_stop", name, what)
