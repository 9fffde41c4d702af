"""What the scenarios of hosts that move share: networks to move between, and traffic meanwhile.

    client ── west ──┐        ┌── north ── server
       └───── east ──┴─ core ─┴── south ─────┘
                         │
                       meet: the rendezvous

Each box is a network of its own, and nobody on it speaks for another network's addresses. Boxes
that are gates drop what was not signaled. The server registers with the rendezvous, and the client
knows nothing of where it is: it has a name. Downloads are slow on purpose, and buffers small, so
that a move finds bytes on the way and not in a socket.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wayside.core.address import IP, Flow, Transport
from wayside.core.constants import LOCATION_SERVICE
from wayside.lab import gaps, traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.firewall import parse_flow
from wayside.lab.probe import Watch
from wayside.lab.roaming import Roamer, crossroads, roamer, ways_to
from wayside.lab.scenario import Trial
from wayside.lab.stage import LAB_MAY_ENTER, SERVICES, Stage, kept, serve_all
from wayside.lab.world import Node, Process
from wayside.runtime.names import service_of

ECHO_FROM = 40_001
"""Where the UDP echo's client sends from: its 5-tuple on the wire is known beforehand."""

GAPS_PORT = 7070
BUFFER_BYTES = 131_072
"""Of a TCP socket, at most: a tenth of a second of a download."""

LARGE = "large"
MOVED_LIMIT_S = 10.0
"""An end that is not answered in 5 s asks again; twice that is time enough for anybody."""

NEAR_S = 2.0
"""A gap that begins so soon after a move is that move's."""


@dataclass(frozen=True, slots=True)
class Land:
    """A stage whose hosts roam.

    `boxes` by name; `gates` by the name of their box; `served`: where the flows of gaps.py end.
    """

    stage: Stage
    core: Node
    meet: Daemon
    client: Roamer
    server: Roamer
    boxes: Mapping[str, Node]
    gates: Mapping[str, Daemon]
    served: Process

    @property
    def trial(self) -> Trial:
        """Where checks go."""
        return self.stage.trial

    @property
    def at(self) -> IP:
        """The server's address where it is now."""
        return self.server.node.address(self.trial.family)

    def echo_flow(self) -> Flow:
        """The UDP echo's 5-tuple on the wire, as it is where both ends are now."""
        return self.stage.wire(Transport.UDP, ECHO_FROM, traffic.ECHO_PORT)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scenario wants of its land.

    `gated`: which boxes are gates; `finding`: the rendezvous' policy (empty: whoever asks finds);
    `gate_lifetime_s`: what they grant; `both`: the client registers and moves, too; `consent`: the
    server takes only whom its rendezvous has approved.
    """

    gated: Sequence[str] = ()
    finding: str = ""
    gate_lifetime_s: float = 120
    both: bool = False
    consent: bool = False


More = Callable[[Node, Daemon, Daemon], None]
"""Adds hosts to a land, beside its core: gets that, the rendezvous and the server."""


def set_up(trial: Trial, plan: Plan, large_bytes: int, more: More | None = None) -> Land:
    """Build it, start services and daemons, and wait until the rendezvous knows the server."""
    world, daemons, family = trial.world, trial.daemons, trial.family
    core = world.node("core")
    names = ("west", "east", "north", "south") if plan.both else ("west", "north", "south")
    boxes = {name: world.node(name) for name in names}
    crossroads(world, core, list(boxes.values()))
    client = roamer(world, "client", [boxes[name] for name in names[:-2]])
    server = roamer(world, "server", [boxes[name] for name in names[-2:]])
    meet, _ = world.beside("meet", core)
    meet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for host in (client, server):
        ways_to(world, core, host)
        host.node.run(
            *("sysctl", "-qw", f"net.ipv4.tcp_rmem=4096 65536 {BUFFER_BYTES}"),
            f"net.ipv4.tcp_wmem=4096 65536 {BUFFER_BYTES}",
        )
    serve_all(server.node)
    served = gaps.serve_on(server.node, GAPS_PORT)
    _keep_large(server.node, large_bytes)
    gates = {
        name: daemons.gate(
            boxes[name],
            inside=client.node if boxes[name].name in client.links else server.node,
            outside=core,
            policy=LAB_MAY_ENTER,
            lifetime_s=plan.gate_lifetime_s,
        )
        for name in plan.gated
    }
    there = daemons.rendezvous_at(meet, policy=plan.finding)
    host = daemons.host(client.node, rendezvous=there, registers=plan.both, families=[family])
    services = {**SERVICES, service_of(GAPS_PORT): GAPS_PORT}
    peer = daemons.host(
        server.node,
        services,
        rendezvous=there,
        families=[family],
        approvers=[there] if plan.consent else [],
    )
    if more is not None:
        more(core, there, peer)
    daemons.start(introduce=False)
    wanted = 2 if plan.both else 1
    within(SEEN_LIMIT_S, lambda: len(kept(there)) >= wanted)
    known = len(kept(there))
    trial.check("who moves is registered with the rendezvous", known >= wanted, known)
    to = host.address(peer.name, family)
    nodes = [client.node, core, server.node]
    stage = Stage(trial, host, peer, nodes, to, Watch(server.node))
    return Land(stage, core, there, client, server, boxes, gates, served)


def longest_gaps(land: Land, flows: Sequence[Process], began: float) -> dict[str, float]:
    """By flow, the longest gap (ms) that began about when a move did."""
    longest: dict[str, float] = {}
    for process in (land.served, *flows):
        for line in gaps.told(process):
            if "gap_ms" in line and -0.05 <= line["at"] - began <= NEAR_S:
                name = line["flow"]
                longest[name] = max(longest.get(name, 0.0), line["gap_ms"])
    return longest


def _keep_large(node: Node, size: int) -> None:
    """A file without two equal lines, and without a byte that an address of the lab has."""
    lines = (f"{number:08}{'.' * 55}\n" for number in range(size // 64))
    (node.state / "www" / LARGE).write_text("".join(lines))


@dataclass(frozen=True, slots=True)
class Download:
    """A curl that takes its time. `sent` and `received`: the file on both sides."""

    process: Process
    sent: Path
    received: Path

    def damage(self, limit_s: float) -> str:
        """Empty if the file arrives within so many seconds and is whole, else what is wrong."""
        if self.process.wait(limit_s):
            return self.process.text().strip()
        digests = [
            hashlib.sha256(path.read_bytes()).digest() for path in (self.sent, self.received)
        ]
        return "" if digests[0] == digests[1] else "the file arrived damaged"


def start_download(
    node: Node, server: Node, to: IP, bytes_s: int, limit_s: float = 60.0
) -> Download:
    """Fetch the large file at a limited rate."""
    received = node.state / f"fetched-{to}".replace(":", "-")
    process = node.spawn(
        *("curl", "-sS", "--noproxy", "*", "--limit-rate", str(bytes_s)),
        *("--max-time", str(limit_s), "-o", str(received), f"http://{traffic.spelt(to)}/{LARGE}"),
    )
    return Download(process, server.state / "www" / LARGE, received)


def connected(daemon: Daemon, peer: Daemon) -> list[dict[str, Any]]:
    """A host's live connections with another."""
    held = daemon.held()
    return [c for c in held if c["state"] == "connected" and c["peer"].startswith(peer.name)]


