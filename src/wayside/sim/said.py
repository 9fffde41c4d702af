"""What everybody really said: the record that checkers compare beliefs with.

It reads the datagrams that machines send out, before any network or adversary touches them. So
whether an end agreed to a flow is known here from its own mouth; and from the OPENs and ACCEPTs
that a box passes on, what a flow looks like on either side of it. A box that rewrites agrees to
both, like the ends. Of a machine only little is asked: whether it speaks for itself or rewrites,
and what no message says: which key is in an OPEN's MAC, an end's wire flow (where it takes its own
address, or whom it hears, to be), and what it has learnt of a NAT before it. Nothing here looks
into a token or a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wayside.core import constants as c
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import DecodeError, Header, decode_body
from wayside.core.connection import Agreement
from wayside.core.effects import ChangeRules, Effect, KeepLocation, SendDatagram
from wayside.core.events import DatagramReceived, LocationFound, MessageReceived
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Close,
    Confirm,
    Hop,
    Message,
    Open,
    OpenTerms,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    decode,
)
from wayside.core.rule import Cid
from wayside.core.way import Role

from .watch import Machine, Step, Watcher, gate_of, speaks
from .wire import FiveTuple, five_tuple, turned


def sent_by(effects: list[Effect]) -> Iterator[SendDatagram]:
    """All datagrams of some effects, those behind changes of rules included."""
    for effect in effects:
        if isinstance(effect, SendDatagram):
            yield effect
        elif isinstance(effect, ChangeRules):
            yield from effect.then


_NONE: dict[Cid, float] = {}

_Consents = dict[tuple[str, FiveTuple], dict[Cid, float]]
"""By box and the 5-tuple of what it sends: the cids that it agreed to, and when."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An OPEN as its maker made it."""

    site: str
    cid: Cid
    terms: OpenTerms


@dataclass(frozen=True, slots=True)
class _Crossed:
    """An OPEN's way through a box, by what came in and what went out."""

    transport: Transport
    near: Address
    far: Address
    onward: Address
    here: bool
    inside: Address
    """What `near` was before a NAT that says nothing. Spec: R-12.5."""


def _of() -> dict[Any, dict[Any, Any]]:
    return {}


@dataclass(slots=True)
class _Flows:
    """What was agreed of 5-tuples. `accepts`: those of `consents` that answer another's wish.

    `moved`: connections of which an end has said that it is somewhere else; `ways`: by cid, what a
    box makes of a 5-tuple that comes to it. `returned`: what boxes gave back with ACCEPTs, by cid
    and seq; `edited`: where hosts send because somebody on the path has changed that.
    """

    consents: _Consents = field(default_factory=_of)
    accepts: _Consents = field(default_factory=_of)
    sources: dict[tuple[str, tuple[int, ...]], dict[Cid, float]] = field(default_factory=_of)
    targets: dict[tuple[str, tuple[int, ...]], dict[Cid, float]] = field(default_factory=_of)
    moved: dict[Cid, None] = field(default_factory=dict[Cid, None])
    ways: dict[Cid, dict[FiveTuple, dict[FiveTuple, None]]] = field(default_factory=_of)
    rewritten: dict[FiveTuple, dict[Cid, None]] = field(default_factory=_of)
    crossed: dict[bytes, _Crossed] = field(default_factory=dict[bytes, _Crossed])
    returned: set[tuple[Cid, int, tuple[Address, ...]]] = field(
        default_factory=set[tuple[Cid, int, tuple[Address, ...]]]
    )
    edited: set[tuple[str, FiveTuple]] = field(default_factory=set[tuple[str, FiveTuple]])


@dataclass(slots=True)
class Shown:
    """Who has shown that it has the key of an ACCEPT, which went to where it is.

    `proofs`, with cid and seq: what CONFIRMs show to gates; `places`, by cid and seq: from where
    whoever believed that ACCEPT sends, as its peer sees it; `vouched`, by the terms of an OPEN:
    which ACCEPT's key is in its MAC.
    """

    confirms: set[tuple[Cid, bytes]] = field(default_factory=set[tuple[Cid, bytes]])
    proofs: set[tuple[Cid, int, bytes]] = field(default_factory=set[tuple[Cid, int, bytes]])
    places: dict[tuple[Cid, int], Address] = field(default_factory=dict[tuple[Cid, int], Address])
    vouched: dict[bytes, tuple[Cid, int]] = field(default_factory=dict[bytes, tuple[Cid, int]])

    def place(self, message: Open) -> Address | None:
        """Where who made this OPEN has shown that it receives. Spec: R-5.4.3."""
        return self.places.get(self.vouched.get(message.signed, (Cid(b""), -1)))


