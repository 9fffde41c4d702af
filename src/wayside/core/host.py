"""A host's role: its connections by cid, and who may open one to it.

What comes from the network passes the front door, then goes to the connection that it names. An
OPEN that names none is checked here, whole, before anything of it is kept: its time and signature,
that it is meant for us, the policy, the service, and room in the tables. Spec: R-5, R-7.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from . import constants as c
from .address import Address, Flow, Transport
from .admission import FrontDoor, Quota, Spent
from .approval import check_approval
from .codec import Header
from .connection import Agreement, Connection, ConnectionEvent, HostContext, State, hops_size
from .effects import Dropped, Effect, SendDatagram
from .ends import Initiator, Responder
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
from .identity import Names, PeerIdentity
from .messages import Code, Hop, Open, Stop
from .mover import Mover
from .opening import CheckedOpen, Refusal, check_open, redirect, refuse
from .policy import Direction, Party, Pattern, Policy, PolicyAction, Request
from .rule import Cid
from .saved import Saved, agreement_of, restore
from .stopping import Stopping
from .timers import Deadlines
from .virtual import VirtualAddresses
from .way import calls, misled, misplaced


@dataclass(frozen=True, slots=True)
class Offered:
    """A service of this host: its local port, and who may have it (empty: whom the policy lets)."""

    port: int
    allow: tuple[Pattern, ...] = ()

    def is_for(self, key: bytes, name: str | None) -> bool:
        """Whether somebody with this key (32 bytes) and this vouched-for name may have it."""
        party = Party(key, name)
        return not self.allow or any(pattern.fits(party) for pattern in self.allow)


@dataclass(slots=True)
class Answering:
    """How a host answers: whom it believes, what it allows, which services it has."""

    names: Names
    policy: Policy
    services: dict[str, Offered] = field(default_factory=dict[str, Offered])
    approvers: tuple[bytes, ...] = ()
    """Keys, 32 bytes each, one of which must have approved whoever wants something. R-5.7.4."""
    home: Address | None = None
    """Where those are sent who come without: the rendezvous that decides for us."""


class Host:
    """All connections of one host. `virtual`: None where sockets use the wire addresses."""

    def __init__(
        self,
        context: HostContext,
        answering: Answering,
        door: FrontDoor,
        quota: Quota,
        virtual: VirtualAddresses | None = None,
    ) -> None:
        self.context = context
        self.answering = answering
        self.virtual = virtual
        self.connections: dict[Cid, Connection] = {}
        self._by_wire: dict[Flow, Cid] = {}
        self._by_local: dict[Flow, Cid] = {}
        self._door = door
        self._quota = quota
        self._deadlines = Deadlines()
        self._spent = Spent()
        self.stopping = Stopping(context)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take what happened; return what is to be done. The only mutator."""
        match event:
            case DatagramReceived(returned=True):
                connection = self.connections.get(Cid(event.data[16:32]))
                return self._step(connection, event, now) if connection else []
            case DatagramReceived():
                admitted = self._door.admit(event, now)
                if isinstance(admitted, MessageReceived):
                    return self.handle(admitted, now)
                return [admitted]
            case MessageReceived():
                return self._on_message_received(event, now)
            case OpenRequested():
                return self._on_open_requested(event, now)
            case CloseRequested() | DataAnswered() | RulesFailed():
                connection = self.connections.get(event.cid)
                return self._step(connection, event, now) if connection else []
            case StopRequested():
                connection = self.connections.get(event.cid)
                return self.stopping.say(connection, event.lifetime_s, now) if connection else []
            case SourcesChanged():
                if event.own is not None:
                    self.context.own = event.own
                return [
                    effect
                    for connection in list(self.connections.values())
                    if connection.course.destination.ip in event.sources
                    and not self.context.stays(connection.agreement.wire)
                    for effect in self._step(connection, event, now)
                ]
            case TimePassed():
                return self._on_time_passed(now)
            case ClockSet():
                self.context.epoch_s = event.epoch_s
                return []
            case RuleRead() | LocationFound():
                return []
            case _:
                assert_never(event)

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due, monotonic seconds."""
        due = [at for at in (self._deadlines.next, self.stopping.deadline) if at is not None]
        return min(due, default=None)

    def by_wire(self, wire: Flow) -> Connection | None:
        """The connection whose packets to the peer have this 5-tuple on the wire."""
        cid = self._by_wire.get(wire.on_the_wire)
        return self.connections.get(cid) if cid else None

    def by_local(self, local: Flow) -> Connection | None:
        """The connection whose packets to the peer have this 5-tuple at our socket."""
        cid = self._by_local.get(local.on_the_wire)
        return self.connections.get(cid) if cid else None

    def restore(self, cid: Cid, saved: Saved, now: float) -> None:
        """Take up a connection that the kernel still holds after a restart. Spec: R-6.5."""
        kind = Initiator if saved.asked else Responder
        connection = kind(self.context, agreement_of(cid, saved))
        restore(connection, saved, now)
        about = connection.agreement
        self._quota.count(about.wire.destination.ip)
        if self.virtual is not None and not saved.asked:
            self.virtual.claim(about.peer.key, about.local.destination.ip)
        self._keep(connection)
        self._note(connection)

    def _on_open_requested(self, event: OpenRequested, now: float) -> list[Effect]:
        known = self.connections.get(event.cid)
        if known is not None:
            return self._step(known, event, now)
        agreement = Agreement(event.cid, event.peer, event.service, event.wire, event.local)
        effects = self._replace(agreement, now)
        connection = Initiator(self.context, agreement)
        self._quota.count(event.wire.destination.ip)
        self._keep(connection)
        return effects + self._step(connection, event, now)

    def _on_message_received(self, event: MessageReceived, now: float) -> list[Effect]:
        connection = self.connections.get(event.header.cid)
        if connection is None and self._spent.has(event.header.cid, event.header.seq, now):
            return [Dropped(DropReason.STALE, event.source)]
        theirs = event.header.seq % 2 == 1  # of a responder that has moved: we opened it, or nobody
        if connection is None and (theirs or not isinstance(event.message, Open)):
            return [Dropped(DropReason.UNKNOWN, event.source)]
        if connection is not None and isinstance(event.message, Stop):
            return self._on_stop(connection, event, event.message, now)
        if connection is not None and not isinstance(event.message, Open):
            return self._step(connection, event, now)
        assert isinstance(event.message, Open)
        opened = check_open(event, event.message, self.answering.names, self.context.unix_s(now))
        if opened is DropReason.TIME:
            return [self._door.challenge(event, event.header, event.message.hops, now)]
        if isinstance(opened, DropReason):
            return [Dropped(opened, event.source)]
        return self._on_open(connection, event, event.message, opened, now)

    def _on_open(
        self,
        connection: Connection | None,
        event: MessageReceived,
        message: Open,
        opened: CheckedOpen,
        now: float,
    ) -> list[Effect]:
        """Whether we take part at all in what was asked well. Spec: R-5.1."""
        if calls(message):
            return [self._called(event, message.hops, opened, now)]
        if opened.terms.to_key != self.context.key.public:
            return [self._refuse(event, opened, Code.BAD_IDENTITY, "another host lives here")]
        if hops_size(message.hops) > c.HOPS_BYTES_MAX:
            return [self._refuse(event, opened, Code.ROUTE_TOO_LONG, "no room for the hops")]
        if self.stopping.refuses(event.header.cid, opened.terms.from_key, connection is None, now):
            return [self._refuse(event, opened, Code.POLICY, "this host has said STOP")]
        refusal = self._misplaced(event, message, opened)
        if connection is not None and refusal is not None:
            return [Dropped(DropReason.ADDRESS, event.source)]
        if refusal is not None:
            return [refuse(self.context.key, self.context.name, event, opened.hash, refusal)]
        if connection is None:
            found = self._judge(event, opened, now)
            if not isinstance(found, Responder):
                return [found]
            connection = found
        assert isinstance(connection, Initiator | Responder)
        other = self.by_wire(connection.wire_for(event, opened))
        if other is not None and other.agreement.peer.key != connection.agreement.peer.key:
            return [self._refuse(event, opened, Code.BUSY, "these addresses are in use")]
        return self._answer(connection, opened, event, now)

    def _called(
        self, event: MessageReceived, hops: tuple[Hop, ...], opened: CheckedOpen, now: float
    ) -> Effect:
        """Have our NAT let in who asks, as our rendezvous says that he may. Spec: R-12.7."""
        by, there = hops[-1].key, opened.source.with_port(c.SIGNALING_PORT)
        known = by in self.context.finders(there.family) and not there.ip.is_loopback
        known = known and opened.terms.to_key == self.context.key.public
        if not known or not self.context.is_called((by,), opened, now):
            return Dropped(DropReason.UNEXPECTED, event.source)
        here = None if event.destination.ip.is_unspecified else event.destination
        return SendDatagram(Header(0, 0, event.header.cid).signing, there, here)

    def _on_stop(
        self, connection: Connection, event: MessageReceived, message: Stop, now: float
    ) -> list[Effect]:
        """A box filters, as we asked; or the other end wants no more: then it is over. R-5.8.5."""
        taken = self.stopping.on_stop(connection, event, message, now)
        if isinstance(taken, DropReason):
            return [Dropped(taken, event.source)]
        reason = CloseRequested(event.header.cid, "the other end said STOP")
        return self._step(connection, reason, now) if taken else []

    def _misplaced(
        self, event: MessageReceived, message: Open, opened: CheckedOpen
    ) -> Refusal | None:
        """Why no packets may be said to be of these addresses. Spec: R-5.1.6, R-6.3."""
        known = self.context.is_known_as(opened.flow.destination.ip)
        elsewhere = None if known else misled(event, message, opened)
        refusal = elsewhere or misplaced(event, opened)
        if self.virtual is not None and self.virtual.covers(opened.source.ip):
            refusal = refusal or Refusal(Code.BAD_ADDRESS, "an address inside a host")
        return refusal

    def _judge(self, event: MessageReceived, opened: CheckedOpen, now: float) -> Responder | Effect:
        """A responder for a new connection, or the REJECT that it gets instead. Spec: R-5.6."""
        terms = opened.terms
        message = event.message
        assert isinstance(message, Open)
        request = Request(
            terms.from_key,
            opened.from_name,
            terms.to_key,
            opened.to_name,
            terms.service,
            terms.transport,
            Direction.IN,
        )
        verdict = self.answering.policy.decide(request)
        if verdict.action is PolicyAction.REJECT:
            return self._refuse(event, opened, Code.POLICY, verdict.reason, verdict.rule)
        if verdict.action is PolicyAction.CHALLENGE and not event.proved:
            return self._door.challenge(event, event.header, message.hops, now)
        answering, unix_s = self.answering, self.context.unix_s(now)
        if answering.approvers and not check_approval(
            event.header.cid, terms, answering.approvers, unix_s
        ):
            if answering.home is not None and answering.home.family == terms.source.family:
                there = answering.home
                return redirect(self.context.key, event, opened, there, 0, unix_s)
            reason = "only with the approval of this host's home"
            return self._refuse(event, opened, Code.POLICY, reason)
        offered = self.answering.services.get(terms.service)
        if offered is None:
            return self._refuse(event, opened, Code.NO_SERVICE, f"no service {terms.service} here")
        if not offered.is_for(terms.from_key, opened.from_name):
            reason = f"{terms.service} is not for {opened.from_name or 'you'}"
            return self._refuse(event, opened, Code.POLICY, reason, terms.service)
        behind = self.context.is_behind(message.hops, opened)
        if behind and terms.transport.is_tcp and not terms.sealed:
            reason = "the NAT before this host lets TCP in only if it knows the SYN: say it first"
            return self._refuse(event, opened, Code.DISCLOSURE_REQUIRED, reason)
        return self._responder(event, opened, offered.port)

    def _responder(
        self, event: MessageReceived, opened: CheckedOpen, port: int
    ) -> Responder | Effect:
        terms = opened.terms
        port = 0 if terms.transport is Transport.NONE else port
        peer = PeerIdentity(terms.from_key, opened.from_name or "", terms.from_certificate)
        here = event.destination
        here = terms.destination if here.ip.is_unspecified else here
        wire = Flow(terms.transport, here.with_port(port), opened.source)
        other = self.by_wire(wire)
        if other is not None and other.agreement.peer.key != peer.key:
            return self._refuse(event, opened, Code.BUSY, "these addresses are in use")
        asked_s = other.offer.asked.time_s if isinstance(other, Responder) and other.offer else 0
        if terms.time_s < asked_s and not event.proved:
            return Dropped(DropReason.STALE, event.source)
        if not self._quota.take(wire.destination.ip):
            return self._refuse(event, opened, Code.BUSY, "too many connections")
        try:
            local = self._local(wire, peer.key, port)
        except OverflowError:
            self._quota.release(wire.destination.ip)
            return self._refuse(event, opened, Code.BUSY, "too many peers")
        return Responder(
            self.context, Agreement(event.header.cid, peer, terms.service, wire, local)
        )

    def _local(self, wire: Flow, peer: bytes, port: int) -> Flow:
        """The 5-tuple that the application's socket has. Spec: R-6.3."""
        if self.virtual is None:
            return wire
        family = wire.family
        source = Address(self.virtual.own(family), port)
        destination = Address(self.virtual.lend(peer, family), wire.destination.port)
        return Flow(wire.transport, source, destination)

    def _answer(
        self,
        connection: Initiator | Responder,
        opened: CheckedOpen,
        event: MessageReceived,
        now: float,
    ) -> list[Effect]:
        """Let an end answer; a new one is kept, and takes the place of what was there."""
        before = connection.agreement
        answered = connection.answer(opened, event, now)
        about = connection.agreement
        dropped = len(answered) == 1 and isinstance(answered[0], Dropped)
        if not dropped:
            self._spent.add(about.cid, event.header.seq, now)
        if about.cid in self.connections:
            return self._stepped(connection, before, answered, now)
        if dropped:
            self._release(connection)
            return answered
        effects = self._replace(about, now)
        self._keep(connection)
        return effects + answered

    def _replace(self, about: Agreement, now: float) -> list[Effect]:
        """Close what has the addresses of a new connection: its ends know that it is over."""
        effects: list[Effect] = []
        for old in (self.by_wire(about.wire), self.by_local(about.local)):
            if old is not None:
                effects += self._step(old, CloseRequested(old.agreement.cid, "replaced"), now)
        return effects

    def _on_time_passed(self, now: float) -> list[Effect]:
        effects = self.stopping.on_time_passed(now)
        for cid in self._deadlines.take_due(now):
            connection = self.connections.get(cid)
            if connection is not None:
                effects += self._step(connection, TimePassed(), now)
        return effects

    def _step(self, connection: Connection, event: ConnectionEvent, now: float) -> list[Effect]:
        before = connection.agreement
        return self._stepped(connection, before, connection.handle(event, now), now)

    def _stepped(
        self, connection: Connection, before: Agreement, effects: list[Effect], now: float
    ) -> list[Effect]:
        """Keep the books of a connection that may have moved, or ended."""
        self._note(connection)
        if connection.agreement is not before:
            self._unindex(before)
            self._quota.release(before.wire.destination.ip)
            self._quota.count(connection.agreement.wire.destination.ip)
            other = self.by_wire(connection.agreement.wire)
            if other is not None and other is not connection:
                replaced = CloseRequested(other.agreement.cid, "replaced")
                effects = self._step(other, replaced, now) + effects
            self._index(connection.agreement)
            if before.service == c.LOCATION_SERVICE and isinstance(connection, Initiator):
                effects = self._follow(connection.agreement) + effects
        self._watch(connection)
        return effects

    def _follow(self, registration: Agreement) -> list[Effect]:
        """Our rendezvous takes us in where we are: change all rules, then CONFIRM. Spec: R-10.5."""
        changes: list[Effect] = []
        told: list[Effect] = []
        for connection in list(self.connections.values()):
            before = connection.agreement
            if isinstance(connection, Mover) and connection.hider == registration.peer.key:
                effects = connection.follow(registration.wire.source.ip)
                changes += effects[:1]
                told += effects[1:]
                self._unindex(before)
                self._index(connection.agreement)
        return changes + told

    def _note(self, connection: Connection) -> None:
        """Know by which registrations a NAT that says nothing is before us. Spec: R-12.6."""
        about = connection.agreement
        up = connection.state is State.CONNECTED
        if about.service == c.LOCATION_SERVICE and about.outside is not None and up:
            self.context.behind[about.cid] = (about.peer.key, about.outside.ip)
        else:
            self.context.behind.pop(about.cid, None)

    def _keep(self, connection: Connection) -> None:
        self.connections[connection.agreement.cid] = connection
        self._index(connection.agreement)
        self._watch(connection)

    def _index(self, about: Agreement) -> None:
        if about.wire.transport is Transport.NONE:
            return  # no packets, so no flow that two could want
        self._by_wire[about.wire.on_the_wire] = about.cid
        self._by_local[about.local.on_the_wire] = about.cid

    def _unindex(self, about: Agreement) -> None:
        for index, flow in ((self._by_wire, about.wire), (self._by_local, about.local)):
            if index.get(flow.on_the_wire) == about.cid:
                del index[flow.on_the_wire]

    def _watch(self, connection: Connection) -> None:
        """Remember when this connection is due next; forget one that has ended."""
        about = connection.agreement
        if connection.is_forgotten:
            if self.connections.pop(about.cid, None) is not None:
                self._release(connection)
            self._unindex(about)
            self._deadlines.set(about.cid, None)
        elif about.cid in self.connections:
            self._deadlines.set(about.cid, connection.deadline)

    def _release(self, connection: Connection) -> None:
        """Give back what a connection took of the tables that have an end."""
        about = connection.agreement
        self._quota.release(about.wire.destination.ip)
        if self.virtual is not None and isinstance(connection, Responder):
            self.virtual.give_back(about.local.destination.ip)

    def _refuse(
        self, event: MessageReceived, opened: CheckedOpen, code: Code, reason: str, rule: str = ""
    ) -> Effect:
        context = self.context
        return refuse(context.key, context.name, event, opened.hash, Refusal(code, reason, rule))
