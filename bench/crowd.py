"""TCP and UDP as in bulk.py and packets.py, with 100,000 other connections in all three tables.

The control is the same signaled flow through tables that hold nothing else. For every turn the
tables are filled, or emptied, and the flow is signaled anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

import bulk
import packets
from figure import Figure, compared
from place import HERE, Bench, Line
from wayside.core.virtual import OWN_V4, VirtualAddresses
from wayside.kernel.names import TABLE
from wayside.kernel.nft import GATE_SETS, HOST_MAPS
from wayside.lab.daemons import Daemon
from wayside.lab.enclosure import PYTHON
from wayside.lab.world import ProgramFailed

REACH = 0.95
CROWD = 100_000
FAMILY = 4
FILL_LIMIT_S = 60.0
LIFETIME_S = 120.0
"""The gate's, as it is without being told; a made-up connection goes after so long."""

SAMPLES = 3
"""Of each kind in one turn: filling costs more than measuring."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Two figures: what a crowd in the tables costs a flow that has nothing to do with it."""
    line = bench.line(lifetime_s=3600)  # so that no agent counts packets meanwhile
    bulk.serve(bench, line)
    packets.serve(bench, line)
    blast = packets.Blast(bench, line)
    tcp: dict[bool, list[float]] = {True: [], False: []}
    udp: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(bench.rounds(3, 1)):
        for crowded in (False, True) if turn % 2 else (True, False):
            empty(line)
            if crowded:
                fill(line, CROWD)
            blast.source_port += 1
            for _ in range(SAMPLES):
                udp[crowded].append(blast.kpps(FAMILY, virtual=True))
                tcp[crowded].append(bulk.gbit_s(bench, line, FAMILY, virtual=True))
    note = f"control: empty tables; the crowd is {CROWD:,} connections at each of the three"
    yield compared("TCP bulk in a crowd", "Gbit/s", tcp[True], tcp[False], reach=REACH, note=note)
    yield compared("UDP packets in a crowd", "kpps", udp[True], udp[False], reach=REACH, note=note)


def empty(line: Line) -> None:
    """Take all elements out of all tables; the daemons need not know."""
    for daemon in (line.client, line.gate, line.server):
        kind, names = ("set", GATE_SETS) if daemon is line.gate else ("map", HOST_MAPS)
        daemon.node.run("nft", "; ".join(f"flush {kind} inet {TABLE} {name}" for name in names))


def fill(line: Line, count: int) -> None:
    """Put so many connections into each table, all three at once."""
    running = [
        daemon.node.spawn(*PYTHON, str(HERE / "fill.py"), *words, str(count))
        for daemon, words in (
            (line.client, host_words(line.client)),
            (line.server, host_words(line.server)),
            (line.gate, gate_words(line)),
        )
    ]
    for process in running:
        if process.wait(FILL_LIMIT_S):
            raise ProgramFailed(process.text())


def host_words(host: Daemon) -> list[str]:
    """What fill.py has to know of a host."""
    own: IPv6Address = VirtualAddresses(host.public).own(6)  # type: ignore[assignment]
    return ["host", str(OWN_V4), str(own), str(host.node.address(FAMILY))]


def gate_words(line: Line) -> list[str]:
    """What fill.py has to know of the gate."""
    sides = [f"to-{end.node.name}" for end in (line.client, line.server)]
    return ["gate", *sides, str(LIFETIME_S), str(line.client.node.address(FAMILY))]
