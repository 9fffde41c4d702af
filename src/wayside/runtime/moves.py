"""Where this host is: from which of its addresses it reaches whom, and what has moved with that.

The kernel says when an address, a link or a route has changed (kernel/changes.py), not what that
means for a connection. So the kernel is asked again: the source that it would take now towards
every address that live connections go to, once for each address and not for each connection. What
differs goes to the machine as `SourcesChanged`; it says OPEN from there (R-5.4.6).

An IPv6 address is not used while it is tentative: until duplicate address detection is over the
kernel takes no packet for it, and chooses another source. The end of that is news of its own, so
nothing waits for it here. A virtual address is never a source: a host without any other has none.

A connection whose own address is gone (a hard move) cannot send: what its application says is held
meanwhile instead of lost, and goes out when the new way is there (`hold`). Where both links are up
(a soft move) the old way carries on until then.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from wayside.core.address import IP, Address, Flow
from wayside.core.asker import Asker
from wayside.core.connection import Connection, State
from wayside.core.effects import ReportOpened
from wayside.core.events import SourcesChanged
from wayside.core.host import Host
from wayside.core.identity import key_text
from wayside.core.rule import Cid
from wayside.kernel.changes import open_changes, read_changes
from wayside.kernel.plan import KernelError
from wayside.kernel.usable import usable_addresses

from .paths import PathKeeper
from .udp import source_towards

COALESCE_S = 0.002
"""A DHCP client sets address and route within a millisecond of each other: look once, at both. What
comes later makes another look; a longer wait would be in the gap of every move."""

SHARE = 0.1
BURST_S = 0.1
"""Looking takes at most a tenth of the time, but for the looks of some moves in a row (2 ms each):
where routes change all day (BGP), looks get rarer, and no move waits."""

CONNECTIONS_A_SLICE = 512
"""An OPEN takes 0.12 ms to sign: after 60 ms others get their turn, answers to the first among
them. Fewer at a time would cost more: the machine goes through all its connections for each."""

LOOK_AGAIN_S = 5.0
"""A connection that comes up so soon after a change may have been asked for from the old place."""

_log = structlog.get_logger()


class Holding(Protocol):
    """Who keeps what applications say while there is no way for it."""

    def hold(self, connections: list[Connection]) -> None:
        """Nothing of these connections' packets gets anywhere now."""
        ...

    def resume(self, connections: list[Connection]) -> None:
        """They do again, as they did before."""
        ...


@dataclass(slots=True)
class Journey:
    """What became of a connection since it was opened.

    `moves`: how often its way changed, whoever moved. `gap_ms`: of our own last move, from the
    news of the new address to the rules being switched. `by`: who redirected it.
    """

    wire: Flow
    moves: int = 0
    gap_ms: float | None = None
    since: float | None = None
    by: tuple[str, ...] = ()


@dataclass(slots=True)
class _Pace:
    """When the network was last looked at, and what looking has taken of late (s)."""

    looked_at: float = 0.0
    spent_s: float = 0.0

    def wait_s(self, now: float) -> float:
        """How long the next look may wait at the least."""
        owed_s = self.spent_s - BURST_S - (now - self.looked_at) * SHARE
        return max(COALESCE_S, owed_s / SHARE)

    def begin(self, now: float) -> None:
        """A look begins; it is `spent` when it is over."""
        self.spent_s = max(0.0, self.spent_s - (now - self.looked_at) * SHARE)
        self.looked_at = now


