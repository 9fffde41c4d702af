"""UDP connections end by silence: no program says when it is done with one.

The kernel counts the packets of each rule. A connection whose counters stand still for as long as
its lifetime is over; without this the agents would refresh it for ever. (TCP's ends are told by
the kernel.) Only those connections are looked at that could be over by now: one that was seen to
move is left alone for a lifetime, whatever the number of others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wayside.core.address import Flow, Transport
from wayside.core.connection import Connection, State
from wayside.core.effects import ReportOpened
from wayside.core.rule import Cid
from wayside.kernel.plan import InstalledRule

LOOK_EVERY_MIN_S = 0.5
"""Each round goes through all connections, if only to see that none is due."""

LOOKS_A_LIFETIME = 3
"""A connection ends between one lifetime and two and a third after its last packet."""


@dataclass(slots=True)
class _Seen:
    packets: int
    since: float
    wire: Flow


class Silence:
    """Remembers when each UDP connection's counters last moved. `close`: what to do with it.

    `clock`: monotonic seconds.
    """

    def __init__(
        self, close: Callable[[Cid, str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._close = close
        self._clock = clock
        self._seen: dict[Cid, _Seen] = {}

    def interval_s(self, connections: Sequence[Connection]) -> float:
        """How long until the next look."""
        lifetimes = [connection.lifetime_s for connection in connections if _counts(connection)]
        return max(LOOK_EVERY_MIN_S, min(lifetimes, default=30.0) / LOOKS_A_LIFETIME)

    def opened(self, report: ReportOpened) -> None:
        """Who has moved has new rules, which count from zero: that says nothing of silence."""
        before = self._seen.get(report.cid)
        if before is not None and before.wire != report.wire:
            del self._seen[report.cid]

    def due(self, connections: Sequence[Connection]) -> list[Flow]:
        """The 5-tuples of the rules that `look` has to see now."""
        now = self._clock()
        return [
            match
            for connection in connections
            if self._is_due(connection, now)
            for match in (connection.agreement.local, connection.agreement.wire.reversed())
        ]

    def look(self, connections: Sequence[Connection], rules: Sequence[InstalledRule]) -> None:
        """Compare the counters of those that are due; close what was silent for too long.

        `rules`: of the 5-tuples that are due; more do no harm.
        """
        now = self._clock()
        packets: dict[Cid, int] = {}
        for found in rules:
            owner = found.rule.owner
            packets[owner] = packets.get(owner, 0) + found.packets
        seen, self._seen = self._seen, {}
        for connection in connections:
            cid = connection.agreement.cid
            before = seen.get(cid)
            if not _counts(connection):
                continue
            if before is not None and now - before.since < connection.lifetime_s:
                self._seen[cid] = before
                continue
            count = packets.get(cid, 0)
            self._seen[cid] = _Seen(count, now, connection.agreement.wire)
            if before is not None and before.packets == count:
                self._close(cid, f"silent for {connection.lifetime_s:g} s")

    def _is_due(self, connection: Connection, now: float) -> bool:
        before = self._seen.get(connection.agreement.cid)
        return _counts(connection) and (
            before is None or now - before.since >= connection.lifetime_s
        )


def _counts(connection: Connection) -> bool:
    is_udp = connection.agreement.wire.transport is Transport.UDP
    return is_udp and connection.state in (State.CONNECTED, State.PLAIN)
