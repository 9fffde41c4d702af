"""A host's role: its connections by cid, and who may open one to it.

What comes from the network passes the front door, then goes to the connection that it names. An
OPEN that names none is checked here, whole, before anything of it is kept: its time and signature,
that it is meant for us, the policy, the service, and room in the tables. Spec: R-5, R-7.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import assert_never

from .address import Address, Flow
from .admission import FrontDoor, Quota
from .connection import Agreement, Connection, ConnectionEvent, HostContext
from .effects import Dropped, Effect
from .errors import DropReason
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
from .identity import Names, PeerIdentity
from .initiator import Initiator
from .messages import Code, Open
from .opening import CheckedOpen, Refusal, check_open, refuse
from .policy import Direction, Policy, PolicyAction, Request
from .responder import Responder
from .rule import Cid
from .saved import Saved, agreement_of, restore
from .virtual import VirtualAddresses


@dataclass(slots=True)
class Answering:
    """How a host answers: whom it believes, what it allows, which services it has (name: port)."""

    names: Names
    policy: Policy
    services: dict[str, int] = field(default_factory=dict[str, int])


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
        self._door = door
        self._quota = quota
        self._deadlines: list[tuple[float, Cid]] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take what happened; return what is to be done. The only mutator."""
        match event:
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
            case TimePassed():
                return self._on_time_passed(now)
            case ClockSet():
                self.context.epoch_s = event.epoch_s
                return []
            case _:
                assert_never(event)

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due, monotonic seconds."""
        return self._deadlines[0][0] if self._deadlines else None

    def by_wire(self, wire: Flow) -> Connection | None:
        """The connection whose packets to the peer have this 5-tuple on the wire."""
        cid = self._by_wire.get(wire)
        return self.connections.get(cid) if cid else None

    def restore(self, cid: Cid, saved: Saved, now: float) -> None:
        """Take up a connection that the kernel still holds after a restart. Spec: R-6.5."""
        kind = Initiator if saved.asked else Responder
        connection = kind(self.context, agreement_of(cid, saved))
        restore(connection, saved, now)
        self._quota.take(connection.agreement.wire.destination.ip)
        self._keep(connection)

    def _on_open_requested(self, event: OpenRequested, now: float) -> list[Effect]:
        agreement = Agreement(event.cid, event.peer, event.service, event.wire, event.local)
        connection = Initiator(self.context, agreement)
        self._quota.take(event.wire.destination.ip)
        self._keep(connection)
        return self._step(connection, event, now)

    def _on_message_received(self, event: MessageReceived, now: float) -> list[Effect]:
        connection = self.connections.get(event.header.cid)
        if not isinstance(event.message, Open) or isinstance(connection, Initiator):
            if connection is None:
                return [Dropped(DropReason.UNKNOWN, event.source)]
            return self._step(connection, event, now)
        opened = check_open(event, event.message, self.answering.names, self.context.unix_s(now))
        if isinstance(opened, DropReason):
            return [Dropped(opened, event.source)]
        if opened.terms.to_key != self.context.key.public:
            return [self._refuse(event, opened, Code.BAD_IDENTITY, "another host lives here")]
        if connection is None:
            found = self._judge(event, opened, now)
            if not isinstance(found, Responder):
                return [found]
            connection = found
        assert isinstance(connection, Responder)
        return self._answer(connection, opened, event, now)

    def _judge(
        self, event: MessageReceived, opened: CheckedOpen, now: float
    ) -> Responder | Effect:
        """A responder for a new connection, or the REJECT that it gets instead. Spec: R-5.6."""
        terms = opened.terms
        if event.destination.ip != terms.destination.ip and not event.destination.ip.is_unspecified:
            return self._refuse(event, opened, Code.BAD_ADDRESS, "sent to another address")
        if terms.source.ip != event.source.ip and not _has_hops(event):
            return self._refuse(
                event, opened, Code.BAD_ADDRESS, f"it came from {event.source.ip}: a NAT on the path"
            )
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
            message = event.message
            assert isinstance(message, Open)
            return self._door.challenge(event.header, event.source, now, message.hops)
        port = self.answering.services.get(terms.service)
        if port is None:
            return self._refuse(event, opened, Code.NO_SERVICE, f"no service {terms.service} here")
        return self._responder(event, opened, port)

    def _responder(
        self, event: MessageReceived, opened: CheckedOpen, port: int
    ) -> Responder | Effect:
        terms = opened.terms
        peer = PeerIdentity(terms.from_key, opened.from_name or "", terms.from_certificate)
        wire_port = terms.destination.port if self.virtual and terms.destination.port else port
        wire = Flow(terms.transport, terms.destination.with_port(wire_port), terms.source)
        try:
            local = self._local(wire, peer.key, port)
        except OverflowError:
            return self._refuse(event, opened, Code.BUSY, "too many peers")
        other = self.by_wire(wire)
        if other is not None and other.agreement.peer.key != peer.key:
            return self._refuse(event, opened, Code.BAD_ADDRESS, "these addresses are in use")
        if not self._quota.take(terms.source.ip):
            return self._refuse(event, opened, Code.BUSY, "too many connections")
        return Responder(self.context, Agreement(event.header.cid, peer, terms.service, wire, local))

    def _local(self, wire: Flow, peer: bytes, port: int) -> Flow:
        """The 5-tuple that the application's socket has. Spec: R-6.3."""
        if self.virtual is None:
            return wire
        family = wire.family
        source = Address(self.virtual.own(family), port)
        destination = Address(self.virtual.of(peer, family), wire.destination.port)
        return Flow(wire.transport, source, destination)

    def _answer(
        self, connection: Responder, opened: CheckedOpen, event: MessageReceived, now: float
    ) -> list[Effect]:
        replaced = self.by_wire(connection.agreement.wire)
        effects: list[Effect] = []
        if replaced is not None and replaced is not connection:
            effects = self._step(replaced, CloseRequested(replaced.agreement.cid, "replaced"), now)
        answered = connection.answer(opened, event, now)
        if connection.agreement.cid not in self.connections:
            if len(answered) == 1 and isinstance(answered[0], Dropped):
                self._quota.release(connection.agreement.wire.destination.ip)
                return effects + answered
            self._keep(connection)
        self._watch(connection)
        return effects + answered

    def _on_time_passed(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, cid = heapq.heappop(self._deadlines)
            connection = self.connections.get(cid)
            if connection is None:
                continue
            if connection.deadline is not None and connection.deadline <= now:
                effects += self._step(connection, TimePassed(), now)
            else:
                self._watch(connection)
        return effects

    def _step(self, connection: Connection, event: ConnectionEvent, now: float) -> list[Effect]:
        effects = connection.handle(event, now)
        self._watch(connection)
        return effects

    def _keep(self, connection: Connection) -> None:
        self.connections[connection.agreement.cid] = connection
        self._by_wire[connection.agreement.wire] = connection.agreement.cid
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Remember when this connection is due next; forget one that has ended."""
        about = connection.agreement
        if connection.is_forgotten:
            if self.connections.pop(about.cid, None) is not None:
                self._quota.release(about.wire.destination.ip)
            if self._by_wire.get(about.wire) == about.cid:
                del self._by_wire[about.wire]
        elif connection.deadline is not None and about.cid in self.connections:
            heapq.heappush(self._deadlines, (connection.deadline, about.cid))

    def _refuse(
        self, event: MessageReceived, opened: CheckedOpen, code: Code, reason: str, rule: str = ""
    ) -> Effect:
        context = self.context
        return refuse(context.key, context.name, event, opened.hash, Refusal(code, reason, rule))


def _has_hops(event: MessageReceived) -> bool:
    return isinstance(event.message, Open) and bool(event.message.hops)
