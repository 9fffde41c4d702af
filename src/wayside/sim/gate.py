"""A gate in the simulator: a firewall box around the unchanged machine of core/gate.py.

Its packet plane is that of kernel/skeleton.py: a rule that fits lets a packet through, or
rewrites it; signaling in transit goes to the agent, and nowhere while that is dead; an
ICMP error passes when the flow that it is about has a rule; everything else between inside and
outside is dropped. A NAT has its outer interface's address; a relay is off the path, without sides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_network

from wayside.core import constants as c
from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext
from wayside.core.effects import Effect
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Action
from wayside.core.stand_in import Served, StandIn
from wayside.core.way import Box as Rewriting
from wayside.core.way import Relaying, Translation
from wayside.kernel.icmp import translate_error

from .box import Box, Driver
from .network import Interface, Network
from .watch import Watcher, gate_of
from .wire import (
    destination_of,
    five_tuple,
    icmp_of,
    packet_of,
    quoted_flow,
    rewritten,
    too_big,
    turned,
)

SIDES = ("inside", "outside")


class CountingQuota(Quota):
    """A quota that says how much of it is taken, for those who look for leaks."""

    def __init__(self, most: int, most_per_prefix: int) -> None:
        super().__init__(most, most_per_prefix)
        self.most = most

    @property
    def taken(self) -> int:
        """Entries that are counted at the moment."""
        return self._total


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What a gate's configuration says. `nat`: it puts its outer address before its inside.

    `relay`: for whom it passes connections on; `via`: where its policy may send them; `legacy`:
    what the hosts behind it have that know no signaling, if it answers for them.
    """

    policy: Policy
    nat: bool = False
    relay: Relaying | None = None
    via: dict[str, tuple[Address, ...]] = field(default_factory=dict[str, tuple[Address, ...]])
    lifetime_s: float = c.LIFETIME_S
    connections_max: int = 1000
    connections_per_network_max: int = 500
    budget: Budget = field(default_factory=Budget)
    legacy: dict[str, Offered] = field(default_factory=dict[str, Offered])


