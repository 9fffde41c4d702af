"""The worlds by name: who is there, how they are joined, what they want, what they may expect.

    clients ── access ──[nat]──[gate]── core ──[gate]── site ── servers
                                         │
                                    off the path

A world is drawn from its seed within these bounds: address family, number of hosts, policies,
lifetimes, delays, hosts without an agent, a client with a second way into the network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from wayside.core.address import Transport
from wayside.core.admission import Budget
from wayside.core.host import Offered
from wayside.core.identity import PeerIdentity
from wayside.core.policy import Policy, PolicyAction, PolicyRule

from .application import Client, Expect, Server, Wanted
from .gate import GateBox, GateSettings
from .host import HostBox, HostSettings, Peer
from .link import Conditions
from .nat import Depends, Nat, NatKind
from .network import Network, Node, Router
from .watch import Watcher

REFUSED_PORT = 22
"""What the gates of world `reject` reject, by name and reason."""

NO_SERVICE_PORT = 99
"""What no server offers."""

SERVICES = {"443": Offered(8443), "53": Offered(5353), "22": Offered(2222)}
LISTENS = ((Transport.TCP, 8443), (Transport.UDP, 5353), (Transport.TCP, 2222))


@dataclass(frozen=True, slots=True)
class Spec:
    """What a named world has. `faults`: the most in a schedule; `loss`: of all links, always."""

    about: str
    near_clients: bool = False
    near_servers: bool = False
    nat: bool = False
    rejects: bool = False
    faults: int = 6
    loss: float = 0.0
    wild: bool = False


WORLDS: dict[str, Spec] = {
    "simple": Spec("two hosts and the network between them"),
    "firewall-out": Spec("a firewall near the initiator", near_clients=True),
    "firewall-in": Spec("a firewall near the responder", near_servers=True),
    "firewall-both": Spec("a firewall near each", near_clients=True, near_servers=True),
    "reject": Spec("a firewall and hosts that say no", near_clients=True, rejects=True),
    "legacy-nat": Spec("a NAT on the path that knows no signaling", near_servers=True, nat=True),
    "lossy": Spec(
        "links that lose, delay and reorder all the time",
        near_clients=True,
        near_servers=True,
        faults=2,
        loss=0.15,
    ),
    "chaos": Spec("any of these, and much going wrong", faults=16, wild=True),
}


@dataclass(slots=True)
class Layout:
    """A world that was built. `lifetime_s`: the longest of any rule or connection in it."""

    gates: list[GateBox]
    clients: list[HostBox]
    servers: list[HostBox]
    flooder: HostBox
    off_path: Node
    wanted: list[Client]
    answering: list[Server]
    lifetime_s: float


class Builder:
    """Builds one world; every choice is drawn from one stream, in one order."""

    def __init__(self, network: Network, watch: Watcher, spec: Spec, chance: Random) -> None:
        self.network = network
        self.watch = watch
        self.spec = _tamed(spec, chance)
        self.chance = chance
        self.lifetimes: list[float] = []

    def build(self) -> Layout:
        """Boxes, links, applications."""
        chance, spec, network = self.chance, self.spec, self.network
        core = Router(network, "core")
        access = Router(network, "access")
        gates: list[GateBox] = []
        edge: Node = access
        if spec.nat:
            nat = Nat(network, "nat", _nat_kind(chance))
            network.connect(edge, nat, self._conditions(), ("", "inside"))
            edge = nat
        if spec.near_clients:
            gate = self._gate("g1")
            gates.append(gate)
            network.connect(edge, gate, self._conditions(), (_side(edge), "inside"))
            edge = gate
        network.connect(edge, core, self._conditions(), (_side(edge), ""))
        site: Node = core
        if spec.near_servers:
            site = Router(network, "site")
            gate = self._gate("g2")
            gates.append(gate)
            network.connect(core, gate, self._conditions(), ("", "outside"))
            network.connect(gate, site, self._conditions(), ("inside", ""))
        clients = [self._client(n, access, core) for n in range(chance.randint(1, 2))]
        servers = [self._server(n, site) for n in range(chance.randint(1, 2))]
        off_path = Router(network, "elsewhere")
        network.connect(off_path, core, self._conditions())
        flooder = self._host("flooder", self._settings(virtual=True))
        flooder.honest = False
        network.connect(flooder, access if chance.random() < 0.5 else core, self._conditions())
        for host in (*clients, flooder):
            for server in servers:
                host.meet(_peer(server))
        wanted = [
            client
            for host in clients
            for server in servers
            for client in self._wanted(host, server)
        ]
        answering = [self._serve(server) for server in servers]
        longest = max(self.lifetimes)
        return Layout(gates, clients, servers, flooder, off_path, wanted, answering, longest)

    def _conditions(self) -> Conditions:
        chance, loss = self.chance, self.spec.loss
        made = Conditions(delay_s=chance.uniform(0.001, 0.03))
        if loss:
            made.loss = chance.uniform(0.01, loss)
            made.jitter_s = chance.uniform(0, 0.03)
            made.duplicate = chance.uniform(0, loss)
            made.reorder = chance.uniform(0, loss)
        return made

    def _lifetime(self, *choices: float) -> float:
        lifetime_s = self.chance.choice(choices)
        self.lifetimes.append(lifetime_s)
        return lifetime_s

    def _budget(self) -> Budget:
        """Mostly as daemons have it; sometimes so little that strangers are challenged."""
        return Budget(500, 5) if self.chance.random() < 0.2 else Budget()

    def _gate(self, name: str) -> GateBox:
        default = PolicyAction.CHALLENGE if self.chance.random() < 0.25 else PolicyAction.ALLOW
        rules: tuple[PolicyRule, ...] = ()
        if self.spec.rejects:
            no = PolicyRule(
                "no-shells",
                PolicyAction.REJECT,
                service=(str(REFUSED_PORT),),
                reason="no shells through here",
            )
            rules = (no,)
        settings = GateSettings(
            Policy(rules, default),
            lifetime_s=self._lifetime(5.0, 10.0, 30.0, 60.0),
            connections_max=300,
            connections_per_network_max=150,
            budget=self._budget(),
        )
        return GateBox(self.network, name, self.watch, settings)

    def _settings(self, virtual: bool) -> HostSettings:
        default = PolicyAction.CHALLENGE if self.chance.random() < 0.2 else PolicyAction.ALLOW
        return HostSettings(
            policy=Policy(default=default),
            virtual=virtual,
            lifetime_s=self._lifetime(10.0, 30.0, 60.0),
            connections_max=300,
            connections_per_network_max=150,
            budget=self._budget(),
        )

    def _host(self, name: str, settings: HostSettings) -> HostBox:
        return HostBox(self.network, name, self.watch, settings)

    def _client(self, number: int, access: Node, core: Node) -> HostBox:
        virtual = self.chance.random() < 0.8
        host = self._host(f"c{number + 1}", self._settings(virtual))
        self.network.connect(host, access, self._conditions())
        if self.spec.wild and not self.spec.rejects and self.chance.random() < 0.3:
            self.network.connect(host, core, self._conditions())
        return host

    def _server(self, number: int, site: Node) -> HostBox:
        settings = replace(self._settings(virtual=True), services=dict(SERVICES))
        host = self._host(f"s{number + 1}", settings)
        self.network.connect(site, host, self._conditions())
        return host

    def _wanted(self, host: HostBox, server: HostBox) -> list[Client]:
        kinds = [(443, Transport.TCP), (53, Transport.UDP)]
        if self.spec.rejects:
            kinds += [(REFUSED_PORT, Transport.TCP), (NO_SERVICE_PORT, Transport.UDP)]
        elif self.chance.random() < 0.3:
            kinds = [self.chance.choice(kinds)]
        found: list[Client] = []
        for port, transport in kinds:
            refused = port in (REFUSED_PORT, NO_SERVICE_PORT)
            expect = Expect.REFUSED if refused else Expect.UP
            if self.spec.nat:
                expect = Expect.NOT_UP
            wanted = Wanted(
                host.name,
                server.name,
                port,
                transport,
                expect,
                every_s=self.chance.uniform(0.5, 4.0),
                size=self.chance.choice((80, 80, 600, 1440)),
                requests=self.chance.choice((2, 6, 20)),
            )
            found.append(Client(host, _peer(server), wanted))
        return found

    def _serve(self, box: HostBox) -> Server:
        server = Server(box)
        for transport, port in LISTENS:
            box.sockets.listen(transport, port, server)
        return server


def _tamed(spec: Spec, chance: Random) -> Spec:
    """The wild world is one of the others, with more that goes wrong."""
    if not spec.wild:
        return spec
    rejects = chance.random() < 0.2
    return replace(
        spec,
        near_clients=rejects or chance.random() < 0.6,
        near_servers=chance.random() < 0.6,
        rejects=rejects,
        loss=chance.choice((0.0, 0.0, 0.1)),
    )


def _nat_kind(chance: Random) -> NatKind:
    kinds = tuple(Depends)
    return NatKind(
        mapping=chance.choice(kinds),
        filtering=chance.choice(kinds),
        expiry_s=chance.choice((5.0, 30.0, 120.0)),
        hairpin=chance.random() < 0.5,
        preserves=chance.random() < 0.5,
    )


def _side(node: Node) -> str:
    return "outside" if isinstance(node, Nat | GateBox) else ""


def _peer(server: HostBox) -> Peer:
    return Peer(PeerIdentity(server.key), server.interfaces[0].signaling)
