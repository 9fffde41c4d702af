"""What everybody really said: the record that checkers compare beliefs with.

It reads the datagrams that machines send out, before any network or adversary touches them. So
whether an end agreed to a flow is known here from its own mouth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wayside.core.address import Address, Flow
from wayside.core.codec import Header, decode_body
from wayside.core.effects import ChangeRules, Effect, SendDatagram
from wayside.core.host import Host
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Close,
    Confirm,
    Hop,
    Open,
    OpenTerms,
    Reject,
    decode,
)
from wayside.core.rule import Cid

from .watch import Step, Watcher
from .wire import FiveTuple, five_tuple


def sent_by(effects: list[Effect]) -> Iterator[SendDatagram]:
    """All datagrams of some effects, those behind changes of rules included."""
    for effect in effects:
        if isinstance(effect, SendDatagram):
            yield effect
        elif isinstance(effect, ChangeRules):
            yield from effect.then


_NONE: dict[Cid, float] = {}


@dataclass(frozen=True, slots=True)
class Asked:
    """An OPEN as its maker made it."""

    site: str
    cid: Cid
    terms: OpenTerms


class Said(Watcher):
    """The record. `consents`: by box and the 5-tuple of its own packets, the cids it agreed to."""

    name = "said"

    def __init__(self) -> None:
        self.asked: dict[Cid, Asked] = {}
        self.signed: set[bytes] = set()
        self.closes: set[bytes] = set()
        self.confirms: set[tuple[Cid, bytes]] = set()
        self.passed_on: set[tuple[str, bytes]] = set()
        self.consents: dict[tuple[str, FiveTuple], dict[Cid, float]] = {}
        self.agreed: dict[Cid, Flow] = {}
        """The last flow that a responder agreed to, from initiator to responder."""

    def on_step(self, step: Step) -> None:
        """Write down what was said."""
        if not step.effects:
            return
        for datagram in sent_by(step.effects):
            if datagram.data[4] == Confirm.TYPE:
                self.passed_on.add((step.site.name, datagram.data))
            if isinstance(step.machine, Host):
                self._said(step, datagram.data)

    def consent(self, site: str, flow: FiveTuple) -> dict[Cid, float]:
        """The cids of connections in which this box agreed to send with this 5-tuple."""
        exact = self.consents.get((site, flow), _NONE)
        chosen = self.consents.get((site, (*flow[:4], 0)))
        return {**exact, **chosen} if chosen else exact

    def _said(self, step: Step, data: bytes) -> None:
        header, message = decode(data)
        match message:
            case Open():
                terms = decode_body(OpenTerms, message.signed)
                self.asked[header.cid] = Asked(step.site.name, header.cid, terms)
                self.signed.add(message.signed)
                self._consents(step, header, terms.source, terms.destination)
            case Accept():
                terms = decode_body(AcceptTerms, message.signed)
                self.signed.add(message.signed)
                asked, wire = self.asked.get(header.cid), self._wire(step, header)
                told = asked.terms.source if asked else wire.destination
                source = _source_behind(message.hops, told)
                self._consents(step, header, source, terms.destination)
                self.agreed[header.cid] = Flow(wire.transport, source, terms.destination)
            case Confirm():
                self.confirms.add((header.cid, message.mac))
                # The responder may have chosen another port than was asked for: this says yes.
                wire = self._wire(step, header)
                self._consents(step, header, wire.source, wire.destination)
            case Close():
                self.closes.add(data)
            case Reject():
                self.signed.add(message.signed)
            case _:
                pass

    def _wire(self, step: Step, header: Header) -> Flow:
        assert isinstance(step.machine, Host)
        return step.machine.connections[header.cid].agreement.wire

    def _consents(self, step: Step, header: Header, initiator: Address, responder: Address) -> None:
        """Whoever says this agrees to the 5-tuple from its own end."""
        ours = self._wire(step, header)
        flow = Flow(ours.transport, initiator, responder)
        if ours.source != initiator:
            flow = flow.reversed()
        self.consents.setdefault((step.site.name, five_tuple(flow)), {})[header.cid] = step.now


def _source_behind(hops: tuple[Hop, ...], source: Address) -> Address:
    """Where the flow comes from as the responder sees it: the last hop that rewrote it says."""
    told = [hop.source for hop in hops if hop.source is not None]
    return told[-1] if told else source
