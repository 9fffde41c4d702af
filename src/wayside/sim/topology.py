"""The worlds by name: who is there, how they are joined, what they want, what they may expect.

    clients ── access ──[NATs]──[gate]── core ──[NATs]──[gate]── site ── servers
                                       │    └──[gate]── abroad ─────────┘
                      rendezvous, relay, off the path

A world is drawn from its seed within these bounds: address family, number of hosts, policies,
lifetimes, delays, hosts without an agent, a client with a second way into the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from ipaddress import ip_network
from random import Random

from wayside.core.address import Transport
from wayside.core.admission import Budget
from wayside.core.host import Offered
from wayside.core.identity import Leave, PeerIdentity
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.way import Relaying

from .application import FIRST_PORT, OWN_PORTS, Client, Expect, Server, Wanted
from .forge import forged_location
from .gate import GateBox, GateSettings
from .host import HostBox, HostSettings, Peer, Steering
from .link import Conditions
from .multipath import MultipathClient, MultipathServer
from .nat import Depends, Nat, NatKind
from .network import Network, Node, Router
from .rendezvous import RendezvousBox, RendezvousSettings
from .store import Store
from .watch import Watcher
from .worlds import Spec

REFUSED_PORT = 22
"""What the gates of world `reject` reject, by name and reason."""

NO_SERVICE_PORT = 99
"""What no server offers."""

ABROAD = 100
"""The metric of a server's second way: it is taken when the first is down."""

NO_SECOND_PATH = PolicyRule(
    "no-second-path",
    PolicyAction.REJECT,
    transport=(Transport.MPTCP,),
    reason="not by this path today",
)
"""Of some gates before second links, where MPTCP would use them."""

ALLOWING = Policy(default=PolicyAction.ALLOW)

SERVICES = {"443": Offered(8443), "53": Offered(5353), "22": Offered(2222)}
LISTENS = ((Transport.TCP, 8443), (Transport.UDP, 5353), (Transport.TCP, 2222))


@dataclass(slots=True)
class Layout:
    """A world that was built. `lifetime_s`: the longest of any rule or connection in it.

    `second`: the gates before hosts' second links, by the host.
    """

    gates: list[GateBox]
    clients: list[HostBox]
    servers: list[HostBox]
    flooder: HostBox
    off_path: Node
    wanted: list[Client]
    answering: list[Server]
    lifetime_s: float
    spec: Spec
    rendezvous: RendezvousBox | None = None
    relay: GateBox | None = None
    second: dict[str, GateBox] = field(default_factory=dict[str, GateBox])

    @property
    def boxes(self) -> list[GateBox | HostBox]:
        """All boxes that run a machine."""
        off_path = [one for one in (self.relay, self.rendezvous) if one is not None]
        hosts = (*self.clients, *self.servers, self.flooder)
        return [*self.gates, *off_path, *hosts]


