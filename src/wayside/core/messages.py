"""The eight messages, and the records that travel inside them.

A message is a frozen value; `decode(encode(m)) == m` for every one. What is signed travels as a
byte string inside the body and is kept as it was received, so that a signature is never checked
against something that we encoded ourselves. docs/wayside.cddl describes the same maps; a test
holds each of the two against the other. Spec: R-3, R-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from . import constants as c
from .address import Address, Transport
from .codec import (
    ADDRESS,
    Body,
    DecodeError,
    Field,
    Header,
    Kind,
    blob,
    decode_body,
    encode_body,
    encode_field,
    fixed,
    many,
    nested,
    pairs,
    text,
    uint,
    word,
)

SECONDS_MAX = 2**40
KEY = fixed(32)
SIGNATURE = fixed(64)
MAC = fixed(16)
HASH = fixed(32)
SIGNED = blob(c.DATAGRAM_BYTES_MAX)
SERVICE = word(c.SERVICE_BYTES_MAX)
REASON = text(c.REASON_BYTES_MAX)
TOKEN = blob(c.TOKEN_BYTES_MAX)
ALTERNATIVES = many(ADDRESS, c.ALTERNATIVES_MAX)
SEALED = blob(c.DATA_BYTES_MAX + 64)


def _transport(value: object) -> Transport:
    if type(value) is not int:
        raise DecodeError("not a transport")
    return Transport(value)


TRANSPORT = Kind(_transport, int)


class Code(IntEnum):
    """Why somebody said no, on the wire. Spec: R-5.6."""

    POLICY = 1
    NO_SERVICE = 2
    BAD_ADDRESS = 3
    BAD_IDENTITY = 4
    BAD_TIME = 5
    BUSY = 6
    ROUTE_TOO_LONG = 7
    NO_ROUTE = 8
    DISCLOSURE_REQUIRED = 9
    EXPIRED = 10
    INTERNAL = 11


@dataclass(frozen=True, slots=True)
class Hop:
    """The record of one box: who it is, how long it lets rules live, its sealed state. R-8.1."""

    FIELDS: ClassVar = (
        Field(1, "key", KEY),
        Field(2, "role", uint(15)),
        Field(3, "lifetime_s", uint(SECONDS_MAX)),
        Field(4, "token", TOKEN),
        Field(5, "source", ADDRESS, optional=True),
        Field(6, "destination", ADDRESS, optional=True),
        Field(7, "ticket", fixed(c.TICKET_BYTES), optional=True),
    )
    key: bytes
    role: int
    lifetime_s: int
    token: bytes
    source: Address | None = None
    destination: Address | None = None
    ticket: bytes = b""


HOPS = many(nested(Hop), c.HOPS_MAX)


@dataclass(frozen=True, slots=True)
class Locator:
    """Where a host can be reached: an address, and tokens of the boxes in front of it. R-8.6."""

    FIELDS: ClassVar = (
        Field(1, "address", ADDRESS),
        Field(2, "tokens", many(TOKEN, c.HOPS_MAX), optional=True),
    )
    address: Address
    tokens: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenTerms:
    """What an end asks for, and signs. Spec: R-5.1."""

    FIELDS: ClassVar = (
        Field(1, "from_key", KEY),
        Field(2, "to_key", KEY),
        Field(3, "service", SERVICE),
        Field(4, "transport", TRANSPORT),
        Field(5, "source", ADDRESS),
        Field(6, "destination", ADDRESS),
        Field(7, "ephemeral", KEY),
        Field(8, "time_s", uint(SECONDS_MAX)),
        Field(9, "lifetime_s", uint(SECONDS_MAX)),
        Field(10, "from_certificate", blob(256), optional=True),
        Field(11, "to_certificate", blob(256), optional=True),
        Field(12, "alternatives", ALTERNATIVES, optional=True),
        Field(13, "intent", pairs(8), optional=True),
        Field(14, "sealed", SEALED, optional=True),
        Field(15, "approval", TOKEN, optional=True),
    )
    from_key: bytes
    to_key: bytes
    service: str
    transport: Transport
    source: Address
    destination: Address
    ephemeral: bytes
    time_s: int
    lifetime_s: int
    from_certificate: bytes = b""
    to_certificate: bytes = b""
    alternatives: tuple[Address, ...] = ()
    intent: tuple[tuple[str, str], ...] = ()
    sealed: bytes = b""
    approval: bytes = b""


@dataclass(frozen=True, slots=True)
class AcceptTerms:
    """What the other end agrees to, and signs. Spec: R-5.2."""

    FIELDS: ClassVar = (
        Field(1, "from_key", KEY),
        Field(2, "open_hash", HASH),
        Field(3, "hops_hash", HASH),
        Field(4, "check", fixed(c.CHECK_BYTES)),
        Field(5, "destination", ADDRESS),
        Field(6, "ephemeral", KEY),
        Field(7, "lifetime_s", uint(SECONDS_MAX)),
        Field(8, "alternatives", ALTERNATIVES, optional=True),
        Field(9, "sealed", SEALED, optional=True),
    )
    from_key: bytes
    open_hash: bytes
    hops_hash: bytes
    check: bytes
    """By this gates know the `proof` of the CONFIRM that fits. Spec: R-5.3.4."""
    destination: Address
    ephemeral: bytes
    lifetime_s: int
    alternatives: tuple[Address, ...] = ()
    sealed: bytes = b""


@dataclass(frozen=True, slots=True)
class RejectTerms:
    """Who says no to what, and why. Spec: R-5.6."""

    FIELDS: ClassVar = (
        Field(1, "from_key", KEY),
        Field(2, "open_hash", HASH),
        Field(3, "code", uint(255)),
        Field(4, "reason", REASON),
        Field(5, "rule", SERVICE, optional=True),
        Field(6, "by", text(c.NAME_BYTES_MAX), optional=True),
        Field(7, "observed", ADDRESS, optional=True),
    )
    from_key: bytes
    open_hash: bytes
    code: int
    reason: str
    rule: str = ""
    by: str = ""
    observed: Address | None = None
    """Where the OPEN came from, if that is not where it says. Spec: R-12.5."""


RELAYED, CALLED = 1, 2
"""What `relay` of a REDIRECT says; 0: neither. Spec: R-5.7, R-12.7."""


@dataclass(frozen=True, slots=True)
class RedirectTerms:
    """Where to go instead, and the approval to show there. Spec: R-5.7."""

    FIELDS: ClassVar = (
        Field(1, "from_key", KEY),
        Field(2, "open_hash", HASH),
        Field(3, "locator", nested(Locator)),
        Field(4, "approval", TOKEN),
        Field(5, "until_s", uint(SECONDS_MAX)),
        Field(6, "relay", uint(2)),
        Field(7, "key", KEY, optional=True),
        Field(8, "ticket", fixed(c.PROOF_BYTES), optional=True),
    )
    from_key: bytes
    open_hash: bytes
    locator: Locator
    approval: bytes
    until_s: int
    relay: int = 0
    """RELAYED: who is there passes the OPEN on to where it was going; 0, CALLED: the one asked for
    is there; and who says so has to show it the OPEN, too."""
    key: bytes = b""
    """Of who answers there in the place of the one who was asked for; with `relay` 0 only."""
    ticket: bytes = b""


@dataclass(frozen=True, slots=True)
class StopTerms:
    """Who wants a connection's packets stopped, or has stopped them, and how long. R-5.8."""

    FIELDS: ClassVar = (
        Field(1, "from_key", KEY),
        Field(2, "open_hash", HASH),
        Field(3, "hops_hash", HASH),
        Field(4, "lifetime_s", uint(SECONDS_MAX)),
        Field(5, "time_s", uint(SECONDS_MAX)),
    )
    from_key: bytes
    open_hash: bytes
    hops_hash: bytes
    lifetime_s: int
    time_s: int


