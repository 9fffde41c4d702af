"""What attackers say: signaling that is bent, forged with a key of their own, or well made.

All of it is as right as its maker can have it: cids, seqs, flows, hashes and tokens that were seen
on the wire, signed by the wrong key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
    Locator,
    Message,
    Open,
    OpenTerms,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    Stop,
    StopTerms,
    decode,
    encode,
    padded,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.route import hops_hash
from wayside.core.rule import Cid
from wayside.lab.traffic import ECHO_PORT

HopsOf = Callable[[int, Address], tuple[Hop, ...]]
"""The hops of the n-th OPEN in the name of an address."""

STRIDE = 24
"""Of the body every so many bytes one is flipped, of the header every one: each field is hit."""

SHARE = bytes(31) + b"\7"
"""One key share for all: who floods does not make a new one each time."""

REASON = "a box on the path says no"
BY = "the box"


def edited(data: bytes) -> Iterator[bytes]:
    """Copies of a datagram, each with something else in it."""
    for at in (*range(c.HEADER_BYTES), *range(c.HEADER_BYTES, len(data), STRIDE)):
        yield data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]
    yield data[:-1]
    yield data + b"\0"
    header, message = decode(data)
    for other in (replace(header, seq=header.seq + 2), replace(header, cid=Cid(os.urandom(16)))):
        yield other.encode() + data[c.HEADER_BYTES + c.PROOF_BYTES * len(header.proofs) :]
    changed: Any = message
    for hops in _other_hops(getattr(message, "hops", ())):
        bent = replace(changed, hops=hops)
        yield padded(header, bent) if isinstance(bent, Open) else encode(header, bent)


def _other_hops(hops: tuple[Hop, ...]) -> Iterator[tuple[Hop, ...]]:
    """Without them, twice, with a longer life, by another key, with another token."""
    if hops:
        first, rest = hops[0], hops[1:]
        yield ()
        yield (*hops, first)
        yield (replace(first, lifetime_s=first.lifetime_s + 1000), *rest)
        yield (replace(first, key=bytes(32)), *rest)
        yield (replace(first, token=bytes(len(first.token))), *rest)


def forged(key: SigningKey, data: bytes, *, with_hops: bool) -> Iterator[bytes]:
    """What others would have to say about the connection of an OPEN that was seen."""
    header, message = decode(data)
    if not isinstance(message, Open):
        return
    asked = decode_body(OpenTerms, message.signed)
    hops = message.hops if with_hops else ()
    about, later = open_hash(header, message.signed), int(time.time()) + 60
    for by in (key.public, asked.to_key):
        accept = AcceptTerms(
            from_key=by,
            open_hash=about,
            hops_hash=hops_hash(hops),
            check=bytes(c.CHECK_BYTES),
            destination=asked.destination.with_port(asked.destination.port or 443),
            ephemeral=ephemeral_public(SHARE),
            lifetime_s=120,
        )
        yield _signed(key, header, Accept, accept, hops)
        reject = RejectTerms(by, about, Code.POLICY, "because I say so")
        yield _signed(key, header, Reject, reject, hops)
        there = Locator(asked.source.with_port(c.SIGNALING_PORT))
        redirect = RedirectTerms(by, about, there, b"approval", later)
        yield _signed(key, header, Redirect, redirect, hops)
        stop = StopTerms(by, about, hops_hash(hops), 60, later)
        yield _signed(key, header, Stop, stop, hops)
    yield from _unsigned(header, hops, with_hops)
    flow = Flow(asked.transport, asked.source, asked.destination)
    for seq in (0, 1, 2, 100):
        again = Header(Open.TYPE, seq, header.cid)
        yield _opened(key, asked.to_key, asked.service, flow, again, hops)


def _unsigned(header: Header, hops: tuple[Hop, ...], with_hops: bool) -> Iterator[bytes]:
    """CHALLENGE and CONFIRM; and CLOSE, which takes a token seriously: see `closes`."""
    challenge = Challenge(os.urandom(c.PROOF_BYTES), hops)
    yield encode(Header(Challenge.TYPE, header.seq, header.cid), challenge)
    confirm = Confirm(seen=bytes(32), mac=bytes(16), proof=bytes(16), hops=hops)
    yield encode(Header(Confirm.TYPE, header.seq, header.cid), confirm)
    if not with_hops:
        yield encode(Header(Close.TYPE, header.seq, header.cid), Close(bytes(16), "bye"))


def closes(data: bytes) -> Iterator[bytes]:
    """A CLOSE for whoever sealed a token that was seen; the ends do not believe it."""
    try:
        header, message = decode(data)
    except DecodeError:
        return
    if isinstance(message, Confirm):
        about = Header(Close.TYPE, header.seq, header.cid)
        yield encode(about, Close(bytes(16), "closed by somebody", message.hops))


def refusal(key: SigningKey, header: Header, message: Open) -> bytes:
    """A REJECT for somebody else's OPEN."""
    about = open_hash(header, message.signed)
    terms = RejectTerms(key.public, about, Code.POLICY, REASON, by=BY)
    return _signed(key, header, Reject, terms, message.hops)


def asked(key: SigningKey, to_key: bytes, flow: Flow, number: int, hops: HopsOf) -> bytes:
    """The n-th OPEN of a flood, for the UDP echo; `flow`: of the datagram that carries it."""
    source = flow.source.with_port(1024 + number % 60_000)
    wanted = Flow(Transport.UDP, source, flow.destination.with_port(ECHO_PORT))
    header = Header(Open.TYPE, 0, Cid(os.urandom(16)))
    return _opened(key, to_key, str(ECHO_PORT), wanted, header, hops(number, source))


def made_up_hops(number: int, source: Address) -> tuple[Hop, ...]:
    """No hop, a firewall that does not exist, a NAT that lends the victim's address; in turn."""
    key = bytes([number % 256]) * 32
    kinds = ((), (Hop(key, 1, 120, bytes(80)),), (Hop(key, 2, 120, bytes(80), source),))
    return kinds[number % len(kinds)]


def _opened(
    key: SigningKey,
    to_key: bytes,
    service: str,
    flow: Flow,
    header: Header,
    hops: tuple[Hop, ...],
) -> bytes:
    terms = OpenTerms(
        from_key=key.public,
        to_key=to_key,
        service=service,
        transport=flow.transport,
        source=flow.source,
        destination=flow.destination,
        ephemeral=ephemeral_public(SHARE),
        time_s=int(time.time()),
        lifetime_s=60,
    )
    signed = encode_body(terms)
    signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return padded(header, Open(signed, signature, hops))


def _signed(
    key: SigningKey, header: Header, kind: type[Message], terms: Any, hops: tuple[Hop, ...]
) -> bytes:
    signed, about = encode_body(terms), Header(kind.TYPE, header.seq, header.cid)
    make: Any = kind
    signature = key.sign(SIGNATURE_CONTEXT, about.signing + signed)
    return encode(about, make(signed, signature, hops))
