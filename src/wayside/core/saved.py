"""What of a connection outlives its agent: enough to refresh it and to close it.

The kernel holds the rules of a connection whose agent was killed; this holds what the kernel has
no place for, above all the key. Spec: R-6.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from . import constants as c
from .address import Address, Flow, Transport
from .codec import ADDRESS, Field, blob, decode_body, encode_body, fixed, many, nested, text, uint
from .connection import Agreement, Connection, State
from .effects import SaveConnection
from .identity import PeerIdentity
from .messages import HOPS, SERVICE, TRANSPORT, Hop
from .rule import Cid
from .timers import Timer


@dataclass(frozen=True, slots=True)
class SavedKey:
    """The connection key of one seq; `agreed` 0: of an ACCEPT that may have arrived."""

    FIELDS: ClassVar = (
        Field(1, "seq", uint(2**64 - 1)),
        Field(2, "key", fixed(32)),
        Field(3, "agreed", uint(1)),
    )
    seq: int
    key: bytes
    agreed: int


@dataclass(frozen=True, slots=True)
class Saved:
    """A connection at rest. Times do not survive: a restored one is refreshed at once."""

    FIELDS: ClassVar = (
        Field(1, "asked", uint(1)),
        Field(2, "peer_key", fixed(32)),
        Field(3, "peer_name", text(c.NAME_BYTES_MAX), optional=True),
        Field(4, "peer_certificate", blob(256), optional=True),
        Field(5, "service", SERVICE),
        Field(6, "transport", TRANSPORT),
        Field(7, "wire_source", ADDRESS),
        Field(8, "wire_destination", ADDRESS),
        Field(9, "local_source", ADDRESS),
        Field(10, "local_destination", ADDRESS),
        Field(11, "keys", many(nested(SavedKey), 3), optional=True),
        Field(13, "lifetime_ms", uint(2**40)),
        Field(14, "towards", ADDRESS),
        Field(15, "hops", HOPS, optional=True),
        Field(16, "home", ADDRESS, optional=True),
        Field(17, "stands", text(64), optional=True),
        Field(18, "outside", ADDRESS, optional=True),
    )
    asked: int
    peer_key: bytes
    service: str
    transport: Transport
    wire_source: Address
    wire_destination: Address
    local_source: Address
    local_destination: Address
    lifetime_ms: int
    towards: Address
    keys: tuple[SavedKey, ...] = ()
    """None: nobody answered, and packets went without. Spec: R-12.4."""
    hops: tuple[Hop, ...] = ()
    home: Address | None = None
    peer_name: str = ""
    peer_certificate: bytes = b""
    stands: str = ""
    outside: Address | None = None


def save(connection: Connection) -> SaveConnection:
    """The effect that keeps a connection. Spec: R-6.5."""
    about, offer = connection.agreement, connection.offer
    keys = [SavedKey(seq, key, 1) for seq, key in sorted(connection.keys.by_seq.items())]
    if offer is not None and not offer.confirmed:
        keys.append(SavedKey(offer.seq, offer.key, 0))
    saved = Saved(
        asked=1 - connection.PARITY,
        peer_key=about.peer.key,
        peer_name=about.peer.name,
        peer_certificate=about.peer.certificate,
        service=about.service,
        transport=about.wire.transport,
        wire_source=about.wire.source,
        wire_destination=about.wire.destination,
        local_source=about.local.source,
        local_destination=about.local.destination,
        keys=tuple(keys),
        lifetime_ms=int(connection.lifetime_s * 1000),
        towards=connection.towards,
        hops=connection.hops,
        home=about.home,
        stands=about.stands,
        outside=about.outside,
    )
    return SaveConnection(about.cid, encode_body(saved))


def read_saved(raw: bytes) -> Saved:
    """Read what `save` wrote. Raises DecodeError."""
    return decode_body(Saved, raw)


def agreement_of(cid: Cid, saved: Saved) -> Agreement:
    """What the saved connection was about. Raises ValueError for a store that was tampered with."""
    return Agreement(
        cid,
        PeerIdentity(saved.peer_key, saved.peer_name, saved.peer_certificate),
        saved.service,
        Flow(saved.transport, saved.wire_source, saved.wire_destination),
        Flow(saved.transport, saved.local_source, saved.local_destination),
        saved.home,
        saved.stands,
        saved.outside,
    )


def restore(connection: Connection, saved: Saved, now: float) -> None:
    """Bring a new connection to where the saved one was; refreshed soon, expired as if new."""
    connection.state = State.CONNECTED if saved.keys else State.PLAIN
    for known in saved.keys:
        if known.agreed:
            connection.keys.add(known.seq, known.key)
        else:
            connection.keys.offered = (known.seq, known.key)
    connection.hops = saved.hops
    connection.towards = saved.towards
    connection.lifetime_s = saved.lifetime_ms / 1000
    if not saved.keys:
        return
    connection.timers.start(Timer.EXPIRE, now + max(connection.lifetime_s, 2 * c.OPEN_TIMEOUT_S))
    if saved.asked:
        connection.timers.start(Timer.REFRESH, now + connection.lifetime_s / 6)
