"""TCP bulk through boxes that rewrite: a NAT, a relay, and a rendezvous that hides a host.

    nat     client ── box ── server
    relay   client ── gate ── router ── server       the gate redirects; router and box twice
                                └── box
    steer   client ── box ── server                  the box is the rendezvous, and on the data path

Each has two more rows, laid out alike: in one the box only routes, in the other nftables' own
masquerade rewrites on it (and its dnat, where clients ask the box itself). Ours is rewritten at
both hosts besides, because applications use virtual addresses; the reach counts that too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from bulk import PORT, gbit_s
from figure import Figure, compared
from place import ALLOW_LAB, Bench, Way, in_turns

from wayside.lab.daemons import Daemons, launch, within
from wayside.lab.world import Node, ProgramFailed, World
from wayside.runtime import eventlog
from wayside.runtime.names import service_of

REACH = 0.95
SERVICES = {service_of(PORT): PORT}
ROWS = ("", "m-", "p-")
"""Prefixes: ours, masquerade, plain routing."""

BY_THE_RELAY = """
default = "reject"
[[rule]]
name = "by-the-relay"
to = ["*.lab"]
action = "redirect"
via = "box"
"""
HIDE = """
default = "reject"
[[rule]]
name = "hide"
to = ["*.lab"]
action = "steer"
"""

MASQUERADE = """
table ip lab_masquerade {{
    chain arriving {{
        type nat hook prerouting priority dstnat; policy accept;
        tcp dport {port} ip daddr {own} dnat to {server}
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "to-{outside}" tcp dport {port} masquerade
    }}
}}
"""
FAMILY = 4
FORWARDING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
REGISTERED_S = 10.0


@dataclass(frozen=True, slots=True)
class Boxes:
    """One row. `outside`: the box's neighbour towards the server."""

    client: Node
    box: Node
    outside: Node
    server: Node
    gate: Node | None = None

    def masquerade(self) -> None:
        """Let the box's kernel do what our daemon does in its row."""
        own = self.box.address(FAMILY, self.client.name if self.gate is None else self.outside.name)
        words = {"port": PORT, "own": own, "server": self.server.address(FAMILY)}
        text = MASQUERADE.format(outside=self.outside.name, **words)
        self.box.run("nft", "-f", "-", stdin=text)

    def plain(self) -> Way:
        """To the server's own address."""
        return Way(self.client, self.server.address(FAMILY), self.server)

    def by_the_box(self) -> Way:
        """To the box's address."""
        own = self.box.address(FAMILY, self.client.name if self.gate is None else self.outside.name)
        return Way(self.client, own, self.server)


def in_a_row(world: World, prefix: str) -> Boxes:
    """Client, box, server; all know all ways."""
    client, box, server = laid(world, prefix, "client", "box", "server")
    return Boxes(client, box, server, server)


def beside(world: World, prefix: str) -> Boxes:
    """Client, gate, router, server, and a box that only the router reaches.

    The router sends what is for the server, or comes from it, by way of the box: so plain routing
    takes the way that relayed packets take.
    """
    client, gate, router, server = laid(world, prefix, "client", "gate", "router", "server")
    box, net = world.beside(f"{prefix}box", router)
    for node, neighbour in ((client, gate), (gate, router), (server, router)):
        world.route(node, net, neighbour)
    box.run("sysctl", "-qw", *FORWARDING)
    via = str(box.address(FAMILY))
    for side in (gate, server):
        router.run("ip", "rule", "add", "iif", f"to-{side.name}", "lookup", "7", "priority", "7")
    router.run("ip", "route", "add", "default", "via", via, "table", "7")
    return Boxes(client, box, router, server, gate)


