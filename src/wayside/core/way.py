"""Where an OPEN goes on to from a gate, and in whose name.

A firewall sends it on to where it was going, from the flow's own source: so every box behind it,
and the responder, can hold the source that an OPEN claims against the source of the datagram, and
the answer comes back the way that the data will. A NAT puts its own address in the source's place,
or finds the host inside by its key; a relay puts itself in both. Spec: R-5.1.6, R-8.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from . import constants as c
from .address import IP, Address, Flow
from .errors import DropReason
from .events import MessageReceived
from .messages import Accept, AcceptTerms, Code, Open
from .opening import CheckedOpen, Refusal, is_agreed, is_sound, source_of
from .passage import Crossing, Passage
from .passages import Passages
from .route import TokenState


class Role(IntEnum):
    """What a hop record says that its box does. Spec: R-8.1."""

    GATE = 1
    NAT = 2
    RELAY = 3


@dataclass(frozen=True, slots=True)
class Translation:
    """What a NAT calls its own: the address outside by family, and the ports that it may use.

    `known`: hosts inside that can be asked for by key, besides those that registered through it.
    """

    outside: dict[int, IP]
    ports: range = range(1024, 65536)
    known: dict[bytes, Address] = field(default_factory=dict[bytes, Address])


@dataclass(frozen=True, slots=True)
class Way:
    """An OPEN's way through a box: the source it comes from and goes on with, and where it goes.

    `here`: our own address, where it was for us to send on.
    """

    role: Role
    near: Address
    far: Address
    onward: Address
    here: Address | None = None

    @property
    def hides_source(self) -> bool:
        """Whether the box puts an address of its own in the source's place."""
        return self.near != self.far

    @property
    def name(self) -> Address:
        """The address that signaling goes on from."""
        return self.far.with_port(c.SIGNALING_PORT)


def misplaced(event: MessageReceived, message: Open, opened: CheckedOpen) -> Refusal | None:
    """Why nobody may answer for these addresses; None when somebody may. Spec: R-5.1.6.

    Who is asked itself to pass an OPEN on (a relay) is not where that is going.
    """
    source = source_of(opened.terms, message.hops)
    if source.ip.is_loopback and not event.source.ip.is_loopback:
        return Refusal(Code.BAD_ADDRESS, "a loopback address")
    if source.ip != event.source.ip:
        return Refusal(Code.BAD_ADDRESS, f"it came from {event.source.ip}: a NAT on the path")
    return None


def misled(event: MessageReceived, message: Open, opened: CheckedOpen) -> Refusal | None:
    """Why an OPEN is not one for where it was sent to; None when it is. Spec: R-5.1.6."""
    destination = opened.flow.destination.ip
    told = event.destination.ip.is_unspecified or any(hop.role != Role.GATE for hop in message.hops)
    if told or destination == event.destination.ip:
        return None
    return Refusal(Code.BAD_ADDRESS, f"asked for {destination} on another path")


def way_of(
    event: MessageReceived,
    message: Open,
    opened: CheckedOpen,
    nat: Translation | None,
    table: Passages,
) -> Way | Refusal | DropReason:
    """Where an OPEN goes on to from a gate, and in whose name. Spec: R-8.1, R-8.7."""
    terms, asked = opened.terms, event.destination
    near = source_of(terms, message.hops)
    if not event.transit:
        known = table.known(event.header.cid, terms.from_key, terms.to_key)
        if known is not None and nat is not None:
            return misplaced(event, message, opened) or _way_back(known, event, near)
        if nat is None or event.side != "outside":
            return DropReason.UNEXPECTED
        inside = table.inside(terms.to_key) or nat.known.get(terms.to_key)
        if inside is None:
            return Refusal(Code.NO_ROUTE, "no such host behind this NAT at the moment")
        return misplaced(event, message, opened) or Way(Role.NAT, near, near, inside, asked)
    refusal = misplaced(event, message, opened) or misled(event, message, opened)
    if refusal is not None:
        return refusal
    outside = nat.outside.get(near.family) if nat and event.side == "inside" else None
    if nat is None or outside is None:
        return Way(Role.GATE, near, near, asked)
    flow = Flow(terms.transport, Address(outside, near.port), asked)
    far = table.source(event.header.cid, near, flow, nat.ports)
    if far is None:
        return Refusal(Code.BUSY, f"no port is free on {outside}")
    return Way(Role.NAT, near, far, asked)


def _way_back(known: Passage, event: MessageReceived, near: Address) -> Way:
    """An OPEN to an address that we lend to a connection goes to the end behind it. R-5.4.6."""
    theirs = known.crossing.reversed() if event.header.seq % 2 else known.crossing
    there, ours = theirs.far.destination, theirs.far.source
    far = near if theirs.near.source == ours else ours
    return Way(Role.NAT, near, far, there.with_port(c.SIGNALING_PORT), event.destination)


def crossing_of(
    event: MessageReceived,
    state: TokenState,
    message: Accept,
    terms: AcceptTerms,
    table: Passages,
    nat: Translation | None,
) -> Crossing | None:
    """The flows that an ACCEPT agrees to, on both sides of a gate; None: no rule can be made.

    Spec: R-5.2.4, R-8.3, R-8.7.
    """
    told = (message.returned or (terms.destination,))[-1]
    there = event.source.with_port(told.port)
    far = Flow(state.transport, state.source, there)
    near = Flow(state.transport, state.near, there)
    if nat is not None and state.here is not None:
        known = table.by_cid.get(event.header.cid)
        port = told.port
        if known is not None and known.parties == state.parties:  # what the other end talks to
            theirs = known.crossing.reversed() if event.header.seq % 2 else known.crossing
            port = theirs.near.destination.port
        near = Flow(state.transport, state.near, state.here.with_port(port))
        ours = table.destination(event.header.cid, near, nat.ports)
        if ours is None:
            return None
        near = Flow(state.transport, state.near, ours)
    return Crossing(near, far) if is_agreed(far) and is_sound(near) else None