@dataclass(frozen=True, slots=True)
class Open:
    """I want this connection; with a higher seq: refresh it, I moved, here is another path."""

    TYPE: ClassVar = 1
    FIELDS: ClassVar = (
        Field(1, "signed", SIGNED),
        Field(2, "signature", SIGNATURE),
        Field(3, "hops", HOPS, optional=True),
        Field(4, "mac", MAC, optional=True),
        Field(5, "pad", blob(c.DATAGRAM_BYTES_MAX), optional=True),
    )
    signed: bytes
    signature: bytes
    hops: tuple[Hop, ...] = ()
    mac: bytes = b""
    pad: bytes = b""


@dataclass(frozen=True, slots=True)
class Accept:
    """I agree; back through the same hops."""

    TYPE: ClassVar = 2
    FIELDS: ClassVar = (
        Field(1, "signed", SIGNED),
        Field(2, "signature", SIGNATURE),
        Field(3, "hops", HOPS, optional=True),
        Field(4, "returned", many(ADDRESS, c.HOPS_MAX), optional=True),
    )
    signed: bytes
    signature: bytes
    hops: tuple[Hop, ...] = ()
    returned: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Confirm:
    """I am really here, and this is what I saw."""

    TYPE: ClassVar = 3
    FIELDS: ClassVar = (
        Field(1, "seen", HASH),
        Field(2, "mac", MAC),
        Field(3, "hops", HOPS, optional=True),
        Field(4, "returned", many(ADDRESS, c.HOPS_MAX), optional=True),
        Field(5, "proof", MAC),
    )
    seen: bytes
    mac: bytes
    proof: bytes
    hops: tuple[Hop, ...] = ()
    returned: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Challenge:
    """Show that you receive at your address: send this proof with your next OPEN."""

    TYPE: ClassVar = 4
    FIELDS: ClassVar = (
        Field(1, "proof", fixed(c.PROOF_BYTES)),
        Field(3, "hops", HOPS, optional=True),
    )
    proof: bytes
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """No, because."""

    TYPE: ClassVar = 5
    FIELDS: ClassVar = (
        Field(1, "signed", SIGNED),
        Field(2, "signature", SIGNATURE),
        Field(3, "hops", HOPS, optional=True),
    )
    signed: bytes
    signature: bytes
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class Redirect:
    """Go there instead."""

    TYPE: ClassVar = 6
    FIELDS: ClassVar = Reject.FIELDS
    signed: bytes
    signature: bytes
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Done; the rules go now."""

    TYPE: ClassVar = 7
    FIELDS: ClassVar = (
        Field(1, "mac", MAC),
        Field(2, "reason", REASON, optional=True),
        Field(3, "hops", HOPS, optional=True),
    )
    mac: bytes
    reason: str = ""
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """Block that, as near to its source as anybody can."""

    TYPE: ClassVar = 8
    FIELDS: ClassVar = Reject.FIELDS
    signed: bytes
    signature: bytes
    hops: tuple[Hop, ...] = ()


Message = Open | Accept | Confirm | Challenge | Reject | Redirect | Close | Stop
MESSAGES: dict[int, type[Message]] = {
    kind.TYPE: kind for kind in (Open, Accept, Confirm, Challenge, Reject, Redirect, Close, Stop)
}
TERMS: dict[type[Message], type[Body]] = {
    Open: OpenTerms,
    Accept: AcceptTerms,
    Reject: RejectTerms,
    Redirect: RedirectTerms,
    Stop: StopTerms,
}
"""What the `signed` byte string of a message holds."""


def encode(header: Header, message: Message) -> bytes:
    """A whole datagram. Raises ValueError when it would be too long. Spec: R-2.3."""
    datagram = header.encode() + encode_body(message)
    if len(datagram) > c.DATAGRAM_BYTES_MAX:
        raise ValueError(f"a datagram of {len(datagram)} bytes is too long")
    return datagram


def decode(datagram: bytes) -> tuple[Header, Message]:
    """Read a whole datagram. Raises DecodeError. Spec: R-2, R-3."""
    header, start = Header.decode(datagram)
    return header, decode_message(header, datagram[start:])


def decode_message(header: Header, raw: bytes) -> Message:
    """Read the body that belongs to a header. Raises DecodeError."""
    kind = MESSAGES.get(header.type)
    if kind is None:
        raise DecodeError(f"type {header.type}")
    return decode_body(kind, raw)


def padded(header: Header, message: Open) -> bytes:
    """A whole OPEN, its pad as long as its smallest size asks for. Spec: R-5.1.4.

    Raises ValueError when it would be too long even without pad.
    """
    bare = Open(message.signed, message.signature, message.hops, message.mac)
    datagram = encode(header, bare)
    short = c.OPEN_BYTES_MIN - len(datagram)
    if short <= 0:
        return datagram
    # The pad is the last field: it is one more for the map, behind what is encoded already.
    start = c.HEADER_BYTES + len(header.proofs) * c.PROOF_BYTES
    # Its key takes 1 byte, its length 1, or 2 from 24 bytes on, or 3 from 256 on.
    overhead = 4 if short >= 256 + 4 else 3 if short >= 24 + 3 else 2
    pad = encode_field(Open, "pad", bytes(max(short - overhead, 1)))
    return b"%b%c%b%b" % (datagram[:start], datagram[start] + 1, datagram[start + 1 :], pad)
