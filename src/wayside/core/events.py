"""What happened: the only inputs of the machines, in the past tense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .address import IP, Address, Flow
from .codec import Header
from .effects import SendDatagram
from .identity import PeerIdentity
from .messages import Message
from .rule import Cid
from .ticket import Ticket

if TYPE_CHECKING:  # which reads events
    from .opening import CheckedOpen


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    """A signaling datagram came in.

    `destination` is where the sender addressed it: our own address, or, at a gate that
    intercepted it, somebody else's (`transit`). `side`: the gate's zone it came from. `returned`:
    it is one of ours, or its beginning: the network says that nobody takes them where it went.
    `crowded`: more of its kind come in than can be worked on.
    """

    data: bytes
    source: Address
    destination: Address
    transit: bool = False
    side: str = ""
    returned: bool = False
    crowded: bool = False


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A datagram that the front door let in: decoded, but no signature checked yet.

    `proved`: its source has shown that it receives there. `data`: the datagram as it came, which
    is the one encoding of header and message: who passes it on unchanged sends these bytes.
    `ticket`: of ours, that holds.
    """

    header: Header
    message: Message
    source: Address
    destination: Address
    transit: bool
    side: str
    data: bytes
    proved: bool
    ticket: Ticket | None = None

    @property
    def size(self) -> int:
        """Bytes of the datagram."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class OpenRequested:
    """An application here wants a connection; or one that is up is to be tried on another path.

    `wire`: what its packets are to look like on the wire; `local`: what the application's socket
    sees (the same where nothing is rewritten); `signaling`: where the peer is asked; `data`: the
    first datagram, to ride on OPEN.
    """

    cid: Cid
    peer: PeerIdentity
    service: str
    wire: Flow
    local: Flow
    signaling: Address
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """The application is done with a connection, or a person wants it ended."""

    cid: Cid
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A person wants no packets of a connection for so long, seconds. Spec: R-5.8."""

    cid: Cid
    lifetime_s: float


@dataclass(frozen=True, slots=True)
class DataAnswered:
    """The application answered a piggybacked datagram before ACCEPT left."""

    cid: Cid
    data: bytes


@dataclass(frozen=True, slots=True)
class RulesFailed:
    """The kernel did not take the rules of a connection. `unsent`: what was to leave with them."""

    cid: Cid
    why: str
    unsent: tuple[SendDatagram, ...] = ()


@dataclass(frozen=True, slots=True)
class SourcesChanged:
    """This host's addresses or routes are others: from which it now reaches whom.

    `sources`: the own address towards each peer's; a peer that cannot be reached is left out.
    `own`: all that peers may ask this host at, in the order of preference; None: as before.
    """

    sources: Mapping[IP, IP]
    own: tuple[Address, ...] | None = None


@dataclass(frozen=True, slots=True)
class RuleRead:
    """What the kernel has of a connection's rules.

    `expires_s`: seconds until the last of them goes; None: there is none. `packets`: in all.
    """

    cid: Cid
    expires_s: float | None
    packets: int = 0


@dataclass(frozen=True, slots=True)
class LocationFound:
    """What is kept of the host that an OPEN asks for; no bytes: nothing."""

    record: bytes
    asked: MessageReceived
    opened: CheckedOpen


@dataclass(frozen=True, slots=True)
class TimePassed:
    """The machine's deadline was reached."""


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The wall clock was read (at start, and whenever it jumps): unix time at `now` = 0."""

    epoch_s: float


Event = (
    DatagramReceived
    | MessageReceived
    | OpenRequested
    | CloseRequested
    | StopRequested
    | DataAnswered
    | RulesFailed
    | SourcesChanged
    | RuleRead
    | LocationFound
    | TimePassed
    | ClockSet
)
