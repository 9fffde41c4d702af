"""After a restart: what the kernel still holds, joined with what the store remembers.

A connection lives on when both have it. Rules without memory cannot be closed properly any more,
and memory without rules is of no use: both are cleared away. Then the connection's rules are made
what it says that they are: what it lacks (it had no way when its agent was killed, or the agent
was killed between two words) is put again, what it had from before a move goes. Spec: R-6.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wayside.core.address import Flow
from wayside.core.codec import DecodeError
from wayside.core.host import Host
from wayside.core.rule import Cid
from wayside.core.saved import Saved, read_saved

from .plan import Change, InstalledRule, Put, Remove


@dataclass(frozen=True, slots=True)
class Recovered:
    """How many connections go on; what has to change in the kernel; what the store may forget."""

    connections: int
    changes: list[Change]
    forgotten: list[Cid]


def recover(
    host: Host,
    stored: Iterable[tuple[Cid, bytes]],
    installed: Sequence[InstalledRule],
    now: float,
) -> Recovered:
    """Take up what both the kernel and the store have; `stored`: each cid and what was saved."""
    held = {found.rule.owner for found in installed}
    forgotten: list[Cid] = []
    for cid, raw in stored:
        saved = _read(raw)
        if saved is None or cid not in held:
            forgotten.append(cid)
        else:
            host.restore(cid, saved, now)
    wanted = [
        rule
        for connection in host.connections.values()
        for rule in connection.agreement.outbound + connection.agreement.inbound
    ]
    ways = {_way(rule.match): _way(rule.rewrite) for rule in wanted}
    there = {_way(found.rule.match): _way(found.rule.rewrite) for found in installed}
    changes: list[Change] = [
        Remove(found.rule) for found in installed if _way(found.rule.match) not in ways
    ]
    changes += [Put(rule) for rule in wanted if there.get(_way(rule.match)) != _way(rule.rewrite)]
    return Recovered(len(host.connections), changes, forgotten)


def _way(flow: Flow | None) -> Flow | None:
    """As packets show it: the kernel does not tell MPTCP from TCP."""
    return flow.on_the_wire if flow is not None else None


def _read(raw: bytes) -> Saved | None:
    try:
        return read_saved(raw)
    except DecodeError:
        return None
