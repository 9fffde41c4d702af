"""The end that asks.

It signs an OPEN, repeats it until somebody answers, answers challenges, and believes an ACCEPT
only when the responder's key signed it over exactly the OPEN that was sent and exactly the hops
that came back with it. From then on it asks again, with a higher seq, at a third of the lifetime.
Spec: R-5.1 to R-5.3, R-5.5, R-5.6.
"""

from __future__ import annotations

from dataclasses import replace

from . import constants as c
from .address import Address, Flow
from .answerer import Offer
from .attempt import Attempt, Counts, Load, approval_of
from .codec import DecodeError, Header, decode_body, encode_body
from .connection import State, accept_seen, confirm_proof, connection_key
from .crypto import (
    ZERO_NONCE,
    BadSignature,
    agree,
    derive,
    ephemeral_public,
    mac,
    seal,
    static_x25519,
    unseal,
    verify,
)
from .effects import (
    ChangeRules,
    DeliverData,
    Effect,
    SendDatagram,
)
from .errors import DropReason
from .events import MessageReceived, OpenRequested
from .identity import PeerIdentity, key_text
from .messages import (
    CALLED,
    RELAYED,
    Accept,
    AcceptTerms,
    Challenge,
    Code,
    Confirm,
    Open,
    OpenTerms,
    Redirect,
    Reject,
    encode,
    padded,
)
from .opening import SIGNATURE_CONTEXT, is_agreed, may_ride, open_hash, read_redirect, read_refusal
from .route import hops_hash, returning
from .saved import save
from .timers import Timer
from .yielding import ANOTHER_ANSWERS, GATE_ANSWERS, Yielding

KEY_SHOWN = 13
"""Characters of a key beside a name that its owner chose: 60 bits, enough to tell two apart."""

CONFIRMED_S = 0.3
"""A CONFIRM has arrived by then, or the ACCEPT has been repeated and answered with another."""

ROOM_FOR_HOPS_BYTES = 320
"""Left free in an OPEN that carries data: two hops' records."""


