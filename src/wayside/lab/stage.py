"""The stage that all scenarios of connection set-up share: hosts at the ends, boxes between.

    client ── box ── ... ── server

with the services of traffic.py on the server, the daemons running, and a watch on the server's
interface. Scenarios differ in what stands between and in the policy it has.
"""

from __future__ import annotations

from dataclasses import dataclass

from wayside.core.address import IP, Address, Flow, Transport
from wayside.lab import traffic
from wayside.lab.daemons import SEEN_LIMIT_S, Daemon, within
from wayside.lab.probe import Watch
from wayside.lab.scenario import Trial
from wayside.lab.world import Node
from wayside.runtime.eventlog import Record
from wayside.runtime.names import service_of

PORTS = (traffic.IPERF_PORT, traffic.HTTP_PORT, traffic.SSH_PORT, traffic.ECHO_PORT)

SERVICES = {service_of(port): port for port in PORTS}
"""What the server's host exposes, by the names that unmodified programs mean by these ports."""

ALLOW_LAB = """
default = "reject"

[[rule]]
name = "lab-may"
from = ["*.lab"]
to = ["*.lab"]
action = "allow"

[[test]]
from = "client.lab"
to = "server.lab"
service = "http"
transport = "tcp"
direction = "DIRECTION"
expect = "allow"
"""

HIDES = """
default = "reject"

[[rule]]
name = "found-but-hidden"
from = ["*.lab"]
to = ["*.lab"]
action = "steer"
"""
"""Of a rendezvous: whoever is of the lab is found, and nobody learns where."""

LAB_MAY_ENTER = """
default = "reject"

[[rule]]
name = "whoever-is-inside-may-leave"
direction = "out"
action = "allow"

[[rule]]
name = "lab-may-enter"
from = ["*.lab"]
direction = "in"
action = "allow"

[[test]]
from = "client.lab"
service = "http"
direction = "in"
expect = "allow"

[[test]]
from = "*"
service = "http"
direction = "in"
expect = "reject"
"""
"""Out goes whoever is inside; in comes who is of the lab."""


@dataclass(frozen=True, slots=True)
class Stage:
    """`to`: the server's virtual address on the client; `watch`: what reaches the server."""

    trial: Trial
    client: Daemon
    server: Daemon
    nodes: list[Node]
    to: IP
    watch: Watch

    def wire(self, transport: Transport, source_port: int, port: int) -> Flow:
        """The 5-tuple of the client's packets on the wire; ports stay what they are."""
        family = self.trial.family
        return Flow(
            transport,
            Address(self.client.node.address(family), source_port),
            Address(self.server.node.address(family), port),
        )

    def wait_events(
        self, daemon: Daemon, event: str, limit_s: float = SEEN_LIMIT_S
    ) -> list[Record]:
        """The records of one kind in a daemon's log, once there are any."""
        return within(limit_s, lambda: [r for r in daemon.events() if r.event == event])


def serve_all(node: Node) -> None:
    """Start all services of traffic.py."""
    for serve in (traffic.serve_iperf, traffic.serve_http, traffic.serve_ssh, traffic.serve_echo):
        serve(node)


def kept(meet: Daemon) -> list[Record]:
    """Each time that a rendezvous was told where somebody is."""
    return [record for record in meet.events() if record.event == "location.kept"]


def set_stage(
    trial: Trial,
    *boxes: str,
    gate: str = "",
    inside: str = "",
    policy: str = ALLOW_LAB,
    gate_lifetime_s: float = 120,
    delay_ms: dict[int, float] | None = None,
) -> Stage:
    """Build client, boxes and server in a row, start services and daemons.

    `gate`: which of the boxes is one; `inside`: its neighbour on the protected side.
    """
    nodes = trial.world.chain("client", *boxes, "server", delay_ms=delay_ms)
    by_name = {node.name: node for node in nodes}
    client, server = nodes[0], nodes[-1]
    serve_all(server)
    daemons = trial.daemons
    host = daemons.host(client)
    peer = daemons.host(server, SERVICES)
    if gate:
        place = nodes.index(by_name[gate])
        neighbours = [nodes[place - 1], nodes[place + 1]]
        protected = by_name[inside]
        other = next(node for node in neighbours if node is not protected)
        direction = "out" if protected is neighbours[0] else "in"
        daemons.gate(
            by_name[gate],
            inside=protected,
            outside=other,
            policy=policy.replace("DIRECTION", direction),
            lifetime_s=gate_lifetime_s,
        )
    daemons.start()
    to = host.address(peer.name, trial.family)
    return Stage(trial, host, peer, nodes, to, Watch(server))
