"""A gate in the simulator: a firewall box around the unchanged machine of core/gate.py.

Its packet plane is that of kernel/skeleton.py: a rule that fits lets a packet through; signaling in
transit goes to the agent, and nowhere while that is dead; an ICMP error passes when the flow that
it is about has a rule; everything else between inside and outside is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wayside.core import constants as c
from wayside.core.address import Address, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.effects import Effect
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.identity import Names
from wayside.core.policy import Policy
from wayside.core.route import TokenBox
from wayside.core.rule import Action

from .box import Box, Driver
from .network import Interface, Network
from .watch import Watcher
from .wire import destination_of, five_tuple, packet_of, quoted_flow, turned

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
    """What a gate's configuration says."""

    policy: Policy
    lifetime_s: float = c.LIFETIME_S
    connections_max: int = 1000
    connections_per_network_max: int = 500
    budget: Budget = field(default_factory=Budget)


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
        settings = self.settings
        self.quota = CountingQuota(settings.connections_max, settings.connections_per_network_max)
        box = TokenBox(self.key, self.secret, self.entropy)
        context = GateContext(
            self.signing_key,
            self.name,
            Names({}),
            settings.policy,
            self.entropy,
            settings.lifetime_s,
        )
        machine = Gate(context, FrontDoor(box, settings.budget), box, self.quota)
        left = [(found.rule, found.expires_s or 0.0) for found in self.rules]
        machine.restore(left, self.local.now)
        self.driver = Driver(self, machine)
        self.driver.start()

    @property
    def taken(self) -> int:
        """Entries that the machine's quota counts."""
        return self.quota.taken

    def receive(self, raw: bytes, interface: Interface) -> None:
        """A packet came in."""
        packet = packet_of(raw)
        if packet is None:
            self._error(raw)
            return
        flow = packet.flow
        verdict = self.kernel.plane.verdict(flow, len(raw))
        if verdict.action is Action.DROP:
            return
        if verdict.action is Action.ACCEPT:
            self.watch.on_admitted(self, flow, verdict, self.place.clock.now)
            self.forward(raw)
            return
        ours = destination_of(raw) in self.own
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

    def _cross(self, raw: bytes, interface: Interface) -> None:
        """No rule fits: between the sides nothing goes."""
        way = self.network.way(self, destination_of(raw))
        if way is not None and not _between(interface, way):
            self.forward(raw)

    def _error(self, raw: bytes) -> None:
        """ICMP: what is about an admitted flow passes."""
        about = quoted_flow(raw)
        if about is None:
            return
        key = five_tuple(about)
        wanted = (key, turned(key))
        if any(five_tuple(found.rule.match) in wanted for found in self.rules):
            self.forward(raw)


def _between(one: Interface, other: Interface) -> bool:
    return sorted((one.side, other.side)) == sorted(SIDES)
