"""The network: boxes, their interfaces, and which way a packet goes.

Routes are the shortest ones over boxes that forward; an address is reached over the one link that
it is on, up or down. A host with several interfaces sends by the best one that is up, whatever
source address the packet has, as Linux does without policy routing; one that is multihomed by
the one that has the packet's source.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from wayside.core.address import IP, Address
from wayside.core.constants import SIGNALING_PORT

from .chance import Chance
from .clock import Clock
from .link import Conditions, Link
from .trace import Trace, packet_mark
from .wire import destination_of, packet_of, too_big

HOSTS_PER_LINK_MAX = 250

_REAL = {4: IPv4Network("10.0.0.0/8"), 6: IPv6Network("fd00::/16")}
"""Where the addresses of interfaces are from."""


@dataclass(slots=True, eq=False)
class Interface:
    """One end of a link. `signaling`: its address, and the port where it is asked.

    `side`: a gate's zone, or a NAT's.
    """

    node: Node
    link: Link
    end: int
    signaling: Address
    side: str = ""
    up: bool = True
    former: list[IP] = field(default_factory=list[IP])
    """Addresses that it still has beside the one it sends from."""
    metric: int = 0
    """So much longer are the ways over it."""
    _mark: bytes = b""

    def __post_init__(self) -> None:
        self._mark = packet_mark(self.node.name)

    @property
    def address(self) -> IP:
        """Its address."""
        return self.signaling.ip

    def has(self, packed: bytes) -> bool:
        """Whether this is an address of it, packed."""
        return self.address.packed == packed or any(ip.packed == packed for ip in self.former)

    def deliver(self, raw: bytes) -> None:
        """A packet came out of the link."""
        node = self.node
        if self.up:
            place = node.place
            place.trace.packet(place.clock.now, self._mark, raw)
            node.receive(raw, self)


@dataclass(slots=True)
class Place:
    """What all boxes of one world share."""

    clock: Clock
    trace: Trace
    chance: Chance


class Node:
    """A box. Subclasses say what it does with packets."""

    forwards = False

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.place = network.place
        self.name = name
        self.interfaces: list[Interface] = []
        self.own: set[bytes] = set()
        """Its addresses, packed."""
        network.nodes[name] = self

    def receive(self, raw: bytes, interface: Interface) -> None:
        """A packet came in."""
        raise NotImplementedError

    def transmit(self, raw: bytes) -> int | None:
        """Send a packet on its way; the MTU of the next link when it does not fit in there."""
        way = self.way_of(raw) or self.network.way(self, destination_of(raw))
        if way is None:
            return None
        link = way.link
        mtu = link.conditions.mtu
        if len(raw) > mtu:
            return mtu
        if way.up:
            link.send(raw, 1 - way.end)
        return None

    def way_of(self, raw: bytes) -> Interface | None:
        """The interface that a packet's source makes it leave by; None: the destination does."""
        return None

    def forward(self, raw: bytes) -> None:
        """Send somebody else's packet on; complain to its source when it is too big."""
        mtu = self.transmit(raw)
        packet = packet_of(raw)
        if mtu is not None and packet is not None:
            self.transmit(too_big(packet, mtu))


class Router(Node):
    """Forwards, and nothing else."""

    forwards = True

    def receive(self, raw: bytes, interface: Interface) -> None:
        """Send it on."""
        if destination_of(raw) not in self.own:
            self.forward(raw)


