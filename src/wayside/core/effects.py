"""What is to be done: the only outputs of the machines, in the imperative.

A driver performs the effects of one event in their order. The datagrams in `ChangeRules.then`
leave only when the kernel has taken the rules, so that nobody is told of a pinhole before it is
there; when the kernel refuses, the driver says so with `RulesFailed`. `ChangeRules` that stand
side by side are asked for at once, and what is behind them waits for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .address import Address, Flow
from .errors import DropReason
from .rule import Cid, Rule

if TYPE_CHECKING:  # they answer with effects
    from .events import MessageReceived
    from .opening import CheckedOpen


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send this signaling datagram; `source`: in whose name, None: as routing has it. R-8.1."""

    data: bytes
    destination: Address
    source: Address | None = None


@dataclass(frozen=True, slots=True)
class Punch:
    """Send a packet of a connection's own flow, as it is on the wire, now. Spec: R-12.6, R-12.8.

    `data`: the datagram; of TCP, the header of the segment that the application answers a SYN with,
    which is to look as if it had asked; empty: a bare ACK.
    """

    cid: Cid
    flow: Flow
    data: bytes


@dataclass(frozen=True, slots=True)
class ChangeRules:
    """In one transaction: remove these rules, put those; then send."""

    cid: Cid
    put: tuple[Rule, ...] = ()
    remove: tuple[Rule, ...] = ()
    then: tuple[SendDatagram, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadRule:
    """Look what the kernel has of a connection's rules; comes back as `RuleRead`."""

    cid: Cid
    matches: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class KeepLocation:
    """Keep where this host is, as it signed it; `lifetime_s` 0: it has left. Spec: R-10.3.

    `order`: greater is newer; what is older than what is kept must not take its place.
    """

    key: bytes
    family: int
    record: bytes
    order: int
    lifetime_s: float


@dataclass(frozen=True, slots=True)
class FindLocation:
    """Look where this host is; comes back as `LocationFound` with the OPEN that asks for it."""

    key: bytes
    family: int
    asked: MessageReceived
    opened: CheckedOpen


@dataclass(frozen=True, slots=True)
class DeliverData:
    """Give the application a datagram that came with a message; `flow`: as its socket sees it."""

    cid: Cid
    flow: Flow
    data: bytes


@dataclass(frozen=True, slots=True)
class SaveConnection:
    """Keep this where a restarted agent finds it; `saved` is for `restore` alone."""

    cid: Cid
    saved: bytes


@dataclass(frozen=True, slots=True)
class ForgetConnection:
    """Nothing of this connection needs to be kept."""

    cid: Cid


@dataclass(frozen=True, slots=True)
class ReportOpened:
    """The connection is up, or up again; `wire` and `local` as in OpenRequested.

    `carried`: the application's first datagram rode on the OPEN and need not be sent again;
    `stands`: how it is, if it was not agreed with the peer itself.
    """

    cid: Cid
    peer: str
    service: str
    wire: Flow
    local: Flow
    lifetime_s: float
    refreshed: bool = False
    carried: bool = False
    stands: str = ""


@dataclass(frozen=True, slots=True)
class ReportRefused:
    """Somebody said no, or nobody said anything (`code` 0). `by`: a name or a raw key."""

    cid: Cid
    peer: str
    service: str
    code: int
    reason: str
    by: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class ReportClosed:
    """The connection has ended."""

    cid: Cid
    peer: str
    service: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A datagram was dropped without an answer and without a trace in our state."""

    reason: DropReason
    source: Address


Effect = (
    SendDatagram
    | Punch
    | ChangeRules
    | ReadRule
    | KeepLocation
    | FindLocation
    | DeliverData
    | SaveConnection
    | ForgetConnection
    | ReportOpened
    | ReportRefused
    | ReportClosed
    | Dropped
)


def side_by_side(effects: Sequence[Effect]) -> list[ChangeRules]:
    """The changes of rules that these begin with: a driver asks the kernel for them at once."""
    found: list[ChangeRules] = []
    for effect in effects:
        if not isinstance(effect, ChangeRules):
            break
        found.append(effect)
    return found
