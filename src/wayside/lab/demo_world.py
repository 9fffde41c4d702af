"""The world of the demo: a laptop that is at home or in a café, and a server in an office.

    laptop ──┬── home ──┐                        home, cafe: NATs; office: a firewall. All are
             └── cafe ──┴── core ── office ── server        gates that are asked, and drop the rest.
    guest ───────┘           └──── meet            meet: the rendezvous where the server registers

The server begins with nothing but an invitation, as a user's would: it runs with what
`wayside join` wrote down, plus its services and the places of files, which are the lab's own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from wayside.core.address import IP
from wayside.lab import demo_files, flood, traffic
from wayside.lab.daemons import FAMILIES, SEEN_LIMIT_S, WAYSIDE, Daemon, Daemons, launch, within
from wayside.lab.enclosure import PATH
from wayside.lab.flood import Arriving
from wayside.lab.probe import Watch
from wayside.lab.roaming import Roamer, roamer
from wayside.lab.stage import kept
from wayside.lab.world import PRIVATE_FILES, STATE, Node, ProgramFailed, World
from wayside.runtime.keyfile import read_key
from wayside.runtime.names import service_of

FAMILY = 4
SERVER = "server.lab"
DATABASE_PORT, SINK_PORT = 3306, 7009
SERVED = (traffic.HTTP_PORT, traffic.SSH_PORT, traffic.ECHO_PORT, DATABASE_PORT, SINK_PORT)

LEAVE = """
[[rule]]
name = "inside-may-leave"
direction = "out"
action = "allow"
"""

OFFICE = (
    """
default = "reject"

[[rule]]
name = "database-stays-inside"
direction = "in"
service = ["mysql"]
action = "reject"
reason = "the database is for the office only"

[[rule]]
name = "staff-may-enter"
from = ["*.lab"]
direction = "in"
action = "allow"
"""
    + LEAVE
)

ACCESS = 'default = "reject"\n' + LEAVE


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """Who is in the demo.

    `gates`: by name; `watch`: what reaches the server, `arriving`: what of a flood does; `ssh`:
    whether it lets people in by ssh; `to`: its virtual address on the laptop.
    """

    laptop: Daemon
    server: Daemon
    guest: Daemon
    roamer: Roamer
    core: Node
    gates: Mapping[str, Daemon]
    watch: Watch
    arriving: Arriving
    ssh: bool
    to: IP

    @property
    def home(self) -> Node:
        """The NAT at home."""
        return self.gates["home"].node

    @property
    def cafe(self) -> Node:
        """The NAT in the café."""
        return self.gates["cafe"].node


def set_up(out: Path) -> DemoWorld:
    """Lay the links, start the daemons, let both hosts join, and return when names are found."""
    world, made = World(out), Daemons(out)
    core = world.node("core")
    home, cafe, office = (_box(world, core, name) for name in ("home", "cafe", "office"))
    moving = roamer(world, "laptop", [home, cafe])
    laptop = moving.node
    guest, _ = world.beside("guest", cafe)
    server, net = world.beside("server", office)
    world.route(core, net, office)
    meet, _ = world.beside("meet", core)
    ssh = _serve(server)
    there = made.rendezvous_at(meet)
    made.gate(office, inside=server, outside=core, policy=OFFICE)
    for box, inside in ((home, [laptop]), (cafe, [laptop, guest])):
        made.gate(box, inside=inside, outside=core, policy=ACCESS, nat=True)
    launch(made.all)
    hosts = [made.host(node, rendezvous=there, registers=False) for node in (laptop, guest)]
    peer = _join(there, server, out)
    services = "".join(f"{service_of(port)} = {port}\n" for port in SERVED)
    with (server.state / "host.toml").open("a") as file:
        file.write(f"\n[services]\n{services}")
    launch([*hosts, peer])
    # Of a host one for each family.
    if not within(SEEN_LIMIT_S, lambda: len(kept(there)) == len(FAMILIES)):
        raise ProgramFailed("the server does not register")
    host, stranger = hosts
    to = host.address(SERVER, FAMILY)
    _name_for_all(SERVER, to)
    gates = {gate.name: gate for gate in made.gates}
    seen = Watch(server), Arriving(server, SINK_PORT)
    return DemoWorld(host, peer, stranger, moving, core, gates, *seen, ssh, to)


def _box(world: World, core: Node, name: str) -> Node:
    """A node that forwards between what is behind it and the core."""
    box = world.node(name)
    world.link(box, core)
    for node in (box, core):
        node.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for network, via in zip(("0.0.0.0/0", "::/0"), core.addresses[name], strict=True):
        version = f"-{ip_network(network).version}"
        box.run("ip", version, "route", "add", network, "via", str(via))
    return box


def _serve(server: Node) -> bool:
    """Start the server's programs; whether there is an sshd among them."""
    demo_files.serve(server, traffic.HTTP_PORT)
    traffic.serve_echo(server)
    flood.serve_sink(server, SINK_PORT)
    if not all(shutil.which(program, path=PATH) for program in ("ssh", "ssh-keygen", "sshd")):
        return False
    traffic.serve_ssh(server)
    return True


def _join(there: Daemon, node: Node, out: Path) -> Daemon:
    """Invite a host and let it join; the lab's places come on top of the file that it wrote."""
    name = f"{node.name}.lab"
    line = there.command("invite", name, "--socket", str(there.control)).strip()
    config = node.state / "host.toml"
    node.run(*WAYSIDE, "join", line, "--config", str(config))
    public = read_key(node.state / "host.key").public
    host = Daemon("host", node, public, out / f"{node.name}.events")
    places = {"state": node.state, "socket": host.control, "log": host.log}
    lines = (f"{key} = {json.dumps(str(path))}\n" for key, path in places.items())
    config.write_text("".join(lines) + config.read_text())
    return host


def _name_for_all(name: str, to: IP) -> None:
    """A line in the lab's own /etc/hosts."""
    source = STATE / f"etc{list(PRIVATE_FILES).index('/etc/hosts')}"
    with source.open("a") as file:
        file.write(f"{to} {name}\n")
