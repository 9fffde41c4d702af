"""Keeps connections on paths that work: reads the kernel's counters, asks, tries others.

kernel/paths.py decides; this gives it what the rules have counted, and the machine what it decides.
A host with one address and peers with one address each have nothing to choose: then nothing is
read. Which addresses lead out is read anew whenever the network has changed, and the kernel is told
to send each address' packets by its own link (kernel/multihoming.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.connection import Connection, State
from wayside.core.effects import ReportOpened
from wayside.core.events import OpenRequested, SourcesChanged
from wayside.core.host import Host
from wayside.core.rule import Cid
from wayside.kernel.multihoming import read_ways_out
from wayside.kernel.openings import is_asked_for
from wayside.kernel.paths import READ_AFTER_S, Paths, Trial
from wayside.kernel.plan import InstalledRule, KernelError

from .udp import source_towards

_log = structlog.get_logger()

_NOTHING_TO_DO_S = 1.0

PEERS_MAX = 4096
"""With several addresses, whose newest connection is remembered."""


class Counters(Protocol):
    """Who reads counters and sets routes: the privileged helper."""

    def look_up(self, matches: Sequence[Flow]) -> Awaitable[list[InstalledRule]]:
        """What there is of these rules."""
        ...

    def route_by_source(self) -> Awaitable[None]:
        """Let each address' packets leave by its own link."""
        ...


class PathKeeper:
    """Watches the paths of a host. `deliver`: gives its machine an event; `port`: it listens on.

    `on_settled`: its addresses are others, and what was chosen among them may be, too;
    `addresses_of`: where a peer (key: 32 bytes) is asked.
    """

    def __init__(
        self,
        host: Host,
        counters: Counters,
        deliver: Callable[[OpenRequested | SourcesChanged], None],
        port: int,
        on_settled: Callable[[], None],
        addresses_of: Callable[[bytes], Sequence[Address]],
    ) -> None:
        self.paths = Paths(host.context.key.public)
        self._host = host
        self._counters = counters
        self._deliver = deliver
        self._port = port
        self._on_settled = on_settled
        self._addresses_of = addresses_of
        self._latest: dict[bytes, Cid] = {}
        self._watching: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._watching = asyncio.ensure_future(self._watch())
        self._read_now()

    def stop(self) -> None:
        """Watch no more."""
        for task in (self._watching, self._reading):
            if task is not None:
                task.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def network_changed(self) -> None:
        """Addresses or routes are others: read them, when whoever moves has moved."""
        if self._watching is not None and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(READ_AFTER_S, self._read_now)

    def _read_now(self) -> None:
        self._timer = None
        self._reading = asyncio.ensure_future(self._read(self._reading))

    def opened(self, report: ReportOpened) -> None:
        """A connection is up, or up again, perhaps by another path.

        Where MPTCP's subflows go says nothing of where others should: each has a path of its own.
        """
        connection = self._host.connections.get(report.cid)
        if connection is None or report.wire.transport is Transport.MPTCP:
            return
        about = connection.agreement
        if about.alternatives and len(self._latest) < PEERS_MAX:
            self._latest[about.peer.key] = about.cid
        if report.refreshed:
            known = list(self._host.connections.values())
            self.paths.answered(connection, known, time.monotonic())
            if len(self._host.context.own) > 1:
                preferred = source_towards(report.wire.destination)
                self.paths.agreed(report.cid, report.wire, preferred.ip if preferred else None)

    def towards(self, key: bytes, asked: Address) -> Address:
        """Where a peer (key: 32 bytes) is asked: where its other connections go, if it is there."""
        connection = self._host.connections.get(self._latest.get(key, Cid(b"")))
        if connection is None or connection.state is not State.CONNECTED:
            self._latest.pop(key, None)
            return asked
        there = connection.agreement.wire.destination
        known = [one for one in connection.agreement.alternatives if one.ip == asked.ip]
        return there.with_port(asked.port) if known else asked

    def source_towards(self, there: IP) -> Address | None:
        """The own address that silence has made us choose for packets to another, or None."""
        chosen = self.paths.source_towards(there)
        return None if chosen is None else Address(chosen, 0)

    async def _read(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        try:
            ways = await read_ways_out()
            virtual = self._host.virtual
            here = [way.address for way in ways]
            own = tuple(
                Address(ip, self._port) for ip in here if not (virtual and virtual.covers(ip))
            )
            if own == self._host.context.own:
                return
            await self._counters.route_by_source()
        except KernelError as error:
            _log.warning("other paths are not used", why=str(error))
            return
        self.paths.settle(own, time.monotonic())
        self._deliver(SourcesChanged({}, own))
        self._on_settled()

    async def _watch(self) -> None:
        while True:
            wait_s = _NOTHING_TO_DO_S
            try:
                if await self._look():
                    wait_s = self.paths.interval_s(time.monotonic())
            except KernelError as error:
                _log.warning("paths are not watched", why=str(error))
            await asyncio.sleep(wait_s)

    async def _look(self) -> bool:
        """Look once; whether there was anything to look at."""
        connections = list(self._host.connections.values())
        opening = [one for one in connections if is_asked_for(one)]
        self._try(self.paths.unanswered(opening, self._addresses_of))
        due = self.paths.due(connections)
        if not due:
            return bool(opening)
        counted = await self._count(due)
        live = [one for one in connections if one.agreement.cid in self._host.connections]
        self._try(self.paths.look(counted, live, time.monotonic()))
        return True

    async def _count(self, connections: Sequence[Connection]) -> dict[Cid, tuple[int, int]]:
        """Packets sent and heard so far."""
        matches = [
            match
            for one in connections
            for match in (one.agreement.local, one.agreement.wire.reversed())
        ]
        counted: dict[Cid, tuple[int, int]] = {}
        for found in await self._counters.look_up(matches):
            cid = found.rule.owner
            connection = self._host.connections.get(cid)
            if connection is None:
                continue
            sent, heard = counted.get(cid, (0, 0))
            if found.rule.match == connection.agreement.local.on_the_wire:
                counted[cid] = (sent + found.packets, heard)
            else:
                counted[cid] = (sent, heard + found.packets)
        return counted

    def _try(self, trials: Sequence[Trial]) -> None:
        """Have these asked for by these paths."""
        for trial in trials:
            about = self._host.connections[trial.cid].agreement
            wire = Flow(about.wire.transport, trial.source, trial.destination)
            self._deliver(
                OpenRequested(
                    trial.cid, about.peer, about.service, wire, about.local, trial.destination
                )
            )
