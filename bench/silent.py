"""The longest silence that a receiver hears when a path dies without a sign, beside kernel MPTCP's.

    client ── west ──┐        ┌── north ── server
      └────── east ──┴─ core ─┘

Both of the client's links are up and stay up; the core drops what comes from the one in use or goes
there. Ours has to find that out by its counters, ask, and take the other path; then that one dies,
while the first is back. MPTCP has a subflow on each, one of them for backup, and its own timers; it
goes back to the first by itself, which dies again. One flow at a time, as in handover.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from figure import Figure, single
from moving import TCP_PORTS, UDP_PORTS, Flows, Row, here_and_there, row
from multipath import Multipath
from place import Bench

from wayside.core.address import IP
from wayside.lab.daemons import Daemon
from wayside.lab.mobile import comes_from, connected
from wayside.lab.multihoming import revive, silence
from wayside.lab.world import Node, ProgramFailed
from wayside.runtime.names import service_of

FAMILY = 4
PORTS = (*TCP_PORTS.values(), *UDP_PORTS.values())
KNOWN_S = 1.0
"""A flow flows so long before its path dies: both know then how long answers take."""


@dataclass(slots=True)
class Silenced:
    """Flows of one row, and what deaths did to them (ms)."""

    place: Row
    core: Node
    flows: Flows = field(init=False)
    gaps: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    dead: int = 0

    def __post_init__(self) -> None:
        self.flows = Flows(self.place.server.node, self.place.client.node)

    def die(self, address: str) -> bool:
        """The path of this address of the client dies; whether its flow has gone on."""
        links = self.place.client.links.values()
        box = next(one.box for one in links if str(one.addresses()[0]) == address)
        began = silence(self.core, box.name)
        seen = self.flows.after(began)
        revive(self.core)
        for name, gap in seen.items():
            self.gaps.setdefault(name, []).append(gap.ms)
            self.dead += gap.dead
        return not any(gap.dead for gap in seen.values())


class Ours:
    """The signaled row."""

    def __init__(self, bench: Bench) -> None:
        place = row(bench.world)
        _, there = here_and_there(place.client)
        place.client.soft(there.box, 3)
        self.row = Silenced(place, _core(place))
        services = {service_of(port): port for port in PORTS}
        self._client: Daemon = bench.daemons.host(place.client.node)
        self._server: Daemon = bench.daemons.host(place.server.node, services)
        bench.daemons.start()
        self._service = ""
        self._to: IP = self._client.address(self._server.name, FAMILY)

    def begin(self, kind: str, way: str) -> None:
        """One flow, alone."""
        self.row.flows.end()
        self._service = service_of((UDP_PORTS if kind == "udp" else TCP_PORTS)[way])
        self.row.flows.begin(self._to, kind, way)
        time.sleep(KNOWN_S)

    def die(self) -> None:
        """Its path dies."""
        held = connected(self._client, self._server)
        mine = [one for one in held if one["service"] == self._service]
        if len(mine) != 1:
            raise ProgramFailed(f"{len(mine)} connections for one flow")
        self.row.die(comes_from(mine[0]))
        time.sleep(KNOWN_S)


class Theirs:
    """MPTCP's row."""

    def __init__(self, bench: Bench) -> None:
        place = row(bench.world, "s-")
        self._host = Multipath(place, "standby")
        self.row = Silenced(place, _core(place))
        self._to = place.server.node.address(FAMILY)
        self._used = ""

    def begin(self, way: str) -> None:
        """One flow, alone."""
        self.row.flows.end()
        self._host.alone()
        self._used = str(here_and_there(self.row.place.client)[0].addresses()[0])
        self.row.flows.begin(self._to, "mptcp", way)
        self._host.begin()
        time.sleep(KNOWN_S)

    def die(self, way: str) -> None:
        """The path that is no backup dies."""
        if self.row.die(self._used):
            time.sleep(KNOWN_S)
        else:
            self.begin(way)


def _core(place: Row) -> Node:
    """What all boxes of a row are joined to."""
    box = next(iter(place.client.links.values())).box
    name = next(name for name in box.addresses if name.endswith("core"))
    return Node(name, box.out)


def measure(bench: Bench) -> Iterator[Figure]:
    """Take turns: a death of ours, one of theirs."""
    ours, theirs = Ours(bench), Theirs(bench)
    for way in ("up", "down"):
        ours.begin("tcp", way)
        theirs.begin(way)
        for _ in range(bench.rounds(15, 4)):
            ours.die()
            theirs.die(way)
    theirs.row.flows.end()
    for way in ("up", "down"):
        ours.begin("udp", way)
        for _ in range(bench.rounds(15, 4)):
            ours.die()
    for way in ("up", "down"):
        mine, others = ours.row.gaps[f"tcp {way}"], theirs.row.gaps[f"tcp {way}"]
        yield single(
            f"TCP {way}, its path dies without a sign: longest gap",
            "ms",
            median(mine),
            reach=median(others),
            at_most=True,
            control=median(others),
            samples=mine,
            control_samples=others,
            note=f"MPTCP with a backup subflow: {min(others):.0f} to {max(others):.0f}",
        )
    for way in ("up", "down"):
        mine = ours.row.gaps[f"udp {way}"]
        note = "MPTCP has no datagrams"
        name = f"UDP at 1 kHz {way}, its path dies without a sign: longest gap"
        yield single(name, "ms", median(mine), samples=mine, note=note)
