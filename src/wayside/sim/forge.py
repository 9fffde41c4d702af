"""Forged and bent signaling: what adversaries make out of nothing, and out of what they saw."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from wayside.core import constants as c
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import DecodeError, Header, decode_body, encode_body
from wayside.core.crypto import SigningKey, ephemeral_public
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Challenge,
    Close,
    Code,
    Confirm,
    Hop,
    Message,
    Open,
    OpenTerms,
    Reject,
    RejectTerms,
    decode,
    encode,
    padded,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.route import hops_hash
from wayside.core.rule import Cid


def signed_open(
    key: SigningKey,
    to_key: bytes,
    flow: Flow,
    chance: Random,
    time_s: float,
    hops: tuple[Hop, ...] = (),
) -> bytes:
    """An OPEN of somebody with a good key, for whatever flow."""
    cid, secret = Cid(chance.randbytes(16)), chance.randbytes(32)
    return made_open(key, to_key, flow, cid, secret, time_s, hops)


def made_open(
    key: SigningKey,
    to_key: bytes,
    flow: Flow,
    cid: Cid,
    secret: bytes,
    time_s: float,
    hops: tuple[Hop, ...] = (),
) -> bytes:
    """An OPEN whose maker can go on with it: `secret` is that of its key share, 32 bytes."""
    header = Header(Open.TYPE, 0, cid)
    terms = OpenTerms(
        from_key=key.public,
        to_key=to_key,
        service=str(flow.destination.port),
        transport=flow.transport,
        source=flow.source,
        destination=flow.destination,
        ephemeral=ephemeral_public(secret),
        time_s=int(time_s),
        lifetime_s=60,
    )
    signed = encode_body(terms)
    signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return padded(header, Open(signed, signature, hops))


FORGER = SigningKey(bytes(range(32)))
"""The key of whoever keeps a bad store."""


def forged_location(record: bytes) -> bytes:
    """A registration of a host as it never signed it: elsewhere, and later."""
    if not record:
        return b""
    header, message = decode(record)
    assert isinstance(message, Open)
    terms = decode_body(OpenTerms, message.signed)
    elsewhere = terms.destination.with_port(0)
    later = replace(terms, source=elsewhere, alternatives=(), time_s=terms.time_s + 1000)
    signed = encode_body(later)
    signature = FORGER.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return encode(header, Open(signed, signature))


def some_hop(key: SigningKey, chance: Random) -> Hop:
    """A record of a box that does not exist."""
    return Hop(key.public, 1, 120, chance.randbytes(80))


def forged_answer(
    key: SigningKey, seen: tuple[Header, Message] | None, ends: Flow, chance: Random
) -> bytes:
    """An answer of a kind of chance, for a connection that was seen, or for a guessed one.

    It is signed with the forger's own key, and carries the hops that were seen.
    """
    header, message = seen or (Header(1, 0, Cid(chance.randbytes(16))), None)
    hops: tuple[Hop, ...] = getattr(message, "hops", ())
    signed_before: bytes = getattr(message, "signed", b"")
    answered = open_hash(Header(Open.TYPE, header.seq, header.cid), signed_before)
    made: Message
    match chance.randrange(5):
        case 0:
            terms: Any = AcceptTerms(
                key.public,
                answered,
                hops_hash(hops),
                chance.randbytes(c.CHECK_BYTES),
                ends.destination,
                ephemeral_public(chance.randbytes(32)),
                60,
            )
            if isinstance(message, Open):
                terms = _in_the_name_of_the_peer(message, terms)
            made = Accept(*_signed(key, Header(Accept.TYPE, header.seq, header.cid), terms), hops)
        case 1:
            terms = RejectTerms(key.public, answered, Code.POLICY, "because I say so")
            made = Reject(*_signed(key, Header(Reject.TYPE, header.seq, header.cid), terms), hops)
        case 2:
            made = Close(chance.randbytes(16), "closed by somebody", hops)
        case 3:
            made = Confirm(chance.randbytes(32), chance.randbytes(16), chance.randbytes(16), hops)
        case _:
            made = Challenge(chance.randbytes(c.PROOF_BYTES), hops)
    return encode(Header(made.TYPE, header.seq, header.cid), made)


def _in_the_name_of_the_peer(message: Open, terms: AcceptTerms) -> AcceptTerms:
    """All that the right ACCEPT would have, but for the signature."""
    try:
        asked = decode_body(OpenTerms, message.signed)
    except DecodeError:
        return terms
    port = asked.destination.port or 443
    return replace(
        terms,
        from_key=asked.to_key,
        destination=asked.destination.with_port(port),
    )


def _signed(key: SigningKey, header: Header, terms: Any) -> tuple[bytes, bytes]:
    signed = encode_body(terms)
    return signed, key.sign(SIGNATURE_CONTEXT, header.signing + signed)


def bent(data: bytes, chance: Random) -> bytes:
    """A message that somebody on the path has edited: a byte, its hops, its header, its pad."""
    try:
        header, message = decode(data)
    except DecodeError:
        return data
    way = chance.randrange(6)
    if way == 0 or not data:
        at = chance.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if way == 1:
        header = replace(header, seq=header.seq + chance.choice((1, 2, 100)))
    elif way == 2:
        header = replace(header, cid=Cid(chance.randbytes(16)))
    else:
        message = _with_other_hops(message, chance)
    try:
        return padded(header, message) if isinstance(message, Open) else encode(header, message)
    except ValueError:
        return data


def _with_other_hops(message: Message, chance: Random) -> Message:
    hops = list(getattr(message, "hops", ()))
    if not hops:
        return message
    at = chance.randrange(len(hops))
    match chance.randrange(4):
        case 0:
            del hops[at]
        case 1:
            hops.append(hops[at])
        case 2:
            hops[at] = replace(hops[at], lifetime_s=hops[at].lifetime_s + 1000)
        case _:
            hops.reverse()
            hops[at] = replace(hops[at], key=chance.randbytes(32))
    changed: Any = message
    return replace(changed, hops=tuple(hops[: c.HOPS_MAX]))


def spoofed(source: Address, destination: Address) -> Flow:
    """The 5-tuple of a signaling datagram in somebody else's name."""
    return Flow(Transport.UDP, source, destination)
