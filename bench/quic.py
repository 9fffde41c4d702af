"""An unmodified aioquic client moves hard, and its packets have to pass a default-drop gate.

    client ── west ──┐
      └────── east ──┴─ core ── gate ── server       the gate is asked about each new place
    p-client ...                p-gate               its pinhole is for the old address, and static

QUIC itself would survive a move: it knows its peer by a connection id. But a firewall that opened
for one address drops the other, so the control dies each time, and begins anew for the next move.
What was silent for `DEAD_S` is dead. The gap counts from the new address on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from figure import Figure, single
from moving import AddressNews, Flows, here_and_there
from place import ALLOW_LAB, HERE, Bench
from quic_echo import NAME
from quic_install import packages

from wayside.core.address import IP
from wayside.lab.enclosure import PYTHON
from wayside.lab.roaming import Roamer, crossroads, roamer, ways_to
from wayside.lab.world import Node, Process, World
from wayside.runtime.names import service_of

FAMILY = 4
PORT = 7073
REACH_MS = 20.0
DEAD_S = 3.0

STATIC = """
table inet lab_static {{
    chain passing {{
        type filter hook forward priority 0; policy drop;
        ip saddr {client} ip daddr {server} udp dport {port} accept
        ip saddr {server} ip daddr {client} udp sport {port} accept
    }}
}}
"""


@dataclass(slots=True)
class Place:
    """One row, and its applications."""

    client: Roamer
    gate: Node
    core: Node
    server: Node
    environment: dict[str, str]

    def serve(self) -> None:
        """Start the server."""
        words = ("serve", str(PORT), str(self.server.state))
        self.server.spawn(*self._program, *words, ready="ready", environment=self.environment)

    def ask(self, to: IP) -> Flows:
        """Start a client, and wait until it hears something. Raises ProgramFailed."""
        flows = Flows(self.server, self.client.node, DEAD_S)
        flows.watch(self._client(to), NAME)
        return flows

    def _client(self, to: IP) -> Process:
        words = (*self._program, "ask", str(to), str(PORT))
        return self.client.node.spawn(*words, environment=self.environment)

    @property
    def _program(self) -> tuple[str, ...]:
        return (*PYTHON, str(HERE / "quic_echo.py"))


def lay(bench: Bench, prefix: str) -> Place:
    """One row."""
    world: World = bench.world
    core = world.node(f"{prefix}core")
    boxes = [world.node(f"{prefix}{name}") for name in ("west", "east")]
    crossroads(world, core, boxes)
    client = roamer(world, f"{prefix}client", boxes)
    ways_to(world, core, client)
    gate, _ = world.beside(f"{prefix}gate", core)
    server, net = world.beside(f"{prefix}server", gate)
    world.route(core, net, gate)
    environment = {"PYTHONPATH": f"{HERE}:{packages(bench.out)}"}
    place = Place(client, gate, core, server, environment)
    place.serve()
    return place


def measure(bench: Bench) -> Iterator[Figure]:
    """Who lives, and the gap of those that do."""
    place, control = lay(bench, ""), lay(bench, "p-")
    agent = bench.daemons.host(place.client.node)
    peer = bench.daemons.host(place.server, {service_of(PORT): PORT})
    bench.daemons.gate(place.gate, inside=place.server, outside=place.core, policy=ALLOW_LAB)
    bench.daemons.start()
    news = AddressNews(place.client.node)
    to = agent.address(peer.name, FAMILY)
    flows = place.ask(to)
    gaps: list[float] = []
    whole: list[float] = []
    lived = survivors = 0
    moves = bench.rounds(20, 3)
    for number in range(3, 3 + moves):
        _, there = here_and_there(place.client)
        began = place.client.hard(there.box, number)
        gap = flows.after(began)[NAME]
        up = news.up(there.addresses()[0]) or began
        lived += not gap.dead
        if gap.dead:
            flows.end()
            flows = place.ask(to)
        whole.append(gap.ms)
        gaps.append(gap.after(up))
        survivors += pinholed(control, number)
    yield single(
        "QUIC through a default-drop gate, client moves: lived",
        "",
        lived,
        reach=moves,
        control=survivors,
        note=f"of {moves} moves; control: a static pinhole for the old address",
    )
    yield single(
        "QUIC through a default-drop gate, client moves: gap once the address is up",
        "ms",
        median(gaps),
        reach=REACH_MS,
        at_most=True,
        samples=gaps,
        note=f"all of it {median(whole):.1f} ms",
    )


def pinholed(control: Place, number: int) -> bool:
    """The control: a new connection, a pinhole for it, a move; whether it lives."""
    server = control.server.address(FAMILY)
    here, there = here_and_there(control.client)
    text = STATIC.format(client=here.addresses()[0], server=server, port=PORT)
    control.gate.run("nft", "-f", "-", stdin=text)
    flows = control.ask(server)
    gap = flows.after(control.client.hard(there.box, number))[NAME]
    flows.end()
    control.gate.run("nft", "delete", "table", "inet", "lab_static")
    return not gap.dead
