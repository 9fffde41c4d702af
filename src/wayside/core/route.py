"""Hops: how a box on the path says what it does, and keeps its state in other people's pockets.

Between OPEN and ACCEPT a box holds nothing. What it must know again when the answer comes (from
where, for whom, under which rule) it seals with its own secret into a *token* and appends to the
OPEN; the responder echoes it, and the box finds it there. A cookie is the same idea for a source
address: something only a host that really receives there can show. Spec: R-8, R-7.3.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from . import constants as c
from .address import IP, Address, Transport
from .codec import encode_body
from .crypto import NONCE_BYTES, BadSignature, derive, digest, seal, unseal
from .messages import Hop
from .rule import Cid
from .ticket import TicketBox

TOKEN_VALID_S = 10.0
"""An ACCEPT comes back within the initiator's patience of 5 s; as much again for slow boxes."""

COOKIE_VALID_S = 30.0
"""Long enough for every box of a route to challenge once, short enough to be worthless later."""

NAT = 2
"""The role of a box that rewrites either end of a flow; above it: both. Spec: R-8.1."""
SIDES = ("", "inside", "outside")
BINDING_BYTES, PARTIES_BYTES = 12, 6
"""A token is echoed four times, by both ends: three ACCEPTs must fit into what an OPEN pays for.
Both hashes are sealed, so that nobody can try until one fits but by sending OPENs."""


def returning(hops: Sequence[Hop]) -> int:
    """How many of these boxes rewrite the destination, and so add to `returned`. Spec: R-5.2.4."""
    return sum(hop.role > NAT or (hop.role == NAT and hop.source is None) for hop in hops)


def parties_of(one: bytes, other: bytes) -> bytes:
    """What stays the same of a connection, whichever of its two keys asks. 6 bytes. R-5.4.5."""
    return digest(*sorted((one, other)))[:PARTIES_BYTES]


def binding_of(to_key: bytes, asked: bytes, onward: IP) -> bytes:
    """What ties a token to one OPEN, and to who may answer it from where. 12 bytes. R-8.3."""
    return digest(to_key, asked, onward.packed)[:BINDING_BYTES]


def hops_hash(hops: Sequence[Hop]) -> bytes:
    """What an end says it saw of the route, 32 bytes. Spec: R-8.4."""
    return digest(*(encode_body(hop) for hop in hops))


_START = struct.Struct(f">BIHH{BINDING_BYTES}s{PARTIES_BYTES}s")
KEY_BYTES = 8


@dataclass(frozen=True, slots=True)
class TokenState:
    """What a gate needs again on the way back. `issued_s`: seconds of its own clock.

    `previous`: whence the OPEN came; `port`: of its flow's source, which has the same address.
    `far`: that source behind the gate, if it is another. `here`, `onward`: our own address that
    was asked, and where the OPEN went on to; without them it was in transit and went on to where
    it was going. `parties`: a hash of both keys; `key`: 8 bytes of that of who registers
    or is hidden; `kind`: transport and the side that the OPEN came from, see `kind_of`.
    """

    FIELDS: ClassVar = ("issued_s", "lifetime_s", "port", "binding", "parties")
    """Those that always take the same room, in their order behind the byte that says what follows.
    A lifetime has two bytes."""
    issued_s: int
    previous: Address
    port: int
    binding: bytes
    parties: bytes
    lifetime_s: int
    kind: int
    rule: str = ""
    service: str = ""
    here: Address | None = None
    onward: Address | None = None
    far: Address | None = None
    key: bytes = b""


def pack(state: TokenState) -> bytes:
    """As few bytes as it takes: three ACCEPTs that echo it are paid for by one OPEN."""
    route = (state.here, state.onward) if state.here and state.onward else ()
    known = state.kind << 4 | (state.previous.family == 6) << 3 | bool(route) << 2
    known |= (state.far is not None) << 1 | bool(state.key)
    start = _START.pack(known, *(getattr(state, name) for name in state.FIELDS))
    places = (state.previous, *route, *((state.far,) if state.far else ()))
    packed = b"".join(place.pack() for place in places)
    words = f"{state.service} {state.rule}" if state.rule else state.service  # without blanks
    return start + packed + state.key + words.encode()


