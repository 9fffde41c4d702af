"""UDP connections end by silence, as in runtime/silence.py: the kernel's counters stand still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wayside.core.address import Flow, Transport
from wayside.core.connection import Connection, State
from wayside.core.effects import ReportOpened
from wayside.core.host import Host
from wayside.core.rule import Cid
from wayside.kernel.plan import InstalledRule

if TYPE_CHECKING:
    from .box import Driver
    from .host import HostBox

LOOK_EVERY_MIN_S = 0.5
LOOKS_A_LIFETIME = 3
"""A connection ends between one lifetime and two and a third after its last packet."""


@dataclass(slots=True)
class _Seen:
    packets: int
    since: float
    wire: Flow


class SilenceKeeper:
    """Ends what is silent on one host, from one start of its agent to the next."""

    def __init__(self, host: HostBox) -> None:
        self._host = host
        self._silence = Silence()

    def start(self) -> None:
        """A new agent begins to watch."""
        host = self._host
        if host.settings.virtual and host.driver is not None:
            self._silence = Silence()
            self._watch(host.driver)

    def opened(self, report: ReportOpened) -> None:
        """A connection is up, or up again, perhaps with other rules."""
        self._silence.opened(report)

    def _watch(self, driver: Driver) -> None:
        host, silence = self._host, self._silence
        if driver is not host.driver or host.host is None:
            return
        for cid in silence.look(host.host, host.rules, host.local.now):
            host.close(cid, "silent for its lifetime")
        wait_s = silence.interval_s(host.host)
        host.place.clock.after(wait_s, lambda: self._watch(driver))


class Silence:
    """Remembers when each UDP connection's counters last moved."""

    def __init__(self) -> None:
        self._seen: dict[Cid, _Seen] = {}

    def opened(self, report: ReportOpened) -> None:
        """Who has moved has new rules, which count from zero: that says nothing of silence."""
        before = self._seen.get(report.cid)
        if before is not None and before.wire != report.wire:
            del self._seen[report.cid]

    def interval_s(self, host: Host) -> float:
        """How long until the next look."""
        lifetimes = [one.lifetime_s for one in host.connections.values() if _counts(one)]
        return max(LOOK_EVERY_MIN_S, min(lifetimes, default=30.0) / LOOKS_A_LIFETIME)

    def look(self, host: Host, rules: list[InstalledRule], now: float) -> list[Cid]:
        """The connections that were silent for too long. Only those that are due are counted."""
        packets: dict[Cid, int] = {}
        for found in rules:
            packets[found.rule.owner] = packets.get(found.rule.owner, 0) + found.packets
        seen, self._seen = self._seen, {}
        silent: list[Cid] = []
        for cid, connection in host.connections.items():
            before = seen.get(cid)
            if not _counts(connection):
                continue
            if before is not None and now - before.since < connection.lifetime_s:
                self._seen[cid] = before
                continue
            count = packets.get(cid, 0)
            self._seen[cid] = _Seen(count, now, connection.agreement.wire)
            if before is not None and before.packets == count:
                silent.append(cid)
        return silent


def _counts(connection: Connection) -> bool:
    is_udp = connection.agreement.wire.transport is Transport.UDP
    return is_udp and connection.state is State.CONNECTED
