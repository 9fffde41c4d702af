"""A host that is at home in several networks, and moves between them.

    laptop ── west ──┐
      └────── east ──┴── core ── ...

It has a link to each box, and an address on those that it uses. A hard move: the old link goes
down, and a new one, which was up without an address, gets its own a few milliseconds later. A soft
one: the new link is up beside the old one and its route is preferred from then on; the old one
goes later, or never. As on any host with two links a routing rule for each address keeps packets
that leave from it on its own link, so that the old way goes on working until the new one is agreed.

Interfaces and networks are numbered as everywhere in a world (world.py); only the host's part of
an address changes: `10.NET.0.NUMBER` and `fd00:NET::NUMBER`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from wayside.lab.world import Node, World

TABLE_FIRST = 100
"""Routing tables of links: this plus the net's number."""


ASSOCIATION_S = 0.2
"""A veth's other end hears of the carrier within a few milliseconds, and passes nothing before."""

OWN_SOURCES_ONLY = """
table inet own_sources_only {
  chain forward { type filter hook forward priority -200; fib saddr . iif oif eq 0 drop; }
}
"""
"""As access networks do (BCP 38): what comes from a network has an address of that network."""

Steps = dict[int, list[str]]
"""Lines for `ip -batch`, by family."""


@dataclass(slots=True)
class Access:
    """The link of a host to one box. `number`: of its address there; 0: it has none."""

    box: Node
    net: int
    number: int = 0

    def addresses(self) -> tuple[IPv4Address, IPv6Address]:
        """The host's addresses there."""
        return IPv4Address(f"10.{self.net}.0.{self.number}"), IPv6Address(
            f"fd00:{self.net}::{self.number}"
        )


@dataclass(slots=True)
class Roamer:
    """A host that moves. It begins at the first of its boxes, with the number 2."""

    node: Node
    links: dict[str, Access] = field(default_factory=dict[str, Access])
    _preferred: int = 1000
    """Metric of the route that was preferred last; each new one is preferred to it."""

    def hard(self, to: Node, number: int = 0) -> float:
        """Its other links go down, and it is at a box; when that began (monotonic s)."""
        self._switch_on(to)
        left = [self._left(one) for one in self.links.values() if one.box is not to]
        return self._do(*left, self._came(self.links[to.name], number))

    def soft(self, to: Node, number: int = 0) -> float:
        """It comes to a box, and prefers that; its other links stay. When that began."""
        self._switch_on(to)
        return self._do(self._came(self.links[to.name], number))

    def leave(self, box: Node) -> float:
        """The link to a box goes down. When that began."""
        return self._do(self._left(self.links[box.name]))

    def _switch_on(self, box: Node) -> None:
        """As a radio finds its network before it gets an address: the other end must see it."""
        if not self.links[box.name].number:
            self.node.run("ip", "link", "set", f"to-{box.name}", "up")
            time.sleep(ASSOCIATION_S)

    def _do(self, *steps: Steps) -> float:
        """One call of `ip` for each family, because a batch of it knows one only."""
        files: list[str] = []
        for family in (4, 6):
            path = self.node.state / f"steps{family}"
            path.write_text("".join(f"{line}\n" for step in steps for line in step[family]))
            files.append(f"ip -{family} -batch {path}")
        began = time.monotonic()
        self.node.run("sh", "-ec", " && ".join(files))
        return began

    def _came(self, access: Access, number: int) -> Steps:
        device, table = f"to-{access.box.name}", TABLE_FIRST + access.net
        steps = self._renumbered(access)
        access.number = number or 2
        self._preferred -= 1
        for own, via in zip(access.addresses(), _box_addresses(access), strict=True):
            size, nodad = (24, "") if own.version == 4 else (64, " nodad")
            steps[own.version] += [
                f"address add {own}/{size} dev {device}{nodad}",
                f"route add default via {via} dev {device} table {table}",
                f"rule add from {own} lookup {table} priority {TABLE_FIRST}",
                f"route add default via {via} dev {device} metric {self._preferred}",
            ]
        others = {at: own for at, own in self.node.addresses.items() if at != access.box.name}
        self.node.addresses = {access.box.name: access.addresses(), **others}
        return steps

    def _renumbered(self, access: Access) -> Steps:
        """The address that it has there goes, and its routes; the link stays."""
        if not access.number:
            return {4: [], 6: []}
        device, table = f"to-{access.box.name}", TABLE_FIRST + access.net
        four, six = (
            [
                f"route del default dev {device}",
                f"rule del from {own} lookup {table} priority {TABLE_FIRST}",
                f"route flush table {table}",
                f"address del {own}/{24 if own.version == 4 else 64} dev {device}",
            ]
            for own in access.addresses()
        )
        return {4: four, 6: six}

    def _left(self, access: Access) -> Steps:
        """A link that is down has no routes and no IPv6 address; the rest is taken away."""
        if not access.number:
            return {4: [], 6: []}
        device, table = f"to-{access.box.name}", TABLE_FIRST + access.net
        own, own6 = access.addresses()
        access.number = 0
        self.node.addresses.pop(access.box.name, None)
        rule = f"lookup {table} priority {TABLE_FIRST}"
        down = [f"link set {device} down", f"address del {own}/24 dev {device}"]
        return {4: [*down, f"rule del from {own} {rule}"], 6: [f"rule del from {own6} {rule}"]}


def roamer(world: World, name: str, boxes: Sequence[Node]) -> Roamer:
    """A new host with a link to each of these boxes, at the first of them."""
    host = Roamer(world.node(name))
    _trust_addresses(host.node)
    for box in boxes:
        net = world.link(host.node, box)
        host.links[box.name] = Access(box, net)
        host.node.run("ip", "address", "flush", "dev", f"to-{box.name}", "scope", "global")
    host.node.addresses.clear()
    host.soft(boxes[0], 2)
    return host


def _box_addresses(access: Access) -> tuple[IPv4Address, IPv6Address]:
    return IPv4Address(f"10.{access.net}.0.1"), IPv6Address(f"fd00:{access.net}::1")


def crossroads(world: World, core: Node, boxes: Sequence[Node], delay_ms: float = 0) -> None:
    """Join boxes to a core that knows the way to what is behind each of them.

    `delay_ms`: of each box's link to the core, in each direction (a link that goes up and down
    cannot have one). A box lets nobody speak for addresses of other networks. Call it before the
    hosts behind the boxes are there: they are found by `ways_to`.
    """
    for box in boxes:
        _trust_addresses(box)
        world.link(box, core, delay_ms=delay_ms)
        for node in (box, core):
            node.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        four, six = core.addresses[box.name]
        box.run("nft", "-f", "-", stdin=OWN_SOURCES_ONLY)
        box.run("ip", "route", "add", "default", "via", str(four))
        box.run("ip", "-6", "route", "add", "default", "via", str(six))


def _trust_addresses(node: Node) -> None:
    """No duplicate address detection on links to come: it takes a second, whoever moves."""
    for name in ("all", "default"):
        node.run("sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0")


def ways_to(world: World, core: Node, host: Roamer) -> None:
    """Let the core reach each network of a host by its box."""
    for access in host.links.values():
        world.route(core, access.net, access.box)
