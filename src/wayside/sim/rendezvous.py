"""A rendezvous in the simulator: a box around the machine of core/rendezvous.py, and a store.

What it keeps of connections dies with its agent, as in runtime/rendezvous.py: hosts register again.
Its store is another machine, and outlives it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wayside.core import constants as c
from wayside.core.admission import Budget, FrontDoor
from wayside.core.connection import HostContext
from wayside.core.effects import Effect, FindLocation, KeepLocation
from wayside.core.events import LocationFound
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names
from wayside.core.policy import Policy, PolicyAction
from wayside.core.rendezvous import Rendezvous
from wayside.core.route import TokenBox
from wayside.core.way import Relaying

from .box import Driver
from .gate import CountingQuota, GateBox, GateSettings
from .network import Interface, Network
from .store import Store
from .watch import Watcher
from .wire import is_punch, packet_of

ALLOW_ALL = Policy(default=PolicyAction.ALLOW)


@dataclass(frozen=True, slots=True)
class RendezvousSettings:
    """What a rendezvous' configuration says; `policy`: who finds whom, and who is hidden."""

    policy: Policy
    lifetime_s: float = c.LIFETIME_S
    connections_max: int = 300
    budget: Budget = field(default_factory=Budget)


class RendezvousBox(GateBox):
    """A rendezvous somewhere in the network."""

    role = "rendezvous"

    def __init__(
        self,
        network: Network,
        name: str,
        watch: Watcher,
        settings: RendezvousSettings,
        store: Store,
    ) -> None:
        self.store = store
        self.hosts = CountingQuota(0, 0)
        relaying = GateSettings(
            settings.policy,
            relay=Relaying(),
            lifetime_s=settings.lifetime_s,
            connections_max=settings.connections_max,
            connections_per_network_max=settings.connections_max,
            budget=settings.budget,
        )
        super().__init__(network, name, watch, relaying)

    def start(self) -> None:
        """Start the agent: what it hides goes on, who registered has to do so again."""
        settings = self.settings
        box = TokenBox(self.key, self.secret, self.entropy)
        door = FrontDoor(box, settings.budget)
        self.hosts = CountingQuota(settings.connections_max, settings.connections_max)
        context = HostContext(
            self.signing_key, self.entropy, self.name, lifetime_s=settings.lifetime_s
        )
        answering = Answering(Names({}), ALLOW_ALL, {c.LOCATION_SERVICE: Offered(0)})
        host = Host(context, answering, door, self.hosts)
        self.driver = Driver(self, Rendezvous(host, self._gate(door, box), door))
        self.driver.start()

    def receive(self, raw: bytes, interface: Interface) -> None:
        """A packet came in; what only opens a NAT goes no further, whatever rules there are."""
        packet = packet_of(raw)
        if packet is None or not is_punch(packet):
            super().receive(raw, interface)

    @property
    def taken(self) -> int:
        """Entries that its machine's quotas count."""
        return self.quota.taken + self.hosts.taken

    def perform(self, effect: Effect) -> None:
        """Keep and find locations."""
        match effect:
            case KeepLocation():
                self.store.keep(effect)
            case FindLocation():
                self._find(effect)
            case _:
                super().perform(effect)

    def _find(self, asked: FindLocation) -> None:
        driver = self.driver

        def found(record: bytes) -> None:
            if driver is not None and driver is self.driver:
                driver.deliver(LocationFound(record, asked.asked, asked.opened))

        self.store.find(asked.key, asked.family, found)
