"""The longest silence that a receiver hears when an end moves hard, beside kernel MPTCP's handover.

One flow at a time: bulk TCP, then UDP every millisecond, up and down, so that its sender moves, or
its receiver. A hard move: the old link goes down, and only then the new one gets an address; what
that takes by itself is in TCP's gap, and stands beside. UDP's counts from the new address on.
MPTCP's gap is that of a host with both links up whom nobody tells anything (`standby` of
multipath.py); what its path manager can make of it is said beside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from figure import Figure, single
from moving import TCP_PORTS, UDP_PORTS, AddressNews, Cores, Flows, Gap, here_and_there, parts, row
from multipath import KINDS, Multipath
from place import Bench

from wayside.core.address import IP
from wayside.lab.daemons import Daemon, Daemons, within
from wayside.lab.roaming import Roamer
from wayside.lab.world import World
from wayside.runtime import eventlog
from wayside.runtime.eventlog import Record
from wayside.runtime.names import service_of

FAMILY = 4
PORTS = (*TCP_PORTS.values(), *UDP_PORTS.values())
TRIPS = 1.5
TCP_REACH_MS, UDP_REACH_MS = 50.0, 20.0
ONE_WAY_MS = 5.0
"""Of each of the two boxes' links: a round trip of 20 ms."""

GONE_S = 5.0
"""A closed socket's connection is gone by then."""

CONTROL = "standby"
OTHER = {"client": "server", "server": "client"}
ENDS = {
    "client": {"the sender": "up", "the receiver": "down"},
    "server": {"the sender": "down", "the receiver": "up"},
}
"""What the mover is for a flow, and which flow that is."""


@dataclass(slots=True)
class Ours:
    """The signaled row, what its moves did, and where the time went (ms)."""

    world: World
    daemons: Daemons
    delay_ms: float
    hosts: Mapping[str, Roamer] = field(init=False)
    agents: Mapping[str, Daemon] = field(init=False)
    flows: Flows = field(init=False)
    _to: IP = field(init=False)
    gaps: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    marks: dict[str, dict[str, list[float]]] = field(
        default_factory=dict[str, dict[str, list[float]]]
    )
    _news: dict[str, AddressNews] = field(default_factory=dict[str, AddressNews])
    cores: dict[str, list[Cores]] = field(default_factory=dict[str, list[Cores]])
    """Of the mover's daemon, then the other's, in each move."""
    _number: int = 10
    _since: float = 0.0
    """Older lines of a log are of another run."""

    def __post_init__(self) -> None:
        self._since = time.monotonic()
        place = row(self.world, delay_ms=self.delay_ms)
        self.hosts = place.hosts
        services = {service_of(port): port for port in PORTS}
        client = self.daemons.host(place.client.node)
        server = self.daemons.host(place.server.node, services)
        self.agents = {"client": client, "server": server}
        self.daemons.start()
        self.flows = Flows(place.server.node, place.client.node)
        self._to = client.address(server.name, FAMILY)
        self._news = {name: AddressNews(host.node) for name, host in self.hosts.items()}

    def begin(self, kind: str, way: str) -> None:
        """One flow, alone: what was agreed for the one before it is gone, and the server is back.

        The client knows one address of it, and there is no rendezvous.
        """
        self.flows.end()
        server = self.hosts["server"]
        server.hard(next(iter(server.links.values())).box)
        daemons = self.agents.values()
        within(GONE_S, lambda: not any(daemon.held() for daemon in daemons))
        self._since = time.monotonic()
        self.flows.begin(self._to, kind, way)

    def move(self, who: str) -> None:
        """Move one of the hosts, hard."""
        host = self.hosts[who]
        _, there = here_and_there(host)
        self._number += 1
        agents = [self.agents[one].process for one in (who, OTHER[who])]
        before = [Cores.of(one) for one in agents if one]
        began = host.hard(there.box, self._number)
        seen = self.flows.after(began)
        for role, agent, was in zip(("mover", "other"), agents, before, strict=True):
            if agent:
                self.cores.setdefault(role, []).append(Cores.of(agent).since(was))
        address = there.addresses()[0]
        up = self._news[who].up(address) or began
        for name, gap in seen.items():
            self.gaps.setdefault(f"{who}: {name}", []).append(gap.ms)
            self.gaps.setdefault(f"{who}: {name}, address", []).append(gap.after(up))
            if gap.dead:
                self.begin(*name.split())
            else:
                self._account(f"{who}: {name}", address, began, up, gap)

    def _account(self, name: str, address: IP, began: float, up: float, gap: Gap) -> None:
        """Split a gap at what both hosts' logs say of this flow's signaling (ms)."""
        who, _, flow = name.partition(": ")
        mover, other = (self._records(one) for one in (who, OTHER[who]))
        transport, _, _ = flow.partition(" ")
        cid = opened(mover if who == "client" else other, transport)
        times = {"no address": up, **steps(cid, address, began, mover, other), "data": gap.end}
        marks = self.marks.setdefault(name, {})
        last = gap.at
        for label, at in times.items():
            marks.setdefault(label, []).append((at - last) * 1000)
            last = at

    def _records(self, who: str) -> list[Record]:
        return [r for r in eventlog.read([self.agents[who].log]) if r.time > self._since]


def opened(records: Sequence[Record], transport: str) -> str:
    """The connection that the asker asked for, by its log."""
    firsts = (one for one in records if one.event == "packet.first")
    return next(one.cid for one in firsts if one.flow.startswith(transport))