def laid(world: World, *prefixed: str) -> list[Node]:
    """Nodes in a row, after a prefix of their names, with routes to all nets of the row."""
    prefix, *names = prefixed
    nodes = [world.node(f"{prefix}{name}") for name in names]
    nets = [world.link(left, right) for left, right in pairwise(nodes)]
    for at, node in enumerate(nodes):
        if 0 < at < len(nets):
            node.run("sysctl", "-qw", *FORWARDING)
        for number, net in enumerate(nets):
            if number > at:
                world.route(node, net, nodes[at + 1])
            elif number < at - 1:
                world.route(node, net, nodes[at - 1])
    return nodes


def check_rewritten(bench: Bench, box: Node) -> None:
    """Raises ProgramFailed if nothing went through our box: the figure is of something else."""
    records = eventlog.read([bench.out / f"{box.name}.events"])
    if not any(one.action == "rewrite" for one in records):
        raise ProgramFailed(f"{box.name} has rewritten nothing")


def nat(daemons: Daemons, row: Boxes) -> Way:
    """The box is a NAT that is asked."""
    client = daemons.host(row.client)
    server = daemons.host(row.server, SERVICES)
    daemons.gate(row.box, inside=row.client, outside=row.server, policy=ALLOW_LAB, nat=True)
    daemons.start()
    return Way(row.client, client.address(server.name, FAMILY), row.server)


def relay(daemons: Daemons, row: Boxes) -> Way:
    """The gate on the path sends connections by way of the box."""
    assert row.gate is not None
    gate = daemons.gate(
        row.gate,
        inside=row.client,
        outside=row.outside,
        policy=BY_THE_RELAY,
        relays={"box": row.box},
    )
    daemons.relay(row.box, approvers=[gate], policy='default = "allow"\n')
    client = daemons.host(row.client, redirectors=[gate])
    server = daemons.host(row.server, SERVICES)
    daemons.start()
    return Way(row.client, client.address(server.name, FAMILY), row.server)


def steer(daemons: Daemons, row: Boxes) -> Way:
    """The box is a rendezvous that hides who is registered with it."""
    there = daemons.rendezvous_at(row.box, policy=HIDE)
    client = daemons.host(row.client, rendezvous=there, registers=False)
    server = daemons.host(row.server, SERVICES, rendezvous=there)
    launch([there])
    launch([client, server])
    within(REGISTERED_S, lambda: any(one.event == "location.kept" for one in there.events()))
    return Way(row.client, client.address(server.name, FAMILY), row.server)


Lay = Callable[[World, str], Boxes]
Set = Callable[[Daemons, Boxes], Way]
KINDS: Mapping[str, tuple[str, Lay, Set]] = {
    "n": ("a NAT", in_a_row, nat),
    "r": ("a relay", beside, relay),
    "s": ("a hiding rendezvous", in_a_row, steer),
}
"""By the prefix of their names."""


def measure(bench: Bench) -> Iterator[Figure]:
    """One figure a kind; the ratio is to masquerade."""
    for letter, (name, lay, set_up) in KINDS.items():
        ours, theirs, routed = (lay(bench.world, f"{letter}{prefix}") for prefix in ROWS)
        theirs.masquerade()
        for row in (ours, theirs, routed):
            pinned = ("taskset", "-c", str(bench.far), "iperf3", "-s", "-p", str(PORT))
            row.server.spawn(*pinned, "--forceflush", ready="Server listening")
        way = set_up(Daemons(bench.out), ours)
        there = theirs.plain() if letter == "n" else theirs.by_the_box()
        ways = {"ours": way, "masquerade": there, "plain": routed.plain()}
        takes = {what: lambda way=way: gbit_s(bench, way) for what, way in ways.items()}
        samples = in_turns(bench.rounds(7, 2), takes)
        check_rewritten(bench, ours.box)
        plain = samples["plain"]
        said = f"{median(plain):.3g} Gbit/s ({min(plain):.3g} to {max(plain):.3g})"
        ratio = median(samples["ours"]) / median(plain)
        yield compared(
            f"TCP bulk through {name}, beside masquerade",
            "Gbit/s",
            samples["ours"],
            samples["masquerade"],
            reach=REACH,
            note=f"plain routing {said}: {ratio:.3f} of it",
        )
