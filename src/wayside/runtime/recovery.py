"""After a restart: what the kernel still holds, joined with what the store remembers.

A connection lives on when both have it. Rules without memory cannot be closed properly any more,
and memory without rules is of no use: both are cleared away. Spec: R-6.5.
"""

from __future__ import annotations

from dataclasses import dataclass

from wayside.core.codec import DecodeError
from wayside.core.host import Host
from wayside.core.saved import Saved, read_saved
from wayside.kernel.plan import Change, InstalledRule, Remove

from .store import Store


@dataclass(frozen=True, slots=True)
class Recovered:
    """How many connections go on, and which rules belong to none."""

    connections: int
    orphans: list[Change]


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
    orphans: list[Change] = [
        Remove(found.rule) for found in installed if found.rule.owner not in kept
    ]
    return Recovered(len(kept), orphans)


def _read(raw: bytes) -> Saved | None:
    try:
        return read_saved(raw)
    except DecodeError:
        return None
