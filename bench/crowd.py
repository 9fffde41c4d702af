"""TCP and UDP as in bulk.py and packets.py, with 100,000 other connections in all three tables.

The control is the same signaled flow through tables that hold nothing else. For every turn the
tables are filled, or emptied, and the flow is signaled anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import bulk
import packets
from figure import Figure, compared
from place import HERE, Bench, Line
from setups import rules_in

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
LIFETIME_S = 3600.0
"""Of everybody's rules: nothing is refreshed, or expires, while this runs."""

TCP_S, UDP_S = 1.0, 2.0
"""The kernel looks through its sets for what has expired once a second: at least one such look."""

SETTLE_S = 2.0
"""After filling or emptying: the kernel grows its tables, and frees elements, behind our back."""

SAMPLES = 2
"""Of each kind in one turn: filling costs more than measuring."""

AGENTS_LOOK_S = 31.0
"""After so long agents first look whether UDP flows are silent: a walk through the whole table,
which is not what is measured here. There is a UDP flow by then, and nothing else in the tables;
the next look is a third of its lifetime later."""


def measure(bench: Bench) -> Iterator[Figure]:
    """Two figures: what a crowd in the tables costs a flow that has nothing to do with it."""
    line = bench.line(lifetime_s=LIFETIME_S)
    ready = time.monotonic()
    bulk.serve(bench, line)
    packets.serve(bench, line)
    blast = packets.Blast(bench, line)
    blast.kpps(line.signaled(FAMILY))
    prepare(bench, line, CROWD)
    time.sleep(max(0.0, ready + AGENTS_LOOK_S - time.monotonic()))
    way = line.signaled(FAMILY)
    tcp: dict[bool, list[float]] = {True: [], False: []}
    udp: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(bench.rounds(3, 1)):
        for crowded in (False, True) if turn % 2 == 0 else (True, False):
            empty(line)
            if crowded:
                fill(bench, line)
            time.sleep(SETTLE_S)
            blast.source_port += 1
            for _ in range(SAMPLES):
                udp[crowded].append(blast.kpps(way, UDP_S))
                rate = bulk.gbit_s(bench, way, TCP_S)
                tcp[crowded].append(rate)
    note = f"control: empty tables; the crowd is {CROWD:,} connections at each of the three"
    yield compared("TCP bulk in a crowd", "Gbit/s", tcp[True], tcp[False], reach=REACH, note=note)
    yield compared("UDP packets in a crowd", "kpps", udp[True], udp[False], reach=REACH, note=note)


def empty(line: Line) -> None:
    """Take all elements out of all tables; the daemons need not know."""
    for daemon in (line.client, line.gate, line.server):
        kind, names = ("set", GATE_SETS) if daemon is line.gate else ("map", HOST_MAPS)
        daemon.node.run("nft", "; ".join(f"flush {kind} inet {TABLE} {name}" for name in names))


def prepare(bench: Bench, line: Line, count: int) -> None:
    """Write down what goes into each table."""
    all_of_them(line, lambda end, words: ("prepare", file_of(bench, end), *words, str(count)))


def fill(bench: Bench, line: Line) -> None:
    """Put the crowd into all three tables, and see that it is there."""
    all_of_them(line, lambda end, _: ("load", file_of(bench, end)))
    in_gate = rules_in(line.gate.node, "renewed4")
    if in_gate < 2 * CROWD:
        raise ProgramFailed(f"of {2 * CROWD} rules only {in_gate} are in the gate's table")


def all_of_them(line: Line, words: Callable[[Daemon, Sequence[str]], Sequence[str]]) -> None:
    """Run fill.py at all three nodes at once."""
    client, server, gate = line.client, line.server, line.gate
    here = str(client.node.address(FAMILY))
    known = (
        (client, host_words(client)),
        (server, host_words(server)),
        (gate, ["gate", str(LIFETIME_S), here]),
    )
    running = [
        end.node.spawn(*PYTHON, str(HERE / "fill.py"), *words(end, what)) for end, what in known
    ]
    for process in running:
        if process.wait(FILL_LIMIT_S):
            raise ProgramFailed(process.text())


def file_of(bench: Bench, end: Daemon) -> str:
    """Where the words for a node are."""
    return str(bench.out / f"{end.node.name}.nft")


def host_words(host: Daemon) -> list[str]:
    """What fill.py has to know of a host."""
    own = VirtualAddresses(host.public).own(6)
    return ["host", str(OWN_V4), str(own), str(host.node.address(FAMILY))]
