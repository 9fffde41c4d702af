"""The front door of every role: the order of work on a datagram, cheapest first.

Header, then the proof that came with it, then the source's budget, then CBOR. Only what is let in
here costs a signature check. Each stage names what it drops, nothing is answered but with a
CHALLENGE, and that is smaller than its question. Spec: R-7.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address

from . import constants as c
from .address import IP
from .codec import DecodeError, Header
from .effects import Dropped, Effect, SendDatagram
from .errors import DropReason
from .events import DatagramReceived, MessageReceived
from .messages import Challenge, Hop, Open, Stop, decode_message, encode
from .opening import answer
from .route import TokenBox
from .rule import Cid

PREFIXES_MAX = 16_384
"""Networks whose budget is remembered, 5 MB; the one that was quiet longest is forgotten first. A
forger has more of them than any table: what he gets is the budget of all together."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one /24 or /64 may send, a second; a burst of as much again in one go. Spec: R-7.4."""

    datagrams_per_s: float = 20_000.0
    """A core decodes about 40,000; half of them for one network. Bare OPENs have as many again."""
    opens_per_s: float = 4_000.0
    """OPENs without proof or ticket: a core checks about 10,000 signatures; beyond, CHALLENGE.
    As many STOPs; beyond, nothing. The same for the OPENs of all networks together: a forger has
    as many sources as he likes."""
    ticket_per_s: float = 1_000.0
    """OPENs of one ticket; beyond this they are as good as without."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class FrontDoor:
    """Lets datagrams in, or says why not. `ticketed`: how many OPENs a ticket has let in."""

    def __init__(self, box: TokenBox, budget: Budget) -> None:
        self.ticketed = 0
        self._box = box
        self._budget = budget
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._bare = _Bucket(budget.opens_per_s, 0.0)

    def admit(self, event: DatagramReceived, now: float) -> MessageReceived | Effect:
        """The decoded message, or the effect that is all this datagram gets. Spec: R-7.1."""
        source, most = event.source, self._budget
        try:
            header, start = Header.decode(event.data)
        except DecodeError:
            return Dropped(DropReason.HEADER, source)
        proofs, opens = header.proofs, header.type == Open.TYPE
        proved = bool(proofs) and self._box.check_cookie(header.cid, source, proofs, now)
        ticket = self._box.tickets.find(proofs, now) if opens and proofs else None
        ticketed = ticket is not None and self._take(b"t" + ticket.holder, most.ticket_per_s, now)
        # Forged OPENs use up what is for such OPENs of that network, and for nothing else.
        bare = opens and not proved and not ticketed
        prefix = prefix_of(source.ip)
        kind = b"b" if bare else b"d"
        if not ticketed and not self._take(kind + prefix, most.datagrams_per_s, now):
            return Dropped(DropReason.BUDGET, source)
        if opens and not proved and len(event.data) < c.OPEN_BYTES_MIN:
            return Dropped(DropReason.SHORT, source)
        try:
            message = decode_message(header, event.data[start:])
        except DecodeError:
            return Dropped(DropReason.MALFORMED, source)
        if isinstance(message, Stop) and not self._take(b"s" + prefix, most.opens_per_s, now):
            return Dropped(DropReason.BUDGET, source)
        if isinstance(message, Open) and bare and (event.crowded or self._is_spent(prefix, now)):
            return self.challenge(event, header, message.hops, now)
        self.ticketed += ticketed
        return MessageReceived(
            header,
            message,
            source,
            event.destination,
            event.transit,
            event.side,
            event.data,
            proved,
            ticket,
        )

    def challenge(
        self,
        event: DatagramReceived | MessageReceived,
        header: Header,
        hops: tuple[Hop, ...],
        now: float,
    ) -> SendDatagram:
        """Ask a source to show that it receives there; costs no state. Spec: R-5.5."""
        proof = self._box.create_cookie(header.cid, event.source, now)
        challenge = Header(Challenge.TYPE, header.seq, header.cid)
        return answer(event, encode(challenge, Challenge(proof, hops)))

    def _is_spent(self, prefix: bytes, now: float) -> bool:
        """Whether there is no budget for one more signature of nobody in particular. R-7.4."""
        per_s = self._budget.opens_per_s
        return not (_spend(self._bare, per_s, now) and self._take(b"o" + prefix, per_s, now))

    def _take(self, whose: bytes, per_s: float, now: float) -> bool:
        """Whether the bucket of this network or ticket has one more."""
        bucket = self._buckets.get(whose)
        if bucket is None:
            if len(self._buckets) >= PREFIXES_MAX:
                self._buckets.popitem(last=False)
            bucket = self._buckets[whose] = _Bucket(per_s, now)
        else:
            self._buckets.move_to_end(whose)
        return _spend(bucket, per_s, now)


def _spend(bucket: _Bucket, per_s: float, now: float) -> bool:
    bucket.left = min(per_s, bucket.left + max(0.0, now - bucket.at) * per_s)
    bucket.at = now
    if bucket.left < 1:
        return False
    bucket.left -= 1
    return True


def prefix_of(ip: IP) -> bytes:
    """The network that a budget or quota is for: /24 or /64. Spec: R-7.4."""
    return ip.packed[:3] if isinstance(ip, IPv4Address) else ip.packed[:8]


class Quota:
    """How many entries of a table one network may hold, and all networks together. Spec: R-7.4."""

    def __init__(self, most: int, most_per_prefix: int) -> None:
        self._most = most
        self._most_per_prefix = most_per_prefix
        self._total = 0
        self._by_prefix: dict[bytes, int] = {}

    def take(self, ip: IP) -> bool:
        """Count one more for the network of `ip`; False, and nothing counted, when it is full."""
        prefix = prefix_of(ip)
        held = self._by_prefix.get(prefix, 0)
        if self._total >= self._most or held >= self._most_per_prefix:
            return False
        self.count(ip)
        return True

    def count(self, ip: IP) -> None:
        """Count one more, full or not: for what is there already, or is our own wish."""
        prefix = prefix_of(ip)
        self._total += 1
        self._by_prefix[prefix] = self._by_prefix.get(prefix, 0) + 1

    def release(self, ip: IP) -> None:
        """Count one less."""
        prefix = prefix_of(ip)
        held = self._by_prefix.get(prefix, 0)
        if held == 0:
            return
        self._total -= 1
        if held == 1:
            del self._by_prefix[prefix]
        else:
            self._by_prefix[prefix] = held - 1


class Spent:
    """The OPENs that were answered, for as long as a copy of one has a likely time. R-7.7.

    A later seq of the same connection is no copy: an end that lost its other one asks again.
    The oldest is forgotten when there are too many: its copy would open nothing without a CONFIRM.
    """

    CIDS_MAX = 262_144
    KEPT_S = 2 * c.OPEN_TIME_WINDOW_S

    def __init__(self) -> None:
        self._last: OrderedDict[Cid, tuple[float, int]] = OrderedDict()

    def add(self, cid: Cid, seq: int, now: float) -> None:
        """Remember an OPEN from its first answer on, and all before it."""
        self._last.pop(cid, None)
        while self._last and (
            len(self._last) >= self.CIDS_MAX or next(iter(self._last.values()))[0] < now
        ):
            self._last.popitem(last=False)
        self._last[cid] = (now + self.KEPT_S, seq)

    def has(self, cid: Cid, seq: int, now: float) -> bool:
        """Whether this OPEN, or a later one of its connection, was answered a short while ago."""
        until, last = self._last.get(cid, (now, seq))
        return until > now and seq <= last
