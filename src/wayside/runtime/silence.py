"""UDP connections end by silence: no program says when it is done with one.

The kernel counts the packets of each rule. A connection whose counters stand still for as long as
its lifetime is over; without this the agents would refresh it for ever. (TCP's ends are told by
the kernel.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wayside.core.address import Transport
from wayside.core.connection import Connection, State
from wayside.core.rule import Cid
from wayside.kernel.plan import InstalledRule

LOOK_EVERY_MIN_S = 0.5
"""Reading counters costs 40 us a rule."""

LOOKS_A_LIFETIME = 3
"""A connection ends between one lifetime and a third more after its last packet."""


@dataclass(slots=True)
class _Seen:
    packets: int
    since: float


class Silence:
    """Remembers when each UDP connection's counters last moved. `close`: what to do with it."""

    def __init__(self, close: Callable[[Cid, str], None]) -> None:
        self._close = close
        self._seen: dict[Cid, _Seen] = {}

    def interval_s(self, connections: Sequence[Connection]) -> float:
        """How long until the next look."""
        lifetimes = [connection.lifetime_s for connection in connections if _counts(connection)]
        return max(LOOK_EVERY_MIN_S, min(lifetimes, default=30.0) / LOOKS_A_LIFETIME)

    def look(self, connections: Sequence[Connection], rules: Sequence[InstalledRule]) -> None:
        """Compare the counters with those of the last look; close what was silent for too long."""
        now = time.monotonic()
        packets: dict[Cid, int] = {}
        for found in rules:
            owner = found.rule.owner
            packets[owner] = packets.get(owner, 0) + found.packets
        seen, self._seen = self._seen, {}
        for connection in connections:
            cid = connection.agreement.cid
            if not _counts(connection):
                continue
            before = seen.get(cid)
            count = packets.get(cid, 0)
            if before is None or before.packets != count:
                before = _Seen(count, now)
            self._seen[cid] = before
            if now - before.since >= connection.lifetime_s:
                self._close(cid, f"silent for {connection.lifetime_s:g} s")


def _counts(connection: Connection) -> bool:
    is_udp = connection.agreement.wire.transport is Transport.UDP
    return is_udp and connection.state is State.CONNECTED
