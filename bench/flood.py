"""Legitimate set-ups through a gate while forged OPENs come as fast as a sender in C can.

    client ──┐
             ├── gate ── server
    forger ──┘

The ends are the unchanged machines of hosts, both in this process, with sockets in their nodes:
they repeat, answer challenges, keep tickets. "Without" forgets the tickets before every request.
A request is done when the initiator believes an ACCEPT; it waits for five seconds. The forger
(forge.c, a raw socket) gives every OPEN another cid, so no signature holds, and a source out of
2^28 addresses, or one of the client's own /24. The gate has one core, forger and ends the other.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from figure import Figure, percentile_99, single
from place import Bench
from setups import pids_of
from stranger import Party, make_open, socket_in
from unaccepted import resident_mb

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext
from wayside.core.constants import SIGNALING_PORT
from wayside.core.effects import Effect, ReportOpened, ReportRefused
from wayside.core.events import DatagramReceived, OpenRequested
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.core.ticket import Tickets
from wayside.lab.daemons import Daemon, launch
from wayside.lab.world import Node, Process
from wayside.runtime.driver import Driver
from wayside.runtime.eventlog import EventLog
from wayside.runtime.in_process import NoRules
from wayside.runtime.udp import Received

EVERY_S = 0.02
"""Between two requests: fifty a second leave the gate nearly idle without a flood."""

FLOOD_S, QUICK_FLOOD_S = 20.0, 6.0
AFTER_S = 6.0
"""The last request's patience, and a little."""

REACH_WITH, REACH_WITHOUT = 99.9, 99.0
REACH_MB = 64.0
"""Growth of gate and helper: the buckets of 65,536 networks, and what allocators keep."""

SERVICE, FIRST_PORT = "bench", 20_000
ANYBODY = ("16.0.0.0", "4")
ALLOW = 'default = "allow"\n'


@dataclass(slots=True)
class End:
    """A host's machine at an address, and what it said of its requests."""

    host: Host
    asked: dict[Cid, float] = field(default_factory=dict[Cid, float])
    done: dict[Cid, float] = field(default_factory=dict[Cid, float])
    refused: dict[Cid, str] = field(default_factory=dict[Cid, str])
    driver: Driver = field(init=False)

    @classmethod
    def at(cls, node: str, address: Address) -> End:
        """Start one; it offers SERVICE."""
        who = Party.unknown().key
        context = HostContext(who, os.urandom)
        answering = Answering(Names({}), Policy(default=PolicyAction.ALLOW), {SERVICE: Offered(80)})
        door = FrontDoor(TokenBox(who.public, os.urandom(32), os.urandom), Budget())
        host = Host(context, answering, door, Quota(10**6, 10**6))
        end = cls(host)
        sock, log = socket_in(node, str(address.ip)), EventLog(None, node, "host")
        end.driver = Driver(host, NoRules(), {4: sock}, log, end.perform)
        end.driver.start(end.received)
        return end

    def received(self, received: Received) -> None:
        """A datagram came in."""
        self.driver.deliver(DatagramReceived(received.data, received.source, received.destination))

    def perform(self, effect: Effect) -> None:
        """Note when a request was answered, and how."""
        if isinstance(effect, ReportOpened) and effect.cid in self.asked and not effect.refreshed:
            self.done[effect.cid] = time.monotonic() - self.asked[effect.cid]
        elif isinstance(effect, ReportRefused):
            self.refused[effect.cid] = effect.reason