class Asker(Yielding):
    """What an end does that asks."""

    __slots__ = ()
    attempt: Attempt | None
    offer: Offer | None

    def _on_open_requested(self, event: OpenRequested, now: float) -> list[Effect]:
        self._enter(State.OPENING)
        self.towards = event.signaling
        self.timers.start(Timer.GIVE_UP, now + c.OPEN_TIMEOUT_S)
        return self._ask(self.agreement.wire, now, event.data)

    def _ask(
        self,
        wire: Flow,
        now: float,
        data: bytes = b"",
        approval: bytes = b"",
        after: Attempt | None = None,
        towards: Address | None = None,
    ) -> list[Effect]:
        """Send a new OPEN; `after`: instead of this one, which was redirected. Spec: R-5.1.

        `towards`: only to try whether it gets there.
        """
        about, seq = self.agreement, self._next_seq()
        header = Header(Open.TYPE, seq, about.cid)
        secret = self.host.entropy(32)
        moves = wire.source.ip != about.wire.source.ip
        outside = after.outside if after else None if moves else about.outside
        terms = OpenTerms(
            from_key=self.host.key.public,
            to_key=about.peer.key,
            service=about.service,
            transport=wire.transport,
            source=wire.source,
            destination=wire.destination,
            ephemeral=ephemeral_public(secret),
            time_s=int(self.host.unix_s(now)),
            lifetime_s=int(self._longest_s(outside)),
            from_certificate=self.host.certificate,
            to_certificate=about.peer.certificate,
            approval=approval,
            alternatives=self._outside() or self._elsewhere(wire, outside),
        )
        signed, carried = encode_body(terms), False
        must = after is not None and after.load.must
        rides = may_ride(wire.transport, seq) and (must or not wire.transport.is_tcp)
        shown = self.host.tickets.towards(self.towards.ip)
        room = c.OPEN_BYTES_MIN - len(signed) - 128 - ROOM_FOR_HOPS_BYTES
        room -= c.PROOF_BYTES * len(shown)
        if data and rides and len(data) <= min(room, c.DATA_BYTES_MAX):
            sealed = self._seal(secret, header, data)
            signed, carried = encode_body(replace(terms, sealed=sealed)), bool(sealed)
        signature = self.host.key.sign(SIGNATURE_CONTEXT, header.signing + signed)
        key = self.keys.by_seq.get(self.keys.seq)
        proof = mac(key, header.signing, signed) if key else b""
        message = Open(signed, signature, mac=proof)
        redirects = after.counts.redirects if after else 0
        self.attempt = Attempt(
            seq,
            wire,
            message,
            secret,
            open_hash(header, signed),
            outside,
            towards,
            after is not None and after.called,
            Load(data, must, carried),
            counts=Counts(redirects),
        )
        self.attempt.proofs = {ticket[: c.ISSUER_BYTES]: ticket for ticket in shown}
        return self._repeat(now)

    def _outside(self) -> tuple[Address, ...]:
        """Where a host that registers is reached from outside: at its last NAT. Spec: R-10.2."""
        if self.agreement.service != c.LOCATION_SERVICE:
            return ()
        told = [hop.source for hop in self.hops if hop.source is not None]
        return tuple(source.with_port(c.SIGNALING_PORT) for source in told[-1:])

    def _longest_s(self, outside: Address | None) -> float:
        """What we ask for at most: a NAT that says nothing must not forget us. Spec: R-12.6."""
        return self.host.longest_s(self.agreement.service == c.LOCATION_SERVICE and bool(outside))

    def _next_seq(self) -> int:
        """Higher than all before, and of our own kind. Spec: R-5.1.1, R-5.4.1."""
        known = [one.seq for one in (self.attempt, self.offer) if one is not None]
        last = max([self.keys.seq, *known])
        return last + 1 + (last + 1 + self.PARITY) % 2

    def _seal(self, secret: bytes, header: Header, data: bytes) -> bytes:
        try:
            shared = agree(secret, static_x25519(self.agreement.peer.key))
        except BadSignature:  # somebody's idea of a key: nobody can answer for it
            return b""
        bound = header.signing + self.host.key.public
        return seal(derive(shared, header.cid, b"wayside open"), ZERO_NONCE, data, bound)

    def _repeat(self, now: float) -> list[Effect]:
        attempt = self.attempt
        if attempt is None or attempt.message is None:
            return []
        home = self.agreement.home
        if attempt.called and attempt.counts.tries >= c.CALLS and home:
            return self._ask_home(attempt, home, now)
        first_s = c.CALL_FIRST_S if attempt.called else c.RETRANSMIT_FIRST_S
        self.timers.start(Timer.RETRANSMIT, now + first_s * 2**attempt.counts.tries)
        attempt.counts.tries += 1
        opened = self._open_datagram(attempt, attempt.message)
        early = attempt.counts.tries <= c.TRIES_BEFORE_HOME
        if home is None or attempt.towards or (early and not attempt.called):
            return [opened]
        return [opened, replace(opened, destination=home)]

    def _ask_home(self, attempt: Attempt, home: Address, now: float) -> list[Effect]:
        """Who was called does not get our OPENs: then only by way of who called. Spec: R-12.7."""
        self.towards = home
        there = home.with_port(attempt.wire.destination.port)
        wire, asked = replace(attempt.wire, destination=there), replace(attempt, called=False)
        return self._ask(wire, now, attempt.load.data, approval_of(attempt), asked)

    def _open_datagram(self, attempt: Attempt, message: Open) -> SendDatagram:
        proofs = tuple(attempt.proofs.values())
        header = Header(Open.TYPE, attempt.seq, self.agreement.cid, proofs)
        towards = attempt.towards or self.towards
        return SendDatagram(padded(header, message), towards, attempt.wire.source)

    def _on_timer(self, timer: Timer, now: float) -> list[Effect]:
        match timer:
            case Timer.RETRANSMIT if self.state in (State.OPENING, State.CONNECTED):
                return self._repeat(now)
            case Timer.GIVE_UP if self.state is State.OPENING:
                return self._fall_back() or self._refused(0, "nobody answered", "", "", now)
            case Timer.GIVE_UP if self.state is State.CONNECTED:
                self.timers.stop(Timer.RETRANSMIT)
                if self.attempt is not None and self._moves(self.attempt):
                    return self._move(self.attempt.wire, now)
                if self.PARITY == 0:
                    self.timers.start(Timer.REFRESH, now + self.lifetime_s / 6)
                return []
            case Timer.REFRESH:
                return self.refresh(now)
            case _:
                return super()._on_timer(timer, now)

    def refresh(self, now: float) -> list[Effect]:
        """Ask again with a higher seq, to keep the rules alive. Spec: R-5.4."""
        attempt = self.attempt
        if attempt is not None and attempt.message is not None and attempt.towards is None:
            return self._move(attempt.wire, now)  # not answered yet, but there we are, or the peer
        return self._move(self.agreement.wire, now)

    def _move(self, wire: Flow, now: float) -> list[Effect]:
        self.timers.start(Timer.GIVE_UP, now + min(c.OPEN_TIMEOUT_S, self.lifetime_s / 3))
        return self._ask(wire, now)

    def _moves(self, attempt: Attempt) -> bool:
        elsewhere = attempt.wire.source != self.agreement.wire.source
        return attempt.message is not None and elsewhere and attempt.towards is None

    def _on_accept(self, event: MessageReceived, message: Accept, now: float) -> list[Effect]:
        """Believe it, make the rules, say that we are here; in this order. Spec: R-5.2, R-5.3."""
        attempt = self.attempt
        if attempt is None or event.header.seq != attempt.seq:
            return self._drop(event, DropReason.STALE)
        if self.state not in (State.OPENING, State.CONNECTED):
            return self._drop(event, DropReason.UNEXPECTED)
        try:
            terms = self._believed(event.header, message, attempt)
            if attempt.confirm is not None:  # to where it comes from: the other end may have left
                return [replace(attempt.confirm, destination=event.source)]
            key = connection_key(attempt.secret, terms.ephemeral, attempt.hash, terms.ephemeral)
            wire = self._agreed_wire(terms, message, attempt)
        except DecodeError:
            return self._drop(event, DropReason.MALFORMED)
        except BadSignature:
            return self._drop(event, DropReason.SIGNATURE)
        except ValueError:
            return self._drop(event, DropReason.ADDRESS)
        self.towards = attempt.towards or self.towards
        confirm = self._confirm(event.header, message, key, wire.source)
        attempt.confirm, attempt.message = confirm, None
        said = self._outside()
        self.keys.add(attempt.seq, key)
        if attempt.seq == self.keys.seq:  # what we say next goes by the newest route
            self.hops = message.hops
        self.host.tickets.learn(self.towards.ip, message.hops, self.host.key.public)
        effects = self._connected(attempt, wire, terms, confirm, now)
        if self._outside() != said:  # only now we know, and what we sign has to say it
            self.timers.start(Timer.REFRESH, now + CONFIRMED_S)
        return effects + self._meet(now)

    def _meet(self, now: float) -> list[Effect]:
        """We have moved, and so has the other end, which said so meanwhile. Spec: R-5.4.6.

        Our CONFIRM went to where it was. So it gets another where it says that it is, if that is
        no more than came from there (R-7.5), and its rendezvous is asked.
        """
        offer, attempt, home = self.offer, self.attempt, self.agreement.home
        wire = self.agreement.wire
        if offer is None or offer.confirmed or offer.wire.destination == wire.destination:
            return []
        effects: list[Effect] = []
        if attempt is not None and attempt.confirm is not None:
            again = replace(attempt.confirm, destination=offer.towards)
            if len(again.data) <= offer.credit:
                offer.credit -= len(again.data)
                effects.append(again)
        if home is not None:
            self.towards = home
            effects += self._move(wire, now)
        return effects

    def _believed(self, header: Header, message: Accept, attempt: Attempt) -> AcceptTerms:
        terms = decode_body(AcceptTerms, message.signed)
        peer = self.agreement.peer.key
        verify(peer, message.signature, SIGNATURE_CONTEXT, header.signing + message.signed)
        if terms.from_key != peer or terms.open_hash != attempt.hash:
            raise BadSignature("an answer to something else")
        if terms.hops_hash != hops_hash(message.hops):
            raise BadSignature("the responder saw other hops")
        return terms

    def _agreed_wire(self, terms: AcceptTerms, message: Accept, attempt: Attempt) -> Flow:
        """Our packets as they leave here: to where the box nearest to us said. Spec: R-5.2.2."""
        wire, towards = attempt.wire, attempt.towards or self.towards
        if terms.destination.ip != wire.destination.ip:
            raise ValueError("the responder speaks of another address")
        if len(message.returned) != returning(message.hops):
            raise ValueError("somebody added to what was returned")
        there = (message.returned or (terms.destination,))[-1]
        if there.ip != towards.ip:
            raise ValueError("packets would go elsewhere than the OPEN")
        agreed = Flow(wire.transport, wire.source, there)
        if not is_agreed(agreed):
            raise ValueError("the responder left the port open")
        return agreed

    def _confirm(
        self, header: Header, message: Accept, key: bytes, source: Address
    ) -> SendDatagram:
        seen = accept_seen(message)
        confirm = Header(Confirm.TYPE, header.seq, header.cid)
        proof = mac(key, confirm.signing, seen)
        shown = confirm_proof(key, header.seq, header.cid)
        answer = Confirm(seen, proof, shown, message.hops, message.returned)
        return SendDatagram(encode(confirm, answer), self.towards, source)

    def _connected(
        self, attempt: Attempt, wire: Flow, terms: AcceptTerms, confirm: SendDatagram, now: float
    ) -> list[Effect]:
        first = self.state is State.OPENING
        before = self.agreement = replace(self.agreement, outside=attempt.outside)
        if not first and wire.source != before.wire.source:
            self.keys.moved = attempt.seq
        crossed = self.offer is not None and not self.offer.confirmed  # it was asked where we were
        switch = self._switch(wire, (confirm,), self.old if crossed else ())
        self._learn(terms.alternatives)
        about = self.agreement
        if self.offer is not None and crossed:
            asked = self.offer.wire.destination  # it moves there itself, or was there until now
            there = wire.destination if asked == before.wire.destination else asked
            self.offer.after = replace(wire, destination=there)
        most = self._longest_s(attempt.outside)
        granted = [most, terms.lifetime_s, *(hop.lifetime_s for hop in self.hops)]
        self.lifetime_s = max(c.LIFETIME_MIN_S, min(granted))
        if first:
            self._enter(State.CONNECTED)
        self.timers.stop(Timer.RETRANSMIT, Timer.GIVE_UP)
        if self.PARITY == 0:
            self.timers.start(Timer.REFRESH, now + self.lifetime_s / 3)
        self.timers.start(Timer.EXPIRE, now + max(self.lifetime_s, 2 * c.OPEN_TIMEOUT_S))
        effects: list[Effect] = [confirm]
        if first:
            self.old = ()
            effects = [ChangeRules(about.cid, self._rules, (), (confirm,))]
        elif wire != before.wire or switch.remove:
            effects = [switch]
        tells = wire.transport.is_tcp  # what it will say
        carried = attempt.load.rides and not attempt.counts.challenges and not tells
        attempt.load = Load()
        report = replace(self._up(), refreshed=not first, carried=carried)
        return [*effects, save(self), report, *self._answer_data(terms)]

    def _answer_data(self, terms: AcceptTerms) -> list[Effect]:
        """The application's answer to a piggybacked datagram, if ACCEPT brought one. R-5.2.5."""
        if not terms.sealed or self.agreement.wire.transport.is_tcp:
            return []
        key = derive(self.keys.by_seq[self.keys.seq], b"", b"wayside accept")
        try:
            data = unseal(key, ZERO_NONCE, terms.sealed, self.agreement.cid)
        except BadSignature:
            return []
        return [DeliverData(self.agreement.cid, self.agreement.local.reversed(), data)]

    def _on_challenge(self, event: MessageReceived, message: Challenge, now: float) -> list[Effect]:
        attempt = self.attempt
        if attempt is None or attempt.message is None or event.header.seq != attempt.seq:
            return self._drop(event, DropReason.STALE)
        if self.state not in (State.OPENING, State.CONNECTED):
            return self._drop(event, DropReason.UNEXPECTED)
        issuer = message.proof[: c.ISSUER_BYTES]
        if (
            attempt.counts.challenges >= c.CHALLENGES_MAX
            or attempt.proofs.get(issuer) == message.proof
        ):
            return self._drop(event, DropReason.UNEXPECTED)
        attempt.counts.challenges += 1
        attempt.proofs[issuer] = message.proof
        for oldest in list(attempt.proofs)[: -c.PROOFS_MAX]:  # tickets came before challenges
            del attempt.proofs[oldest]
        again, home = self._open_datagram(attempt, attempt.message), self.agreement.home
        asked_home = home is not None and event.source.ip == home.ip
        return [replace(again, destination=home) if home and asked_home else again]

    def _on_reject(self, event: MessageReceived, message: Reject, now: float) -> list[Effect]:
        """On the path of an OPEN anybody may say no; later only who is known. Spec: R-5.6."""
        attempt = self.attempt
        if attempt is None or event.header.seq != attempt.seq:
            return self._drop(event, DropReason.STALE)
        terms = read_refusal(event, message)
        if isinstance(terms, DropReason):
            return self._drop(event, terms)
        if terms.open_hash != attempt.hash:
            return self._drop(event, DropReason.STALE)
        outside = self._learnt(terms, attempt.wire, attempt.outside)
        outside = outside if attempt.counts.redirects < c.REDIRECTS_MAX else None
        known = (self.agreement.peer.key, *(hop.key for hop in self.hops))
        known += self.host.redirectors if outside else ()
        tried = attempt.towards is not None  # what is refused there holds here
        if self.state is State.CONNECTED and (
            attempt.confirm or tried or terms.from_key not in known
        ):
            return self._drop(event, DropReason.UNEXPECTED)
        if self.state not in (State.OPENING, State.CONNECTED):
            return self._drop(event, DropReason.UNEXPECTED)
        tells = (
            terms.code == Code.DISCLOSURE_REQUIRED
            and bool(attempt.load.data)
            and not attempt.load.must
        )
        if attempt.message and (outside or tells):
            home, again = self.agreement.home, Counts(attempt.counts.redirects + 1)
            there = attempt.wire.destination.ip
            asked = replace(
                attempt,
                outside=outside or attempt.outside,
                called=attempt.called or (home is not None and event.source.ip == home.ip != there),
                load=replace(attempt.load, must=attempt.load.must or tells),
                counts=again,
            )
            return self._ask(attempt.wire, now, attempt.load.data, approval_of(attempt), asked)
        key = key_text(terms.from_key)
        by = f"{terms.by} ({key[:KEY_SHOWN]}...)" if terms.by else key
        return self._refused(terms.code, terms.reason, by, terms.rule, now)

    def _on_redirect(self, event: MessageReceived, message: Redirect, now: float) -> list[Effect]:
        """Go by way of somebody, or to where the peer is now, if our own side trusts who says so.

        Spec: R-5.7.1, R-5.7.2.
        """
        attempt = self.attempt
        if attempt is None or attempt.confirm or event.header.seq != attempt.seq:
            return self._drop(event, DropReason.STALE)
        if self.state not in (State.OPENING, State.CONNECTED):
            return self._drop(event, DropReason.UNEXPECTED)
        terms = read_redirect(event, message)
        if isinstance(terms, DropReason):
            return self._drop(event, terms)
        if terms.open_hash != attempt.hash:
            return self._drop(event, DropReason.STALE)
        by_peer = terms.from_key not in self.host.redirectors
        stands_in = self._may_stand_in(terms)
        known = not by_peer or stands_in or terms.from_key == self.agreement.peer.key
        why = "" if known else "by somebody whom this host does not let redirect it"
        if attempt.counts.redirects >= c.REDIRECTS_MAX:
            why = "and so on: this goes in circles"
        there = terms.locator.address
        if there.family != attempt.wire.family:
            why = "which is of another address family"
        if (why or attempt.towards) and self.state is State.CONNECTED:
            return self._drop(event, DropReason.UNEXPECTED)
        if why:
            by = key_text(terms.from_key)
            return self._refused(Code.NO_ROUTE, f"sent on to {there}, {why}", by, "", now)
        if terms.key and self.state is State.OPENING and (stands_in or not by_peer):
            peer = self.agreement.peer
            peer = PeerIdentity(terms.key, peer.name if stands_in else "", leave=peer.leave)
            stands = GATE_ANSWERS if terms.key == terms.from_key else ANOTHER_ANSWERS
            self.agreement = replace(self.agreement, peer=peer, stands=stands)
        elif terms.relay != RELAYED and self.state is State.OPENING:
            home = self.agreement.home  # which may be asked again and again
            home = self.towards if home is None or terms.relay == CALLED else home
            self.agreement = replace(self.agreement, home=home)
        if terms.ticket:
            self.host.tickets.add(self.towards.ip, terms.ticket)
            self.host.tickets.add(there.ip, terms.ticket)
        self.towards = there
        wire = attempt.wire
        if terms.relay != RELAYED:
            destination = Address(there.ip, wire.destination.port)
            wire = Flow(wire.transport, wire.source, destination)
        called = terms.relay == CALLED
        again = Counts(attempt.counts.redirects + 1)
        load = replace(attempt.load, must=attempt.load.must or called)
        asked = replace(attempt, called=called, load=load, counts=again)
        return self._ask(wire, now, attempt.load.data, terms.approval, asked)
