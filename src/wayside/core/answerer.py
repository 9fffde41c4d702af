"""The end that answers.

Its ACCEPT says what it saw: the hash of the OPEN, the hash of the hops. Until CONFIRM comes the
initiator has not shown that it receives at its address, so packets from it reach the application
but nothing goes back: the rule for our own packets is made at CONFIRM, and what the application
says before waits in the agent. A datagram that rode on the OPEN is given to the application at
once; if it answers within a moment, the answer rides on ACCEPT, which is smaller than the OPEN.
Spec: R-5.2, R-5.3, R-7.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from . import constants as c
from .address import Address, Flow, Transport
from .codec import Header, encode_body
from .connection import (
    Agreement,
    Connection,
    State,
    accept_seen,
    confirm_proof,
    connection_key,
    hops_size,
)
from .crypto import (
    ZERO_NONCE,
    BadSignature,
    check_mac,
    check_of,
    derive,
    ephemeral_public,
    holds,
    seal,
    unseal,
)
from .effects import ChangeRules, DeliverData, Effect, Punch, SendDatagram
from .errors import DropReason
from .events import DataAnswered, MessageReceived
from .messages import Accept, AcceptTerms, Close, Confirm, Hop, Open, OpenTerms, encode
from .opening import SIGNATURE_CONTEXT, CheckedOpen
from .route import hops_hash
from .rule import Rule
from .saved import save
from .timers import Timer
from .way import Role

if TYPE_CHECKING:  # which imports offers
    from .attempt import Attempt

ANSWER_WAIT_S = 0.03
"""An application on this host that answers a datagram does it in a millisecond; be generous. The
kernel that answers a SYN has longer: without its answer there is no punch. Spec: R-12.8."""

ALTERNATIVES_BYTES = 2 + 20 * c.ALTERNATIVES_MAX
"""What they take in an ACCEPT at most. Where hops leave no room, the next ACCEPT says them."""

DOUBLINGS_MAX = 8
"""Of the wait between ACCEPTs: OPENs that come again and again must not make it endless."""

OLD_WAYS_MAX = 4
"""Rules for packets to where we were, or were asked, beside the one for where we are."""


@dataclass(frozen=True, slots=True)
class Ourselves:
    """What our ACCEPT says of ourselves: what is confirmed has to be what was said.

    `alternatives`: where else we are; `silent`: the NAT before us says nothing.
    """

    alternatives: tuple[Address, ...] = ()
    silent: bool = False


@dataclass(slots=True)
class Offer:
    """One OPEN that we agreed to, until its CONFIRM (and after it, for repetitions)."""

    opened: CheckedOpen
    ephemeral: bytes
    key: bytes
    wire: Flow
    """Our packets to who asks, from where it was sent to."""
    after: Flow
    """The same, once it is confirmed: either end may have moved since it was sent."""
    towards: Address
    hops: tuple[Hop, ...]
    credit: float
    """Bytes we may still send before CONFIRM: no more than came from there. Spec: R-7.5."""
    said: Ourselves = Ourselves()
    data: bytes = b""
    tries: int = 0
    confirmed: bool = False

    def pending(self, about: Agreement) -> tuple[Rule, ...]:
        """What lets packets in from where it was asked, whichever of our addresses they go to.

        Nothing where our sockets see the wire's own addresses: there are no rules then (R-6.2).
        """
        if about.local == about.wire:
            return ()
        ways = dict.fromkeys((self.wire, self.after))
        return tuple(rule for way in ways for rule in replace(about, wire=way).inbound)

    @property
    def seq(self) -> int:
        """The OPEN's."""
        return self.opened.header.seq

    @property
    def hash(self) -> bytes:
        """What names the OPEN, 32 bytes."""
        return self.opened.hash

    @property
    def asked(self) -> OpenTerms:
        """As the OPEN has them; boxes on the way may have rewritten its addresses."""
        return self.opened.terms