def check_moved(land: Land, what: str, moves: int, count: int) -> None:
    """All connections of the client go to where the server is now."""
    stage, at = land.stage, str(land.at)

    def there() -> list[dict[str, Any]]:
        listed = connected(stage.client, stage.server)
        return [c for c in listed if c["moves"] >= moves and goes_to(c) == at]

    moved = within(MOVED_LIMIT_S, lambda: len(there()) >= count) and there()
    said = len(moved) if moved else len(there())
    land.trial.check(f"{what}: every connection has moved", said >= count, said, f"to {at}")


def goes_to(record: dict[str, Any]) -> str:
    """The IP address that a connection's packets are sent to."""
    return str(_wire(record).destination.ip)


def comes_from(record: dict[str, Any]) -> str:
    """The IP address that a connection's packets are sent from."""
    return str(_wire(record).source.ip)


def _wire(record: dict[str, Any]) -> Flow:
    return parse_flow(f"{record['transport']} {record['wire']}")


def check_informed(land: Land, what: str) -> None:
    """The rendezvous has heard of it: a registration is from where the server is now."""

    def registered() -> bool:
        listed = [c for c in land.meet.held() if c["service"] == LOCATION_SERVICE]
        return any(f"{traffic.spelt(land.at)}:" in c["wire"] for c in listed)

    told = within(SEEN_LIMIT_S, registered)
    land.trial.check(f"{what}: the rendezvous knows", told, str(land.at))


def check_new_connection(land: Land, what: str, at: IP | None = None) -> None:
    """A new curl by the name gets the file from where the server is now, or through `at`."""
    stage, trial = land.stage, land.trial
    earlier = len(stage.client.events())
    fetched = traffic.curl(stage.client.node, stage.to)
    whole = fetched.bytes == traffic.FILE_BYTES
    name = f"{what}: a new connection finds the server"
    trial.check(name, whole, fetched.error or fetched.seconds, "s")
    opened = [r for r in stage.client.events()[earlier:] if r.event == "connection.opened"]
    new = [r for r in opened if r.service == service_of(traffic.HTTP_PORT)]
    flow = new[0].flow if new else ""
    trial.check(f"{what}: and goes there", f"> {traffic.spelt(at or land.at)}:" in flow, flow)
