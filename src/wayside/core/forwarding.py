"""What a gate does with an OPEN that it has found good: judge it, refuse it, or send it on.

Nothing is kept: all that must be known again when the answer comes is sealed into a token, which
travels with the OPEN and comes back with the ACCEPT. Spec: R-5.6, R-5.7, R-8.1, R-8.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import constants as c
from .address import Address, Transport
from .crypto import SigningKey
from .effects import Dropped, Effect, ReportRefused, SendDatagram
from .errors import DropReason
from .events import MessageReceived
from .identity import Names, key_text
from .messages import CALLED, Code, Hop, Open, padded
from .opening import CheckedOpen, Refusal, redirect, refuse
from .passages import KNOWN_BYTES
from .policy import Direction, Policy, PolicyAction, Request, Verdict
from .route import TokenBox, TokenState, binding_of, kind_of, parties_of
from .way import Box, Role, Way


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
    box: Box = field(default_factory=Box)
    relays: Mapping[str, tuple[Address, ...]] = field(
        default_factory=dict[str, tuple[Address, ...]]
    )
    """Where a policy may redirect to, by the names that its rules use (`via`)."""
    instead: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """The keys, 32 bytes, of those among them that answer in the place of who is asked."""


class Forwarding:
    """Judges OPENs, and sends them on with a record of this box."""

    def __init__(self, context: GateContext, box: TokenBox) -> None:
        self.context = context
        self._box = box

    def judge(self, event: MessageReceived, opened: CheckedOpen) -> Verdict:
        """Ask the policy about a connection, whichever of its ends asks now. Spec: R-5.4.5."""
        terms = opened.terms
        parties = (terms.from_key, opened.from_name, terms.to_key, opened.to_name)
        outward = event.side == "inside"
        if event.header.seq % 2:  # an odd seq: the responder of the connection
            parties = (*parties[2:], *parties[:2])
            outward = not outward
        direction = Direction.OUT if outward else Direction.IN
        request = Request(*parties, terms.service, terms.transport, direction)
        return self.context.policy.decide(request)

    def refuse(self, event: MessageReceived, opened: CheckedOpen, refusal: Refusal) -> list[Effect]:
        """Say no, and report it here. Spec: R-5.6."""
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

    def redirect_to(
        self, event: MessageReceived, opened: CheckedOpen, there: Address, now: float, calls: bool
    ) -> SendDatagram:
        """Send who asks to where the one asked for is, with our approval. Spec: R-5.7.

        `calls`: that one has to open its NAT first. Spec: R-12.7.
        """
        unix_s, relay = self.context.epoch_s + now, CALLED if calls else 0
        ticket = self._box.tickets.for_redirect(opened.terms.from_key, now)
        return redirect(self.context.key, event, opened, there, relay, unix_s, ticket=ticket)

    def call(self, event: MessageReceived, opened: CheckedOpen, there: Address) -> list[Effect]:
        """Show an OPEN to a host that lets nobody in for whom it has not sent. Spec: R-12.7."""
        message = event.message
        assert isinstance(message, Open)
        hop = Hop(self.context.key.public, Role.CALLING, 0, b"", opened.source)
        onward = Open(message.signed, message.signature, (*message.hops, hop), message.mac)
        refusal = Refusal(Code.ROUTE_TOO_LONG, "no room in the OPEN to say where it is from")
        if len(onward.hops) > c.HOPS_MAX:
            return self.refuse(event, opened, refusal)
        try:
            return [SendDatagram(padded(event.header, onward), there, event.destination)]
        except ValueError:
            return self.refuse(event, opened, refusal)

    def let_by(self, event: MessageReceived, opened: CheckedOpen) -> Effect:
        """Let an OPEN that only calls a host by, as it is; the other copy is answered. R-12.7."""
        if self.judge(event, opened).action is PolicyAction.REJECT:
            return Dropped(DropReason.UNEXPECTED, event.source)
        return SendDatagram(event.data, event.destination, event.source)

    def redirect_via(
        self, event: MessageReceived, opened: CheckedOpen, verdict: Verdict, now: float
    ) -> list[Effect]:
        """Send who asks by way of a relay, or to who answers instead; empty: this is it. R-5.7."""
        via, context = verdict.via, self.context
        family = event.source.family
        there = [one for one in context.relays.get(via, ()) if one.family == family]
        if not via or any(one.ip == event.destination.ip for one in there):
            return []
        if not there:
            reason = f"only by way of {via}, which has no IPv{family} address"
            return self.refuse(event, opened, Refusal(Code.NO_ROUTE, reason, verdict.rule))
        instead, unix_s = context.instead.get(via, b""), context.epoch_s + now
        ticket = self._box.tickets.for_redirect(opened.terms.from_key, now)
        relay = int(not instead)
        return [redirect(context.key, event, opened, there[0], relay, unix_s, instead, ticket)]

    def pass_on(
        self,
        event: MessageReceived,
        message: Open,
        opened: CheckedOpen,
        way: Way,
        verdict: Verdict,
        now: float,
    ) -> list[Effect]:
        """Send an OPEN that was found good on its way. Spec: R-8.1."""
        state = self._state(event, opened, way, verdict, now)
        ticket = self._box.tickets.for_record(event.ticket, opened.terms.from_key, now)
        return self._forward(event, message, opened, way, state, ticket)

    def _state(
        self, event: MessageReceived, opened: CheckedOpen, way: Way, verdict: Verdict, now: float
    ) -> TokenState:
        """What we must know again when the answer comes. Spec: R-8.2."""
        terms = opened.terms
        most = self.context.lifetime_s
        granted = min(terms.lifetime_s or c.LIFETIME_S, verdict.lifetime_s or most, most)
        is_location = (terms.service, terms.transport) == (c.LOCATION_SERVICE, Transport.NONE)
        registers = is_location and self.context.box.nat and event.side == "inside"
        hidden = terms.from_key if event.header.seq % 2 else terms.to_key
        known = terms.from_key if registers else hidden if way.role is Role.HIDING else b""
        return TokenState(
            issued_s=int(now),
            previous=event.source,
            port=way.near.port,
            binding=binding_of(terms.to_key, opened.hash, way.onward.ip),
            parties=parties_of(terms.from_key, terms.to_key),
            lifetime_s=max(int(granted), int(c.LIFETIME_MIN_S)),
            kind=kind_of(terms.transport, event.side),
            rule=verdict.rule,
            service=terms.service,
            here=way.here,
            onward=way.onward if way.here else None,
            far=way.far if way.hides_source else None,
            key=known[:KNOWN_BYTES],
        )

    def _forward(
        self,
        event: MessageReceived,
        message: Open,
        opened: CheckedOpen,
        way: Way,
        state: TokenState,
        ticket: bytes,
    ) -> list[Effect]:
        """Append our record and send the OPEN on to where it is going. Spec: R-8.1 to R-8.3."""
        hidden = Role.HIDING in (way.role, *(hop.role for hop in message.hops))
        hop = Hop(
            self.context.key.public,
            way.role,
            state.lifetime_s,
            self._box.create_token(event.header.cid, event.header.seq, state),
            state.far,
            None if hidden else state.onward,
            ticket,
        )
        if len(message.hops) >= c.HOPS_MAX:
            refusal = Refusal(Code.ROUTE_TOO_LONG, "too many gates on the path")
            return self.refuse(event, opened, refusal)
        onward = Open(message.signed, message.signature, (*message.hops, hop), message.mac)
        try:
            datagram = padded(event.header, onward)
        except ValueError:
            if ticket:  # the one thing that can be left out
                return self._forward(event, message, opened, way, state, b"")
            refusal = Refusal(Code.ROUTE_TOO_LONG, "no room for another gate in the OPEN")
            return self.refuse(event, opened, refusal)
        return [SendDatagram(datagram, way.onward, way.name)]