class Answerer(Connection):
    """What an end does that is asked."""

    __slots__ = ()
    attempt: Attempt | None
    offer: Offer | None

    def answer(self, opened: CheckedOpen, event: MessageReceived, now: float) -> list[Effect]:
        """Agree to an OPEN that the host has checked and allowed. Spec: R-5.2, R-5.4.

        Returns a `Dropped` for one that does not continue this connection, and changes nothing.
        """
        message = event.message
        assert isinstance(message, Open)
        if self.state in (State.OPENING, State.CLOSING, State.ENDED):
            return self._drop(event, DropReason.STALE)
        offer = self.offer
        if offer is not None and opened.header.seq == offer.seq:
            theirs = offer.wire.destination  # where we are may have changed
            other = opened.source != theirs or boxes(message) != boxes(offer)
            if opened.hash != offer.hash or other or not self._has_room(offer, message.hops):
                return self._drop(event, DropReason.STALE)
            if offer.confirmed:  # what was confirmed stays as it was, for STOP
                self.offer = offer = replace(offer)
            credit = self._credit(event)
            offer.credit = credit + (offer.credit if event.source == offer.towards else 0)
            offer.towards, offer.hops = event.source, message.hops
            return [] if self.state is State.ANSWERING else self._accept(now)
        effects: list[Effect] = []
        anew = self.state is State.OFFERED and self._is_anew(opened)
        if self.state is not State.IDLE and not anew and not self._continues(opened, message):
            return self._drop(event, DropReason.STALE)
        if offer is not None and not offer.confirmed and _shows(offer, opened, message):
            offer.confirmed = True  # the CONFIRM was lost, but the ACCEPT was believed
            effects, anew = self._confirmed(offer, now), False
        try:
            made, data = self._offer(opened, event, message, now)
        except BadSignature:  # what its MAC has shown holds all the same
            return [*effects, *self._drop(event, DropReason.SIGNATURE)]
        if anew:
            effects = self._go_over(made.wire, now)
            made.data = offer.data if offer else b""
        self.offer = made
        if self.state is State.OFFERED:
            return [*effects, *self._accept(now)]
        if self.state is not State.IDLE:
            return [*effects, save(self), *self._accept(now)]
        if data:
            self._enter(State.ANSWERING)
            about = self.agreement
            wait_s = c.RETRANSMIT_FIRST_S if about.wire.transport.is_tcp else ANSWER_WAIT_S
            self.timers.start(Timer.OFFER, now + wait_s)
            return [DeliverData(about.cid, about.local.reversed(), data)]
        self._enter(State.OFFERED)
        self.timers.start(Timer.GIVE_UP, now + c.PENDING_S)
        return self._accept(now)

    def _is_anew(self, opened: CheckedOpen) -> bool:
        """Whether who asked asks again before its CONFIRM: it was sent on, or moved. R-5.4.2."""
        about, terms, seq = self.agreement, opened.terms, opened.header.seq
        same = (about.peer.key, about.service, about.wire.transport)
        theirs = self.offer is not None and seq > self.offer.seq and seq % 2 != self.PARITY
        return theirs and (terms.from_key, terms.service, terms.transport) == same

    def _go_over(self, wire: Flow, now: float) -> list[Effect]:
        """Offer it for other packets; nothing goes back to the old place any more."""
        before = self.agreement
        local = wire if before.local == before.wire else before.local
        self.agreement = replace(before, wire=wire, local=local)
        self.timers.start(Timer.GIVE_UP, now + c.PENDING_S)
        gone = before.inbound if wire != before.wire else ()
        return [ChangeRules(before.cid, remove=gone)] if gone else []

    def _continues(self, opened: CheckedOpen, message: Open) -> bool:
        """Whether a later OPEN comes from who holds the key of this connection. Spec: R-5.4.2."""
        about, terms, seq = self.agreement, opened.terms, opened.header.seq
        same = (about.peer.key, about.service, about.wire.transport)
        if (terms.from_key, terms.service, terms.transport) != same or self.keys.seq < 0:
            return False
        offered = (self.offer.seq, self.offer.key) if self.offer else self.keys.offered
        candidates = [*self.keys.by_seq.items(), *([offered] if offered else [])]
        theirs = [known for known, _ in candidates if known % 2 != self.PARITY]
        if seq % 2 == self.PARITY or seq <= max(theirs, default=-1):
            return False
        known = [key for _, key in candidates]
        return any(holds(key, message.mac, opened.header.signing, message.signed) for key in known)

    def _is_late(self, opened: CheckedOpen, message: Open) -> bool:
        """Whether it was sent before its sender knew of our own last move. Spec: R-5.4.6."""
        older = [key for seq, key in self.keys.by_seq.items() if seq < self.keys.moved]
        return any(holds(key, message.mac, opened.header.signing, message.signed) for key in older)

    def wire_for(self, event: MessageReceived, opened: CheckedOpen) -> Flow:
        """Our packets to where this OPEN comes from, from where it was sent to. Spec: R-5.4.6."""
        about = self.agreement.wire
        here = opened.flow.destination if event.destination.ip.is_unspecified else event.destination
        return Flow(about.transport, here.with_port(about.source.port), opened.source)

    def _credit(self, event: MessageReceived) -> float:
        """Bytes that an OPEN lets us send to where it came from, before CONFIRM. Spec: R-7.5."""
        known = event.proved or (self.keys.seq >= 0 and event.source == self.towards)
        return inf if known else event.size

    def _offer(
        self, opened: CheckedOpen, event: MessageReceived, message: Open, now: float
    ) -> tuple[Offer, bytes]:
        """An offer for an OPEN, and its data; a proof makes up for its time, not for its data."""
        secret = self.host.entropy(32)
        ephemeral = ephemeral_public(secret)
        terms = opened.terms
        key = connection_key(secret, terms.ephemeral, opened.hash, ephemeral)
        silent = self.host.is_behind(message.hops, opened)
        data = b""
        if terms.sealed and (silent or not terms.transport.is_tcp):
            shared = self.host.key.agree(terms.ephemeral)
            sealing = derive(shared, opened.header.cid, b"wayside open")
            bound = opened.header.signing + terms.from_key
            data = unseal(sealing, ZERO_NONCE, terms.sealed, bound)
        wire = self.wire_for(event, opened)
        here = self.agreement.wire.source if self._is_late(opened, message) else wire.source
        offer = Offer(
            opened=opened,
            ephemeral=ephemeral,
            key=key,
            wire=wire,
            after=replace(wire, source=here),
            towards=event.source,
            hops=message.hops,
            credit=self._credit(event),
        )
        hidden = any(hop.role == Role.HIDING for hop in message.hops)
        alternatives: tuple[Address, ...] = ()
        if not hidden and hops_size(message.hops) <= c.HOPS_BYTES_MAX - ALTERNATIVES_BYTES:
            alternatives = self.host.alternatives(offer.wire)
        offer.said = Ourselves(alternatives, silent)
        is_fresh = abs(terms.time_s - self.host.unix_s(now)) <= c.OPEN_TIME_WINDOW_S
        return offer, data if is_fresh or terms.transport.is_tcp else b""

    def _on_data_answered(self, event: DataAnswered, now: float) -> list[Effect]:
        """The application's answer rides on ACCEPT if it fits. Spec: R-5.2.5."""
        offer = self.offer
        if self.state is not State.ANSWERING or offer is None:
            return []
        told = ALTERNATIVES_BYTES if offer.said.alternatives else 0
        room = c.OPEN_BYTES_MIN - 420 - told - hops_size(offer.hops)
        if len(event.data) <= min(room, c.DATA_BYTES_MAX):
            offer.data = event.data
        return self._offered(now)

    def _offered(self, now: float) -> list[Effect]:
        self._enter(State.OFFERED)
        self.timers.start(Timer.GIVE_UP, now + c.PENDING_S)
        return self._accept(now)

    def _accept(self, now: float) -> list[Effect]:
        """Say ACCEPT, but never more bytes than the OPENs brought. Spec: R-5.2, R-7.5."""
        offer = self.offer
        if offer is None:
            return []
        if not offer.confirmed:
            wait_s = c.RETRANSMIT_FIRST_S * 2 ** min(offer.tries, DOUBLINGS_MAX)
            self.timers.start(Timer.OFFER, now + wait_s)
        offer.tries += 1
        datagram = self._accept_datagram(offer)
        punch = self._punch(offer) if offer.tries <= c.PUNCHES else []
        size = len(datagram.data) + sum(len(one.data) for one in punch)
        if size > offer.credit:
            return []
        offer.credit -= size
        cid, pending = self.agreement.cid, offer.pending(self.agreement)
        if pending and self.state is State.OFFERED:
            return [*punch, ChangeRules(cid, pending, (), (datagram,))]
        if pending and offer.after != self.agreement.wire:
            # Until it takes the place of what is now, or another move does. Packets may still be on
            # the way to where we were before our own last move.
            ways = (*pending, *(rule for rule in self.old if rule not in pending))
            self.old, gone = ways[:OLD_WAYS_MAX], ways[OLD_WAYS_MAX:]
            return [*punch, ChangeRules(cid, pending, gone, (datagram,))]
        return [*punch, datagram]

    def _punch(self, offer: Offer) -> list[Punch]:
        """The NAT before us lets packets in where it has seen one of ours go. R-12.6, R-12.8."""
        cid, transport = self.agreement.cid, offer.wire.transport
        data = Header(0, 0, cid).signing if transport is Transport.UDP else offer.data
        moves = transport.is_tcp and offer.after != self.agreement.wire
        return [Punch(cid, offer.after, data)] if offer.said.silent and (data or moves) else []

    def _accept_datagram(self, offer: Offer) -> SendDatagram:
        header = Header(Accept.TYPE, offer.seq, self.agreement.cid)
        signed = self._terms(offer, offer.hops)
        signature = self.host.key.sign(SIGNATURE_CONTEXT, header.signing + signed)
        datagram = encode(header, Accept(signed, signature, offer.hops))
        # From where we are: if we have left since, who asked finds us by it. Spec.
        attempt = self.attempt
        moving = attempt is not None and attempt.message is not None and attempt.towards is None
        here = offer.after.source if offer.tries > 1 else offer.wire.source
        here = attempt.wire.source if attempt and moving else here
        return SendDatagram(datagram, offer.towards, here)

    def _has_room(self, offer: Offer, hops: tuple[Hop, ...]) -> bool:
        """Whether an ACCEPT that goes back by these hops can still say what it said by others."""
        if self.state is State.ANSWERING:  # what the application says is not known yet
            return hops_size(hops) <= hops_size(offer.hops)
        accept = Accept(self._terms(offer, hops), bytes(64), hops)
        return c.HEADER_BYTES + len(encode_body(accept)) <= c.DATAGRAM_BYTES_MAX

    def _terms(self, offer: Offer, hops: tuple[Hop, ...]) -> bytes:
        """What we agree to when an OPEN came by these hops. Spec: R-5.2."""
        about = self.agreement
        sealed = b""
        if offer.data and not offer.wire.transport.is_tcp:
            key = derive(offer.key, b"", b"wayside accept")
            sealed = seal(key, ZERO_NONCE, offer.data, about.cid)
        terms = AcceptTerms(
            from_key=self.host.key.public,
            open_hash=offer.hash,
            hops_hash=hops_hash(hops),
            check=check_of(confirm_proof(offer.key, offer.seq, about.cid)),
            destination=offer.asked.destination.with_port(about.wire.source.port),
            ephemeral=offer.ephemeral,
            lifetime_s=int(self.host.longest_s(offer.said.silent)),
            alternatives=offer.said.alternatives,
            sealed=sealed,
        )
        return encode_body(terms)

    def _on_confirm(self, event: MessageReceived, message: Confirm, now: float) -> list[Effect]:
        """The initiator receives where it says: now we may talk to it. Spec: R-5.3, R-7.5.

        The hops that it names are those of an ACCEPT of ours, or `seen` is no hash of it: so
        neither copies of the OPEN with other hops, nor a box that changes them, get anywhere.
        """
        offer = self.offer
        if offer is None or event.header.seq != offer.seq:
            return self._drop(event, DropReason.STALE)
        if self.state not in (State.OFFERED, State.CONNECTED):
            return self._drop(event, DropReason.UNEXPECTED)
        try:
            check_mac(offer.key, message.mac, event.header.signing, message.seen)
        except BadSignature:
            return self._drop(event, DropReason.SIGNATURE)
        given = Accept(self._terms(offer, message.hops), b"", message.hops, message.returned)
        if hops_size(message.hops) > c.HOPS_BYTES_MAX or message.seen != accept_seen(given):
            return self._drop(event, DropReason.STALE)
        if offer.confirmed:
            return []
        offer.confirmed = True
        offer.towards, offer.hops = event.source, message.hops
        return self._confirmed(offer, now)

    def _on_close(self, event: MessageReceived, message: Close, now: float) -> list[Effect]:
        """An initiator that closes at once may do so before its CONFIRM got here. Spec: R-5.9.3."""
        offer, saved, words = self.offer, self.keys.offered, message.reason.encode()
        restored = offer is None and saved is not None and event.header.seq == saved[0]
        if saved and restored and holds(saved[1], message.mac, event.header.signing, words):
            self.keys.add(*saved)  # of an ACCEPT from before a restart
        if offer is not None and not offer.confirmed and event.header.seq == offer.seq:
            if not holds(offer.key, message.mac, event.header.signing, words):
                return self._drop(event, DropReason.SIGNATURE)
            offer.confirmed = True
            self.keys.add(offer.seq, offer.key)
            self.towards, self.hops = offer.towards, offer.hops
        return super()._on_close(event, message, now)

    def _confirmed(self, offer: Offer, now: float) -> list[Effect]:
        first, before = self.state is State.OFFERED, self.agreement
        if first:
            self._enter(State.CONNECTED)
        switch = self._switch(offer.after, offered=() if first else offer.pending(self.agreement))
        if offer.wire.transport is not Transport.NONE:  # a registration's are its location
            self._learn(offer.asked.alternatives)
        self.keys.add(offer.seq, offer.key)
        self.keys.agreed = offer
        if offer.after.destination == offer.wire.destination:
            self.towards = offer.towards
        if offer.seq == self.keys.seq:
            self.hops = offer.hops
        most = self.host.longest_s(offer.said.silent)
        granted = [most, offer.asked.lifetime_s or most, *(hop.lifetime_s for hop in self.hops)]
        self.lifetime_s = max(c.LIFETIME_MIN_S, min(granted))
        self.timers.stop(Timer.OFFER)
        if first:
            self.timers.stop(Timer.GIVE_UP)
        if self.PARITY == 0:  # the other end has moved, and may have less time there
            self.timers.start(Timer.REFRESH, now + self.lifetime_s / 3)
        self.timers.start(Timer.EXPIRE, now + max(self.lifetime_s, 2 * c.OPEN_TIMEOUT_S))
        about = self.agreement
        report = replace(self._up(), refreshed=not first)
        if first:
            rules = ChangeRules(about.cid, about.outbound, switch.remove)
            return [rules, *self._punch(offer), save(self), report]
        moved = offer.after != before.wire or switch.remove
        return [*([switch] if moved else []), save(self), report, *self.settle(now)]

    def _on_timer(self, timer: Timer, now: float) -> list[Effect]:
        match timer:
            case Timer.OFFER if self.state is State.ANSWERING:
                return self._offered(now)
            case Timer.OFFER if self.state in (State.OFFERED, State.CONNECTED):
                return self._accept(now)
            case Timer.GIVE_UP if self.state is State.OFFERED:
                effects = self._end("never confirmed", now)
                self.timers.stop()  # who asks again, with a higher seq, is asked in
                return effects
            case _:
                return super()._on_timer(timer, now)


def _shows(offer: Offer, opened: CheckedOpen, message: Open) -> bool:
    """Whether who sent a later OPEN has the key that our ACCEPT gave it."""
    return holds(offer.key, message.mac, opened.header.signing, message.signed)


def boxes(of: Open | Offer) -> list[tuple[bytes, int]]:
    """Who is on the route, and as what: the same for all copies of an OPEN. Spec: R-5.2.1."""
    return [(hop.key, hop.role) for hop in of.hops]
