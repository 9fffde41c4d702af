"""A rendezvous: knows where hosts are, and tells whom it may.

A host registers by opening a connection to the rendezvous for the service `location`: where it is,
is just another connection, which moves when the host does and ends with its CLOSE. Whoever looks
for the host sends the OPEN for it here. The policy decides: no; yes, and this is where it is now
(REDIRECT, with an approval that the host may ask to see); or yes, but only through here, so that
nobody learns where the host is (a relay that hides). What is stored was signed by the host: who
keeps the store can withhold a location, and cannot make one up. Spec: R-10.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import assert_never

from . import constants as c
from .address import Address
from .admission import FrontDoor
from .answerer import Offer
from .approval import check_approval
from .codec import DecodeError, Header, decode_body
from .crypto import BadSignature, verify
from .effects import Dropped, Effect, FindLocation, KeepLocation, ReportClosed, ReportOpened
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
from .gate import Gate
from .hiding import await_from, follow
from .host import Host
from .messages import Code, Open, OpenTerms, decode, encode
from .opening import SIGNATURE_CONTEXT, CheckedOpen, Refusal, check_open, has_passed, open_hash
from .passage import Stage
from .policy import PolicyAction
from .rule import Cid
from .way import Role, Way, lent_way, misplaced

ASKED_MAX = 262_144
"""Registrations under way; the oldest is forgotten: that host registers again."""


@dataclass(frozen=True, slots=True)
class Located:
    """Where a host says that it is, and when it said so: later is greater. Spec: R-10.3.

    `walled`: the NAT there says nothing, and lets in only what it was sent for. Spec: R-12.7.
    """

    at: Address
    order: int
    walled: bool


def read_location(record: bytes, key: bytes, port: int = c.SIGNALING_PORT) -> Located | None:
    """The location in a record that this key, 32 bytes, has signed; None for any other. R-10.3.

    A record is the OPEN of a registration, whole. A host behind a NAT names the NAT's address,
    which it learnt when it registered first.
    """
    try:
        header, message = decode(record)
        if not isinstance(message, Open):
            return None
        terms = decode_body(OpenTerms, message.signed)
        if (terms.from_key, terms.service) != (key, c.LOCATION_SERVICE):
            return None
        verify(key, message.signature, SIGNATURE_CONTEXT, header.signing + message.signed)
    except (DecodeError, BadSignature, ValueError):
        return None
    at = (terms.alternatives or (terms.source,))[0]
    walled = bool(terms.alternatives) and not at.port
    return Located(at if at.port else at.with_port(port), _order(header, terms), walled)


def _order(header: Header, terms: OpenTerms) -> int:
    """The later a host says it asked, and the oftener in one connection, the newer it is."""
    return terms.time_s << 20 | min(header.seq, (1 << 20) - 1)


class Rendezvous:
    """A host that others register with, and a relay for those it hides.

    `host` answers for the services `location` and `join`; `gate` relays, and its policy is the one
    that decides who finds whom.
    """

    def __init__(self, host: Host, gate: Gate, door: FrontDoor) -> None:
        self.host = host
        self.gate = gate
        self._door = door
        self._asked: OrderedDict[Cid, bytes] = OrderedDict()
        self._kept: dict[Cid, None] = {}

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
            case LocationFound():
                return self._on_location_found(event, now)
            case RulesFailed() | CloseRequested() | RuleRead():
                machine = self.host if event.cid in self.host.connections else self.gate
                return self._from_host(machine.handle(event, now))
            case OpenRequested() | StopRequested() | DataAnswered() | SourcesChanged():
                return self._from_host(self.host.handle(event, now))
            case TimePassed() | ClockSet():
                effects = self._from_host(self.host.handle(event, now))
                return effects + self.gate.handle(event, now)
            case _:
                assert_never(event)

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due, monotonic seconds."""
        due = [at for at in (self.host.deadline, self.gate.deadline) if at is not None]
        return min(due, default=None)

    @property
    def _most(self) -> float:
        """The longest lifetime that our rules have, seconds."""
        return self.gate.context.lifetime_s

    def _on_message_received(self, event: MessageReceived, now: float) -> list[Effect]:
        cid, message = event.header.cid, event.message
        passage = self.gate.passages.get(cid)
        theirs = event.header.seq % 2 == 1  # of a responder that has moved: not for us to find
        asks = isinstance(message, Open) and not theirs
        asked_again = asks and passage and passage.stage is Stage.PENDING
        if passage is not None and not asked_again:
            return self.gate.handle(event, now)
        if cid in self.host.connections:
            effects = self._from_host(self.host.handle(event, now))
        elif not isinstance(message, Open):
            return self.gate.handle(event, now)
        elif theirs:
            return [Dropped(DropReason.UNKNOWN, event.source)]
        elif has_passed(message, self.gate.context.key.public):
            return [Dropped(DropReason.UNEXPECTED, event.source)]
        else:
            opened = self._check(event, message, now)
            if not isinstance(opened, CheckedOpen):
                return [opened]
            terms = opened.terms
            if terms.to_key != self.host.context.key.public:
                return [FindLocation(terms.to_key, terms.source.family, event, opened)]
            effects = self._from_host(self.host.handle(event, now))
        connection = self.host.connections.get(cid)
        offer = connection.offer if connection is not None else None
        dropped = any(isinstance(effect, Dropped) for effect in effects)
        if connection is None or offer is None or dropped or not isinstance(message, Open):
            return effects
        about, there = connection.agreement, offer.wire.destination.ip
        if about.service != c.LOCATION_SERVICE:
            return effects
        self._remember(event, message, offer)
        return await_from(self.gate.table, about.peer.key, there, self._most) + effects

    def _check(self, event: MessageReceived, message: Open, now: float) -> CheckedOpen | Effect:
        context = self.gate.context
        opened = check_open(event, message, context.names, context.epoch_s + now)
        if opened is DropReason.TIME:
            return self._door.challenge(event, event.header, message.hops, now)
        return Dropped(opened, event.source) if isinstance(opened, DropReason) else opened

    # --- who registers ---

    def _remember(self, event: MessageReceived, message: Open, offer: Offer) -> None:
        """Keep what a host has signed until its CONFIRM shows that it is there. Spec: R-10.2."""
        header = event.header
        if offer.hash != open_hash(header, message.signed):
            return
        record = encode(replace(header, proofs=()), Open(message.signed, message.signature))
        self._asked.pop(header.cid, None)
        while len(self._asked) >= ASKED_MAX:
            self._asked.popitem(last=False)
        self._asked[header.cid] = record

    def _from_host(self, effects: list[Effect]) -> list[Effect]:
        """What the host reports of registrations, as changes of where hosts are. Spec: R-10.2."""
        for effect in list(effects):
            if isinstance(effect, ReportOpened) and effect.service == c.LOCATION_SERVICE:
                effects += self._located(effect.cid, effect.lifetime_s)
            elif isinstance(effect, ReportClosed) and effect.service == c.LOCATION_SERVICE:
                effects += self._located(effect.cid, 0.0) if effect.cid in self._kept else []
                self._asked.pop(effect.cid, None)
                self._kept.pop(effect.cid, None)
        return effects

    def _located(self, cid: Cid, lifetime_s: float) -> list[Effect]:
        record, connection = self._asked.get(cid), self.host.connections.get(cid)
        if record is None or connection is None:
            return []
        key, seen = connection.agreement.peer.key, connection.agreement.wire.destination
        located = read_location(record, key)
        if located is None or (lifetime_s and located.at.ip != seen.ip):
            return []  # behind a NAT that it does not know of yet: it will say so in a moment
        self._kept[cid] = None
        effects: list[Effect] = [KeepLocation(key, seen.family, record, located.order, lifetime_s)]
        if lifetime_s:
            effects += follow(self.gate.table, key, seen.ip, self._most)
        return effects

    # --- who is looked for ---

    def _on_location_found(self, event: LocationFound, now: float) -> list[Effect]:
        """Say no, or where the host is; or pass the OPEN on, and hide it. Spec: R-10.4."""
        asked, opened, forwarding = event.asked, event.opened, self.gate.forwarding
        message = asked.message
        assert isinstance(message, Open)
        verdict = forwarding.judge(asked, opened)
        refusal = misplaced(asked, opened)
        if verdict.action is PolicyAction.REJECT:
            reason = verdict.reason or "the policy of this rendezvous does not allow it"
            refusal = Refusal(Code.POLICY, reason, verdict.rule)
        if refusal is not None:
            return forwarding.refuse(asked, opened, refusal)
        if verdict.action is PolicyAction.CHALLENGE and not asked.proved:
            return [self._door.challenge(asked, asked.header, message.hops, now)]
        elsewhere = forwarding.redirect_via(asked, opened, verdict, now)
        if elsewhere:
            return elsewhere
        located = read_location(event.record, opened.terms.to_key)
        if located is None or located.at.family != opened.source.family:
            known = opened.to_name or "that host"
            refusal = Refusal(Code.NO_ROUTE, f"{known} is not registered here at the moment")
            return forwarding.refuse(asked, opened, refusal)
        cid, ours = asked.header.cid, (self.gate.context.key.public,)
        unix_s, to = self.gate.context.epoch_s + now, opened.terms.destination.ip
        sent = located.walled and check_approval(cid, opened.terms, ours, unix_s)
        if verdict.action is not PolicyAction.STEER and not sent:
            return [forwarding.redirect_to(asked, opened, located.at, now, located.walled)]
        if verdict.action is not PolicyAction.STEER and to != asked.destination.ip:
            return forwarding.call(asked, opened, located.at)
        near, here = opened.source, asked.destination
        way = Way(Role.HIDING, near, here, located.at, here)
        lent = lent_way(asked, opened, way, self.gate.context.box, self.gate.table)
        if isinstance(lent, Refusal):
            return forwarding.refuse(asked, opened, lent)
        return forwarding.pass_on(asked, message, opened, lent, verdict, now)
