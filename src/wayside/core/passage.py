"""What a gate holds of one connection: its 5-tuples on both sides of the gate, and its rules.

A firewall leaves a flow as it is; a NAT or a relay rewrites one or both of its ends. Either way
there is a flow on the side of whoever asked (`near`) and a flow on the other (`far`), and two rules
that turn one into the other, in both directions. An end that moves gets a second pair, pending,
beside the first until its CONFIRM. Spec: R-5.4.4, R-6.1, R-6.4, R-8.1.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from enum import Enum

from . import constants as c
from .address import Flow, Transport
from .crypto import check_of
from .errors import IllegalMove
from .rule import Action, Cid, Rule, note_of


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


@dataclass(frozen=True, slots=True)
class Crossing:
    """A flow as it is before this gate (`near`: the asker's side) and behind it (`far`)."""

    near: Flow
    far: Flow

    @property
    def lends(self) -> bool:
        """Whether the gate puts an address of its own in the source's place."""
        return self.near.source != self.far.source

    def reversed(self) -> Crossing:
        """The same, when the other end asks."""
        return Crossing(self.far.reversed(), self.near.reversed())

    @property
    def flows(self) -> tuple[Flow, Flow]:
        """What its packets look like when they come to the gate, from either side."""
        return (self.near, self.far.reversed())


@dataclass(slots=True)
class Seqs:
    """The newest seqs that were accepted and confirmed, of the even ones and of the odd. R-5.4.4.

    The two ends ask independently of each other: neither makes what the other asked old.
    """

    accepted: list[int] = field(default_factory=lambda: [-1, -1])
    confirmed: list[int] = field(default_factory=lambda: [-1, -1])
    checks: list[bytes] = field(default_factory=lambda: [b"", b""])

    def accept(self, seq: int, check: bytes) -> None:
        """An ACCEPT of this seq passes; `check`: what its CONFIRM is known by."""
        self.accepted[seq % 2] = seq
        self.checks[seq % 2] = check

    def confirm(self, seq: int) -> None:
        """A CONFIRM of this seq passes."""
        self.confirmed[seq % 2] = seq

    def is_old(self, seq: int) -> bool:
        """Whether the same end has asked again since, and was accepted."""
        return seq < self.accepted[seq % 2]

    def shows(self, seq: int, proof: bytes) -> bool:
        """Whether a CONFIRM of this seq comes from who has the key. Spec: R-5.3.4."""
        return seq == self.accepted[seq % 2] and check_of(proof) == self.checks[seq % 2]

    @property
    def last(self) -> tuple[int, bytes]:
        """The highest that was accepted, and its check."""
        return max(zip(self.accepted, self.checks, strict=True))


@dataclass(slots=True)
class Passage:
    """One connection through this gate. `until`: when it is forgotten here, monotonic seconds.

    `crossing` is as the initiator sees it, whoever asked last. `parties`: a hash of the two keys, 6
    bytes; `moving`: where one of the ends says that it goes, until the CONFIRM of that seq; `key`:
    the first 8 bytes of that of the host that registers so, or that is hidden.
    """

    cid: Cid
    stage: Stage
    crossing: Crossing
    seqs: Seqs
    until: float
    lifetime_s: float
    parties: bytes
    service: str = ""
    rule: str = ""
    moving: tuple[int, Crossing] | None = None
    key: bytes = b""
    asked_kernel: bool = False

    def enter(self, new: Stage) -> None:
        """Move on. Raises IllegalMove."""
        if new not in TRANSITIONS[self.stage]:
            raise IllegalMove(f"{self.stage} to {new}")
        self.stage = new

    @property
    def flow(self) -> Flow:
        """The 5-tuple on the side of who asked."""
        return self.crossing.near

    def rules(self, gate_lifetime_s: float) -> tuple[Rule, ...]:
        """The rules of this stage, one each way. Spec: R-6.1, R-6.4."""
        return self._rules(self.crossing, self.stage is Stage.LIVE, gate_lifetime_s)

    def moving_rules(self, gate_lifetime_s: float) -> tuple[Rule, ...]:
        """The pending rules of a move; none where nobody moves."""
        return self._rules(self.moving[1], False, gate_lifetime_s) if self.moving else ()

    def awaited(self, crossing: Crossing, gate_lifetime_s: float) -> tuple[Rule, ...]:
        """The pending rule for packets of a hidden host that come another way. Spec: R-10.5."""
        return self._rules(crossing, False, gate_lifetime_s)[1:]

    def _rules(self, crossing: Crossing, live: bool, gate_lifetime_s: float) -> tuple[Rule, ...]:
        near, far = crossing.near, crossing.far
        if near.transport is Transport.NONE:
            return ()
        seq, check = self.seqs.last
        raw = (seq.to_bytes(8, "big").lstrip(b"\0"), self.parties, check, self.key)
        words = (f"{self.lifetime_s:g}", *map(_text, raw), self.service, self.rule)
        note = note_of(*words)
        return tuple(
            Rule(
                self.cid,
                match,
                Action.ACCEPT if match == onward else Action.REWRITE,
                None if match == onward else onward,
                lifetime_s=self.lifetime_s if live else c.PENDING_S,
                renewed_by_packets=live and self.lifetime_s >= gate_lifetime_s,
                note=note if match is near else "",
            )
            for match, onward in ((near, far), (far.reversed(), near.reversed()))
        )


def restored(rule: Rule, left_s: float, now: float) -> Passage | None:
    """The passage that a rule in the kernel is of; None for a rule that says nothing. R-6.5."""
    try:
        lifetime, *raw, service, name = rule.note.split(" ")
        lifetime_s = float(lifetime)
        number, pair, check, key = map(_bytes, raw)
        seqs = Seqs()
        seqs.accept(int.from_bytes(number, "big"), check)
    except ValueError:
        return None
    stage = Stage.LIVE if rule.renewed_by_packets or left_s > c.PENDING_S else Stage.PENDING
    crossing = Crossing(rule.match, rule.rewrite or rule.match)
    about = (seqs, now + left_s, lifetime_s, pair, service, name)
    return Passage(rule.owner, stage, crossing, *about, key=key)


def _text(raw: bytes) -> str:
    """Bytes in as few characters as a note can hold."""
    return urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    """What `_text` wrote; a note says `-` for nothing. Raises ValueError."""
    return b"" if text == "-" else urlsafe_b64decode(text + "=" * (-len(text) % 4))
