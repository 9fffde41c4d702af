"""What everybody who is asked does first with an OPEN, and how everybody says no.

A gate and a responder look at the same things in the same order: the terms, their time, the
signature, then who vouches for the names. Spec: R-5.1, R-5.6, R-7.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeVar

from . import constants as c
from .address import IP, Address, Flow, Transport, carried_ipv4
from .approval import APPROVAL_VALID_S, create_approval
from .codec import DecodeError, Header, decode_body, encode_body
from .crypto import BadSignature, SigningKey, digest, verify
from .effects import SendDatagram
from .errors import DropReason
from .events import DatagramReceived, MessageReceived
from .identity import Names
from .messages import (
    Code,
    Hop,
    Locator,
    Open,
    OpenTerms,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    encode,
)
from .route import returning

SIGNATURE_CONTEXT = b"wayside/1 "
"""Before every signed message, so that no signature of ours means anything elsewhere. R-4.2."""

SaysNo = TypeVar("SaysNo", RedirectTerms, RejectTerms)

"""Whose first datagram may ride on an OPEN: one of UDP; or a question where there is no flow."""


def open_hash(header: Header, signed: bytes) -> bytes:
    """What names one OPEN: its header and its signed terms, 32 bytes. Spec: R-4.1."""
    return digest(header.signing, signed)


@dataclass(frozen=True, slots=True)
class CheckedOpen:
    """An OPEN whose signature holds."""

    header: Header
    terms: OpenTerms
    hash: bytes
    flow: Flow
    source: Address
    """The effective source. Spec: R-5.1.6."""
    from_name: str | None
    to_name: str | None


def has_passed(message: Open, key: bytes) -> bool:
    """Whether a box of this key has sent this on itself. Spec: R-8.5."""
    return any(hop.key == key for hop in message.hops)


def may_ride(transport: Transport, seq: int) -> bool:
    """Whether data may ride on an OPEN; questions and SYNs on later ones, too. Spec: R-5.1.5."""
    return transport is not Transport.UDP or seq == 0


def check_open(
    event: MessageReceived, message: Open, names: Names, unix_s: float
) -> CheckedOpen | DropReason:
    """Check time and signature of an OPEN, and read its names. Spec: R-5.1.

    An OPEN with an unlikely time is as good as any with a proof: clocks may be wrong, and whoever
    echoes a fresh cookie is no replay.
    """
    try:
        terms = decode_body(OpenTerms, message.signed)
        flow = Flow(terms.transport, terms.source, terms.destination)
        source = source_of(terms, message.hops, event.source.ip)
    except (DecodeError, ValueError):
        return DropReason.MALFORMED
    if not (is_sound(flow) and is_source(source, flow)):
        return DropReason.ADDRESS
    if terms.sealed and not may_ride(terms.transport, event.header.seq):
        return DropReason.MALFORMED
    if event.ticket is not None and not terms.from_key.startswith(event.ticket.holder):
        return DropReason.TOKEN
    if abs(terms.time_s - unix_s) > c.OPEN_TIME_WINDOW_S and not event.proved:
        return DropReason.TIME
    try:
        signed = event.header.signing + message.signed
        verify(terms.from_key, message.signature, SIGNATURE_CONTEXT, signed)
    except BadSignature:
        return DropReason.SIGNATURE
    return CheckedOpen(
        event.header,
        terms,
        open_hash(event.header, message.signed),
        flow,
        source,
        names.name_of(terms.from_key, terms.from_certificate, unix_s),
        names.name_of(terms.to_key, terms.to_certificate, unix_s),
    )


_NOBODY = tuple(map(ip_network, ("0.0.0.0/8", "255.255.255.255/32", "2001::/32", "64:ff9b:1::/48")))
"""No host has one; or, of Teredo and NAT64's local prefix, none can tell whose it is. R-2.6."""

_INNER = tuple(
    ip_network(text)
    for text in (
        *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("100.64.0.0/10", "127.0.0.0/8", "198.18.0.0/15"),
    )
)
"""IPv4 addresses that mean something inside a host or a network, and nothing behind a relay."""


def is_sound(flow: Flow) -> bool:
    """Whether a rule may ever be made for this flow: unicast ends, a source port. Spec: R-2.6.

    A destination port of 0 leaves the choice to the responder. Signaling itself is no flow: a rule
    for it would take it away from those who must see it.
    """
    if flow.source.ip.is_loopback is not flow.destination.ip.is_loopback:
        return False
    if not (_is_unicast(flow.source.ip) and _is_unicast(flow.destination.ip)):
        return False
    ports = (flow.source.port, flow.destination.port)
    if flow.transport is Transport.UDP and c.SIGNALING_PORT in ports:
        return False
    if flow.transport is Transport.NONE and ports != (0, 0):
        return False
    has_ports = flow.transport is not Transport.NONE
    return (flow.source.port != 0) is has_ports and flow.source != flow.destination


def is_source(source: Address, flow: Flow) -> bool:
    """Whether packets of this flow may come from here, behind boxes that rewrote it. R-2.6."""
    has_ports = flow.transport is not Transport.NONE
    signals = flow.transport is Transport.UDP and source.port == c.SIGNALING_PORT
    fits = source.family == flow.family and (source.port != 0) is has_ports and not signals
    return fits and _is_unicast(source.ip)


@lru_cache(maxsize=4096)  # 3 us each time, and four times a connection
def _is_unicast(ip: IP) -> bool:
    if ip.is_multicast or ip.is_unspecified or ip.is_link_local or _is_in(ip, _NOBODY):
        return False
    if ip.version == 6 and int(ip) >> 64 == 0:  # v4-compatible and the like: RFC 4291, 2.5.5
        return ip.is_loopback
    carried = carried_ipv4(ip)
    return carried is None or (_is_unicast(carried) and not _is_in(carried, _INNER))


