"""Tickets: how a known host's OPEN gets past a flood of forged ones.

A box gives a ticket to a key that it lets pass: in its hop record, which comes back with the
ACCEPT, or in a REDIRECT. It is shown where proofs are, so a kernel sees it by one flag; one keyed
hash tells that it is ours, and a budget of its own lets the OPEN in. It proves no address and no
time, and the OPEN has to be signed by the very key: to a thief it is worth that budget, no more.
Boxes of one operator may share a secret, so that a rendezvous hands out what its gates take.
Spec: R-7.8.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from . import constants as c
from .address import IP
from .crypto import derive
from .messages import Hop

UNTIL_BYTES, MAC_BYTES = 3, 8
"""In a hop record there is room for no more: three ACCEPTs with it are paid for by one OPEN. Who
guesses 64 bits, one datagram a guess, has found somebody else's lane."""

UNIT_S = 256
"""Of the time in a ticket."""

HOLDER_BYTES = c.PROOF_BYTES - c.ISSUER_BYTES - UNTIL_BYTES - MAC_BYTES
"""Of the key that a ticket is for."""

BOXES_MAX = 256
WAYS_MAX = 1024
"""Destinations whose tickets a host remembers; the one that was quiet longest is forgotten."""

SHOWN_MAX = 3
"""Tickets on one OPEN: one place is left for the proof of a CHALLENGE."""

NEWEST = 2
"""Shown where nothing is known of the way: the boxes near ourselves are on every way."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One that holds. `holder`: the first 13 bytes of its key; `until_s`: unix seconds."""

    holder: bytes
    until_s: int


class TicketBox:
    """Makes and knows the tickets of one box; `secret`: 32 bytes that nobody else has.

    `shared`: 32 bytes of all boxes that take each other's tickets, or none. `epoch_s`: unix time
    at `now` = 0.
    """

    def __init__(self, key: bytes, secret: bytes, shared: bytes) -> None:
        own = key[: c.ISSUER_BYTES]
        self._macs = {own: derive(secret, b"", b"wayside ticket")}
        self._own = self._given = own
        self.epoch_s = 0.0
        if shared:
            self._given = derive(shared, b"", b"wayside ticket name")[: c.ISSUER_BYTES]
            self._macs[self._given] = derive(shared, b"", b"wayside ticket")

    def for_record(self, shown: Ticket | None, key: bytes, now: float) -> bytes:
        """What a hop record has for this key, 11 bytes; nothing, if it has shown a good one."""
        if shown is not None and shown.until_s - (self.epoch_s + now) > c.TICKET_S / 2:
            return b""
        until, mac = self._made(self._own, key, now)
        return until + mac

    def for_redirect(self, key: bytes, now: float) -> bytes:
        """A whole ticket, 32 bytes, for this key; it holds at all boxes that share our secret."""
        until, mac = self._made(self._given, key, now)
        return self._given + until + key[:HOLDER_BYTES] + mac

    def find(self, proofs: Sequence[bytes], now: float) -> Ticket | None:
        """The first ticket of ours among these that holds."""
        for proof in proofs:
            name = proof[: c.ISSUER_BYTES]
            if name in self._macs:
                said, mac = proof[c.ISSUER_BYTES : -MAC_BYTES], proof[-MAC_BYTES:]
                until_s = int.from_bytes(said[:UNTIL_BYTES], "big") * UNIT_S
                fresh = 0 <= until_s - (self.epoch_s + now) <= c.TICKET_S
                if fresh and hmac.compare_digest(mac, self._mac(name, said)):
                    return Ticket(said[UNTIL_BYTES:], until_s)
        return None

    def _made(self, name: bytes, key: bytes, now: float) -> tuple[bytes, bytes]:
        units = int(self.epoch_s + now + c.TICKET_S) // UNIT_S
        until = (units % 256**UNTIL_BYTES).to_bytes(UNTIL_BYTES, "big")
        return until, self._mac(name, until + key[:HOLDER_BYTES])

    def _mac(self, name: bytes, said: bytes) -> bytes:
        return hashlib.blake2b(said, digest_size=MAC_BYTES, key=self._macs[name]).digest()


def shown_as(hop: Hop, key: bytes) -> bytes:
    """The proof, 32 bytes, that this record's ticket is, in the hands of `key`. Spec: R-7.8."""
    until, mac = hop.ticket[:UNTIL_BYTES], hop.ticket[UNTIL_BYTES:]
    return hop.key[: c.ISSUER_BYTES] + until + key[:HOLDER_BYTES] + mac


class Tickets:
    """What a host was given, by where it was going and by whom; in memory only. Spec: R-7.8."""

    def __init__(self) -> None:
        self._ways: OrderedDict[IP, dict[bytes, bytes]] = OrderedDict()
        self._newest: OrderedDict[bytes, bytes] = OrderedDict()

    @property
    def count(self) -> int:
        """Boxes that we have a ticket of."""
        return len(self._newest)

    def towards(self, ip: IP) -> tuple[bytes, ...]:
        """What to show on an OPEN that goes to this address."""
        known = self._ways.get(ip)
        if known is None:
            return tuple(self._newest.values())[-NEWEST:]
        return tuple(known.values())[-SHOWN_MAX:]

    def learn(self, ip: IP, hops: Sequence[Hop], key: bytes) -> None:
        """These boxes are on the way to this address, as an ACCEPT says that we, `key`, believe."""
        before, here = self._ways.get(ip, {}), dict[bytes, bytes]()
        for hop in hops:
            issuer = hop.key[: c.ISSUER_BYTES]
            had = before.get(issuer) or self._newest.get(issuer, b"")
            ticket = shown_as(hop, key) if hop.ticket else had
            if ticket:
                here[issuer] = ticket
        self._keep(ip, here)

    def add(self, ip: IP, ticket: bytes) -> None:
        """Somebody sent us to this address, with a ticket."""
        self._keep(ip, {**self._ways.get(ip, {}), ticket[: c.ISSUER_BYTES]: ticket})

    def _keep(self, ip: IP, here: dict[bytes, bytes]) -> None:
        self._ways.pop(ip, None)
        while len(self._ways) >= WAYS_MAX:
            self._ways.popitem(last=False)
        self._ways[ip] = here
        for issuer, ticket in here.items():
            self._newest.pop(issuer, None)
            while len(self._newest) >= BOXES_MAX:
                self._newest.popitem(last=False)
            self._newest[issuer] = ticket
