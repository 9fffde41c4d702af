"""NAT boxes that know no signaling, of every kind that RFC 4787 tells apart.

A mapping ties an inside endpoint to an outside port: one for all destinations, one an address, or
one an address and port. A filter says whose packets may come in by it: anybody's, those of an
address that was sent to, or those of an address and port. A mapping goes when it was quiet for too
long. Of TCP it remembers what number each connection began with, and lets out no SYN with another,
until it has seen a FIN or RST: as Linux does, whose NAT leaves alone what fits no connection, and
what is left alone has an address that nobody outside knows. A hairpinning box lets two inside hosts
meet at its outside address. RFC 4787 sections 4 to 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from wayside.core.address import Address, Flow, Transport
from wayside.kernel.packets import Packet

from .network import Interface, Network, Node
from .wire import Flag, destination_of, numbers_of, packet_of, rewritten

FIRST_PORT = 20_000
MAPPINGS_MAX = 4096


class Depends(Enum):
    """What a mapping, or a filter, depends on."""

    ENDPOINT_INDEPENDENT = "nothing"
    ADDRESS = "the other address"
    ADDRESS_AND_PORT = "the other address and port"


@dataclass(frozen=True, slots=True)
class NatKind:
    """One behaviour. `preserves`: the outside port is the inside one while that is free."""

    mapping: Depends = Depends.ENDPOINT_INDEPENDENT
    filtering: Depends = Depends.ADDRESS_AND_PORT
    expiry_s: float = 120.0
    hairpin: bool = False
    preserves: bool = True


_Partial = tuple[str, int]
"""As much of the other end as a Depends looks at."""


def _part(depends: Depends, other: Address) -> _Partial:
    match depends:
        case Depends.ENDPOINT_INDEPENDENT:
            return "", 0
        case Depends.ADDRESS:
            return str(other.ip), 0
        case Depends.ADDRESS_AND_PORT:
            return str(other.ip), other.port


@dataclass(slots=True)
class _Mapping:
    inside: Address
    port: int
    used_at: float
    sent_to: dict[_Partial, None]
    began: dict[Address, int] = field(default_factory=dict[Address, int])
    """By whom a TCP connection is with: the number of the first SYN that went there."""


class Nat(Node):
    """A NAT; its interfaces' sides are `inside` and `outside` (one of these)."""

    forwards = True

    def __init__(self, network: Network, name: str, kind: NatKind) -> None:
        super().__init__(network, name)
        self.kind = kind
        self._by_inside: dict[tuple[Transport, Address, _Partial], _Mapping] = {}
        self._by_port: dict[tuple[Transport, int], _Mapping] = {}
        self._next_port = FIRST_PORT

    @property
    def public(self) -> Interface:
        """The interface whose address the outside sees."""
        return next(one for one in self.interfaces if one.side == "outside")

    def receive(self, raw: bytes, interface: Interface) -> None:
        """Translate a packet and send it on, or drop it."""
        packet = packet_of(raw)
        if packet is None:
            return
        self._expire()
        flow, public = packet.flow, self.public.address
        if interface.side == "outside":
            if flow.destination.ip == public:
                self._inwards(packet, flow)
        elif flow.destination.ip != public:
            self._outwards(packet)
        elif self.kind.hairpin:
            source = self._mapped(packet)
            if source is not None:
                self._inwards(packet, Flow(flow.transport, source, flow.destination))

    def _outwards(self, packet: Packet) -> None:
        raw, flow = packet.raw, packet.flow
        way = self.network.way(self, destination_of(raw))
        if way is not None and way.side == "inside":
            self.forward(raw)
            return
        source = self._mapped(packet)
        if source is not None:
            self.forward(rewritten(raw, Flow(flow.transport, source, flow.destination)))

    def _inwards(self, packet: Packet, flow: Flow) -> None:
        """A packet to our outside address, from outside or hairpinned; `flow`: as from there."""
        mapping = self._by_port.get((flow.transport, flow.destination.port))
        if mapping is None or _part(self.kind.filtering, flow.source) not in mapping.sent_to:
            return
        if packet.tcp_flags & (Flag.FIN | Flag.RST):
            mapping.began.pop(flow.source, None)
        self.forward(rewritten(packet.raw, Flow(flow.transport, flow.source, mapping.inside)))

    def _mapped(self, packet: Packet) -> Address | None:
        """The outside endpoint of an outgoing flow; this opens its filter. None: it is dropped."""
        flow = packet.flow
        key = (flow.transport, flow.source, _part(self.kind.mapping, flow.destination))
        mapping = self._by_inside.get(key)
        now = self.place.clock.now
        if mapping is None:
            if len(self._by_port) >= MAPPINGS_MAX:
                oldest = min(self._by_port.items(), key=lambda item: item[1].used_at)[1]
                self._forget(oldest)
            port = self._free_port(flow.transport, flow.source.port)
            mapping = _Mapping(flow.source, port, now, {})
            self._by_inside[key] = self._by_port[flow.transport, port] = mapping
        if not _fits(mapping, packet):
            return None
        mapping.used_at = now
        mapping.sent_to[_part(self.kind.filtering, flow.destination)] = None
        return Address(self.public.address, mapping.port)

    def _free_port(self, transport: Transport, wished: int) -> int:
        if self.kind.preserves and (transport, wished) not in self._by_port:
            return wished
        while (transport, self._next_port) in self._by_port:
            self._next_port += 1
        return self._next_port

    def _expire(self) -> None:
        oldest = self.place.clock.now - self.kind.expiry_s
        for mapping in [one for one in self._by_port.values() if one.used_at <= oldest]:
            self._forget(mapping)

    def _forget(self, mapping: _Mapping) -> None:
        for index in (self._by_inside, self._by_port):
            for key in [key for key, held in index.items() if held is mapping]:
                del index[key]  # type: ignore[arg-type]


def _fits(mapping: _Mapping, packet: Packet) -> bool:
    """Whether a TCP segment goes with what began the connection with the same other end."""
    flags, to = Flag(packet.tcp_flags), packet.flow.destination
    if flags & (Flag.FIN | Flag.RST):
        mapping.began.pop(to, None)
    if not flags & Flag.SYN:
        return True
    number, _ = numbers_of(packet)
    return mapping.began.setdefault(to, number) == number
