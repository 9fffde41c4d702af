"""A gate's role: admits connections through a firewall, and forgets as much as it can.

An OPEN in transit is judged before it goes on, and leaves nothing here: what must be known when
its ACCEPT comes back travels in a sealed token. The ACCEPT, signed by the very key that was asked,
makes pending rules; the CONFIRM makes them last. The CLOSE takes them away. The table below holds
only what both ends have agreed to, each entry for as long as its rules. Spec: R-5, R-8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from . import constants as c
from .address import Address, Flow, Transport
from .admission import FrontDoor, Quota
from .codec import DecodeError, decode_body
from .crypto import BadSignature, SigningKey, digest, verify
from .effects import (
    ChangeRules,
    Dropped,
    Effect,
    ReportClosed,
    ReportOpened,
    ReportRefused,
    SendDatagram,
)
from .errors import DropReason, IllegalMove
from .events import (
    ClockSet,
    CloseRequested,
    DataAnswered,
    DatagramReceived,
    Event,
    MessageReceived,
    OpenRequested,
    RulesFailed,
    TimePassed,
)
from .identity import Names, key_text
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
    padded,
)
from .opening import SIGNATURE_CONTEXT, CheckedOpen, Refusal, check_open, is_agreed, refuse
from .policy import Direction, Policy, PolicyAction, Request, Verdict
from .route import TOKEN_VALID_S, TokenBox, TokenState
from .rule import Action, Cid, Rule, note_of
from .timers import Deadlines

ROLE_GATE = 1
"""What a hop record says of a box that makes pinholes and rewrites nothing. Spec: R-8.1."""


class Stage(Enum):
    """Where a connection is in its life at a gate; the value is a line for docs/states.md."""

    PENDING = "accepted; rules for 5 seconds"
    LIVE = "confirmed; rules that packets renew"
    ENDED = "closed; remembered while its tokens could be replayed"


TRANSITIONS: dict[Stage | None, frozenset[Stage]] = {
    None: frozenset({Stage.PENDING}),
    Stage.PENDING: frozenset({Stage.PENDING, Stage.LIVE, Stage.ENDED}),
    Stage.LIVE: frozenset({Stage.LIVE, Stage.ENDED}),
    Stage.ENDED: frozenset(),
}


@dataclass(slots=True)
class Passage:
    """One connection through this gate. `until`: when it is forgotten here, monotonic seconds."""

    cid: Cid
    stage: Stage
    flow: Flow
    seq: int
    until: float
    lifetime_s: float
    service: str = ""
    rule: str = ""
    offered: int = -1

    def rules(self, gate_lifetime_s: float) -> tuple[Rule, ...]:
        """The two pinholes, one each way; none where no packets are. Spec: R-6.1, R-6.4."""
        if self.flow.transport is Transport.NONE:
            return ()
        live = self.stage is Stage.LIVE
        note = note_of(str(self.seq), f"{self.lifetime_s:g}", self.service, self.rule)
        return tuple(
            Rule(
                self.cid,
                match,
                Action.ACCEPT,
                lifetime_s=self.lifetime_s if live else c.PENDING_S,
                renewed_by_packets=live and self.lifetime_s >= gate_lifetime_s,
                note=note if match is self.flow else "",
            )
            for match in (self.flow, self.flow.reversed())
        )


@dataclass(slots=True)
class GateContext:
    """Who a gate is and what it allows. `epoch_s`: unix time at `now` = 0."""

    key: SigningKey
    name: str
    names: Names
    policy: Policy
    entropy: Callable[[int], bytes]
    lifetime_s: float = c.LIFETIME_S
    epoch_s: float = 0.0


class Gate:
    """Admits connections. Sides are `inside` and `outside`, as the driver says."""

    def __init__(self, context: GateContext, door: FrontDoor, box: TokenBox, quota: Quota) -> None:
        self.context = context
        self.passages: dict[Cid, Passage] = {}
        self._door = door
        self._box = box
        self._quota = quota
        self._by_flow: dict[Flow, Cid] = {}
        self._deadlines = Deadlines()

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
            case CloseRequested():
                return self._on_close_requested(event, now)
            case TimePassed():
                return self._on_time_passed(now)
            case ClockSet():
                self.context.epoch_s = event.epoch_s
                return []
            case OpenRequested() | DataAnswered():
                return []
            case _:
                assert_never(event)

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due, monotonic seconds."""
        return self._deadlines.next

    def restore(self, rules: list[tuple[Rule, float]], now: float) -> int:
        """Read back what the kernel holds after a restart: rules, seconds left. Spec: R-6.5.

        Returns how many connections there are.
        """
        for rule, left_s in rules:
            try:
                number, lifetime, service, name = rule.note.split(" ")
                seq, lifetime_s = int(number), float(lifetime)
            except ValueError:
                continue
            live = Stage.LIVE if rule.renewed_by_packets or left_s > c.PENDING_S else Stage.PENDING
            passage = Passage(
                rule.owner, live, rule.match, seq, now + left_s, lifetime_s, service, name, seq
            )
            self._quota.count(rule.match.source.ip)
            self._keep(passage)
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
                return [Dropped(DropReason.UNEXPECTED, event.source)]
            case _:
                assert_never(event.message)

    # --- OPEN: judge, seal, send on; keep nothing ---

    def _on_open(self, event: MessageReceived, message: Open, now: float) -> list[Effect]:
        if not event.transit or event.side not in ("inside", "outside"):
            return [Dropped(DropReason.UNEXPECTED, event.source)]
        known = self.passages.get(event.header.cid)
        if known is not None and (event.header.seq < known.offered or known.stage is Stage.ENDED):
            return [Dropped(DropReason.STALE, event.source)]
        context = self.context
        opened = check_open(event, message, context.names, context.epoch_s + now)
        if opened is DropReason.TIME:
            return [self._door.challenge(event.header, event.source, now, message.hops)]
        if isinstance(opened, DropReason):
            return [Dropped(opened, event.source)]
        refusal = self._misplaced(event, message, opened)
        if refusal is not None:
            return self._refuse(event, opened, refusal)
        verdict = self._judge(event, opened)
        if verdict.action is PolicyAction.REJECT:
            reason = verdict.reason or "the policy of this gate does not allow it"
            return self._refuse(event, opened, Refusal(Code.POLICY, reason, verdict.rule))
        if verdict.action is PolicyAction.CHALLENGE and not event.proved:
            return [self._door.challenge(event.header, event.source, now, message.hops)]
        return self._forward(event, message, opened, verdict, now)

    def _misplaced(
        self, event: MessageReceived, message: Open, opened: CheckedOpen
    ) -> Refusal | None:
        """Why no rule may be made for these addresses; None when one may. Spec: R-5.1.6."""
        flow = opened.flow
        if flow.source.ip.is_loopback:
            return Refusal(Code.BAD_ADDRESS, "a loopback address")
        if flow.destination.ip != event.destination.ip:
            return Refusal(Code.BAD_ADDRESS, f"asked for {flow.destination.ip} on another path")
        if not message.hops and flow.source.ip != event.source.ip:
            return Refusal(Code.BAD_ADDRESS, f"it came from {event.source.ip}: a NAT on the path")
        return None

    def _judge(self, event: MessageReceived, opened: CheckedOpen) -> Verdict:
        terms = opened.terms
        request = Request(
            terms.from_key,
            opened.from_name,
            terms.to_key,
            opened.to_name,
            terms.service,
            terms.transport,
            Direction.OUT if event.side == "inside" else Direction.IN,
        )
        return self.context.policy.decide(request)

    def _refuse(
        self, event: MessageReceived, opened: CheckedOpen, refusal: Refusal
    ) -> list[Effect]:
        context, terms = self.context, opened.terms
        report = ReportRefused(
            event.header.cid,
            opened.from_name or key_text(terms.from_key),
            terms.service,
            refusal.code,
            refusal.reason,
            context.name,
            refusal.rule,
        )
        return [refuse(context.key, context.name, event, opened.hash, refusal), report]

    def _forward(
        self,
        event: MessageReceived,
        message: Open,
        opened: CheckedOpen,
        verdict: Verdict,
        now: float,
    ) -> list[Effect]:
        """Append our record and send the OPEN on to where it was going. Spec: R-8.1 to R-8.3."""
        terms = opened.terms
        granted = min(
            terms.lifetime_s or c.LIFETIME_S,
            verdict.lifetime_s or self.context.lifetime_s,
            self.context.lifetime_s,
        )
        state = TokenState(
            issued_ms=int(now * 1000),
            previous=event.source,
            binding=_binding(terms.to_key, opened.hash, terms.source, terms.destination),
            lifetime_s=max(int(granted), int(c.LIFETIME_MIN_S)),
            transport=terms.transport,
            rule=verdict.rule,
            service=terms.service,
        )
        token = self._box.create_token(event.header.cid, event.header.seq, state)
        hop = Hop(self.context.key.public, ROLE_GATE, state.lifetime_s, token)
        if len(message.hops) >= c.HOPS_MAX:
            refusal = Refusal(Code.ROUTE_TOO_LONG, "too many gates on the path")
            return self._refuse(event, opened, refusal)
        onward = Open(message.signed, message.signature, (*message.hops, hop), message.mac)
        try:
            datagram = padded(event.header, onward)
        except ValueError:
            refusal = Refusal(Code.ROUTE_TOO_LONG, "no room for another gate in the OPEN")
            return self._refuse(event, opened, refusal)
        return [SendDatagram(datagram, event.destination)]

    # --- the way back: ACCEPT makes pending rules, everything finds its way by our token ---

    def _on_accept(self, event: MessageReceived, message: Accept, now: float) -> list[Effect]:
        header = event.header
        state = self._fresh_token(event, message, now)
        if state is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        try:
            terms = decode_body(AcceptTerms, message.signed)
            flow = Flow(state.transport, terms.source, terms.destination)
            binding = _binding(terms.from_key, terms.open_hash, terms.source, terms.destination)
            if binding != state.binding or not is_agreed(flow):
                return [Dropped(DropReason.ADDRESS, event.source)]
            signed = header.signing + message.signed
            verify(terms.from_key, message.signature, SIGNATURE_CONTEXT, signed)
        except (DecodeError, ValueError):
            return [Dropped(DropReason.MALFORMED, event.source)]
        except BadSignature:
            return [Dropped(DropReason.SIGNATURE, event.source)]
        onward = SendDatagram(event.data, state.previous)
        return self._offer(event, flow, state, onward, now)

    def _offer(
        self,
        event: MessageReceived,
        flow: Flow,
        state: TokenState,
        onward: SendDatagram,
        now: float,
    ) -> list[Effect]:
        """Pending rules first, then the ACCEPT goes on. Spec: R-5.2.4."""
        header = event.header
        known = self.passages.get(header.cid)
        if known is not None:
            if known.stage is Stage.ENDED or header.seq < known.offered or known.flow != flow:
                return [Dropped(DropReason.STALE, event.source)]
            if known.stage is Stage.LIVE:
                known.offered = header.seq
                return [onward]
        if known is None and not self._quota.take(flow.source.ip):
            return [Dropped(DropReason.FULL, event.source)]
        passage = Passage(
            header.cid,
            Stage.PENDING,
            flow,
            header.seq,
            now + c.PENDING_S,
            state.lifetime_s,
            state.service,
            state.rule,
            header.seq,
        )
        self._keep(passage)
        rules = passage.rules(self.context.lifetime_s)
        return [ChangeRules(header.cid, rules, (), (onward,))]

    def _on_refusal(
        self, event: MessageReceived, message: Challenge | Reject | Redirect, now: float
    ) -> list[Effect]:
        """Pass a no back to where the OPEN came from; what was pending is over. Spec: R-5.6.4."""
        state = self._fresh_token(event, message, now)
        if state is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        onward = SendDatagram(event.data, state.previous)
        known = self.passages.get(event.header.cid)
        if known is None or known.stage is not Stage.PENDING or isinstance(message, Challenge):
            return [onward]
        return [*self._end(known, "refused further on", now), onward]

    def _fresh_token(
        self, event: MessageReceived, message: Message, now: float
    ) -> TokenState | None:
        if event.transit:
            return None
        state = self._box.consume_token(event.header.cid, event.header.seq, _hops(message))
        fresh = state is not None and 0 <= now - state.issued_ms / 1000 <= TOKEN_VALID_S
        return state if fresh else None

    # --- along the route: CONFIRM makes rules last, CLOSE takes them away ---

    def _on_confirm(self, event: MessageReceived, message: Confirm, now: float) -> list[Effect]:
        header = event.header
        state = self._box.consume_token(header.cid, header.seq, message.hops)
        if state is None or not event.transit:
            return [Dropped(DropReason.TOKEN, event.source)]
        passage = self.passages.get(header.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return [Dropped(DropReason.UNKNOWN, event.source)]
        if header.seq != passage.offered:
            return [Dropped(DropReason.STALE, event.source)]
        onward = SendDatagram(event.data, event.destination)
        if passage.stage is Stage.LIVE and passage.seq == header.seq:
            return [onward]
        passage.lifetime_s = state.lifetime_s
        return self._confirm(passage, header.seq, onward, now)

    def _confirm(
        self, passage: Passage, seq: int, onward: SendDatagram, now: float
    ) -> list[Effect]:
        refreshed = passage.stage is Stage.LIVE
        self._enter(passage, Stage.LIVE)
        passage.seq = seq
        passage.until = now + passage.lifetime_s
        self._keep(passage)
        rules = passage.rules(self.context.lifetime_s)
        report = ReportOpened(
            passage.cid,
            str(passage.flow.source.ip),
            passage.service,
            passage.flow,
            passage.flow,
            passage.lifetime_s,
            refreshed,
        )
        return [ChangeRules(passage.cid, rules, (), (onward,)), report]

    def _on_close(self, event: MessageReceived, message: Close, now: float) -> list[Effect]:
        """Who shows our token was on the path: the rules go, the message goes on. R-5.9.2."""
        state = self._box.consume_token(event.header.cid, event.header.seq, message.hops)
        if state is None:
            return [Dropped(DropReason.TOKEN, event.source)]
        towards = event.destination if event.transit else state.previous
        onward = SendDatagram(event.data, towards)
        passage = self.passages.get(event.header.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return [onward]
        return [*self._end(passage, message.reason or "closed", now), onward]

    def _on_close_requested(self, event: CloseRequested, now: float) -> list[Effect]:
        passage = self.passages.get(event.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return []
        return self._end(passage, event.reason or "closed at the gate", now)

    def _end(self, passage: Passage, reason: str, now: float) -> list[Effect]:
        ours = self._by_flow.get(passage.flow) == passage.cid
        remove = passage.rules(self.context.lifetime_s) if ours else ()
        self._enter(passage, Stage.ENDED)
        passage.until = now + TOKEN_VALID_S
        self._deadlines.set(passage.cid, passage.until)
        peer = str(passage.flow.source.ip)
        return [
            ChangeRules(passage.cid, remove=remove),
            ReportClosed(passage.cid, peer, passage.service, reason),
        ]

    def _on_rules_failed(self, event: RulesFailed, now: float) -> list[Effect]:
        passage = self.passages.get(event.cid)
        if passage is None or passage.stage is Stage.ENDED:
            return []
        return self._end(passage, f"the kernel refused the rules: {event.why}", now)

    def _on_time_passed(self, now: float) -> list[Effect]:
        """Forget what is over. The kernel ends the rules themselves. Spec: R-6.4."""
        for cid in self._deadlines.take_due(now):
            passage = self.passages.pop(cid)
            self._quota.release(passage.flow.source.ip)
            for flow in (passage.flow, passage.flow.reversed()):
                if self._by_flow.get(flow) == cid:
                    del self._by_flow[flow]
        return []

    def _keep(self, passage: Passage) -> None:
        """The rules of a flow are those of the passage that had it last."""
        self.passages[passage.cid] = passage
        self._by_flow[passage.flow] = self._by_flow[passage.flow.reversed()] = passage.cid
        self._deadlines.set(passage.cid, passage.until)

    def _enter(self, passage: Passage, new: Stage) -> None:
        if new not in TRANSITIONS[passage.stage]:
            raise IllegalMove(f"{passage.stage} to {new}")
        passage.stage = new


def _hops(message: Message) -> tuple[Hop, ...]:
    return getattr(message, "hops", ())


def _binding(to_key: bytes, asked: bytes, source: Address, destination: Address) -> bytes:
    """What ties a token to one OPEN and what may answer it, 16 bytes. Spec: R-8.3."""
    return digest(to_key, asked, source.pack(), destination.ip.packed)[:16]
