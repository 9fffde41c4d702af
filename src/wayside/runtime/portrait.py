"""A connection as a person sees it: both ends' 5-tuples, the boxes between, what became of it.

The hop records of the newest agreement say what each box rewrites, in the order in which the OPEN
went. So whoever asked knows what the other end sees: the source that the last NAT put there, the
destination that the last relay sent it on to. Whoever was asked knows what the OPEN said before
any box touched it. What nobody said is shown as `?`.
"""

from __future__ import annotations

from collections.abc import Iterable

from wayside.core.address import Address, Flow
from wayside.core.asker import Asker
from wayside.core.connection import Connection
from wayside.core.identity import key_text
from wayside.core.messages import Hop
from wayside.core.way import Role
from wayside.kernel.plan import InstalledRule

from .control_types import ConnectionRecord, HopRecord, RegistrationRecord
from .moves import Journey
from .registering import Registration

UNKNOWN = "?"
BEHIND_NAT = "behind a NAT that says nothing"

ROLES: dict[int, str] = {
    Role.GATE: "gate",
    Role.NAT: "nat",
    Role.RELAY: "relay",
    Role.HIDING: "hiding",
}


def record_of(
    connection: Connection, counters: dict[Flow, InstalledRule], journey: Journey | None
) -> ConnectionRecord:
    """A connection's record; `counters`: the rules by what they match."""
    about = connection.agreement
    out = counters.get(about.local.on_the_wire)
    back = counters.get(about.wire.reversed().on_the_wire)
    hops = connection.hops if _asked(connection) else connection.hops[::-1]
    behind = about.outside or (connection.offer is not None and connection.offer.said.silent)
    return ConnectionRecord(
        cid=about.cid.hex(),
        peer=str(about.peer),
        service=about.service,
        transport=about.wire.transport.name.lower(),
        state=connection.state.name.lower(),
        flow=_text(about.local),
        wire=_text(about.wire),
        there=there(connection),
        via=[HopRecord(key=key_text(hop.key), role=_role(hop)) for hop in hops],
        redirected_by=list(journey.by) if journey else [],
        hidden=any(hop.role == Role.HIDING for hop in hops),
        moves=journey.moves if journey else 0,
        gap_ms=journey.gap_ms if journey else None,
        stands="; ".join(filter(None, (about.stands, BEHIND_NAT if behind else ""))),
        alternatives=[str(one.ip) for one in about.alternatives],
        expires_s=None,
        packets=(out.packets if out else 0) + (back.packets if back else 0),
        bytes=(out.bytes if out else 0) + (back.bytes if back else 0),
    )


def registration_of(one: Registration, now: float) -> RegistrationRecord:
    """A registration's record at a time, monotonic seconds."""
    return RegistrationRecord(
        rendezvous=key_text(one.key),
        address=str(one.address),
        since_s=None if one.up_since is None else now - one.up_since,
        why=one.why,
    )


def there(connection: Connection) -> str:
    """Our packets as the other end sees them: `source > destination`; empty: not known."""
    wire, hops = connection.agreement.wire, connection.hops
    if not connection.keys.by_seq:
        return ""
    outside = connection.agreement.outside
    if not any(hop.source or hop.destination or hop.role != Role.GATE for hop in hops):
        return f"{outside or wire.source} > {wire.destination}"
    if _asked(connection):
        source = _last(hop.source for hop in hops) or outside or wire.source
        return f"{source} > {_beyond(wire, hops)}"
    offer = connection.offer if isinstance(connection, Asker) else None
    if offer is None:
        return ""
    rewritten = any(hop.destination or hop.role == Role.HIDING for hop in hops)
    port = UNKNOWN if rewritten else wire.source.port
    return f"{_host(offer.asked.destination)}:{port} > {offer.asked.source}"


def _role(hop: Hop) -> str:
    return ROLES.get(hop.role, f"role {hop.role}")


def _asked(connection: Connection) -> bool:
    """Whether the newest agreement answers an OPEN of ours: then its hops begin here."""
    return connection.keys.seq % 2 == connection.PARITY


def _beyond(wire: Flow, hops: tuple[Hop, ...]) -> str:
    """Where our packets come to behind all boxes."""
    if any(hop.role == Role.HIDING for hop in hops):
        return UNKNOWN
    told = _last(hop.destination for hop in hops)
    return str(wire.destination) if told is None else f"{_host(told)}:{UNKNOWN}"


def _last(addresses: Iterable[Address | None]) -> Address | None:
    found = [address for address in addresses if address is not None]
    return found[-1] if found else None


def _host(address: Address) -> str:
    return str(address.ip) if address.family == 4 else f"[{address.ip}]"


def _text(flow: Flow) -> str:
    return str(flow).partition(" ")[2]
