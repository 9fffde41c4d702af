"""UDP connections end by silence, as in runtime/silence.py: the kernel's counters stand still."""

from __future__ import annotations

from dataclasses import dataclass

from wayside.core.address import Transport
from wayside.core.connection import State
from wayside.core.host import Host
from wayside.core.rule import Cid
from wayside.kernel.plan import InstalledRule

LOOK_EVERY_MIN_S = 0.5
LOOKS_A_LIFETIME = 3


@dataclass(slots=True)
class _Seen:
    packets: int
    since: float


class Silence:
    """Remembers when each UDP connection's counters last moved."""

    def __init__(self) -> None:
        self._seen: dict[Cid, _Seen] = {}

    def interval_s(self, host: Host) -> float:
        """How long until the next look."""
        lifetimes = [one.lifetime_s for one in host.connections.values()]
        return max(LOOK_EVERY_MIN_S, min(lifetimes, default=30.0) / LOOKS_A_LIFETIME)

    def look(self, host: Host, rules: list[InstalledRule], now: float) -> list[Cid]:
        """The connections that were silent for their lifetime."""
        packets: dict[Cid, int] = {}
        for found in rules:
            packets[found.rule.owner] = packets.get(found.rule.owner, 0) + found.packets
        before, self._seen = self._seen, {}
        silent: list[Cid] = []
        for cid, connection in host.connections.items():
            udp = connection.agreement.wire.transport is Transport.UDP
            if not udp or connection.state is not State.CONNECTED:
                continue
            count = packets.get(cid, 0)
            seen = before.get(cid)
            if seen is None or seen.packets != count:
                seen = _Seen(count, now)
            self._seen[cid] = seen
            if now - seen.since >= connection.lifetime_s:
                silent.append(cid)
        return silent