@dataclass(slots=True)
class Outcome:
    """What became of some requests."""

    asked: int
    took_s: list[float]
    forged_per_s: float = 0.0
    ticketed: int = 0

    @property
    def share(self) -> float:
        """Done, in percent."""
        return 100 * len(self.took_s) / self.asked

    @property
    def note(self) -> str:
        """One line."""
        middle = sorted(self.took_s)[len(self.took_s) // 2] if self.took_s else 0.0
        late = percentile_99(self.took_s) if len(self.took_s) > 1 else 0.0
        return (
            f"{len(self.took_s)} of {self.asked}; median {1000 * middle:.1f} ms, p99 {late:.2f} s; "
            f"{self.forged_per_s:,.0f} forged OPENs/s sent; {self.ticketed} OPENs by ticket"
        )


@dataclass(slots=True)
class Site:
    """The gate, the addresses of both ends, the forger."""

    bench: Bench
    gate: Daemon
    ends: tuple[Address, Address]
    forger: Node
    made: int = 0

    @classmethod
    def build(cls, bench: Bench) -> Site:
        """Lay it out and start the gate, on its own core; what it says to nobody goes nowhere."""
        client, middle, server = bench.world.chain("client", "gate", "server")
        forger, _ = bench.world.beside("forger", middle)
        way = ("ip", "route", "add", "default", "via", str(forger.address(4)))
        middle.run(*way)
        gate = bench.daemons.gate(middle, inside=[client, forger], outside=server, policy=ALLOW)
        os.sched_setaffinity(0, {bench.far})  # the daemon inherits it
        launch([gate])
        os.sched_setaffinity(0, {bench.near})
        near, far = Address(client.address(4), 0), Address(server.address(4), 0)
        asked = make_open(Party.unknown(), Party.unknown(), near.with_port(4000), far.with_port(80))
        (bench.out / "open.bin").write_bytes(asked.datagram)
        bench.compiled("forge")
        return cls(bench, gate, (near, far), forger)

    def flood(self, source: tuple[str, str], seconds: float) -> Process:
        """Start the forger."""
        out = self.bench.out
        words = (str(out / "forge"), str(self.ends[1].ip), *source, str(seconds))
        pinned = ("taskset", "-c", str(self.bench.near))
        return self.forger.spawn(*pinned, *words, str(out / "open.bin"))

    async def ask(self, seconds: float, tickets: bool, source: tuple[str, str] | None) -> Outcome:
        """Ask again and again for so long; then wait for the last answer."""
        near, far = self.ends
        asker, answerer = End.at("client", near), End.at("server", far)
        peer = PeerIdentity(answerer.host.context.key.public)
        if tickets:  # one connection in peace, some time before
            self._request(asker, peer)
            await asyncio.sleep(1.0)
            asker.asked.clear()
            asker.done.clear()
        shown = self.gate.status()["tickets"]
        forger = self.flood(source, seconds + 1) if source else None
        await asyncio.sleep(1.0)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not tickets:
                asker.host.context.tickets = Tickets()
            self._request(asker, peer)
            await asyncio.sleep(EVERY_S)
        await asyncio.sleep(AFTER_S)
        forged = 0.0
        if forger is not None:
            forger.wait(AFTER_S)
            sent, took = forger.text().split()
            forged = int(sent) / float(took)
        shown = self.gate.status()["tickets"] - shown
        asker.driver.stop()
        answerer.driver.stop()
        return Outcome(len(asker.asked), list(asker.done.values()), forged, shown)

    def _request(self, asker: End, peer: PeerIdentity) -> None:
        near, far = self.ends
        source = near.with_port(FIRST_PORT + self.made % 40_000)
        self.made += 1
        wire = Flow(Transport.TCP, source, far.with_port(80))
        cid = Cid(os.urandom(16))
        asker.asked[cid] = time.monotonic()
        to = far.with_port(SIGNALING_PORT)
        asker.driver.deliver(OpenRequested(cid, peer, SERVICE, wire, wire, to))


def measure(bench: Bench) -> Iterator[Figure]:
    """Shares with and without tickets, the control, and the gate's memory."""
    site = Site.build(bench)
    seconds = QUICK_FLOOD_S if bench.quick else FLOOD_S
    near = (str(site.ends[0].ip), "24")
    control = asyncio.run(site.ask(seconds, False, None))
    before = gate_mb(site)
    for name, source in (("anybody's", ANYBODY), ("the client's network's", near)):
        shown = asyncio.run(site.ask(seconds, True, source))
        bare = asyncio.run(site.ask(seconds, False, source))
        for what, one, reach in (("with", shown, REACH_WITH), ("without", bare, REACH_WITHOUT)):
            yield single(
                f"set-ups done under OPENs forged in {name} name, {what} a ticket",
                "%",
                one.share,
                reach=reach,
                control=control.share,
                note=one.note,
            )
    name = "  the same without a flood and without tickets"
    yield single(name, "%", control.share, reach=100, note=control.note)
    after = gate_mb(site)
    yield single(
        "gate's memory for these floods",
        "MB more",
        after - before,
        control=before,
        reach=REACH_MB,
        at_most=True,
        note=f"gate and helper: {before:.1f} MB before, {after:.1f} MB after",
    )


def gate_mb(site: Site) -> float:
    """Resident memory of the gate and its helper."""
    return resident_mb(pids_of(site.gate))