class GateBox(Box):
    """A gate between its inside and its outside."""

    role = "gate"
    forwards = True

    def __init__(self, network: Network, name: str, watch: Watcher, settings: GateSettings) -> None:
        super().__init__(network, name, watch, settings.lifetime_s)
        self.settings = settings
        self.quota = CountingQuota(0, 0)
        self.start()

    def start(self) -> None:
        """Start the agent; it reads its connections back from the kernel."""
        box = TokenBox(self.key, self.secret, self.entropy)
        machine = self._gate(FrontDoor(box, self.settings.budget), box)
        answers = self.settings.legacy
        self.driver = Driver(self, self._stand_in(machine, box) if answers else machine)
        self.driver.start()

    def configure(self, nat: bool = False, relay: Relaying | None = None, **via: Address) -> None:
        """Say what it does beside letting through, once its addresses are known.

        `via`: relays by name.
        """
        known = {name: (address,) for name, address in via.items()}
        self.settings = replace(self.settings, nat=nat, relay=relay, via=known)
        machine = gate_of(self.machine)
        if machine is not None:
            machine.context.box, machine.context.relays = self.rewriting, known

    def take_policy(self, policy: Policy) -> None:
        """Judge by another policy from now on, as the daemon does when it is told to reload."""
        self.settings = replace(self.settings, policy=policy)
        machine = gate_of(self.machine)
        if machine is not None:
            machine.context.policy = policy

    def _gate(self, door: FrontDoor, box: TokenBox) -> Gate:
        """The machine, with what the kernel still holds."""
        settings = self.settings
        self.quota = CountingQuota(settings.connections_max, settings.connections_per_network_max)
        context = GateContext(
            self.signing_key,
            self.name,
            Names({}),
            settings.policy,
            self.entropy,
            settings.lifetime_s,
            box=self.rewriting,
            relays=settings.via,
        )
        machine = Gate(context, door, box, self.quota)
        left = [(found.rule, found.expires_s or 0.0) for found in self.rules]
        machine.restore(left, self.local.now)
        return machine

    def _stand_in(self, gate: Gate, box: TokenBox) -> StandIn:
        """The machine, answering for all that is behind it."""
        settings, key = self.settings, self.signing_key
        context = HostContext(key, self.entropy, self.name, lifetime_s=settings.lifetime_s)
        answering = Answering(Names({}), Policy(default=PolicyAction.ALLOW), settings.legacy)
        most = Quota(settings.connections_max, settings.connections_per_network_max)
        host = Host(context, answering, FrontDoor(box, settings.budget), most)
        everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
        return StandIn(gate, box, [Served("inside", everywhere, host)])

    @property
    def taken(self) -> int:
        """Entries that the machine's quota counts."""
        return self.quota.taken

    @property
    def rewriting(self) -> Rewriting:
        """What it may do to packets beside letting them through."""
        ips = [one.address for one in self.interfaces if one.side == "outside"]
        outside: dict[int, IP] = {ip.version: ip for ip in ips}
        nat = Translation(outside) if self.settings.nat else None
        return Rewriting(nat, self.settings.relay)

    def receive(self, raw: bytes, interface: Interface) -> None:
        """A packet came in."""
        packet = packet_of(raw)
        if packet is None:
            self._error(raw)
            return
        flow = packet.flow
        ours = destination_of(raw) in self.own
        if self.settings.nat and interface.side == "outside" and not ours:
            return  # nobody outside has a route to its inside
        verdict = self.kernel.plane.verdict(flow, len(raw))
        if verdict.action is Action.DROP:
            return
        if verdict.action is not None:
            self.watch.on_admitted(self, flow, verdict, self.place.clock.now)
            mtu = self.transmit(raw if verdict.flow == flow else rewritten(raw, verdict.flow))
            if mtu is not None:
                self.transmit(too_big(packet, mtu))
            return
        if flow.transport is Transport.UDP and flow.destination.port == c.SIGNALING_PORT:
            if ours or interface.side in SIDES:
                self.signaling(raw, interface, transit=not ours)
            return
        if not ours:
            self._cross(raw, interface)

    def may_speak_for(self, source: Address) -> bool:
        """Anybody: a gate's socket is transparent."""
        return True

    def perform(self, effect: Effect) -> None:
        """A gate's reports are for its log."""

    def transmit(self, raw: bytes) -> int | None:
        """Send a packet on its way, and let it be seen."""
        way = self.network.way(self, destination_of(raw))
        if way is not None:
            outwards = way.side == "outside"
            self.watch.on_sent(self, raw, outwards, self.place.clock.now)
        return super().transmit(raw)

    def _cross(self, raw: bytes, interface: Interface) -> None:
        """No rule fits: between the sides nothing goes."""
        way = self.network.way(self, destination_of(raw))
        if way is not None and way is not interface and not _between(interface, way):
            self.forward(raw)

    def _error(self, raw: bytes) -> None:
        """ICMP: what is about a packet that went out by a rule goes back by it."""
        about, message = quoted_flow(raw), icmp_of(raw)
        if about is None or message is None:
            return
        before = self._before(about)
        if before == about:
            self.forward(raw)
        elif before is not None:
            error = translate_error(message, raw[0] >> 4, lambda _: before)
            if error is not None:
                self.forward(error)

    def _before(self, about: Flow) -> Flow | None:
        """What a packet was that left us like this; None: it did not."""
        key = turned(five_tuple(about))
        for found in self.rules:
            if five_tuple(found.rule.match) == key:
                after = found.rule.rewrite
                return about if after is None else after.reversed()
        return None


def _between(one: Interface, other: Interface) -> bool:
    return sorted((one.side, other.side)) == sorted(SIDES)
