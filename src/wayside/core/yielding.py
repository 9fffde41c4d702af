"""What an end makes of a world that does not answer as it should.

Nobody may be there who knows signaling, a gate may stand in for a host that does not, and a NAT on
the path may say nothing of itself. None of it is taken in silence: the user has said beforehand
what may be (`Leave`), and `stands` says what is. A no is never overruled: only silence, and a port
that the network says is closed, count as nobody. Spec: R-12.3 to R-12.5.
"""

from __future__ import annotations

from dataclasses import replace

from . import constants as c
from .address import Address, Flow, Transport
from .answerer import Offer
from .connection import Connection, State
from .effects import ChangeRules, Effect, ReportRefused
from .events import DatagramReceived
from .messages import Code, RedirectTerms, RejectTerms
from .saved import save
from .way import Role

GATE_ANSWERS = "a gate answers in its place"
ANOTHER_ANSWERS = "another host answers in its place"
PLAIN = "plain (no answer from peer)"
"""What `status` says; anything else was agreed with the peer itself."""


class Yielding(Connection):
    """What an end does whose question goes unanswered, or is answered by others."""

    __slots__ = ()
    offer: Offer | None

    def _fall_back(self) -> list[Effect]:
        """Nobody answers: let packets go as they would without us; empty: the user does not let it.

        Spec: R-12.4.
        """
        about = self.agreement
        if not about.peer.leave.plain or self.state is not State.OPENING or about.home:
            return []  # who was sent on to somebody has been answered
        if about.wire.transport is Transport.NONE or not about.wire.destination.port:
            return []
        self._enter(State.PLAIN)
        self.timers.stop()
        self.attempt = None
        self.agreement = replace(about, stands=PLAIN)
        return [ChangeRules(about.cid, self._rules), save(self), self._up()]

    def _on_returned(self, event: DatagramReceived, now: float) -> list[Effect]:
        """The OPEN comes back: nobody listens there. Who quotes its cid has seen it. R-12.4."""
        asked, data = self.attempt, event.data
        if asked is None or data[:5] != b"CSP\x01\x01" or event.source.ip != self.towards.ip:
            return []
        return self._fall_back() if int.from_bytes(data[8:16]) == asked.seq else []

    def _may_stand_in(self, terms: RedirectTerms) -> bool:
        """Whether a gate of nobody's may answer in the peer's place, where that is. R-12.3."""
        here = terms.locator.address.ip == self.agreement.wire.destination.ip
        own = terms.key == terms.from_key and not terms.relay and here
        return own and self.agreement.peer.leave.gate

    def _learnt(self, terms: RejectTerms, wire: Flow, known: Address | None) -> Address | None:
        """Our flow's source behind a NAT that says nothing, if it is news. Spec: R-12.5.

        The NAT left the port of our signaling as it was: so it does with others while they are
        free. Of one that does not, nobody can tell what it makes of our packets.
        """
        seen = terms.observed
        if terms.code != Code.BAD_ADDRESS or seen is None or seen.family != wire.family:
            return None
        if wire.transport is not Transport.NONE and seen.port != c.SIGNALING_PORT:
            return None
        outside = seen.with_port(wire.source.port)
        return None if outside in (known, wire.source) else outside

    def _refused(self, code: int, reason: str, by: str, rule: str, now: float) -> list[Effect]:
        about = self.agreement
        report = ReportRefused(about.cid, str(about.peer), about.service, code, reason, by, rule)
        if self.state is State.OPENING:
            self._end("", now, report=False)
            self.timers.stop()
            return [report]
        return [report, *self._end(f"refused: {reason}", now)]

    @property
    def hider(self) -> bytes | None:
        """The key of our own rendezvous, if it hides us from the other end. Spec: R-10.5."""
        if self.PARITY == 0:
            return None
        hops = self.hops or (self.offer.hops if self.offer else ())
        keys = [hop.key for hop in hops if hop.role == Role.HIDING]
        return next((key for key in keys if key in self.host.redirectors), None)

    def _elsewhere(self, wire: Flow, outside: Address | None) -> tuple[Address, ...]:
        """Our source behind a NAT that says nothing, and our other addresses. R-5.4.7, R-12.5."""
        others = () if self.hider else self.host.alternatives(wire)
        return ((outside,) if outside else ()) + others[: c.ALTERNATIVES_MAX - bool(outside)]