def _is_in(ip: IP, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(ip in network for network in networks)


def is_agreed(flow: Flow) -> bool:
    """Whether this sound flow is one to make rules for: no port is left open. Spec: R-2.6."""
    has_ports = flow.transport is not Transport.NONE
    return is_sound(flow) and (flow.destination.port != 0) is has_ports


@dataclass(frozen=True, slots=True)
class Refusal:
    """A no: its code, the reason for a person, and the rule of the policy where there is one."""

    code: Code
    reason: str
    rule: str = ""
    observed: Address | None = None


def answer(event: DatagramReceived | MessageReceived, data: bytes) -> SendDatagram:
    """An answer goes back to where a datagram came from, from where it was sent to. R-2.7."""
    known = not event.destination.ip.is_unspecified
    return SendDatagram(data, event.source, event.destination if known else None)


def source_of(terms: OpenTerms, hops: tuple[Hop, ...], seen: IP) -> Address:
    """Where the flow of an OPEN comes from behind these hops: the last one that rewrote it says.

    `seen`: where the datagram came from; behind a NAT that says nothing, that is what whoever asks
    has learnt of it. Spec: R-5.1.6, R-8.1, R-12.5.
    """
    told = [terms.source, *(hop.source for hop in hops if hop.source is not None)][-1]
    outside = next((one for one in (told, *terms.alternatives[:1]) if one.ip == seen), told)
    return outside if terms.source.port else outside.with_port(0)


def refuse(
    key: SigningKey, name: str, event: MessageReceived, asked: bytes, refusal: Refusal
) -> SendDatagram:
    """The signed REJECT that answers an OPEN; it says less where it would be larger. Spec: R-5.6.

    Hops may fill an OPEN, and come back with the REJECT. Without words it is always the smaller.
    """
    hops: tuple[Hop, ...] = getattr(event.message, "hops", ())
    header = Header(Reject.TYPE, event.header.seq, event.header.cid)
    signed = b""
    for most in (c.REASON_BYTES_MAX, c.SERVICE_BYTES_MAX, 0):
        terms = RejectTerms(
            key.public,
            asked,
            refusal.code,
            cut(refusal.reason, most),
            cut(refusal.rule, min(most, c.SERVICE_BYTES_MAX)),
            cut(name, min(most, c.NAME_BYTES_MAX)),
            refusal.observed,
        )
        signed = encode_body(terms)
        if c.HEADER_BYTES + len(encode_body(Reject(signed, bytes(64), hops))) <= event.size:
            break
    signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return answer(event, encode(header, Reject(signed, signature, hops)))


def destination_of(terms: OpenTerms, hops: tuple[Hop, ...]) -> Address | None:
    """Where an OPEN goes behind these hops, as far as they say; None: one of them hides it."""
    there: Address | None = terms.destination
    for hop in hops:
        if hop.destination is not None:
            there = hop.destination
        elif returning((hop,)):
            there = None
    return there


def redirect(
    key: SigningKey,
    event: MessageReceived,
    opened: CheckedOpen,
    there: Address,
    relay: int,
    now_s: float,
    instead: bytes = b"",
    ticket: bytes = b"",
) -> SendDatagram:
    """The signed REDIRECT that answers an OPEN, with our approval. Spec: R-5.7.

    Never larger than the OPEN, whose hops come back with it: the ticket is left out, or it is a
    REJECT. `relay`: as in the terms; `instead`: the key, 32 bytes, of who answers there in the
    other's place; `ticket`: ours, for who asks.
    """
    message, cid = event.message, event.header.cid
    hops: tuple[Hop, ...] = getattr(message, "hops", ())
    header = Header(Redirect.TYPE, event.header.seq, cid)
    to = replace(opened.terms, to_key=instead or opened.terms.to_key)
    approval, until_s = create_approval(key, cid, to, now_s), int(now_s) + APPROVAL_VALID_S
    for shown in (ticket, b""):
        where = Locator(there)
        terms = RedirectTerms(
            key.public, opened.hash, where, approval, until_s, relay, instead, shown
        )
        signed = encode_body(terms)
        if c.HEADER_BYTES + len(encode_body(Redirect(signed, bytes(64), hops))) <= event.size:
            signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
            return answer(event, encode(header, Redirect(signed, signature, hops)))
    refusal = Refusal(Code.ROUTE_TOO_LONG, "no room in an answer to say where to go instead")
    return refuse(key, "", event, opened.hash, refusal)


def read_redirect(event: MessageReceived, message: Redirect) -> RedirectTerms | DropReason:
    """The terms of a REDIRECT whose signature holds. Spec: R-5.7."""
    return _signed_terms(RedirectTerms, event, message)


def read_refusal(event: MessageReceived, message: Reject) -> RejectTerms | DropReason:
    """The terms of a REJECT whose signature holds. Spec: R-5.6."""
    return _signed_terms(RejectTerms, event, message)


def _signed_terms(
    kind: type[SaysNo], event: MessageReceived, message: Redirect | Reject
) -> SaysNo | DropReason:
    """What whoever answers has signed; else why it is dropped."""
    try:
        terms = decode_body(kind, message.signed)
        signed = event.header.signing + message.signed
        verify(terms.from_key, message.signature, SIGNATURE_CONTEXT, signed)
    except DecodeError:
        return DropReason.MALFORMED
    except BadSignature:
        return DropReason.SIGNATURE
    return terms


def cut(text: str, most: int) -> str:
    """As much of a text as a message takes: printable, at most `most` bytes of UTF-8. R-3.5."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return plain.encode()[:most].decode(errors="ignore")