class Moves:
    """Tells the machine when this host is somewhere else. `deliver`: gives it an event.

    `paths`: what a host that has several does about those that have died.
    """

    def __init__(
        self,
        host: Host,
        deliver: Callable[[SourcesChanged], None],
        holding: Holding,
        on_change: Callable[[], None],
        paths: PathKeeper | None = None,
    ) -> None:
        self._host = host
        self._deliver = deliver
        self._holding = holding
        self._on_change = on_change
        self.paths = paths
        self._journeys: dict[Cid, Journey] = {}
        self._news = open_changes()
        self._since: float | None = None
        """When the first change came that nobody has looked at yet."""
        self._timer: asyncio.TimerHandle | None = None
        self._pace = _Pace()
        self._slices: deque[dict[IP, IP]] = deque()

    def start(self) -> None:
        """Listen to the kernel; look once, for what changed while nobody listened."""
        for connection in self._host.connections.values():
            self._journeys[connection.agreement.cid] = Journey(connection.agreement.wire)
        asyncio.get_running_loop().add_reader(self._news, self._on_news)
        if self.paths is not None:
            self.paths.start()
        self.look_soon()

    def stop(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._news)
        self._news.close()
        if self._timer is not None:
            self._timer.cancel()
        if self.paths is not None:
            self.paths.stop()
        self._slices.clear()

    def journey(self, cid: Cid) -> Journey | None:
        """What is known of a connection's moves."""
        return self._journeys.get(cid)

    def source_towards(self, to: Address) -> Address | None:
        """Our own address (port 0) on the way to another; None when there is no way."""
        chosen = self.paths.source_towards(to.ip) if self.paths else None
        found = chosen or source_towards(to)
        virtual = self._host.virtual
        return None if found is None or (virtual and virtual.covers(found.ip)) else found

    def opened(self, report: ReportOpened) -> None:
        """A connection is up, or up again, perhaps on another way."""
        now = time.monotonic()
        if self.paths is not None:
            self.paths.opened(report)
        journey = self._journeys.setdefault(report.cid, Journey(report.wire))
        if report.refreshed and report.wire != journey.wire:
            journey.moves += 1
            if report.wire.source != journey.wire.source and journey.since is not None:
                journey.gap_ms, journey.since = (now - journey.since) * 1000, None
        elif not report.refreshed and now - self._pace.looked_at < LOOK_AGAIN_S:
            self.look_soon()
        journey.wire = report.wire

    def redirected(self, cid: Cid, by: bytes) -> None:
        """Somebody, by his key (32 bytes), has sent this connection another way."""
        connection = self._host.connections.get(cid)
        if connection is not None:
            journey = self._journeys.setdefault(cid, Journey(connection.agreement.wire))
            journey.by = (*journey.by, key_text(by))[-4:]

    def ended(self, cid: Cid) -> None:
        """Nothing of a connection needs to be known any more."""
        self._journeys.pop(cid, None)

    def _on_news(self) -> None:
        if read_changes(self._news):
            self.look_soon()

    def look_soon(self) -> None:
        """There is news: look at all of it in a moment."""
        if self._timer is not None:
            return
        now = time.monotonic()
        self._since = self._since or now
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._pace.wait_s(now), self.look)

    def look(self) -> None:
        """Ask the kernel about everybody we talk to, and tell the machine what is new."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        began = time.monotonic()
        self._pace.begin(began)
        since, self._since = self._since or began, None
        stays = self._host.context.stays
        peers = _peers_of(one for one in self._under_way() if not stays(one.agreement.wire))
        towards = {ip: self.source_towards(Address(ip, 0)) for ip in peers}
        changed: dict[IP, IP] = {}
        for ip, source in towards.items():
            if source is not None and any(_going(one) != source.ip for one in peers[ip]):
                changed[ip] = source.ip
        for ip, source in changed.items():
            for connection in peers[ip]:
                journey = self._journeys.get(connection.agreement.cid)
                if journey is not None and journey.wire.source.ip != source:
                    journey.since = journey.since or since
        self._slices = deque(_slices(changed, peers, self._host.context.redirectors))
        self._tell_next()
        self._hold_back()
        self._on_change()
        if self.paths is not None:
            self.paths.network_changed()
        self._pace.spent_s += time.monotonic() - began

    def _tell_next(self) -> None:
        if not self._slices:
            return
        self._deliver(SourcesChanged(self._slices.popleft()))
        asyncio.get_running_loop().call_soon(self._tell_next)

    def _hold_back(self) -> None:
        """Hold what has no way any more; let go what has its old way again."""
        try:
            usable = usable_addresses()
        except KernelError as error:
            _log.warning("packets without a way are not held", why=str(error))
            return
        stuck: list[Connection] = []
        free: list[Connection] = []
        reached: dict[IP, bool] = {}
        for connection in self._live():
            wire = connection.agreement.wire
            there = wire.destination.ip
            if there not in reached:
                reached[there] = self.source_towards(Address(there, 0)) is not None
            has_way = wire.source.ip in usable and reached[there]
            (free if has_way else stuck).append(connection)
        self._holding.hold(stuck)
        self._holding.resume(free)

    def _under_way(self) -> list[Connection]:
        """Those that are up, and those that are being asked for."""
        known = self._host.connections.values()
        return [one for one in known if one.state in (State.OPENING, State.CONNECTED)]

    def _live(self) -> list[Connection]:
        known = self._host.connections.values()
        return [one for one in known if one.state is State.CONNECTED]


def _peers_of(connections: Iterable[Connection]) -> dict[IP, list[Connection]]:
    peers: dict[IP, list[Connection]] = {}
    for connection in connections:
        peers.setdefault(connection.course.destination.ip, []).append(connection)
    return peers


def _going(connection: Connection) -> IP:
    """From where it goes, or from where it is being asked for at the moment."""
    attempt = connection.attempt if isinstance(connection, Asker) else None
    moving = attempt is not None and attempt.towards is None  # not only trying another path
    under_way = attempt is not None and attempt.message is not None and moving
    return (attempt.wire if attempt and under_way else connection.agreement.wire).source.ip


def _slices(
    changed: dict[IP, IP], peers: dict[IP, list[Connection]], first: tuple[bytes, ...]
) -> list[dict[IP, IP]]:
    """The news in portions that leave time for other things: what rendezvous must know first."""

    def urgency(ip: IP) -> bool:
        return not any(connection.agreement.peer.key in first for connection in peers[ip])

    slices: list[dict[IP, IP]] = []
    room = 0
    for ip in sorted(changed, key=urgency):
        if room <= 0:
            slices.append({})
            room = CONNECTIONS_A_SLICE
        slices[-1][ip] = changed[ip]
        room -= len(peers[ip])
    return slices
