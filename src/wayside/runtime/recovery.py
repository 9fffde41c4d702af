"""After a restart: what the kernel still holds, joined with what the store remembers.

A connection lives on when both have it. Rules without memory cannot be closed properly any more,
and memory without rules is of no use: both are cleared away. What a connection lacks of its rules,
because it had no way when the agent was killed, is put again. Spec: R-6.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from wayside.core.codec import DecodeError
from wayside.core.host import Host
from wayside.core.saved import Saved, read_saved
from wayside.kernel.plan import Change, InstalledRule, Put, Remove

from .store import Store


@dataclass(frozen=True, slots=True)
class Recovered:
    """How many connections go on; what has to go from the kernel, and what it lacks."""

    connections: int
    changes: list[Change]


def recover(host: Host, store: Store, installed: list[InstalledRule], now: float) -> Recovered:
    """Take up what both the kernel and the store have."""
    held = {found.rule.owner for found in installed}
    kept: set[bytes] = set()
    for cid, raw in store.connections():
        saved = _read(raw)
        if saved is None or cid not in held:
            store.forget(cid)
            continue
        host.restore(cid, saved, now)
        kept.add(cid)
    changes: list[Change] = [
        Remove(found.rule) for found in installed if found.rule.owner not in kept
    ]
    there = {found.rule.match for found in installed}
    for connection in host.connections.values():  # one that had lost its way has no rule out
        outbound = connection.agreement.outbound
        changes += [Put(rule) for rule in outbound if rule.match.on_the_wire not in there]
    return Recovered(len(kept), changes)


def _read(raw: bytes) -> Saved | None:
    try:
        return read_saved(raw)
    except DecodeError:
        return None