def unpack(raw: bytes) -> TokenState:
    """Read it again. Raises ValueError."""
    if len(raw) < _START.size:
        raise ValueError("too short")
    known, *fixed = _START.unpack_from(raw)
    size, has_route, has_far = 18 if known & 8 else 6, bool(known & 4), bool(known & 2)
    at = _START.size
    places: list[Address] = []
    for _ in range(1 + 2 * has_route + has_far):
        places.append(Address.unpack(raw[at : at + size]))
        at += size
    key = raw[at : at + KEY_BYTES] if known & 1 else b""
    service, _, rule = raw[at + len(key) :].decode().partition(" ")
    return TokenState(
        **dict(zip(TokenState.FIELDS, fixed, strict=True)),
        previous=places[0],
        kind=known >> 4,
        rule=rule,
        service=service,
        here=places[1] if has_route else None,
        onward=places[2] if has_route else None,
        far=places[-1] if has_far else None,
        key=key,
    )


def kind_of(transport: Transport, side: str) -> int:
    """Transport and side in one small number."""
    return SIDES.index(side) * 4 + transport


def transport_of(state: TokenState) -> Transport:
    """The transport of the flow that a token is about."""
    return Transport(state.kind % 4)


def side_of(state: TokenState) -> str:
    """The side that its OPEN came from."""
    return SIDES[state.kind // 4]


def near_source(state: TokenState) -> Address:
    """The source of the flow that a token is about, before its box."""
    return state.previous.with_port(state.port)


def far_source(state: TokenState) -> Address:
    """The source of that flow behind its box."""
    return state.far or near_source(state)


class TokenBox:
    """Seals and opens the tokens of one hop; `secret`: 32 bytes that nobody else has.

    `shared`: 32 bytes that only boxes have which take each other's tickets; without: our own.
    """

    def __init__(
        self,
        key: bytes,
        secret: bytes,
        entropy: Callable[[int], bytes],
        shared: bytes = b"",
    ) -> None:
        self.tickets = TicketBox(key, secret, shared)
        self._key = key
        self._seal_key = derive(secret, b"", b"wayside token 2")
        self._cookie_key = derive(secret, b"", b"wayside cookie")
        self._entropy = entropy

    def create_token(self, cid: Cid, seq: int, state: TokenState) -> bytes:
        """Seal a state for this cid and seq. Spec: R-8.2."""
        nonce = self._entropy(NONCE_BYTES)
        return nonce + seal(self._seal_key, nonce, pack(state), _bound(cid, seq))

    def consume_token(self, cid: Cid, seq: int, hops: Sequence[Hop]) -> TokenState | None:
        """Open our own token among the hops; None when none is there or it is not ours. R-8.2."""
        for hop in hops:
            if hop.key == self._key:
                nonce, sealed = hop.token[:NONCE_BYTES], hop.token[NONCE_BYTES:]
                try:
                    plain = unseal(self._seal_key, nonce, sealed, _bound(cid, seq))
                    return unpack(plain)
                except (BadSignature, ValueError):
                    return None
        return None

    def create_cookie(self, cid: Cid, source: Address, now: float) -> bytes:
        """A proof, 32 bytes, that whoever shows it receives at `source`. Spec: R-7.3."""
        until = int(now + COOKIE_VALID_S).to_bytes(8, "big")
        return self._key[: c.ISSUER_BYTES] + until + self._cookie(cid, source, until)

    def check_cookie(self, cid: Cid, source: Address, proofs: Sequence[bytes], now: float) -> bool:
        """Whether one of the proofs is a cookie of ours for this cid and source. Spec: R-7.3."""
        for proof in proofs:
            issuer, until, given = proof[:8], proof[8:16], proof[16:]
            if issuer == self._key[: c.ISSUER_BYTES]:
                fresh = now <= int.from_bytes(until, "big") <= now + COOKIE_VALID_S
                return fresh and hmac.compare_digest(given, self._cookie(cid, source, until))
        return False

    def _cookie(self, cid: Cid, source: Address, until: bytes) -> bytes:
        covered = until + cid + source.pack()
        return hashlib.blake2b(covered, digest_size=16, key=self._cookie_key).digest()


def _bound(cid: Cid, seq: int) -> bytes:
    return cid + seq.to_bytes(8, "big")
