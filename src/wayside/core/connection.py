"""What both ends of a connection obey: its states, its rules, its end.

An initiator and a responder differ in how a connection comes up. Once it is up they are alike:
each holds the agreed 5-tuples, a key that only the two know, and the hops to tell when it is
over. That is written once, here. Spec: R-5.4, R-5.9, R-6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, assert_never

from . import constants as c
from .address import IP, Address, Flow, Transport
from .approval import check_approval
from .codec import Header, encode_body
from .crypto import BadSignature, SigningKey, agree, check_mac, derive, digest, mac
from .effects import (
    ChangeRules,
    Dropped,
    Effect,
    ForgetConnection,
    ReportClosed,
    ReportOpened,
    SendDatagram,
)
from .errors import DropReason, IllegalMove
from .events import (
    CloseRequested,
    DataAnswered,
    DatagramReceived,
    MessageReceived,
    OpenRequested,
    RulesFailed,
    SourcesChanged,
    TimePassed,
)
from .identity import PeerIdentity
from .messages import Accept, Challenge, Close, Confirm, Hop, Open, Redirect, Reject, Stop, encode
from .opening import CheckedOpen, cut
from .rule import Action, Cid, Rule, note_of
from .ticket import Tickets
from .timers import Timer, Timers

if TYPE_CHECKING:  # which imports this
    from .answerer import Offer

ConnectionEvent = (
    MessageReceived
    | OpenRequested
    | CloseRequested
    | DataAnswered
    | DatagramReceived
    | RulesFailed
    | SourcesChanged
    | TimePassed
)


class State(Enum):
    """Where a connection is in its life; the value is a line for docs/states.md."""

    IDLE = "made, nothing said"
    OPENING = "OPEN sent, no answer yet"
    ANSWERING = "asked, with data; waiting a moment for the application's answer"
    OFFERED = "ACCEPT sent, not confirmed yet"
    CONNECTED = "both ends agree; data flows"
    PLAIN = "nobody answered, and the user lets packets go without"
    CLOSING = "CLOSE sent, no echo yet"
    ENDED = "over; remembered for a while"


@dataclass(slots=True)
class HostContext:
    """What all connections of a host share. `epoch_s`: unix time at `now` = 0."""

    key: SigningKey
    entropy: Callable[[int], bytes]
    name: str = ""
    certificate: bytes = b""
    lifetime_s: float = c.LIFETIME_S
    epoch_s: float = 0.0
    redirectors: tuple[bytes, ...] = ()
    """Keys, 32 bytes each, of gates and rendezvous that may send us another way. R-5.7.1."""
    tickets: Tickets = field(default_factory=Tickets)
    own: tuple[Address, ...] = ()
    """Where this host can be asked, each a path of its own."""
    behind: dict[Cid, tuple[bytes, IP]] = field(default_factory=dict[Cid, tuple[bytes, IP]])
    """Registrations that came through a NAT that says nothing: with which key, 32 bytes, and what
    we are called there. Spec: R-12.6."""
    let_in: bool = False
    """Whether that NAT lets everything in, as the user says."""

    def is_behind(self, hops: tuple[Hop, ...], opened: CheckedOpen) -> bool:
        """Whether an OPEN came through such a NAT, which a rendezvous of ours knows of. R-12.6."""
        ours, there = self.finders(opened.source.family), opened.flow.destination.ip
        return bool(ours) and (any(hop.key in ours for hop in hops) or self.is_known_as(there))

    def is_called(self, by: Collection[bytes], opened: CheckedOpen, now: float) -> bool:
        """Whether one of these keys, 32 bytes each, has sent an OPEN here. R-5.7.3, R-12.7."""
        cid, terms, unix_s = opened.header.cid, opened.terms, self.unix_s(now)
        return bool(by and terms.approval) and check_approval(cid, terms, by, unix_s)

    def finders(self, family: int) -> list[bytes]:
        """The rendezvous that know where we are behind such a NAT, by their keys. Spec: R-12.6."""
        known = () if self.let_in else self.behind.values()
        return [key for key, outside in known if outside.version == family]

    def is_known_as(self, ip: IP) -> bool:
        """Whether such a NAT has this address for us. Spec: R-5.1.6."""
        return any(ip == outside for _, outside in self.behind.values())

    def longest_s(self, silent: bool) -> float:
        """The lifetime that we ask for and grant; `silent`: a NAT has to be kept awake. R-12.6."""
        return min(self.lifetime_s, c.SILENT_NAT_S) if silent else self.lifetime_s

    def unix_s(self, now: float) -> float:
        """Wall-clock time, unix seconds."""
        return self.epoch_s + now

    def stays(self, wire: Flow) -> bool:
        """Whether a move of ours leaves this flow alone: a subflow that has its path. R-2.5."""
        here = (one.ip for one in self.own)
        return wire.transport is Transport.MPTCP and wire.source.ip in here

    def alternatives(self, wire: Flow) -> tuple[Address, ...]:
        """Where else the other end of a flow from here can ask us. Spec: R-5.4.7."""
        if wire.transport is Transport.NONE or wire.source.ip.is_loopback:
            return ()
        here = wire.source
        others = (one for one in self.own if one.family == here.family and one.ip != here.ip)
        return tuple(others)[: c.ALTERNATIVES_MAX]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a connection is about. `wire`: our packets outside; `local`: as our socket sees them."""

    cid: Cid
    peer: PeerIdentity
    service: str
    wire: Flow
    local: Flow
    home: Address | None = None
    """Where one asks for the peer when it is not where it was: the rendezvous that told us."""
    stands: str = ""
    """How it is, if it was not agreed with the peer itself. Spec: R-12.3, R-12.4."""
    outside: Address | None = None
    """Our source behind a NAT that says nothing of itself. Spec: R-12.5."""
    alternatives: tuple[Address, ...] = ()
    """Where else the peer has said that it is."""

    @property
    def outbound(self) -> tuple[Rule, ...]:
        """The rule for packets to the peer; none where nothing is rewritten. Spec: R-6.2."""
        return self._rule(self.local, self.wire)

    @property
    def inbound(self) -> tuple[Rule, ...]:
        """The rule for packets from the peer."""
        return self._rule(self.wire.reversed(), self.local.reversed())

    def _rule(self, match: Flow, rewrite: Flow) -> tuple[Rule, ...]:
        if match == rewrite or match.transport is Transport.NONE:
            return ()
        return (Rule(self.cid, match, Action.REWRITE, rewrite, note=note_of(self.service)),)


