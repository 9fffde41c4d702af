"""STOP as a person says it: which connections are meant, and who filters them in the end.

A person names a connection as `status` prints it, or a peer and means all that it has opened to
this host. The machine says STOP (core/stopping.py); here one waits a moment for the gate nearest
to the source to answer, so that the person is told who filters, or that nobody does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address

from wayside.core.connection import Connection, State
from wayside.core.events import StopRequested
from wayside.core.host import Host
from wayside.core.identity import key_text
from wayside.core.rule import Action, Cid
from wayside.core.stopping import may_stop
from wayside.kernel.plan import InstalledRule

from .control_types import FilterRecord, StopRecord
from .errors import NameUnknown, WaysideError

ANSWER_S = 1.0
"""A round trip and three repeats; who has not answered by then is not there."""

LOOK_S = 0.005

PREFIX_MIN = 4
"""Hexadecimal digits of a cid that are enough, if they are of one connection only."""

OVER = (State.CLOSING, State.ENDED)


async def say_stop(
    host: Host, deliver: Callable[[StopRequested], None], target: str, lifetime_s: float
) -> list[StopRecord]:
    """Say STOP for so many seconds about a connection, or all of a peer. Raises WaysideError."""
    chosen = _stoppable(_found(host.connections, target), target)
    for cid in chosen:
        deliver(StopRequested(cid, lifetime_s))
    missing = [cid for cid in chosen if cid not in host.stopping.said]
    if missing:
        raise WaysideError(
            "too much is stopped already", hint="wait until some of it is over", code="WS-1010"
        )
    until = time.monotonic() + ANSWER_S
    # A machine tells nobody what it has heard; one looks.
    while time.monotonic() < until and not all(_is_heard(host, cid) for cid in chosen):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    return [_record(host, cid, connection) for cid, connection in chosen.items()]


def _found(connections: Mapping[Cid, Connection], target: str) -> dict[Cid, Connection]:
    """The connections that somebody means by what `status` shows of them."""
    living = {cid: one for cid, one in connections.items() if one.state not in OVER}
    found = {cid: one for cid, one in living.items() if target in _names(one)}
    if not found and len(target) >= PREFIX_MIN:
        found = {cid: one for cid, one in living.items() if cid.hex().startswith(target.lower())}
        if len(found) > 1:
            raise NameUnknown(
                f"{target} is the beginning of {len(found)} connections' ids",
                hint="write more of it: wayside status --json",
            )
    if not found:
        raise NameUnknown(
            f"no connection here is {target!r}, and no peer of one",
            hint="wayside status shows them: a name, an address, a flow, or the beginning of a cid",
        )
    return found


def _names(connection: Connection) -> set[str]:
    about = connection.agreement
    wire, there = about.wire, about.wire.destination
    flows = (wire, wire.reversed(), about.local, about.local.reversed())
    names = {str(about.peer), key_text(about.peer.key), str(there.ip), str(there), about.cid.hex()}
    return names | {str(flow) for flow in flows} | {str(flow).partition(" ")[2] for flow in flows}


def _stoppable(found: dict[Cid, Connection], target: str) -> dict[Cid, Connection]:
    """Those that this host may say STOP about. Raises WaysideError when there is none."""
    chosen = {cid: one for cid, one in found.items() if may_stop(one) is not None}
    if chosen:
        return chosen
    asked = all(one.PARITY == 0 for one in found.values())
    raise WaysideError(
        f"{target}: this host asked for it, and who asks can only close"
        if asked
        else f"{target}: there is nothing that was agreed to at this address since the last start",
        hint="end the program that uses it" if asked else "wait for its next refresh: 40 s",
        code="WS-1011",
    )


def _is_heard(host: Host, cid: Cid) -> bool:
    """Whether the box nearest to the source has answered, or the other end has closed."""
    said, connection = host.stopping.said.get(cid), host.connections.get(cid)
    over = connection is None or connection.state in OVER
    return said is None or (bool(said.keys) and said.by == said.keys[0]) or (over and not said.keys)


def _record(host: Host, cid: Cid, connection: Connection) -> StopRecord:
    said, about = host.stopping.said.get(cid), connection.agreement
    return StopRecord(
        cid=cid.hex(),
        peer=str(about.peer),
        service=about.service,
        flow=str(about.wire.reversed()),
        lifetime_s=said.terms.lifetime_s if said else 0,
        by=key_text(said.by) if said and said.by else "",
        boxes=len(said.keys) if said else 0,
        closed=connection.state in OVER,
    )


def stopped_key(target: str) -> str:
    """A target as it is looked for: addresses in their one spelling."""
    try:
        return str(ip_address(target))
    except ValueError:
        return target.strip()


def filter_records(rules: list[InstalledRule]) -> list[FilterRecord]:
    """The filters among what a gate's kernel holds."""
    return [
        FilterRecord(
            cid=found.rule.owner.hex(),
            flow=str(found.rule.match),
            expires_s=found.expires_s,
            packets=found.packets,
            bytes=found.bytes,
        )
        for found in rules
        if found.rule.action is Action.DROP
    ]