class Network:
    """Boxes and links of one world, all of one address family."""

    def __init__(self, place: Place, family: int) -> None:
        self.place = place
        self.family = family
        self.nodes: dict[str, Node] = {}
        self.links: dict[str, Link] = {}
        self._owners: dict[int, Node] = {}
        self._last_on: dict[bytes, str] = {}
        self._insides: dict[str, dict[str, None]] = {}
        self._ends: dict[str, tuple[Interface, Interface]] = {}
        self._distances: dict[bytes, dict[str, int]] = {}
        self._ways: dict[tuple[str, bytes], Interface | None] = {}
        self._given: dict[str, int] = {}

    def connect(
        self, a: Node, b: Node, conditions: Conditions, sides: tuple[str, str] = ("", "")
    ) -> Link:
        """Lay a link between two boxes; `sides`: what its interface is called at a and at b."""
        name = f"{a.name}-{b.name}"
        link = Link(
            name,
            self.place.clock,
            self.place.chance.stream(f"link {name}"),
            conditions,
            replace(conditions),
        )
        self.links[name] = link
        made: list[Interface] = []
        for end, (node, side) in enumerate(zip((a, b), sides, strict=True)):
            interface = Interface(node, link, end, self._new_address(name), side)
            node.interfaces.append(interface)
            link.attach(end, interface.deliver)
            made.append(interface)
        self._ends[name] = (made[0], made[1])
        self._changed(*made)
        return link

    def owner(self, ip: IP) -> Node | None:
        """Whose address this is, or was last."""
        return self.owner_of(int(ip))

    def owner_of(self, number: int) -> Node | None:
        """The same, for the number of an address."""
        return self._owners.get(number)

    def is_behind(self, nat: str, packed: bytes) -> bool:
        """Whether an address, packed, is or was on a link of the inside of this box."""
        if nat not in self._insides:
            self._insides[nat] = self._find_inside(self.nodes[nat])
        return self._last_on.get(packed, "") in self._insides[nat]

    def _find_inside(self, box: Node) -> dict[str, None]:
        found: dict[str, None] = {}
        queue = deque(one for one in box.interfaces if one.side == "inside")
        while queue:
            one = queue.popleft()
            if one.link.name not in found:
                found[one.link.name] = None
                other = self._ends[one.link.name][1 - one.end].node
                queue += other.interfaces if other is not box else ()
        return found

    def is_real(self, ip: IP) -> bool:
        """Whether an address is of this network, and not one that a host made up for itself."""
        return ip in _REAL[ip.version]

    def readdress(self, interface: Interface, keeps: bool = False) -> None:
        """Give an interface a new address of the same link; `keeps`: it has the old one, too.

        `owner` goes on to know whose an address was last.
        """
        interface.former = [interface.address, *interface.former] if keeps else []
        interface.signaling = self._new_address(interface.link.name)
        self._changed(interface)

    def drop_former(self, interface: Interface) -> None:
        """An interface has its newest address only."""
        if interface.former:
            interface.former = []
            self._changed(interface)

    def switch(self, interface: Interface, up: bool) -> None:
        """Take an interface up or down."""
        interface.up = up
        self._ways.clear()

    def ends(self, link: str) -> tuple[Interface, Interface]:
        """The two interfaces of a link."""
        return self._ends[link]

    def way(self, node: Node, to: bytes) -> Interface | None:
        """The interface by which a box sends to an address, packed; None when there is no way."""
        key = (node.name, to)
        if key not in self._ways:
            self._ways[key] = self._find_way(node, to)
        return self._ways[key]

    def _find_way(self, node: Node, to: bytes) -> Interface | None:
        distances = self._distances_to(to)
        if distances.get(node.name) == 0 and to not in node.own:
            return None  # on its own link, and nobody there has it
        best: tuple[int, Interface] | None = None
        for interface in node.interfaces:
            other = self._ends[interface.link.name][1 - interface.end]
            if not interface.up:
                continue
            if other.has(to):
                return interface
            distance = distances.get(other.node.name)
            if distance is None or not other.node.forwards:
                continue
            distance += interface.metric
            if best is None or distance < best[0]:
                best = (distance, interface)
        return best[1] if best else None

    def _distances_to(self, to: bytes) -> dict[str, int]:
        """Hops from every forwarding box to the link that an address is on."""
        found = self._distances.get(to)
        if found is not None:
            return found
        found = self._distances[to] = {}
        queue: deque[tuple[Node, int]] = deque()
        last = self._ends.get(self._last_on.get(to, ""), ())
        if not any(one.has(to) for one in last):  # it is nobody's: routes go by networks
            queue += [(one.node, 0) for one in last if one.node.forwards]
        for node in self.nodes.values():
            for interface in node.interfaces:
                if interface.has(to):
                    other = self._ends[interface.link.name][1 - interface.end]
                    queue += [(node, 0), (other.node, 1)]
        while queue:
            node, distance = queue.popleft()
            if node.name in found or (distance and not node.forwards):
                continue
            found[node.name] = distance
            if not node.forwards:
                continue
            for interface in node.interfaces:
                other = self._ends[interface.link.name][1 - interface.end]
                queue.append((other.node, distance + 1))
        return found

    def _changed(self, *interfaces: Interface) -> None:
        """These interfaces have new addresses, so there are other ways to them."""
        for interface in interfaces:
            node = interface.node
            self._owners[int(interface.address)] = node
            self._last_on[interface.address.packed] = interface.link.name
            node.own = {ip.packed for one in node.interfaces for ip in (one.address, *one.former)}
        self._distances.clear()
        self._ways.clear()

    def _new_address(self, link: str) -> Address:
        number = list(self.links).index(link) + 1
        given = self._given[link] = self._given.get(link, 0) + 1
        if given > HOSTS_PER_LINK_MAX:
            raise ValueError(f"no address is left on {link}")
        if self.family == 4:
            return Address(IPv4Address(f"10.{number}.0.{given}"), SIGNALING_PORT)
        return Address(IPv6Address(f"fd00:{number:x}::{given:x}"), SIGNALING_PORT)
