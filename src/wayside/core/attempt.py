"""One question of an end: an OPEN in flight, and what is known of it until the next."""

from __future__ import annotations

from dataclasses import dataclass, field

from .address import Address, Flow
from .codec import decode_body
from .effects import SendDatagram
from .messages import Open, OpenTerms


@dataclass(slots=True)
class Counts:
    """How often a question was sent on, said, and challenged."""

    redirects: int = 0
    tries: int = 0
    challenges: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What the application said first (of TCP, its SYN), and whether that rides on an OPEN.

    `must`: of TCP it does only where somebody wants to know. Spec: R-5.1.5, R-12.8.
    """

    data: bytes = b""
    must: bool = False
    rides: bool = False


@dataclass(slots=True)
class Attempt:
    """One OPEN in flight, kept after its ACCEPT to answer repetitions of that."""

    seq: int
    wire: Flow
    """Our packets as they are to be from here on: others than now if we have moved."""
    message: Open | None
    """None once it was answered."""
    secret: bytes
    hash: bytes
    outside: Address | None
    """Our source behind a NAT that says nothing. Spec: R-12.5."""
    towards: Address | None = None
    """Where another path is tried; None: where the other end is asked as ever."""
    called: bool = False
    """Whether who sent us here has to show it to the other end, too. Spec: R-12.7."""
    load: Load = Load()
    counts: Counts = field(default_factory=Counts)
    proofs: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    confirm: SendDatagram | None = None
    """What answered the ACCEPT that was believed, and answers every other one."""


def approval_of(attempt: Attempt) -> bytes:
    """The approval that an unanswered OPEN shows. Spec: R-5.7.2."""
    return decode_body(OpenTerms, attempt.message.signed).approval if attempt.message else b""
