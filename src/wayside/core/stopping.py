"""A host that says STOP, and one that hears it.

Who was asked for a connection can have its packets dropped on the way: it signs what it said of
the OPEN when it agreed, and the boxes on the path find themselves in it (filters.py). It repeats
that until the box nearest to the source has answered, and for as long as the packets are not
wanted it refuses what their sender asks next. Who hears that its own packets are not wanted closes
the connection: nearer to the source than at the source nobody can stop them. Spec: R-5.8.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import constants as c
from .address import Transport
from .answerer import Offer
from .codec import DecodeError, Header, decode_body, encode_body
from .connection import Connection, HostContext, State
from .crypto import BadSignature, verify
from .effects import Effect, SendDatagram
from .errors import DropReason
from .events import MessageReceived
from .messages import Stop, StopTerms, encode
from .opening import SIGNATURE_CONTEXT
from .route import hops_hash
from .rule import Cid
from .timers import Deadlines

SAID_MAX = 1024
"""STOPs in force; one for each connection that is not wanted."""


@dataclass(slots=True)
class Said:
    """A STOP that we said. `until`: monotonic seconds; `by`: the key of the nearest who answered.

    `keys`: of the boxes on the path, the nearest to the source first, 32 bytes each.
    """

    peer: bytes
    keys: tuple[bytes, ...]
    terms: StopTerms
    until: float
    datagram: SendDatagram
    tries: int = 1
    by: bytes = b""


class Stopping:
    """The STOPs of one host."""

    def __init__(self, context: HostContext) -> None:
        self.said: dict[Cid, Said] = {}
        self._context = context
        self._deadlines = Deadlines()

    @property
    def deadline(self) -> float | None:
        """When `on_time_passed` is due, monotonic seconds."""
        return self._deadlines.next

    def say(self, connection: Connection, lifetime_s: float, now: float) -> list[Effect]:
        """Tell the path that no packets of this connection are wanted. Nothing if we may not."""
        offer, cid = may_stop(connection), connection.agreement.cid
        before = self.said.get(cid)
        if offer is None or (before is None and len(self.said) >= SAID_MAX):
            return []
        time_s = int(self._context.unix_s(now))
        time_s = time_s if before is None else max(time_s, before.terms.time_s + 1)
        lasts_s = min(max(lifetime_s, c.LIFETIME_MIN_S), c.STOP_S_MAX)
        key, header = self._context.key, Header(Stop.TYPE, offer.seq, cid)
        route = hops_hash(offer.hops)
        terms = StopTerms(key.public, offer.hash, route, int(lasts_s), time_s)
        signed = encode_body(terms)
        signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
        data = encode(header, Stop(signed, signature, offer.hops))
        datagram = SendDatagram(data, offer.towards, offer.wire.source)
        keys = tuple(hop.key for hop in offer.hops)
        peer = connection.agreement.peer.key
        self.said[cid] = Said(peer, keys, terms, now + int(lasts_s), datagram)
        self._deadlines.set(cid, now + c.RETRANSMIT_FIRST_S)
        return [datagram]

    def refuses(self, cid: Cid, key: bytes, is_new: bool, now: float) -> bool:
        """Whether an OPEN by this key, 32 bytes, is from somebody we have stopped. R-5.8.5."""
        said = self.said.get(cid)
        if said is not None and said.until > now:
            return True
        return is_new and any(one.peer == key and one.until > now for one in self.said.values())

    def on_stop(
        self, connection: Connection, event: MessageReceived, message: Stop, now: float
    ) -> DropReason | bool:
        """Take a STOP about a connection of ours; True: the other end wants our packets no more.

        Spec: R-5.8.2, R-5.8.5.
        """
        try:
            terms = decode_body(StopTerms, message.signed)
        except DecodeError:
            return DropReason.MALFORMED
        said = self.said.get(event.header.cid)
        is_peers = terms.from_key == connection.agreement.peer.key
        if is_peers and event.header.seq not in connection.keys.by_seq:
            return DropReason.STALE
        if not is_peers and (said is None or terms.from_key not in said.keys):
            return DropReason.UNEXPECTED
        if not is_peers and said is not None and terms.time_s != said.terms.time_s:
            return DropReason.STALE
        if is_peers and abs(terms.time_s - self._context.unix_s(now)) > c.OPEN_TIME_WINDOW_S:
            return DropReason.TIME
        try:
            signed = event.header.signing + message.signed
            verify(terms.from_key, message.signature, SIGNATURE_CONTEXT, signed)
        except BadSignature:
            return DropReason.SIGNATURE
        if said is not None and not is_peers:
            self._answered(said, terms.from_key)
        return is_peers

    def _answered(self, said: Said, key: bytes) -> None:
        if not said.by or said.keys.index(key) < said.keys.index(said.by):
            said.by = key

    def on_time_passed(self, now: float) -> list[Effect]:
        """Say it again until the box nearest to the source has answered; forget what is over."""
        effects: list[Effect] = []
        for cid in self._deadlines.take_due(now):
            said = self.said[cid]
            if now >= said.until:
                del self.said[cid]
                continue
            heard = bool(said.keys) and said.by == said.keys[0]
            if said.tries < c.STOP_TRIES and not heard:
                said.tries += 1
                effects.append(said.datagram)
                wait_s = c.RETRANSMIT_FIRST_S * 2 ** (said.tries - 1)
                self._deadlines.set(cid, min(now + wait_s, said.until))
            else:
                self._deadlines.set(cid, said.until)
        return effects


def may_stop(connection: Connection) -> Offer | None:
    """What we agreed to last, if a STOP can be about it: we were asked, and are still there."""
    offer, wire = connection.keys.agreed, connection.agreement.wire
    if offer is None or connection.state is not State.CONNECTED:
        return None
    there = offer.wire.source.ip == wire.source.ip and wire.transport is not Transport.NONE
    return offer if there else None
