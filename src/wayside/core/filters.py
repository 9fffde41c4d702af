"""A gate's filters: what the receiver of a connection's packets does not want, for a while.

Whoever was asked for a connection, and agreed, may say STOP. It says so with what the gate itself
put into that OPEN (the token), with the key that the OPEN was for, from the address that the OPEN
went on to: so neither a stranger, nor a box on the path, nor the owner of another address can. The
filter is one more rule for the connection's 5-tuple, which drops. Every gate on the path makes one
at once and passes the STOP on towards the source; who has made it answers with a STOP of its own,
and a gate that hears such an answer from one nearer to the source takes its own away. An answer
that is lost leaves a filter too many, until its time is over. Spec: R-5.8.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from . import constants as c
from .address import IP, Flow, Transport
from .admission import Quota
from .codec import DecodeError, Header, decode_body, encode_body
from .crypto import BadSignature, verify
from .effects import ChangeRules, Dropped, Effect, SendDatagram
from .errors import DropReason
from .events import MessageReceived
from .forwarding import GateContext
from .messages import Stop, StopTerms, encode
from .opening import SIGNATURE_CONTEXT, answer
from .passage import Crossing, Passage, Stage
from .passages import KNOWN_BYTES
from .route import TokenState, binding_of, far_source, hops_hash, side_of
from .rule import Action, Cid, Rule, note_of
from .timers import Deadlines

FILTERS_MAX = 4096
"""Connections that are stopped at a time; each is a rule that every packet is held against."""

FILTERS_PER_NETWORK_MAX = 256
"""Of those, for receivers in one /24 or /64. Spec: R-7.4."""

REMEMBERED_S = 2 * c.OPEN_TIME_WINDOW_S
"""A STOP counts as long as its time is likely: one that was taken must not be taken again."""


@dataclass(slots=True)
class Filter:
    """A connection that its receiver has stopped here. Times in monotonic seconds.

    `by`: the first 8 bytes of the receiver's key, `at`: its address; `time_s`: of its newest STOP;
    `hops_hash`: of the hops that it named there. `stands`: the rule is in the kernel; `stays`:
    whatever a gate nearer to the source says.
    """

    rule: Rule
    by: bytes
    at: IP
    time_s: int
    until: float
    hops_hash: bytes = b""
    stands: bool = True
    stays: bool = False


class Filters:
    """The filters of one gate, by connection; bounded, and each for its time only."""

    def __init__(self, context: GateContext) -> None:
        self.by_cid: dict[Cid, Filter] = {}
        self._context = context
        self._quota = Quota(FILTERS_MAX, FILTERS_PER_NETWORK_MAX)
        self._by_flow: dict[Flow, Cid] = {}
        self._deadlines = Deadlines()

    @property
    def deadline(self) -> float | None:
        """When `on_time_passed` is due, monotonic seconds."""
        return self._deadlines.next

    def on_stop(
        self,
        event: MessageReceived,
        message: Stop,
        state: TokenState,
        passage: Passage | None,
        onward: SendDatagram,
        now: float,
    ) -> list[Effect]:
        """Take a STOP that has our token, or the answer of a gate to one. Spec: R-5.8.1."""
        try:
            terms = decode_body(StopTerms, message.signed)
        except DecodeError:
            return [Dropped(DropReason.MALFORMED, event.source)]
        if any(hop.key == terms.from_key for hop in message.hops):
            return self._on_answer(event, message, terms, onward, now)
        flaw = self._flaw(event, message, terms, state, passage, now)
        if flaw is not None or passage is None:
            return [Dropped(flaw or DropReason.UNKNOWN, event.source)]
        known = self.by_cid.get(event.header.cid)
        if known is not None and known.time_s == terms.time_s:
            return [onward, self._answer(event, message, terms)] if known.stands else [onward]
        if known is None and not self._quota.take(event.source.ip):
            return [Dropped(DropReason.FULL, event.source)]
        lasts_s = min(max(float(terms.lifetime_s), c.LIFETIME_MIN_S), c.STOP_S_MAX)
        seq = event.header.seq
        flow = (passage.crossing.reversed() if seq % 2 else passage.crossing).near
        by = terms.from_key[:KNOWN_BYTES]
        note = note_of(str(terms.time_s), urlsafe_b64encode(by).decode())
        rule = Rule(passage.cid, flow, Action.DROP, lifetime_s=lasts_s, note=note)
        made = Filter(rule, by, event.source.ip, terms.time_s, now + lasts_s, terms.hops_hash)
        gone = (known.rule,) if known is not None and known.rule.match != flow else ()
        if known is not None:
            made.at = known.at
            # Asked again before it is over: who said that it took over did not filter.
            made.stays = known.until > now and (known.stays or not known.stands)
        self._keep(made, now)
        reply = self._answer(event, message, terms)
        return [onward, ChangeRules(passage.cid, (rule,), gone, (reply,))]

    def _flaw(
        self,
        event: MessageReceived,
        message: Stop,
        terms: StopTerms,
        state: TokenState,
        passage: Passage | None,
        now: float,
    ) -> DropReason | None:
        """Why this STOP is not one of the receiver's, the cheap reasons first. Spec: R-5.8.1."""
        header, here = event.header, event.source.ip
        if passage is None or passage.stage is not Stage.LIVE:
            return DropReason.UNKNOWN
        if passage.flow.transport is Transport.NONE:
            return DropReason.UNEXPECTED
        crossing = passage.crossing.reversed() if header.seq % 2 else passage.crossing
        was_asked = binding_of(terms.from_key, terms.open_hash, here) == state.binding
        was_asked = was_asked and state.parties == passage.parties
        is_there = crossing.far.destination.ip == here
        back = event.destination.ip == far_source(state).ip
        crossed = event.side != side_of(state) or state.onward is not None
        if not (was_asked and is_there and back and crossed):
            return DropReason.ADDRESS
        if terms.hops_hash != hops_hash(message.hops):
            return DropReason.STALE
        if abs(terms.time_s - (self._context.epoch_s + now)) > c.OPEN_TIME_WINDOW_S:
            return DropReason.TIME
        known = self.by_cid.get(header.cid)
        if known is not None and terms.time_s <= known.time_s:
            over = known.until <= now or terms.time_s < known.time_s
            if over:
                return DropReason.STALE
        return _signed(header, message, terms)

    def _on_answer(
        self,
        event: MessageReceived,
        message: Stop,
        terms: StopTerms,
        onward: SendDatagram,
        now: float,
    ) -> list[Effect]:
        """Somebody on the path says that it filters: if it is nearer, we need not. R-5.8.3."""
        known = self.by_cid.get(event.header.cid)
        if known is None or known.until <= now:
            return [Dropped(DropReason.UNKNOWN, event.source)]
        said = (terms.time_s, terms.hops_hash, hops_hash(message.hops))
        if said != (known.time_s, known.hops_hash, known.hops_hash):
            return [Dropped(DropReason.STALE, event.source)]
        keys = [hop.key for hop in message.hops]
        if keys.index(terms.from_key) >= keys.index(self._context.key.public):
            return [Dropped(DropReason.UNEXPECTED, event.source)]
        flaw = _signed(event.header, message, terms)
        if flaw is not None:
            return [Dropped(flaw, event.source)]
        if known.stays or not known.stands:
            return [onward]
        known.stands = False
        return [ChangeRules(event.header.cid, remove=(known.rule,)), onward]

    def _answer(self, event: MessageReceived, message: Stop, asked: StopTerms) -> SendDatagram:
        """We filter: said back to the receiver, and to the gates on the way there. R-5.8.2."""
        key, header = self._context.key, Header(Stop.TYPE, event.header.seq, event.header.cid)
        lifetime_s = min(asked.lifetime_s, int(c.STOP_S_MAX))
        terms = StopTerms(key.public, asked.open_hash, asked.hops_hash, lifetime_s, asked.time_s)
        signed = encode_body(terms)
        signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
        return answer(event, encode(header, Stop(signed, signature, message.hops)))

    def outlived(self, crossing: Crossing, key: bytes) -> tuple[Rule, ...]:
        """Filters in the way of a flow that somebody else now agrees to: they go. R-5.8.4.

        `key`: of who agrees, 32 bytes.
        """
        gone: list[Rule] = []
        for flow in crossing.flows:
            known = self.by_cid.get(self._by_flow.get(flow.on_the_wire, Cid(b"")))
            if known is not None and known.by != key[:KNOWN_BYTES] and known.stands:
                known.stands = False
                gone.append(known.rule)
        return tuple(gone)

    def restore(self, rule: Rule, left_s: float, now: float) -> None:
        """Take up a filter that the kernel still has after a restart. Spec: R-6.5.

        Nobody's answer takes it away: what the receiver said of the hops is forgotten.
        """
        try:
            time_s, by = rule.note.split(" ")
            known = (urlsafe_b64decode(by), rule.match.destination.ip, int(time_s))
        except ValueError:
            return
        self._quota.count(rule.match.destination.ip)
        self._keep(Filter(rule, *known, now + left_s, stays=True), now)

    def forget(self, cid: Cid) -> None:
        """Remember nothing of a filter."""
        known = self.by_cid.pop(cid, None)
        if known is None:
            return
        self._quota.release(known.at)
        self._deadlines.set(cid, None)
        self._disclaim(known)

    def on_time_passed(self, now: float) -> None:
        """Forget what is over: the kernel has ended the rules themselves."""
        for cid in self._deadlines.take_due(now):
            self.forget(cid)

    def _keep(self, made: Filter, now: float) -> None:
        cid = made.rule.owner
        before = self.by_cid.get(cid)
        if before is not None:
            self._disclaim(before)
        self.by_cid[cid] = made
        self._by_flow[made.rule.match.on_the_wire] = cid
        self._deadlines.set(cid, max(made.until, now + REMEMBERED_S))

    def _disclaim(self, known: Filter) -> None:
        flow = known.rule.match.on_the_wire
        if self._by_flow.get(flow) == known.rule.owner:
            del self._by_flow[flow]


def _signed(header: Header, message: Stop, terms: StopTerms) -> DropReason | None:
    """Whether the key that a STOP names has signed it."""
    try:
        signed = header.signing + message.signed
        verify(terms.from_key, message.signature, SIGNATURE_CONTEXT, signed)
    except BadSignature:
        return DropReason.SIGNATURE
    return None
