"""What happened, twice: as a hash that two runs can be compared by, and as notes for a ladder.

The hash takes in every event and effect of every machine and every packet that any box receives,
with their times, byte for byte. Notes have the words of the daemons' event log, so that the same
ladder can be drawn from either; they are taken only when somebody wants to read them.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import get_args

from wayside.core.address import Flow
from wayside.core.effects import (
    ChangeRules,
    Dropped,
    Effect,
    FindLocation,
    KeepLocation,
    ReportClosed,
    ReportOpened,
    ReportRefused,
    SendDatagram,
)
from wayside.core.events import DatagramReceived, Event
from wayside.core.messages import MESSAGES
from wayside.core.rule import Action, Rule

from .memory import Memory
from .wire import five_tuple

_HEAD = struct.Struct("!dI").pack
_NAMES = {kind: f"<< {kind.__name__}\n".encode() for kind in get_args(Effect)}

PARTS_MAX = 1000
"""What is hashed in one go."""

NOTES_MAX = 200_000
"""A ladder of more is read by nobody; what is beyond is counted."""


@dataclass(frozen=True, slots=True)
class DatagramWords:
    """Of a signaling datagram; `digest`: the first 16 hex digits of its SHA-256."""

    digest: str
    type: str
    seq: int
    bytes: int
    peer: str


@dataclass(frozen=True, slots=True)
class RuleWords:
    """Of a rule."""

    match: str
    action: str
    to: str
    lifetime_s: float | None
    pending: bool


@dataclass(frozen=True, slots=True)
class ReportWords:
    """Of a report: whose, about what, and why."""

    peer: str = ""
    service: str = ""
    flow: str = ""
    lifetime_s: float | None = None
    why: str = ""
    code: str = ""
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the story; names of events and fields are those of the daemons' event log."""

    time: float
    node: str
    role: str
    event: str
    cid: str
    words: DatagramWords | RuleWords | ReportWords


class Trace:
    """The story of one run. `keeps`: notes are wanted, not only the hash."""

    def __init__(self, keeps: bool = False) -> None:
        self.keeps = keeps
        self.notes: list[Note] = []
        self.lost = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._parts: list[bytes] = []

    @property
    def hash(self) -> str:
        """The hash of all that happened so far, 32 hex digits."""
        self._flush()
        return self._hash.hexdigest()

    def packet(self, now: float, mark: bytes, raw: bytes) -> None:
        """A box received a packet; `mark`: packet_mark of the box."""
        parts = self._parts
        parts += (_HEAD(now, len(raw)), mark, raw)
        if len(parts) > PARTS_MAX:
            self._flush()

    def word(self, now: float, node: str, text: str) -> None:
        """Something else happened: a fault, an application's doing."""
        self._fold(now, node, text, b"")

    def step(self, now: float, node: str, event: Event, effects: list[Effect]) -> None:
        """A machine was told something, and said something."""
        data = event.data if isinstance(event, DatagramReceived) else b""
        self._fold(now, node, type(event).__name__, data)
        for effect in effects:
            self._effect(effect)

    def note(self, note: Note) -> None:
        """Keep a note, if anybody wants it."""
        if not self.keeps:
            return
        if len(self.notes) < NOTES_MAX:
            self.notes.append(note)
        else:
            self.lost += 1

    def _fold(self, now: float, node: str, what: str, data: bytes) -> None:
        parts = self._parts
        parts += (_HEAD(now, len(data)), f"{node} {what}\n".encode(), data)
        if len(parts) > PARTS_MAX:
            self._flush()

    def _flush(self) -> None:
        self._hash.update(b"".join(self._parts))
        self._parts.clear()

    def _effect(self, effect: Effect) -> None:
        parts = self._parts
        parts.append(_NAMES[type(effect)])
        match effect:
            case SendDatagram():
                parts += (effect.data, effect.destination.pack())
            case ChangeRules():
                for sign, rules in ((b"+", effect.put), (b"-", effect.remove)):
                    for rule in rules:
                        parts += (sign, rule.owner, _flow_text(rule.match))
                for datagram in effect.then:
                    parts += (datagram.data, datagram.destination.pack())
            case Dropped():
                parts.append(effect.reason.value.encode())
            case KeepLocation() | FindLocation():
                parts.append(effect.key)
            case _:
                parts.append(effect.cid)


def packet_mark(node: str) -> bytes:
    """What stands in the trace before a packet that this box received."""
    return f"{node} packet\n".encode()


_TEXTS: Memory[tuple[int, ...], bytes] = Memory(1024)


def _flow_text(flow: Flow) -> bytes:
    key = (flow.transport, *five_tuple(flow))
    known = _TEXTS.new.get(key)
    return known if known is not None else _TEXTS.keep(key, str(flow).encode())


def datagram_note(time: float, node: str, role: str, event: str, data: bytes, peer: str) -> Note:
    """A signaling datagram was sent or received."""
    kind = MESSAGES.get(data[4])
    words = DatagramWords(
        digest=hashlib.sha256(data).hexdigest()[:16],
        type=kind.__name__.upper() if kind else "?",
        seq=int.from_bytes(data[8:16], "big"),
        bytes=len(data),
        peer=peer,
    )
    return Note(time, node, role, event, data[16:32].hex(), words)


def rule_note(time: float, node: str, role: str, event: str, rule: Rule) -> Note:
    """A rule was installed or removed."""
    words = RuleWords(
        match=str(rule.match),
        action=rule.action.value,
        to=str(rule.rewrite) if rule.rewrite else "",
        lifetime_s=rule.lifetime_s,
        pending=rule.action is Action.ACCEPT and not rule.renewed_by_packets,
    )
    return Note(time, node, role, event, rule.owner.hex(), words)


def report_note(time: float, node: str, role: str, effect: Effect) -> Note | None:
    """A machine's report, or a datagram that it dropped; None for other effects."""
    match effect:
        case ReportOpened():
            words = ReportWords(
                effect.peer, effect.service, str(effect.wire), lifetime_s=effect.lifetime_s
            )
            return Note(time, node, role, "connection.opened", effect.cid.hex(), words)
        case ReportRefused():
            words = ReportWords(
                effect.peer,
                effect.service,
                why=effect.reason,
                code=str(effect.code),
                by=effect.by,
            )
            return Note(time, node, role, "connection.refused", effect.cid.hex(), words)
        case ReportClosed():
            words = ReportWords(effect.peer, effect.service, why=effect.reason)
            return Note(time, node, role, "connection.closed", effect.cid.hex(), words)
        case Dropped():
            words = ReportWords(str(effect.source), reason=effect.reason.value)
            return Note(time, node, role, "dropped", "", words)
        case _:
            return None
