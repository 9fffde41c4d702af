"""Where an OPEN goes on to from a gate, and in whose name.

A firewall sends it on to where it was going, from the flow's own source: so every box behind it,
and the responder, can hold the source that an OPEN claims against the source of the datagram, and
the answer comes back the way that the data will. A NAT puts its own address in the source's place,
or finds the host inside by its key; a relay puts itself in both. Spec: R-5.1.6, R-8.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network

from . import constants as c
from .address import IP, Address, Flow, carried_ipv4
from .approval import check_approval
from .errors import DropReason
from .events import MessageReceived
from .messages import Accept, AcceptTerms, Code, Hop, Open
from .opening import CheckedOpen, Refusal, destination_of, is_agreed, is_sound
from .passage import Crossing, Passage
from .passages import Passages
from .route import TokenState, far_source, near_source, returning, transport_of

Network = IPv4Network | IPv6Network


class Role(IntEnum):
    """What a hop record says that its box does. Spec: R-8.1."""

    GATE = 1
    NAT = 2
    RELAY = 3
    HIDING = 4
    """A relay that does not say where it passes things on to. Spec: R-10.5."""
    CALLING = 5
    """Passes an OPEN on so that who is asked opens its NAT for another copy. Spec: R-12.7."""


def calls(message: Open) -> bool:
    """Whether an OPEN only has a host open its NAT for another copy of it. Spec: R-12.7."""
    return any(hop.role == Role.CALLING for hop in message.hops)


@dataclass(frozen=True, slots=True)
class Translation:
    """What a NAT calls its own: the address outside, by family.

    `known`: hosts inside that can be asked for by key, besides those that registered through it.
    """

    outside: dict[int, IP]
    known: dict[bytes, Address] = field(default_factory=dict[bytes, Address])


@dataclass(frozen=True, slots=True)
class Relaying:
    """For whom a box passes connections on that are not on its path, and to where.

    `approvers`: keys, 32 bytes each, whose approval an OPEN needs. `targets`: networks that are
    named; others are served if they are global addresses: a relay must not be a way into its own
    network. Spec: R-8.8.
    """

    approvers: tuple[bytes, ...] = ()
    targets: tuple[Network, ...] = ()

    def serves(self, ip: IP) -> bool:
        """Whether a connection may be passed on to this address."""
        inner = carried_ipv4(ip)  # a NAT64 beyond us would go on to that
        known = ip.is_global and not ip.is_multicast and (inner is None or inner.is_global)
        return known or any(ip in network for network in self.targets)


@dataclass(frozen=True, slots=True)
class Box:
    """What a gate may do besides letting through: translate, or relay; most do neither."""

    nat: Translation | None = None
    relay: Relaying | None = None
    ports: range = range(1024, 65536)
    """What a source is drawn from, where its own port is taken."""


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


def misplaced(event: MessageReceived, opened: CheckedOpen) -> Refusal | None:
    """Why nobody may answer for these addresses; None when somebody may. Spec: R-5.1.6.

    Who is asked itself to pass an OPEN on (a relay) is not where that is going.
    """
    source = opened.source
    if source.ip.is_loopback and not event.source.ip.is_loopback:
        return Refusal(Code.BAD_ADDRESS, "a loopback address")
    if source.ip != event.source.ip:
        reason = f"it came from {event.source.ip}: a NAT on the path"
        return Refusal(Code.BAD_ADDRESS, reason, observed=event.source)
    return None


def misled(event: MessageReceived, message: Open, opened: CheckedOpen) -> Refusal | None:
    """Why an OPEN is not for the host that it was sent to; None when it is. Spec: R-5.1.6."""
    destination = opened.flow.destination.ip
    told = event.destination.ip.is_unspecified or any(hop.role != Role.GATE for hop in message.hops)
    if told or destination == event.destination.ip:
        return None
    return Refusal(Code.BAD_ADDRESS, f"asked for {destination} on another path")


def way_of(
    event: MessageReceived,
    message: Open,
    opened: CheckedOpen,
    box: Box,
    table: Passages,
    unix_s: float,
) -> Way | Refusal | DropReason:
    """Where an OPEN goes on to from a gate, and in whose name. Spec: R-8.1, R-8.7, R-8.8."""
    asked, nat, near = event.destination, box.nat, opened.source
    if not event.transit and nat is None and box.relay is None:
        return DropReason.UNEXPECTED
    refusal = misplaced(event, opened)
    if refusal is not None:
        return refusal
    if not event.transit:
        return _way_from_us(event, opened, message.hops, box, table, unix_s)
    outside = nat.outside.get(near.family) if nat and event.side == "inside" else None
    if outside is None:
        return Way(Role.GATE, near, near, asked)
    return lent_way(event, opened, Way(Role.NAT, near, Address(outside, 0), asked), box, table)


def _way_from_us(
    event: MessageReceived,
    opened: CheckedOpen,
    hops: tuple[Hop, ...],
    box: Box,
    table: Passages,
    unix_s: float,
) -> Way | Refusal:
    """An OPEN that was sent to a box itself: for a host behind it, or for it to pass on."""
    near = opened.source
    terms, cid = opened.terms, event.header.cid
    known = table.known(cid, terms.from_key, terms.to_key)
    if known is not None:
        return _way_back(known, event, near)
    there = destination_of(terms, hops) or event.destination
    if there.ip == event.destination.ip:
        told = box.nat.known.get(terms.to_key) if box.nat else None
        inside = table.inside(terms.to_key, near.family) or told
        if inside is None or inside.family != near.family or event.side == "inside":
            return Refusal(Code.NO_ROUTE, "no such host behind this box at the moment")
        return Way(Role.NAT, near, near, inside, event.destination)
    if box.relay is None:
        return Refusal(Code.NO_ROUTE, "this box passes nothing on")
    if not check_approval(cid, terms, box.relay.approvers, unix_s):
        return Refusal(Code.POLICY, "nobody whom this relay trusts has approved it")
    if there.family != near.family or not box.relay.serves(there.ip):
        return Refusal(Code.POLICY, f"this relay does not go to {there.ip}")
    here, onward = event.destination, there.with_port(c.SIGNALING_PORT)
    return lent_way(event, opened, Way(Role.RELAY, near, here, onward, here), box, table)


def lent_way(
    event: MessageReceived, opened: CheckedOpen, way: Way, box: Box, table: Passages
) -> Way | Refusal:
    """The same way, with a port of our own in the source's place. Spec: R-8.7."""
    flow = Flow(opened.terms.transport, way.far.with_port(way.near.port), way.onward)
    relays = way.here is not None
    far = table.source(event.header.cid, way.near, flow, box.ports, relays)
    if far is None:
        return Refusal(Code.BUSY, f"no port is free on {way.far.ip}")
    return replace(way, far=far)


