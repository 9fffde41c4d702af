"""A gate's role: admits connections through a firewall or a NAT, and forgets as much as it can.

An OPEN in transit is judged before it goes on, and leaves nothing here: what must be known when
its ACCEPT comes back travels in a sealed token. The ACCEPT, signed by the very key that was asked,
makes pending rules; the CONFIRM makes them last. The CLOSE takes them away. The table below holds
only what both ends have agreed to, each entry for as long as its rules. Spec: R-5, R-8.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from . import constants as c
from .address import Transport
from .admission import FrontDoor, Quota
from .codec import DecodeError, decode_body
from .crypto import BadSignature, verify
from .effects import (
    ChangeRules,
    Dropped,
    Effect,
    ReadRule,
    ReportClosed,
    ReportOpened,
    SendDatagram,
)
from .errors import DropReason
from .events import (
    ClockSet,
    CloseRequested,
    DataAnswered,
    DatagramReceived,
    Event,
    LocationFound,
    MessageReceived,
    OpenRequested,
    RuleRead,
    RulesFailed,
    SourcesChanged,
    StopRequested,
    TimePassed,
)
from .filters import Filters
from .forwarding import Forwarding, GateContext
from .late import refuse_late
from .messages import (
    Accept,
    AcceptTerms,
    Challenge,
    Close,
    Code,
    Confirm,
    Hop,
    Message,
    Open,
    Redirect,
    Reject,
    Stop,
    encode,
)
from .opening import SIGNATURE_CONTEXT, Refusal, check_open, has_passed
from .passage import Crossing, Passage, Seqs, Stage, restored
from .passages import Passages
from .policy import PolicyAction
from .route import TOKEN_VALID_S, TokenBox, TokenState, binding_of, far_source, hops_hash, side_of
from .rule import Action, Cid, Rule
from .way import calls, crossing_of, way_of

KERNEL_ANSWERS_S = 5.0
"""A kernel says within this whether it still has a rule; one that does not has none."""

LENT_MEANWHILE = "another connection was given this port at the same moment: ask again"


class Gate:
    """Admits connections. Sides are `inside` and `outside`, as the driver says."""

    def __init__(self, context: GateContext, door: FrontDoor, box: TokenBox, quota: Quota) -> None:
        self.context = context
        self.forwarding = Forwarding(context, box)
        self._door = door
        self._box = box
        box.tickets.epoch_s = context.epoch_s
        self.table = Passages(quota)
        self.filters = Filters(context)
        self._since = 0.0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take what happened; return what is to be done. The only mutator."""
        match event:
            case DatagramReceived():
                admitted = self._door.admit(event, now)
                if isinstance(admitted, MessageReceived):
                    return self._on_message_received(admitted, now)
                return [admitted]
            case MessageReceived():
                return self._on_message_received(event, now)
            case RulesFailed():
                return self._on_rules_failed(event, now)
            case RuleRead():
                return self._on_rule_read(event, now)
            case CloseRequested():
                return self._on_close_requested(event, now)
            case TimePassed():
                return self._on_time_passed(now)
            case ClockSet():
                self.context.epoch_s = event.epoch_s
                self._box.tickets.epoch_s = event.epoch_s
                return []
            case OpenRequested() | StopRequested() | DataAnswered():
                return []
            case SourcesChanged() | LocationFound():
                return []
            case _:
                assert_never(event)

    @property
    def passages(self) -> dict[Cid, Passage]:
        """The connections through this gate; only to look at."""
        return self.table.by_cid

    @property
    def ticketed(self) -> int:
        """OPENs that a ticket has let in."""
        return self._door.ticketed

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due, monotonic seconds."""
        due = [at for at in (self.table.deadlines.next, self.filters.deadline) if at is not None]
        return min(due, default=None)

    def restore(self, rules: list[tuple[Rule, float]], now: float) -> int:
        """Read back what the kernel holds after a restart: rules, seconds left. Spec: R-6.5.

        Returns how many connections there are. Tokens from before are good for these only: what
        was closed shortly before would come back by them.
        """
        self._since = now
        for rule, left_s in rules:
            if rule.action is Action.DROP:
                self.filters.restore(rule, left_s, now)
                continue
            passage = restored(rule, left_s, now)
            if passage is None:
                continue
            known = self.passages.get(passage.cid)
            if known is None:
                self.table.count(rule.match.source.ip)
            if known is None or passage.stage is Stage.LIVE:  # beside it: a move that was pending
                self.table.keep(passage)
        return len(self.passages)

    def _on_message_received(self, event: MessageReceived, now: float) -> list[Effect]:
        match event.message:
            case Open():
                return self._on_open(event, event.message, now)
            case Accept():
                return self._on_accept(event, event.message, now)
            case Confirm():
                return self._on_confirm(event, event.message, now)
            case Challenge() | Reject() | Redirect():
                return self._on_refusal(event, event.message, now)
            case Close():
                return self._on_close(event, event.message, now)
            case Stop():
                return self._on_stop(event, event.message, now)
            case _:
                assert_never(event.message)

    # --- OPEN: judge, seal, send on; keep nothing ---

    def _on_open(self, event: MessageReceived, message: Open, now: float) -> list[Effect]:
        known = self.passages.get(event.header.cid)
        relays = self.context.box.relay is not None and not event.transit
        ours = has_passed(message, self.context.key.public)
        if (event.side not in ("inside", "outside") and not relays) or (ours and not event.transit):
            return [Dropped(DropReason.UNEXPECTED, event.source)]
        seq = event.header.seq
        if known is not None and (known.seqs.is_old(seq) or known.stage is Stage.ENDED):
            return [Dropped(DropReason.STALE, event.source)]
        unix_s = self.context.epoch_s + now
        opened = check_open(event, message, self.context.names, unix_s)
        if opened is DropReason.TIME:
            return [self._door.challenge(event, event.header, message.hops, now)]
        if isinstance(opened, DropReason):
            return [Dropped(opened, event.source)]
        if event.transit and calls(message):
            return [self.forwarding.let_by(event, opened)]
        way = way_of(event, message, opened, self.context.box, self.table, unix_s)
        if isinstance(way, DropReason):
            return [Dropped(way, event.source)]
        if isinstance(way, Refusal):
            return self.forwarding.refuse(event, opened, way)
        verdict = self.forwarding.judge(event, opened)
        if verdict.action is PolicyAction.REJECT:
            reason = verdict.reason or "the policy of this gate does not allow it"
            return self.forwarding.refuse(event, opened, Refusal(Code.POLICY, reason, verdict.rule))
        if verdict.action is PolicyAction.CHALLENGE and not event.proved:
            return [self._door.challenge(event, event.header, message.hops, now)]
        elsewhere = self.forwarding.redirect_via(event, opened, verdict, now)
        if elsewhere:
            return elsewhere
        return self.forwarding.pass_on(event, message, opened, way, verdict, now)

    # --- the way back: ACCEPT makes pending rules, everything finds its way by our token ---

    def _on_accept(self, event: MessageReceived, message: Accept, now: float) -> list[Effect]:
        header = event.header
        state = self._fresh_token(event, message, now)
        if state is None or (header.cid not in self.passages and state.issued_s < int(self._since)):
            return [Dropped(DropReason.TOKEN, event.source)]
        if event.side == side_of(state) and state.onward is None:  # it never crossed us
            return [Dropped(DropReason.ADDRESS, event.source)]
        try:
            terms = decode_body(AcceptTerms, message.signed)
            crossing = crossing_of(
                event, self.context.key.public, state, message, terms, self.table, self.context.box
            )
            binding = binding_of(terms.from_key, terms.open_hash, event.source.ip)
            if binding != state.binding or crossing is None:
                return [Dropped(DropReason.ADDRESS, event.source)]
            if terms.hops_hash != hops_hash(message.hops):
                return [Dropped(DropReason.STALE, event.source)]
            signed = header.signing + message.signed
            verify(terms.from_key, message.signature, SIGNATURE_CONTEXT, signed)
            data = event.data
            if crossing.near.destination != crossing.far.destination:
                returned = (*message.returned, crossing.near.destination)
                data = encode(header, replace(message, returned=returned))
        except (DecodeError, ValueError):
            return [Dropped(DropReason.MALFORMED, event.source)]
        except BadSignature:
            return [Dropped(DropReason.SIGNATURE, event.source)]
        onward = SendDatagram(data, state.previous, state.here or event.source)
        crossing = crossing.reversed() if header.seq % 2 else crossing
        if self.table.is_lent(header.cid, crossing):
            full = Dropped(DropReason.FULL, event.source)
            new = header.cid not in self.passages
            return [full, self._refuse_late(onward, LENT_MEANWHILE)] if new else [full]
        return self._offer(event, crossing, state, terms, onward, now)

    def _offer(
        self,
        event: MessageReceived,
        crossing: Crossing,
        state: TokenState,
        terms: AcceptTerms,
        onward: SendDatagram,
        now: float,
    ) -> list[Effect]:
        """Pending rules first, then the ACCEPT goes on. Spec: R-5.2.4, R-5.4.4."""
        cid, seq = event.header.cid, event.header.seq
        known = self.passages.get(cid)
        if known is not None:
            other = known.parties != state.parties
            if known.stage is Stage.ENDED or known.seqs.is_old(seq) or other:
                return [Dropped(DropReason.STALE, event.source)]
            if known.stage is Stage.LIVE:
                known.seqs.accept(seq, terms.check)
                return self._moves(known, seq, crossing, onward)
        if known is None and not self.table.has_room(crossing.near.source.ip):
            return [Dropped(DropReason.FULL, event.source)]
        passage = Passage(
            cid,
            Stage.PENDING,
            crossing,
            Seqs() if known is None else known.seqs,
            now + c.PENDING_S,
            state.lifetime_s,
            state.parties,
            state.service,
            state.rule,
            key=state.key,
        )
        passage.seqs.accept(seq, terms.check)
        stale = self.filters.outlived(crossing, terms.from_key)
        if known is not None and known.crossing != crossing:
            stale += known.rules(self.context.lifetime_s)
            self.table.move(known, crossing)
        self.table.keep(passage)
        rules = passage.rules(self.context.lifetime_s)
        return [ChangeRules(cid, rules, stale, (onward,))]

    def _moves(
        self, known: Passage, seq: int, crossing: Crossing, onward: SendDatagram
    ) -> list[Effect]:
        """A live connection's ACCEPT: of a refresh, or of an end that moves. Spec: R-5.4.5."""
        lifetime_s, moving = self.context.lifetime_s, known.moving
        if crossing == known.crossing and moving and moving[0] % 2 != seq % 2:
            return [onward]  # it is the other end that moves
        old = self._stay(known)
        if crossing == known.crossing:
            return [ChangeRules(known.cid, (), old, (onward,))] if old else [onward]
        known.moving = (seq, crossing)
        self.table.claim(known.cid, crossing)
        return [ChangeRules(known.cid, known.moving_rules(lifetime_s), old, (onward,))]

    def _stay(self, passage: Passage) -> tuple[Rule, ...]:
        """Nobody moves any more: the pending rules that were for that."""
        rules = self.table.own(passage.moving_rules(self.context.lifetime_s))
        if passage.moving is not None:
            self.table.disclaim(passage.cid, passage.moving[1])
        passage.moving = None
        return rules

    def _on_refusal(
        self, event: MessageReceived, message: Challenge | Reject | Redirect, now: float
    ) -> list[Effect]:
        """Pass a no back to where the OPEN came from; what was pending is over. Spec: R-5.6.4."""
        state = self._fresh_token(event, message, now)
        if state is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        onward = SendDatagram(event.data, state.previous, state.here or event.source)
        known, seq = self.passages.get(event.header.cid), event.header.seq
        if known is None or isinstance(message, Challenge):
            return [onward]
        moving = known.moving if known.moving and known.moving[0] == seq else None
        asked = moving[1] if moving else known.crossing
        asked = asked.reversed() if seq % 2 else asked
        if event.source.ip != asked.far.destination.ip:  # it is another copy that was refused
            return [onward]
        if known.stage is Stage.LIVE and moving:
            return [ChangeRules(known.cid, remove=self._stay(known)), onward]
        if known.stage is not Stage.PENDING or known.seqs.is_old(seq):
            return [onward]
        return [*self._end(known, "refused further on", now), onward]

    def _fresh_token(
        self, event: MessageReceived, message: Message, now: float
    ) -> TokenState | None:
        """Our own token in an answer from where the OPEN went on to. Spec: R-8.2."""
        state = self._box.consume_token(event.header.cid, event.header.seq, _hops(message))
        if state is None or not 0 <= now - state.issued_s <= TOKEN_VALID_S:
            return None
        return state if event.destination.ip == far_source(state).ip else None

    # --- along the route: CONFIRM makes rules last, CLOSE takes them away ---

    def _on_confirm(self, event: MessageReceived, message: Confirm, now: float) -> list[Effect]:
        header = event.header
        state = self._box.consume_token(header.cid, header.seq, message.hops)
        if state is None or event.transit is (state.here is not None):
            return [Dropped(DropReason.TOKEN, event.source)]
        passage = self.passages.get(header.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return [Dropped(DropReason.UNKNOWN, event.source)]
        if not passage.seqs.shows(header.seq, message.proof):
            return [Dropped(DropReason.STALE, event.source)]
        crossing = passage.crossing
        if passage.moving is not None and passage.moving[0] == header.seq:
            crossing = passage.moving[1]
        crossing = crossing.reversed() if header.seq % 2 else crossing
        said = crossing.near.destination
        if said != crossing.far.destination and said not in message.returned:
            return [Dropped(DropReason.STALE, event.source)]
        onward = self._along(event, state)
        if onward is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        if passage.stage is Stage.LIVE and header.seq in passage.seqs.confirmed:
            return [onward]
        return [onward, *self._confirm(passage, header.seq, state, now)]

    def _confirm(self, passage: Passage, seq: int, state: TokenState, now: float) -> list[Effect]:
        refreshed, most = passage.stage is Stage.LIVE, self.context.lifetime_s
        moved: tuple[Rule, ...] = ()
        if passage.moving is not None and passage.moving[0] == seq:
            moved = self.table.own(passage.rules(most))
            self.table.move(passage, passage.moving[1])
            passage.moving = None
        passage.enter(Stage.LIVE)
        passage.seqs.confirm(seq)
        passage.lifetime_s = state.lifetime_s
        passage.until, passage.asked_kernel = now + passage.lifetime_s, False
        self.table.keep(passage)
        if state.key and passage.flow.transport is Transport.NONE:
            self.table.register(passage, state.previous)
        crossing = passage.crossing
        report = ReportOpened(
            passage.cid,
            str(passage.flow.source.ip),
            passage.service,
            crossing.far,
            crossing.near,
            passage.lifetime_s,
            refreshed,
        )
        return [ChangeRules(passage.cid, passage.rules(most), moved), report]

    def _along(self, event: MessageReceived, state: TokenState) -> SendDatagram | None:
        """Pass a message on along its route, either way; None: this is not on it. Spec: R-8.2."""
        back = event.destination.ip == far_source(state).ip
        if state.onward is not None:
            back = event.source.ip == state.onward.ip
        if back:
            return SendDatagram(event.data, state.previous, state.here or event.source)
        if not event.transit and state.onward is None:
            return None
        onward = state.onward or event.destination
        return SendDatagram(event.data, onward, far_source(state).with_port(c.SIGNALING_PORT))

    def _on_close(self, event: MessageReceived, message: Close, now: float) -> list[Effect]:
        """Who shows our token was on the path: the rules go, the message goes on. R-5.9.2."""
        state = self._box.consume_token(event.header.cid, event.header.seq, message.hops)
        if state is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        onward = self._along(event, state)
        if onward is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        passage = self.passages.get(event.header.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return [onward]
        if passage.parties != state.parties:  # of an OPEN with the same cid, by somebody else
            return [Dropped(DropReason.TOKEN, event.source)]
        return [*self._end(passage, message.reason or "closed", now), onward]

    def _on_stop(self, event: MessageReceived, message: Stop, now: float) -> list[Effect]:
        """Who shows our token was on the path; the rest is the filters' business. Spec: R-5.8.1."""
        state = self._box.consume_token(event.header.cid, event.header.seq, message.hops)
        onward = None if state is None else self._along(event, state)
        if state is None or onward is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        passage = self.passages.get(event.header.cid)
        return self.filters.on_stop(event, message, state, passage, onward, now)

    def _on_close_requested(self, event: CloseRequested, now: float) -> list[Effect]:
        passage = self.passages.get(event.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return []
        return self._end(passage, event.reason or "closed at the gate", now)

    def _on_rules_failed(self, event: RulesFailed, now: float) -> list[Effect]:
        self.filters.forget(event.cid)
        passage = self.passages.get(event.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return []
        reason = f"the kernel refused the rules: {event.why}"
        pending = passage.stage is Stage.PENDING
        unsent = [one for one in event.unsent if pending and one.data[4] == Accept.TYPE]
        late = [self._refuse_late(one, reason) for one in unsent]
        return [*self._end(passage, reason, now), *late]

    def _refuse_late(self, accept: SendDatagram, reason: str) -> SendDatagram:
        return refuse_late(self.context.key, self.context.name, accept, reason)

    def _end(self, passage: Passage, reason: str, now: float) -> list[Effect]:
        most = self.context.lifetime_s
        remove = (*self.table.own(passage.rules(most)), *self._stay(passage))
        remove += self.table.awaited(passage, most)
        passage.enter(Stage.ENDED)
        self.table.leave(passage)
        passage.until = now + TOKEN_VALID_S
        self.table.deadlines.set(passage.cid, passage.until)
        peer = str(passage.flow.source.ip)
        return [
            ChangeRules(passage.cid, remove=remove),
            ReportClosed(passage.cid, peer, passage.service, reason),
        ]

    # --- what is over: the kernel ends the rules themselves, and is asked before we forget ---

    def _on_time_passed(self, now: float) -> list[Effect]:
        """Forget what is over, but not what packets have kept alive. Spec: R-5.9.2, R-6.4."""
        effects: list[Effect] = []
        self.filters.on_time_passed(now)
        for cid in self.table.deadlines.take_due(now):
            passage = self.passages[cid]
            renewed = any(
                rule.renewed_by_packets for rule in passage.rules(self.context.lifetime_s)
            )
            if passage.stage is Stage.LIVE and renewed and not passage.asked_kernel:
                passage.asked_kernel = True
                passage.until = now + KERNEL_ANSWERS_S
                self.table.deadlines.set(cid, passage.until)
                effects.append(ReadRule(cid, passage.crossing.flows))
            else:
                effects += self._forget(passage)
        return effects

    def _forget(self, passage: Passage) -> list[Effect]:
        """Its rules are gone; those of a move that nobody has confirmed may live on: end them."""
        rules = self._stay(passage)
        self.table.forget(passage)
        return [ChangeRules(passage.cid, remove=rules)] if rules else []

    def _on_rule_read(self, event: RuleRead, now: float) -> list[Effect]:
        passage = self.passages.get(event.cid)
        if passage is None or not passage.asked_kernel or passage.stage is not Stage.LIVE:
            return []
        passage.asked_kernel = False
        if event.expires_s is None:
            return self._forget(passage)
        passage.until = now + event.expires_s
        self.table.deadlines.set(event.cid, passage.until)
        return []


def _hops(message: Message) -> tuple[Hop, ...]:
    return getattr(message, "hops", ())