def steps(
    cid: str, address: IP, began: float, mover: Sequence[Record], other: Sequence[Record]
) -> dict[str, float]:
    """When a connection's OPEN went and came, its ACCEPT went and came, and both had new rules.

    A log line is written when the daemon hears of it: the kernel may be ahead of "rules".
    """

    def first(records: Sequence[Record], event: str, kind: str = "") -> float:
        fits = (
            one.time
            for one in records
            if one.time > began and (one.cid, one.event, one.type) == (cid, event, kind)
            if kind or f"{address}:" in one.to
        )
        return next(fits, began)

    return {
        "OPEN sent": first(mover, "datagram.sent", "OPEN"),
        "there": first(other, "datagram.received", "OPEN"),
        "ACCEPT sent": first(other, "datagram.sent", "ACCEPT"),
        "here": first(mover, "datagram.received", "ACCEPT"),
        "rules": first(mover, "rule.installed"),
        "the other's": first(other, "rule.installed"),
    }


class Theirs:
    """MPTCP's row, of one kind."""

    def __init__(self, world: World, kind: str, delay_ms: float) -> None:
        place = row(world, f"{kind[0]}-", delay_ms)
        self._host = Multipath(place, kind)
        self._flows = Flows(place.server.node, place.client.node)
        self._to = place.server.node.address(FAMILY)
        self.gaps: dict[str, list[float]] = {}

    def begin(self, way: str) -> None:
        """One flow, alone."""
        self._flows.end()
        self._host.alone()
        self._flows.begin(self._to, "mptcp", way)
        self._host.begin()

    def end(self) -> None:
        """No flow."""
        self._flows.end()

    def move(self) -> None:
        """Move the client."""
        seen = self._flows.after(self._host.move())
        self._host.settle()
        for name, gap in seen.items():
            self.gaps.setdefault(name, []).append(gap.ms)
            if gap.dead:
                self.begin(name.split()[1])


def measure(bench: Bench) -> Iterator[Figure]:
    """Without delay."""
    return compare(bench, 0.0)


def measure_far(bench: Bench) -> Iterator[Figure]:
    """Over long wires."""
    return compare(bench, ONE_WAY_MS)


def compare(bench: Bench, delay_ms: float) -> Iterator[Figure]:
    """Take turns: a move of the client, one of each MPTCP host, one of the server."""
    ours = Ours(bench.world, bench.daemons, delay_ms)
    theirs = {kind: Theirs(bench.world, kind, delay_ms) for kind in KINDS}
    for way in ("up", "down"):
        ours.begin("tcp", way)
        for one in theirs.values():
            one.begin(way)
        for _ in range(bench.rounds(20, 5)):
            ours.move("client")
            for one in theirs.values():
                one.move()
            ours.move("server")
    for one in theirs.values():
        one.end()
    for way in ("up", "down"):
        ours.begin("udp", way)
        for _ in range(bench.rounds(20, 5)):
            ours.move("client")
            ours.move("server")
    for role, taken in ours.cores.items():
        waited = median(one.waited_ms for one in taken)
        yield single(
            f"  on a core for a move of one flow: the {role}'s daemon and its helper",
            "ms",
            median(one.busy_ms for one in taken),
            samples=[one.busy_ms for one in taken],
            note=f"ready, and waiting for a core: {waited:.1f} ms",
        )
    trip_ms = 4 * delay_ms
    wire = f", {trip_ms:g} ms round trip" if trip_ms else ""
    for who, ends in ENDS.items():
        for end, way in ends.items():
            name = f"{end} moves{_as(who)}{wire}"
            yield from tcp(ours, theirs, (who, f"tcp {way}", f"TCP, {name}"), trip_ms)
        for end, way in ends.items():
            name, flow = f"{end} moves{_as(who)}{wire}", f"{who}: udp {way}"
            samples = ours.gaps[f"{flow}, address"]
            yield single(
                f"UDP at 1 kHz, {name}: gap once the address is up",
                "ms",
                median(samples),
                reach=UDP_REACH_MS + TRIPS * trip_ms,
                at_most=True,
                samples=samples,
                note=f"all of it {median(ours.gaps[flow]):.1f}: {parts(ours.marks[flow])}",
            )


def tcp(
    ours: Ours, theirs: Mapping[str, Theirs], which: tuple[str, str, str], trip_ms: float
) -> Iterator[Figure]:
    """One flow's gap, and how it stands to MPTCP's where MPTCP's host moves alike."""
    who, flow, name = which
    samples = ours.gaps[f"{who}: {flow}"]
    compared = who == "client"
    control = theirs[CONTROL].gaps[flow] if compared else []
    yield single(
        f"{name}: longest gap",
        "ms",
        median(samples),
        reach=TCP_REACH_MS + TRIPS * trip_ms,
        at_most=True,
        control=median(control) if compared else None,
        samples=samples,
        control_samples=control,
        note=parts(ours.marks[f"{who}: {flow}"]),
    )
    if compared:
        for kind in (CONTROL, *(kind for kind in KINDS if kind != CONTROL)):
            others = theirs[kind].gaps[flow]
            yield single(
                f"  of MPTCP's, {kind}",
                "",
                median(samples) / median(others),
                reach=1.0 if kind == CONTROL else None,
                at_most=True,
                note=f"MPTCP {_said(others)} ms: {KINDS[kind]}",
            )


def _said(samples: Sequence[float]) -> str:
    return f"{median(samples):.1f} ({min(samples):.1f} to {max(samples):.1f})"


def _as(who: str) -> str:
    return " (the asker)" if who == "client" else " (the one asked)"