class Said(Watcher):
    """The record, as far as it goes."""

    name = "said"

    def __init__(self) -> None:
        self.asked: dict[Cid, Asked] = {}
        self.signed: set[bytes] = set()
        self.closes: set[bytes] = set()
        self.shown = Shown()
        self.places: dict[bytes, dict[Address, None]] = {}
        """By a host's key: where it has said that it is."""
        self.approvals: dict[bytes, tuple[Cid, bytes, bytes, str]] = {}
        """For which cid, asker, asked and service each was given."""
        self.passed_on: set[tuple[str, bytes]] = set()
        self.flows = _Flows()
        self.agreed: dict[Cid, Flow] = {}
        """The last flow that a responder agreed to, from initiator to responder."""
        self._outside: dict[str, Address] = {}
        """Of hosts that registered from behind a NAT, what its outside is."""
        self._wishes: set[tuple[str, Cid, Address]] = set()
        self._opens: dict[tuple[Cid, int], OpenTerms] = {}

    def on_step(self, step: Step) -> None:
        """Write down what was said."""
        if not step.effects:
            return
        for effect in step.effects:
            if isinstance(effect, KeepLocation) and effect.record:
                self._kept(effect.record)
        for datagram in sent_by(step.effects):
            kind = datagram.data[4]
            if kind == Confirm.TYPE:
                self.passed_on.add((step.site.name, datagram.data))
            if speaks(step.machine, Cid(datagram.data[16:32])) is not None:
                with suppress(DecodeError):  # a gate's that answers in a host's place, and lies
                    self._said(step, datagram)
            elif kind in (Reject.TYPE, Redirect.TYPE):
                with suppress(DecodeError):
                    self._refused(step, decode(datagram.data)[1])
            elif kind in (Open.TYPE, Accept.TYPE) and _rewrites(step.machine):
                with suppress(DecodeError):  # a liar's
                    self._passed(step, datagram)

    def _kept(self, record: bytes) -> None:
        """A rendezvous knows where a host is now, and if it hides it, sends packets there."""
        header, message = decode(record)
        asked = self.asked.get(header.cid)
        if isinstance(message, Open) and asked is not None:
            self._follow(asked.site, decode_body(OpenTerms, message.signed))

    def consent(self, site: str, flow: FiveTuple) -> dict[Cid, float]:
        """The cids of connections in which this box agreed to send with this 5-tuple.

        Where an end moves, each of the two addresses is agreed to by itself: both may move at once.
        """
        flows = self.flows
        exact = flows.consents.get((site, flow), _NONE)
        chosen = flows.consents.get((site, (*flow[:4], 0)))
        found = {**exact, **chosen} if chosen else exact
        ours, theirs = flows.sources.get((site, flow[:3])), flows.targets.get((site, flow[3:]))
        if ours and theirs:
            both = {cid: at for cid, at in ours.items() if cid in theirs and cid in flows.moved}
            return {**found, **both}
        return found

    def reach(self, cid: Cid, flow: FiveTuple) -> list[FiveTuple]:
        """What becomes of packets of a connection on their way, from this 5-tuple on."""
        ways = self.flows.ways.get(cid)
        if ways is None:
            return [flow]
        found = [flow]
        for one in found:
            found += [after for after in ways.get(one, {}) if after not in found]
        return found

    def crossing(self, flow: FiveTuple) -> dict[Cid, None]:
        """The connections of which some box rewrites this 5-tuple."""
        return self.flows.rewritten.get(flow, {})

    # --- what an end says ---

    def _said(self, step: Step, datagram: SendDatagram) -> None:
        header, message = decode(datagram.data)
        match message:
            case Open():
                self._said_open(step, header, message)
            case Accept():
                self._said_accept(step, header, message, datagram.source)
            case Confirm():
                self.shown.confirms.add((header.cid, message.mac))
                self.shown.proofs.add((header.cid, header.seq, message.proof))
                self._said_confirm(step, header, message, datagram.source)
            case Close():
                self.closes.add(datagram.data)
            case Reject() | Redirect():
                self._refused(step, message)
            case _:
                pass

    def _refused(self, step: Step, message: Message) -> None:
        if not isinstance(message, Reject | Redirect):
            return
        kind = RejectTerms if isinstance(message, Reject) else RedirectTerms
        if decode_body(kind, message.signed).from_key != step.site.key:
            return  # passed on, and perhaps forged
        self.signed.add(message.signed)
        asked = self._asked_in(step)
        if isinstance(message, Redirect) and asked is not None:
            approval = decode_body(RedirectTerms, message.signed).approval
            cid, terms = asked
            self.approvals[approval] = (cid, terms.from_key, terms.to_key, terms.service)

    def _asked_in(self, step: Step) -> tuple[Cid, OpenTerms] | None:
        event = step.event.asked if isinstance(step.event, LocationFound) else step.event
        if not isinstance(event, DatagramReceived | MessageReceived):
            return None
        header, message = decode(event.data)
        if not isinstance(message, Open):
            return None
        return header.cid, decode_body(OpenTerms, message.signed)

    def opened(self, cid: Cid, seq: int) -> OpenTerms | None:
        """The OPEN with this cid and seq, as its maker made it."""
        return self._opens.get((cid, seq))

    def has_asked(self, site: str, cid: Cid, to: Address) -> bool:
        """Whether a box has itself chosen to send to this address in a connection."""
        return (site, cid, to) in self._wishes

    def _said_open(self, step: Step, header: Header, message: Open) -> None:
        if message.signed in self.signed:
            return
        terms = decode_body(OpenTerms, message.signed)
        if header.seq % 2 == 0:
            self.asked[header.cid] = Asked(step.site.name, header.cid, terms)
        self.signed.add(message.signed)
        self._opens[header.cid, header.seq] = terms
        host = speaks(step.machine, header.cid)
        assert host is not None
        self.shown.vouched[message.signed] = (header.cid, host.connections[header.cid].keys.seq)
        before = self._opens.get((header.cid, header.seq - 2))
        if header.seq % 2 or (before is not None and before.source != terms.source):
            self.flows.moved[header.cid] = None
        self._consents(step, header.cid, Flow(terms.transport, terms.source, terms.destination))
        self._wishes.add((step.site.name, header.cid, terms.destination))
        if terms.service == c.LOCATION_SERVICE:
            at = (terms.alternatives or (terms.source,))[0]
            at = at if at.port else at.with_port(c.SIGNALING_PORT)
            if terms.alternatives:  # who starts again does not know it at first; it is so still
                self._outside[step.site.name] = at
            self.places.setdefault(terms.from_key, {})[at] = None
            self._follow(step.site.name, terms)

    def _said_accept(
        self, step: Step, header: Header, message: Accept, here: Address | None
    ) -> None:
        self.signed.add(message.signed)
        terms = decode_body(AcceptTerms, message.signed)
        asked = self._opens.get((header.cid, header.seq))
        wire = _agreement(step, header.cid).wire
        told = asked.source if asked else wire.destination
        source = source_behind(message.hops, told)
        ours = (here or wire.source).with_port(terms.destination.port)
        outside = _outside_of(asked)
        own = self._outside.get(step.site.name, ours).with_port(ours.port)
        straight = asked is not None and asked.destination.ip == own.ip  # to our NAT
        relayed = any(hop.role == Role.HIDING for hop in message.hops)
        if outside is not None and not relayed and outside.ip == wire.destination.ip != source.ip:
            to = own if straight else ours
            self._translated(header.cid, Flow(wire.transport, source, to), outside)
            source = outside
        flow = Flow(wire.transport, ours, source)
        if straight or relayed:
            self._translated(header.cid, flow, own)
        self._consents(step, header.cid, flow)
        self.flows.accepts.setdefault((step.site.name, five_tuple(flow)), {})[header.cid] = step.now
        if header.seq % 2 == 0:
            self.agreed[header.cid] = flow.reversed()

    def _said_confirm(
        self, step: Step, header: Header, message: Confirm, here: Address | None
    ) -> None:
        # The responder, or a box before it, may have chosen another port than was asked for.
        event = step.event
        if not isinstance(event, DatagramReceived | MessageReceived):
            return
        _, answer = decode(event.data)
        if not isinstance(answer, Accept):
            return
        terms = decode_body(AcceptTerms, answer.signed)
        there = (message.returned or (terms.destination,))[-1]
        wire = _agreement(step, header.cid).wire
        flow = Flow(wire.transport, here or wire.source, there)
        self._consents(step, header.cid, flow)
        self._wishes.add((step.site.name, header.cid, there))
        given = (header.cid, header.seq, message.returned)
        if message.returned and given not in self.flows.returned:
            self.flows.edited.add((step.site.name, five_tuple(flow)))
        asked = self._opens.get((header.cid, header.seq))
        if asked is not None:
            outside = _agreement(step, header.cid).outside
            source = source_behind(message.hops, outside or asked.source)
            self.shown.places.setdefault((header.cid, header.seq), source)
            if asked.service == c.LOCATION_SERVICE:  # what it agreed to meanwhile follows, too
                self._follow(step.site.name, asked)

    def _translated(self, cid: Cid, flow: Flow, outside: Address) -> None:
        """What a NAT that says nothing makes of packets, as who asks has learnt it. R-12.5."""
        if flow.source == outside:
            return
        ways = self.flows.ways.setdefault(cid, {})
        near = five_tuple(flow)
        far = five_tuple(Flow(flow.transport, outside, flow.destination))
        for comes, leaves in ((near, far), (turned(far), turned(near))):
            ways.setdefault(comes, {})[leaves] = None
            self.flows.rewritten.setdefault(comes, {})[cid] = None

    def _consents(self, step: Step, cid: Cid, flow: Flow) -> None:
        site, key = step.site.name, five_tuple(flow)
        self.flows.consents.setdefault((site, key), {})[cid] = step.now
        self.flows.sources.setdefault((site, key[:3]), {})[cid] = step.now
        self.flows.targets.setdefault((site, key[3:]), {})[cid] = step.now

    def _follow(self, host: str, terms: OpenTerms) -> None:
        """Who is hidden tells its rendezvous only: both go on from where it is now. R-10.5."""
        there, new = int(terms.destination.ip), int(terms.source.ip)
        moved: dict[FiveTuple, FiveTuple] = {}
        for (site, flow), cids in list(self.flows.consents.items()):
            if site == host and flow[3] == there and flow[0] and flow[1] != new:
                after = moved[flow] = (flow[0], new, *flow[2:])
                self.flows.consents.setdefault((site, after), {}).update(cids)
        for (site, flow), cids in list(self.flows.consents.items()):
            if turned(flow) in moved and site != host:
                after = turned(moved[turned(flow)])
                self.flows.consents.setdefault((site, after), {}).update(cids)
                for cid in cids:
                    self._redirect(cid, flow, after)

    def _redirect(self, cid: Cid, before: FiveTuple, after: FiveTuple) -> None:
        ways = self.flows.ways.setdefault(cid, {})
        for later in list(ways.values()):
            if before in later:
                later[after] = None
        ways.setdefault(turned(after), {}).update(ways.get(turned(before), {}))
        self.flows.rewritten.setdefault(turned(after), {})[cid] = None

    # --- what a box passes on ---

    def _passed(self, step: Step, datagram: SendDatagram) -> None:
        event = step.event.asked if isinstance(step.event, LocationFound) else step.event
        if not isinstance(event, DatagramReceived | MessageReceived):
            return
        header, before = decode(event.data)
        _, after = decode(datagram.data)
        match before, after:
            case Open(), Open() if after.hops and after.hops[-1].role != Role.CALLING:
                self._passed_open(event, (before, after), datagram.destination)
            case Accept(), Accept():
                self.flows.returned.add((header.cid, header.seq, after.returned))
                self._passed_accept(step, header.cid, before, after)
            case _:
                pass

    def _passed_open(
        self,
        event: DatagramReceived | MessageReceived,
        passed: tuple[Open, Open],
        onward: Address,
    ) -> None:
        before, after = passed
        terms = decode_body(OpenTerms, before.signed)
        inside, far = (source_behind(one.hops, terms.source) for one in (before, after))
        comes = event.source.ip
        near = next((one for one in terms.alternatives[:1] if one.ip == comes != inside.ip), inside)
        crossed = _Crossed(terms.transport, near, far, onward, not event.transit, inside)
        self.flows.crossed[after.hops[-1].token] = crossed

    def _passed_accept(self, step: Step, cid: Cid, before: Accept, after: Accept) -> None:
        token = next((hop.token for hop in before.hops if hop.key == step.site.key), b"")
        crossed = self.flows.crossed.get(token)
        if crossed is None:
            return
        terms = decode_body(AcceptTerms, before.signed)
        port = (before.returned or (terms.destination,))[-1].port
        there = crossed.onward.with_port(port)
        ours = (after.returned or (there,))[-1] if crossed.here else there
        near = five_tuple(Flow(crossed.transport, crossed.near, ours))
        far = five_tuple(Flow(crossed.transport, crossed.far, there))
        if near == far:
            return
        self._translated(cid, Flow(crossed.transport, crossed.inside, ours), crossed.near)
        ways = self.flows.ways.setdefault(cid, {})
        for comes, leaves in ((near, far), (turned(far), turned(near))):
            ways.setdefault(comes, {})[leaves] = None
            self.flows.rewritten.setdefault(comes, {})[cid] = None
            for record in (self.flows.consents, self.flows.accepts):
                record.setdefault((step.site.name, leaves), {})[cid] = step.now


def _rewrites(machine: Machine) -> bool:
    gate = gate_of(machine)
    return gate is not None and (gate.context.box.nat or gate.context.box.relay) is not None


def _agreement(step: Step, cid: Cid) -> Agreement:
    host = speaks(step.machine, cid)
    assert host is not None
    return host.connections[cid].agreement


def source_behind(hops: tuple[Hop, ...], source: Address) -> Address:
    """Where the flow comes from behind these hops: the last one that rewrote it says."""
    told = [hop.source for hop in hops if hop.source is not None]
    return told[-1] if told else source


def _outside_of(asked: OpenTerms | None) -> Address | None:
    """Where a NAT before who asks lets it be seen: with its port, not with that for signaling."""
    told = asked.alternatives[0] if asked and asked.alternatives else None
    return told if asked and told and told.port == asked.source.port else None