def _way_back(known: Passage, event: MessageReceived, near: Address) -> Way:
    """An OPEN to an address that we lend to a connection goes to the end behind it. R-5.4.6."""
    theirs = known.crossing.reversed() if event.header.seq % 2 else known.crossing
    there, ours = theirs.far.destination, theirs.far.source
    far = near if theirs.near.source == ours else ours
    hides = bool(known.key) and there.port != 0
    role = Role.HIDING if hides else Role.NAT if far == near else Role.RELAY
    return Way(role, near, far, there.with_port(c.SIGNALING_PORT), event.destination)


def crossing_of(
    event: MessageReceived,
    key: bytes,
    state: TokenState,
    message: Accept,
    terms: AcceptTerms,
    table: Passages,
    box: Box,
) -> Crossing | None:
    """The flows that an ACCEPT agrees to, on both sides of the gate with this key, 32 bytes.

    None: no rule can be made.

    Spec: R-5.2.4, R-8.3, R-8.7.
    """
    behind = [hop.key for hop in message.hops].index(key) + 1
    if len(message.returned) != returning(message.hops[behind:]):
        return None
    told = (message.returned or (terms.destination,))[-1]
    there = event.source.with_port(told.port)
    far = Flow(transport_of(state), far_source(state), there)
    near = Flow(transport_of(state), near_source(state), there)
    if state.here is not None:
        known = table.by_cid.get(event.header.cid)
        port = told.port
        if known is not None and known.parties == state.parties:  # what the other end talks to
            theirs = known.crossing.reversed() if event.header.seq % 2 else known.crossing
            port = theirs.near.destination.port
        near = Flow(transport_of(state), near_source(state), state.here.with_port(port))
        ours = table.destination(event.header.cid, near, box.ports)
        if ours is None:
            return None
        near = Flow(transport_of(state), near_source(state), ours)
    return Crossing(near, far) if is_agreed(far) and is_sound(near) else None