def connection_key(secret: bytes, theirs: bytes, asked: bytes, salt: bytes) -> bytes:
    """The key that only the two ends know, 32 bytes; `asked`: the open_hash. Spec: R-4.3.

    Raises BadSignature.
    """
    return derive(agree(secret, theirs), digest(asked, salt), b"wayside connection")


@dataclass(slots=True)
class Keys:
    """The keys of the last two agreed OPENs by seq: while one end has moved on, both hold.

    `offered`: the seq and key of an ACCEPT from before a restart, which the other end may have;
    `agreed`: the newest OPEN that we agreed to, and whose CONFIRM we have; None after a restart.
    `moved`: the seq of our own newest agreed OPEN that was sent from another address; -1: none.
    """

    by_seq: dict[int, bytes] = field(default_factory=dict[int, bytes])
    offered: tuple[int, bytes] | None = None
    agreed: Offer | None = None
    moved: int = -1

    def add(self, seq: int, key: bytes) -> None:
        """Agree on a key for this and later messages."""
        self.by_seq[seq] = key
        for old in sorted(self.by_seq)[:-2]:
            del self.by_seq[old]

    @property
    def seq(self) -> int:
        """The seq of the newest; -1 before there is one."""
        return max(self.by_seq, default=-1)


class Connection:
    """One end of one connection. Subclasses say how it comes up."""

    __slots__ = (
        "agreement",
        "attempt",
        "hops",
        "host",
        "keys",
        "lifetime_s",
        "offer",
        "old",
        "state",
        "timers",
        "towards",
        "tries",
    )
    PARITY: ClassVar[int]
    """0: the initiator, whose seqs are even; 1: the responder. Spec: R-5.1.1."""
    TRANSITIONS: ClassVar[dict[State, frozenset[State]]]

    def __init__(self, host: HostContext, agreement: Agreement) -> None:
        self.host = host
        self.agreement = agreement
        self.state = State.IDLE
        self.timers = Timers()
        self.keys = Keys()
        self.hops: tuple[Hop, ...] = ()
        self.towards: Address = agreement.wire.destination
        self.lifetime_s = host.lifetime_s
        self.attempt = None
        self.offer = None
        self.tries = 0
        self.old: tuple[Rule, ...] = ()
        """What lets packets in that are still on the way which they took before a move."""

    @property
    def course(self) -> Flow:
        """The addresses that it has agreed on; those that are asked for as long as it opens."""
        asked = self.attempt if self.state is State.OPENING else None
        return asked.wire if asked is not None else self.agreement.wire

    def handle(self, event: ConnectionEvent, now: float) -> list[Effect]:
        """Take what happened; return what is to be done. The only mutator."""
        match event:
            case MessageReceived():
                return self._on_message_received(event, now)
            case OpenRequested():
                return self._on_open_requested(event, now)
            case CloseRequested():
                return self._on_close_requested(event, now)
            case DataAnswered():
                return self._on_data_answered(event, now)
            case RulesFailed():
                return self._on_rules_failed(event, now)
            case SourcesChanged():
                return self._on_sources_changed(event, now)
            case DatagramReceived():
                return self._on_returned(event, now)
            case TimePassed():
                return [
                    effect
                    for timer in self.timers.take_due(now)
                    for effect in self._on_timer(timer, now)
                ]
            case _:
                assert_never(event)

    @property
    def deadline(self) -> float | None:
        """When `TimePassed` is due, monotonic seconds."""
        return self.timers.deadline

    @property
    def is_forgotten(self) -> bool:
        """Whether nothing is left to remember."""
        return self.state is State.ENDED and self.timers.deadline is None

    def _on_message_received(self, event: MessageReceived, now: float) -> list[Effect]:
        match event.message:
            case Open():
                return self._on_open(event, event.message, now)
            case Accept():
                return self._on_accept(event, event.message, now)
            case Confirm():
                return self._on_confirm(event, event.message, now)
            case Challenge():
                return self._on_challenge(event, event.message, now)
            case Reject():
                return self._on_reject(event, event.message, now)
            case Redirect():
                return self._on_redirect(event, event.message, now)
            case Close():
                return self._on_close(event, event.message, now)
            case Stop():
                return self._drop(event, DropReason.UNEXPECTED)  # the host's business: stopping.py
            case _:
                assert_never(event.message)

    def _on_open_requested(self, event: OpenRequested, now: float) -> list[Effect]:
        raise IllegalMove("only an idle initiator opens")

    def settle(self, now: float) -> list[Effect]:
        """The other end's question was answered: see to our own."""
        return []

    def _on_data_answered(self, event: DataAnswered, now: float) -> list[Effect]:
        return []

    def _on_sources_changed(self, event: SourcesChanged, now: float) -> list[Effect]:
        return []

    def _on_returned(self, event: DatagramReceived, now: float) -> list[Effect]:
        return []

    def _on_open(self, event: MessageReceived, message: Open, now: float) -> list[Effect]:
        return self._drop(event, DropReason.UNEXPECTED)

    def _on_accept(self, event: MessageReceived, message: Accept, now: float) -> list[Effect]:
        return self._drop(event, DropReason.UNEXPECTED)

    def _on_confirm(self, event: MessageReceived, message: Confirm, now: float) -> list[Effect]:
        return self._drop(event, DropReason.UNEXPECTED)

    def _on_challenge(self, event: MessageReceived, message: Challenge, now: float) -> list[Effect]:
        return self._drop(event, DropReason.UNEXPECTED)

    def _on_reject(self, event: MessageReceived, message: Reject, now: float) -> list[Effect]:
        return self._drop(event, DropReason.UNEXPECTED)

    def _on_redirect(self, event: MessageReceived, message: Redirect, now: float) -> list[Effect]:
        return self._drop(event, DropReason.UNEXPECTED)

    def _on_timer(self, timer: Timer, now: float) -> list[Effect]:
        match timer:
            case Timer.RETRANSMIT if self.state is State.CLOSING:
                return self._say_close("", now)
            case Timer.EXPIRE if self.state is not State.ENDED:
                return self._end("the lifetime is over", now)
            case Timer.GIVE_UP if self.state is State.CLOSING:
                return self._end("", now, report=False)
            case _:
                return []

    def _on_close_requested(self, event: CloseRequested, now: float) -> list[Effect]:
        """Tell the route and the other end; our own rules go at once. Spec: R-5.9."""
        if self.state in (State.CLOSING, State.ENDED):
            return []
        if self.keys.seq < 0 or self.state is not State.CONNECTED:
            return self._end(event.reason or "closed before it was open", now)
        self._enter(State.CLOSING)
        self.timers.stop()
        self.timers.start(Timer.GIVE_UP, now + c.RETRANSMIT_FIRST_S * 2**c.CLOSE_TRIES)
        return [
            ChangeRules(self.agreement.cid, remove=self._rules),
            ForgetConnection(self.agreement.cid),
            self._report_closed(event.reason or "closed here"),
            *self._say_close(event.reason, now),
        ]

    def _say_close(self, reason: str, now: float) -> list[Effect]:
        if self.tries >= c.CLOSE_TRIES:
            return []
        self.tries += 1
        self.timers.start(Timer.RETRANSMIT, now + c.RETRANSMIT_FIRST_S * 2 ** (self.tries - 1))
        return [self._close_datagram(reason)]

    def _close_datagram(self, reason: str) -> SendDatagram:
        seq = self.keys.seq
        reason = cut(reason, c.REASON_BYTES_MAX)
        header = Header(Close.TYPE, seq, self.agreement.cid)
        covered = mac(self.keys.by_seq[seq], header.signing, reason.encode())
        return SendDatagram(
            encode(header, Close(covered, reason, self.hops)),
            self.towards,
            self.agreement.wire.source,
        )

    def _on_close(self, event: MessageReceived, message: Close, now: float) -> list[Effect]:
        """The other end is done: echo it, so that it and the hops know that we know. R-5.9."""
        key = self.keys.by_seq.get(event.header.seq)
        if key is None:
            return self._drop(event, DropReason.STALE)
        try:
            check_mac(key, message.mac, event.header.signing, message.reason.encode())
        except BadSignature:
            return self._drop(event, DropReason.SIGNATURE)
        if self.state is State.CLOSING:
            return self._end("", now, report=False)
        echo: list[Effect] = []
        if self.tries < c.CLOSE_TRIES:
            self.tries += 1
            echo.append(self._close_datagram(message.reason))
        if self.state is State.ENDED:
            return echo
        return self._end(message.reason or "closed by the other end", now) + echo

    def _on_rules_failed(self, event: RulesFailed, now: float) -> list[Effect]:
        """We cannot keep our word: tell the other end, as if the application had closed."""
        reason = f"the kernel refused the rules: {event.why}"
        return self._on_close_requested(CloseRequested(event.cid, reason), now)

    def _end(self, reason: str, now: float, report: bool = True) -> list[Effect]:
        """Take the rules away and remember for a while that this is over. Spec: R-5.9.4."""
        if self.state is State.ENDED:
            return []
        self._enter(State.ENDED)
        self.timers.stop()
        self.timers.start(Timer.EXPIRE, now + c.LINGER_S)
        if not report:
            return []
        return [
            ChangeRules(self.agreement.cid, remove=self._rules),
            ForgetConnection(self.agreement.cid),
            self._report_closed(reason),
        ]

    @property
    def _rules(self) -> tuple[Rule, ...]:
        return self.agreement.outbound + self.agreement.inbound + self.old

    def _switch(
        self, wire: Flow, then: tuple[SendDatagram, ...] = (), offered: tuple[Rule, ...] = ()
    ) -> ChangeRules:
        """Our packets take this way from now on; theirs may come the old one for a while. R-6.2.

        `offered`: what lets them in where the other end may still think that we are.
        """
        before, leaving = self.agreement, self.old
        local = wire if before.local == before.wire else before.local
        self.agreement = replace(before, wire=wire, local=local)
        there = self.agreement.outbound + self.agreement.inbound
        kept = {rule.match for rule in there}
        others = dict.fromkeys((*before.inbound, *offered))
        self.old = tuple(rule for rule in others if rule.match not in kept)
        kept |= {rule.match for rule in self.old}
        gone = tuple(rule for rule in leaving + before.outbound if rule.match not in kept)
        put = there if wire != before.wire else ()  # made anew, they would count from zero
        return ChangeRules(before.cid, put, gone, then)

    def _learn(self, alternatives: tuple[Address, ...]) -> None:
        """Where else the other end can be asked, as it said last. Spec: R-5.4.7."""
        family = self.agreement.wire.family
        kept = tuple(one for one in alternatives if one.family == family)
        if kept != self.agreement.alternatives:
            self.agreement = replace(self.agreement, alternatives=kept)

    def _up(self) -> ReportOpened:
        """What there is to say of a connection that goes on by what is agreed now."""
        about = self.agreement
        peer, flows = str(about.peer), (about.wire, about.local)
        return ReportOpened(
            about.cid, peer, about.service, *flows, self.lifetime_s, stands=about.stands
        )

    def _report_closed(self, reason: str) -> ReportClosed:
        about = self.agreement
        return ReportClosed(about.cid, str(about.peer), about.service, reason)

    def _enter(self, new: State) -> None:
        if new not in self.TRANSITIONS[self.state]:
            raise IllegalMove(f"{type(self).__name__}: {self.state.name} to {new.name}")
        self.state = new

    def _drop(self, event: MessageReceived, reason: DropReason) -> list[Effect]:
        return [Dropped(reason, event.source)]


def confirm_proof(key: bytes, seq: int, cid: Cid) -> bytes:
    """What only the two ends can show, 16 bytes: CONFIRM shows it to the gates. Spec: R-5.3.4."""
    return mac(key, Header(Confirm.TYPE, seq, cid).signing)


def accept_seen(message: Accept) -> bytes:
    """What a CONFIRM says was seen: the ACCEPT's terms and what hops added to it. Spec: R-5.3."""
    return digest(message.signed, *(address.pack() for address in message.returned))


def hops_size(hops: tuple[Hop, ...]) -> int:
    """Bytes that the hop records take in a message."""
    return sum(len(encode_body(hop)) + 3 for hop in hops)