class Builder:
    """Builds one world; every choice is drawn from one stream, in one order."""

    def __init__(self, network: Network, watch: Watcher, spec: Spec, chance: Random) -> None:
        self.network = network
        self.watch = watch
        self.spec = spec
        self.chance = chance
        self.lifetimes: list[float] = []
        self.gates: list[GateBox] = []
        self.found: RendezvousBox | None = None
        self.relay: GateBox | None = None
        self.second: dict[str, GateBox] = {}
        self.asked = 0

    def build(self) -> Layout:
        """Boxes, links, applications."""
        chance, spec, network = self.chance, self.spec, self.network
        core, off_path = Router(network, "core"), Router(network, "elsewhere")
        found = self._middle(core)
        access, site = self._near(core), self._far(core)
        clients = [self._client(n, access, core) for n in range(chance.randint(1, 2))]
        abroad = self._abroad(core) if spec.mobile or spec.more.paths else core
        count = chance.randint(1, spec.more.servers)
        servers = [self._server(n, site, abroad) for n in range(count)]
        network.connect(off_path, core, self._conditions())
        flooder = self._host("flooder", self._settings(virtual=True))
        flooder.honest = False
        network.connect(flooder, access if chance.random() < 0.5 else core, self._conditions())
        for host in (*clients, flooder):
            for server in servers:
                host.meet(self._peer(server))
        wanted = [
            client
            for host in clients
            for server in servers
            for client in self._wanted(host, server)
        ]
        answering = [self._serve(server) for server in servers]
        return Layout(
            gates=self.gates,
            clients=clients,
            servers=servers,
            flooder=flooder,
            off_path=off_path,
            wanted=wanted,
            answering=answering,
            lifetime_s=max(self.lifetimes),
            spec=spec,
            rendezvous=found,
            relay=self.relay,
            second=self.second,
        )

    # --- the boxes between ---

    def _middle(self, core: Node) -> RendezvousBox | None:
        """A rendezvous, and a relay, off the path."""
        spec, network, chance = self.spec, self.network, self.chance
        if spec.more.redirects:
            self.relay = self._gate("p")
            network.connect(self.relay, core, self._conditions())
        if not spec.more.rendezvous:
            return None
        rules = _no_shells("no shells at home") if spec.rejects else ()
        default = PolicyAction.STEER if spec.more.hides else PolicyAction.ALLOW
        if not spec.more.hides and chance.random() < 0.2:
            default = PolicyAction.CHALLENGE
        settings = RendezvousSettings(
            Policy(rules, default), self._lifetime(10.0, 30.0, 60.0), budget=self._budget()
        )
        store = Store(network.place.clock, network.place.chance.stream("store"), forged_location)
        found = self.found = RendezvousBox(network, "r", self.watch, settings, store)
        network.connect(found, core, self._conditions())
        return found

    def _near(self, core: Node) -> Node:
        """From where the clients are to the core; what faces them comes first."""
        spec, network, chance = self.spec, self.network, self.chance
        access = Router(network, "access")
        edge: Node = access
        if spec.nat and not spec.nats:
            nat = Nat(network, "nat", _nat_kind(chance))
            network.connect(edge, nat, self._conditions(), ("", "inside"))
            edge = nat
        for number in range(spec.client_nats):
            edge = self._behind(edge, self._gate(f"n{number + 1}"))
        if spec.near_clients:
            edge = self._behind(edge, self._gate("g1"))
        network.connect(edge, core, self._conditions(), (_side(edge), ""))
        for gate in self.gates:
            gate.configure(nat=gate.name.startswith("n"))
        if self.relay is not None and isinstance(edge, GateBox):
            edge.configure(p=self.relay.interfaces[0].signaling)
            targets = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
            self.relay.configure(relay=Relaying((edge.key,), targets))
        return access

    def _behind(self, edge: Node, gate: GateBox) -> GateBox:
        self.gates.append(gate)
        self.network.connect(edge, gate, self._conditions(), (_side(edge), "inside"))
        return gate

    def _far(self, core: Node) -> Node:
        """From the core to where the servers are."""
        spec, network = self.spec, self.network
        names = [f"m{number + 1}" for number in range(spec.server_nats)]
        names = [*names, "g3"] if spec.more.stops else names
        names = [*names, "g2"] if spec.near_servers else names
        edge, side = core, ""
        for name in names:
            gate = self._gate(name)
            self.gates.append(gate)
            network.connect(edge, gate, self._conditions(), (side, "outside"))
            gate.configure(nat=name.startswith("m"))
            edge, side = gate, "inside"
        if edge is core:
            return core
        site = Router(network, "site")
        network.connect(edge, site, self._conditions(), (side, ""))
        return site

    def _abroad(self, core: Node) -> Node:
        """Another network, which a server may move to; sometimes with a firewall of its own."""
        abroad: Node = Router(self.network, "abroad")
        if self._gated():
            gate = self._gate("g3")
            self.gates.append(gate)
            self.network.connect(core, gate, self._conditions(), ("", "outside"))
            self.network.connect(gate, abroad, self._conditions(), ("inside", ""))
        else:
            self.network.connect(core, abroad, self._conditions())
        return abroad

    def _gated(self) -> bool:
        """Whether there is a firewall before a second link."""
        return self.chance.random() < 0.5 or self.spec.more.subflows

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
        if self.spec.more.flooded:
            return Budget(500, 5, 50)
        return Budget(500, 5) if self.chance.random() < 0.2 else Budget()

    def _gate(self, name: str) -> GateBox:
        default = PolicyAction.CHALLENGE if self.chance.random() < 0.25 else PolicyAction.ALLOW
        rules = _no_shells("no shells through here") if self.spec.rejects else ()
        if self.spec.more.redirects and name == "g1":
            rules = (PolicyRule("by-way-of-p", PolicyAction.REDIRECT, via="p"),)
        if self.spec.more.subflows and name not in ("g1", "g2") and self.chance.random() < 0.25:
            rules = (NO_SECOND_PATH,)
        settings = GateSettings(
            Policy(rules, default),
            lifetime_s=self._lifetime(5.0, 10.0, 30.0, 60.0),
            connections_max=300,
            connections_per_network_max=150,
            budget=self._budget(),
            legacy=dict(SERVICES) if self.spec.more.legacy and name == "g2" else {},
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
            steering=self._steering(),
            multihomed=self.spec.more.paths,
            watches=self.spec.more.paths or self.spec.more.hides,
            mptcp=self.spec.more.subflows,
        )

    def _steering(self) -> Steering:
        """Whom a client lets redirect it. Who is hidden from it, it need not know."""
        found, spec = self.found, self.spec
        redirectors = [found.key] if found is not None and not spec.more.hides else []
        redirectors += [gate.key for gate in self.gates if spec.more.redirects]
        return Steering(redirectors=tuple(redirectors))

    def _host(self, name: str, settings: HostSettings) -> HostBox:
        return HostBox(self.network, name, self.watch, settings)

    def _client(self, number: int, access: Node, core: Node) -> HostBox:
        virtual = self.chance.random() < 0.8 or self.spec.more.subflows
        host = self._host(f"c{number + 1}", self._settings(virtual))
        self.network.connect(host, self._walled(host, access), self._conditions())
        if self.spec.wild and not self.spec.rejects and self.chance.random() < 0.3:
            self.network.connect(host, core, self._conditions())
        if self.spec.more.paths:
            self.network.connect(host, self._second(core, host), self._conditions())
            host.interfaces[1].metric = ABROAD
        return host

    def _walled(self, host: HostBox, edge: Node) -> Node:
        """What a host is connected to: its own NAT, where all have one that knows no signaling."""
        if not self.spec.nats:
            return edge
        kind = NatKind(
            filtering=self.chance.choice(tuple(Depends)),
            expiry_s=self.chance.choice((30.0, 120.0)),
            hairpin=self.chance.random() < 0.5,
        )
        nat, home = (
            Nat(self.network, f"nat-{host.name}", kind),
            Router(self.network, f"at-{host.name}"),
        )
        self.network.connect(nat, edge, self._conditions(), ("outside", ""))
        self.network.connect(home, nat, self._conditions(), ("", "inside"))
        return home

    def _second(self, core: Node, host: HostBox) -> Node:
        """The other network of a client, with a firewall of its own or not."""
        edge: Node = Router(self.network, f"second{len(self.network.nodes)}")
        if self._gated():
            gate = self.second[host.name] = self._gate(f"h{len(self.gates)}")
            self.gates.append(gate)
            self.network.connect(edge, gate, self._conditions(), ("", "inside"))
            self.network.connect(gate, core, self._conditions(), ("outside", ""))
        else:
            self.network.connect(edge, core, self._conditions())
        return edge

    def _server(self, number: int, site: Node, abroad: Node) -> HostBox:
        found, steering = self.found, Steering()
        if found is not None:
            at = found.interfaces[0].signaling
            steering = Steering(Peer(PeerIdentity(found.key), at), (found.key,))
            if self.spec.more.consent:
                steering = replace(steering, approvers=(found.key,), home=at)
        settings = replace(self._settings(virtual=True), services=dict(SERVICES), steering=steering)
        host = self._host(f"s{number + 1}", settings)
        self.network.connect(self._walled(host, site), host, self._conditions())
        if self.spec.more.legacy:
            host.honest = False
            host.kill()
        if abroad is not site and ("s" in self.spec.mobile or self.spec.more.paths):
            self.network.connect(abroad, host, self._conditions())
            host.interfaces[1].metric = ABROAD
            for gate in self.gates:
                if gate.name == "g3":
                    self.second[host.name] = gate
        return host

    def _peer(self, server: HostBox) -> Peer:
        """Whom one asks for a server: its home, where it has one."""
        at = server.interfaces[0].signaling
        if self.spec.more.legacy:
            return Peer(PeerIdentity(_nobody(server), leave=Leave(gate=True)), at)
        if self.found is not None and not (self.spec.more.consent and self.chance.random() < 0.5):
            at = self.found.interfaces[0].signaling
        others = tuple(one.signaling for one in server.interfaces if one.signaling != at)
        return Peer(PeerIdentity(server.key), at, others if self.spec.more.paths else ())

    def _wanted(self, host: HostBox, server: HostBox) -> list[Client]:
        kinds = [(443, Transport.TCP), (53, Transport.UDP)]
        if self.spec.rejects:
            kinds += [(REFUSED_PORT, Transport.TCP), (NO_SERVICE_PORT, Transport.UDP)]
        elif self.chance.random() < 0.3:
            kinds = [self.chance.choice(kinds)]
        if self.spec.more.subflows:
            kinds = [(443, Transport.MPTCP)]
        requests = (6, 20, 200) if self.spec.more.subflows else (2, 6, 20)
        found: list[Client] = []
        for port, transport in kinds:
            refused = port in (REFUSED_PORT, NO_SERVICE_PORT)
            expect = Expect.REFUSED if refused else Expect.UP
            if self.spec.nat and not self.spec.nats:
                expect = Expect.EITHER
            if self.spec.nats and transport is Transport.TCP and not host.settings.virtual:
                expect = Expect.REFUSED  # a program does not know the SYN of its own socket
            wanted = Wanted(
                host.name,
                server.name,
                port,
                transport,
                expect,
                every_s=self.chance.uniform(0.5, 4.0),
                size=self.chance.choice((80, 80, 600, 1440)),
                requests=self.chance.choice(requests),
                own_ports=self._own_ports(),
            )
            kind = MultipathClient if transport is Transport.MPTCP else Client
            found.append(kind(host, self._known(host, server), wanted))
        return found

    def _known(self, host: HostBox, server: HostBox) -> Peer:
        key = _nobody(server) if self.spec.more.legacy else server.key
        return host.durable.peers[key]

    def _own_ports(self) -> int:
        self.asked += 1
        return FIRST_PORT + OWN_PORTS * self.asked if self.spec.more.own_ports else 0

    def _serve(self, box: HostBox) -> Server:
        server = MultipathServer(box) if self.spec.more.subflows else Server(box)
        for transport, port in LISTENS:
            box.sockets.listen(transport, port, server)
        return server


def _no_shells(reason: str) -> tuple[PolicyRule, ...]:
    service = (str(REFUSED_PORT),)
    return (PolicyRule("no-shells", PolicyAction.REJECT, service=service, reason=reason),)


def _nobody(server: HostBox) -> bytes:
    """What stands for the key of a host without one. Spec: R-12.1."""
    return sha256(b"wayside-legacy" + server.name.encode()).digest()


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
