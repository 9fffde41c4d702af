"""A host in the simulator: sockets of applications, rules that rewrite, the agent between them.

The agent does with packets and effects what runtime/agent.py does: it takes the first packet of an
application that no rule rewrites, asks for a connection, and sends the packet on when the rules
are in; it answers for its services; it hands piggybacked data over, and refusals to whoever waits.
A host that is not virtual runs no agent but signals from inside its programs, on wire addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from wayside.core import constants as c
from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor
from wayside.core.connection import HostContext
from wayside.core.effects import (
    DeliverData,
    Effect,
    ForgetConnection,
    ReportClosed,
    ReportOpened,
    ReportRefused,
    SaveConnection,
)
from wayside.core.events import (
    CloseRequested,
    OpenRequested,
    SourcesChanged,
    StopRequested,
)
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Action, Cid
from wayside.core.virtual import VirtualAddresses
from wayside.kernel.icmp import translate_error
from wayside.kernel.packets import build_refusal, build_syn
from wayside.kernel.plan import Change, KernelError
from wayside.kernel.recovery import recover

from .box import Box, Driver
from .first_packets import FirstPackets
from .gate import CountingQuota
from .mptcp import Mptcp
from .network import Interface, Network
from .paths import PathKeeper
from .registering import Registering, changed_sources
from .silence import SilenceKeeper
from .sockets import Sockets
from .subflows import SubflowKeeper
from .watch import Watcher
from .wire import build_udp, destination_of, icmp_of, is_punch, packet_of, rewritten

ALLOW_ALL = Policy(default=PolicyAction.ALLOW)

LOOK_AFTER_S = (0.002, 0.3)
"""From a change of addresses to the agent's look at them; the daemon's share of its time."""

LOOK_AGAIN_S = 5.0
"""As in runtime/moves.py."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What a configuration says of another host. `others`: its further addresses."""

    identity: PeerIdentity
    signaling: Address
    others: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Steering:
    """Who steers a host, as in runtime/steering.py. `approvers`, `redirectors`: keys, 32 bytes."""

    registers: Peer | None = None
    redirectors: tuple[bytes, ...] = ()
    approvers: tuple[bytes, ...] = ()
    home: Address | None = None


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a host's configuration says."""

    services: dict[str, Offered] = field(default_factory=dict[str, Offered])
    policy: Policy = ALLOW_ALL
    virtual: bool = True
    lifetime_s: float = c.LIFETIME_S
    connections_max: int = 1000
    connections_per_network_max: int = 500
    budget: Budget = field(default_factory=Budget)
    steering: Steering = field(default_factory=Steering)
    multihomed: bool = False
    watches: bool = False
    mptcp: bool = False


@dataclass(slots=True)
class Durable:
    """What survives an agent: its connections at rest, and whom it has met."""

    saved: dict[Cid, bytes] = field(default_factory=dict[Cid, bytes])
    peers: dict[bytes, Peer] = field(default_factory=dict[bytes, Peer])


Outcome = Callable[[Effect], None]


class HostBox(Box):
    """A host with its applications."""

    role = "host"

    def __init__(self, network: Network, name: str, watch: Watcher, settings: HostSettings) -> None:
        super().__init__(network, name, watch)
        self.settings = settings
        self.sockets = Sockets(Mptcp(self))
        self.durable = Durable()
        self.quota = CountingQuota(0, 0)
        self.first_packets = FirstPackets(self)
        self.listeners: dict[Cid, Outcome] = {}
        self._moved_at = -LOOK_AGAIN_S
        self.registering = self._registering()
        self.silence = SilenceKeeper(self)
        self.paths = PathKeeper(self)
        self.subflows = SubflowKeeper(self)
        self.start()

    @property
    def taken(self) -> int:
        """Entries that the machine's quota counts."""
        return self.quota.taken

    # --- the agent's life ---

    def start(self) -> None:
        """Start the agent; it joins what it saved with what the kernel holds."""
        settings = self.settings
        self.quota = CountingQuota(settings.connections_max, settings.connections_per_network_max)
        virtual = VirtualAddresses(self.key) if settings.virtual else None
        for key in self.durable.peers:
            if virtual is not None:
                virtual.of(key, 4)
        steering = settings.steering
        context = HostContext(
            self.signing_key, self.entropy, self.name, lifetime_s=settings.lifetime_s
        )
        context.redirectors = steering.redirectors
        answers = (settings.policy, dict(settings.services), steering.approvers, steering.home)
        machine = Host(
            context,
            Answering(Names({}), *answers),
            FrontDoor(TokenBox(self.key, self.secret, self.entropy), settings.budget),
            self.quota,
            virtual,
        )
        changes = self._recover(machine) if settings.virtual else []
        self.driver = Driver(self, machine)
        self.driver.start()
        if changes:
            self.kernel.submit(changes, _whatever)
        self.first_packets.start(machine.connections)
        self.silence.start()
        self._close_what_ended(machine)
        self._register()
        self.paths.start()
        self.subflows.start()
        self.look_around()

    def kill(self) -> None:
        """Kill the agent; what it held for applications is lost."""
        super().kill()
        self.registering.stop()
        self.subflows.stop()
        self.first_packets.clear()
        self.listeners.clear()

    def power_off(self) -> None:
        """The machine goes down with all its applications."""
        self.kill()
        self.sockets.clear()
        self.sockets.mptcp.clear()
        super().power_off()

    def meet(self, peer: Peer) -> None:
        """Add a peer to the configuration."""
        self.durable.peers[peer.identity.key] = peer
        if self.host is not None and self.host.virtual is not None:
            self.host.virtual.of(peer.identity.key, 4)

    @property
    def host(self) -> Host | None:
        """The machine, while its agent lives."""
        machine = self.machine
        return machine if isinstance(machine, Host) else None

    def _recover(self, machine: Host) -> list[Change]:
        stored = list(self.durable.saved.items())
        found = recover(machine, stored, self.rules, self.local.now)
        for cid in found.forgotten:
            del self.durable.saved[cid]
        return found.changes

    def _close_what_ended(self, machine: Host) -> None:
        """Connections of TCP sockets that went away while nobody looked."""
        for cid, connection in list(machine.connections.items()):
            local = connection.agreement.local
            if local.on_the_wire.transport is Transport.TCP and not self.sockets.has(local):
                self.close(cid, "its socket is gone")

    # --- where this host is ---

    def addresses_changed(self) -> None:
        """The kernel has news of addresses, links or routes; the agent hears of it in a while."""
        self._moved_at = self.place.clock.now
        self.place.clock.after(self.chance.uniform(*LOOK_AFTER_S), self.look_around)

    def look_around(self) -> None:
        """Tell the machine from which address it reaches whom, where that has changed."""
        if self.host is None or self.driver is None or not self.interfaces:
            return
        stays = self.host.context.stays
        going = [one for one in self.host.connections.values() if not stays(one.agreement.wire)]
        changed = changed_sources(going, self.source_for)
        if changed:
            self.driver.deliver(SourcesChanged(changed))
        self.paths.network_changed()
        self.registering.try_now()

    def _register(self) -> None:
        """A new agent asks anew, when the world has begun."""
        self.registering = self._registering()
        if self.settings.steering.registers is not None:
            self.place.clock.after(0.0, self.registering.start)

    def _registering(self) -> Registering:
        return Registering(self.place.clock, lambda: Cid(self.entropy(16)), self._ask_plainly)

    def _ask_plainly(self, cid: Cid) -> bool:
        """Ask the rendezvous for a connection without packets."""
        there = self.settings.steering.registers
        source = self.source_for(there.signaling) if there else None
        if there is None or source is None or self.driver is None:
            return False
        wire = Flow(Transport.NONE, source.with_port(0), there.signaling.with_port(0))
        about = (cid, there.identity, c.LOCATION_SERVICE, wire, wire, there.signaling)
        self.driver.deliver(OpenRequested(*about))
        return True

    def chosen_for(self, to: Address) -> Address | None:
        """As paths.py says."""
        return self.paths.source_towards(to)

    def addresses_of(self, peer: bytes) -> tuple[Address, ...]:
        """Where a peer is asked."""
        known = self.durable.peers.get(peer)
        return (known.signaling, *known.others) if known else ()

    def way_of(self, raw: bytes) -> Interface | None:
        """As paths.py says."""
        return self.paths.way_of(raw)

    # --- applications ---

    def local_flow(self, peer: bytes, transport: Transport, ports: tuple[int, int]) -> Flow | None:
        """The 5-tuple that an application's socket has; None while there is no way to the peer."""
        known = self.durable.peers[peer]
        source = self.source_for(known.signaling)
        if self.host is None or source is None:
            return None
        virtual = self.host.virtual
        if virtual is None:
            return Flow(transport, source.with_port(ports[0]), known.signaling.with_port(ports[1]))
        family = known.signaling.family
        return Flow(
            transport,
            Address(virtual.own(family), ports[0]),
            Address(virtual.of(peer, family), ports[1]),
        )

    def send(self, raw: bytes, released: bool = False) -> int | None:
        """A packet of an application, or one that the agent has `released`.

        Returns an MTU when it does not fit the next link.
        """
        packet = packet_of(raw)
        if packet is None:
            return None
        verdict = self.kernel.plane.verdict(packet.flow, len(raw))
        if verdict.action is Action.REWRITE:
            if verdict.flow.source.ip.packed not in self.own:
                return None  # its address is gone: the agent holds it back until the move is over
            self.watch.on_rewritten(self, verdict.flow, self.place.clock.now)
            if self.settings.mptcp and self.sockets.mptcp.is_further(packet.flow):
                self.watch.on_subflow(self, verdict.flow, self.place.clock.now)
            return self.transmit(rewritten(raw, verdict.flow))
        if self.settings.virtual and self._is_virtual(packet.flow.destination.ip):
            if not released and self.driver is not None:
                self.first_packets.take(packet)
            return None
        return self.transmit(raw)

    def ask(self, cid: Cid, flow: Flow, service: str, data: bytes, peer: Peer) -> bool:
        """Ask for a connection; False when there is no way to the peer."""
        source = self.source_for(peer.signaling)
        if source is None or self.driver is None:
            return False
        wire = Flow(
            flow.transport,
            source.with_port(flow.source.port),
            peer.signaling.with_port(flow.destination.port),
        )
        local = flow if self.settings.virtual else wire
        asked = (cid, peer.identity, service, wire, local, peer.signaling, data)
        self.driver.deliver(OpenRequested(*asked))
        return True

    def close(self, cid: Cid, reason: str) -> None:
        """End a connection."""
        if self.driver is not None:
            self.driver.deliver(CloseRequested(cid, reason))

    def say_stop(self, cid: Cid, lifetime_s: float) -> None:
        """Have a connection's packets dropped on the way, seconds."""
        if self.driver is not None:
            self.driver.deliver(StopRequested(cid, lifetime_s))

    def socket_ended(self, flow: Flow) -> None:
        """A TCP socket is gone, and the kernel says so: so is its connection."""
        connection = self.host.by_local(flow) if self.host else None
        if connection is not None:
            self.close(connection.agreement.cid, "closed by the application")

    # --- packets ---

    def transmit(self, raw: bytes) -> int | None:
        """Send a packet on its way, and let it be seen."""
        self.watch.on_sent(self, raw, False, self.place.clock.now)
        return super().transmit(raw)

    def receive(self, raw: bytes, interface: Interface) -> None:
        """A packet came in from a link."""
        packet = packet_of(raw)
        if packet is None:
            self._error(raw)
            return
        flow = packet.flow
        if destination_of(raw) not in self.own or is_punch(packet):
            return  # what only opens a NAT is for nobody, whatever rules there are
        verdict = self.kernel.plane.verdict(flow, len(raw))
        if verdict.action is Action.REWRITE:
            self._up(rewritten(raw, verdict.flow))
        elif flow.transport is Transport.UDP and flow.destination.port == c.SIGNALING_PORT:
            self.signaling(raw, interface, transit=False)
        else:
            self._up(raw)

    def _up(self, raw: bytes) -> None:
        """To the socket that it is for, or the answer of a kernel that has none."""
        packet = packet_of(raw)
        if packet is None or self.sockets.deliver(packet):
            return
        refusal = build_refusal(raw, closed=True)
        if refusal is not None:
            self._refuse(refusal)

    def _refuse(self, refusal: bytes) -> None:
        """Our kernel's own answer: through the rules like any other packet."""
        if packet_of(refusal) is not None:
            self.send(refusal, released=True)
        else:
            self.transmit(refusal)

    def _error(self, raw: bytes) -> None:
        """An ICMP error about a wire packet becomes one about the socket's."""
        message = icmp_of(raw)
        if message is None:
            return
        if not self.settings.virtual:
            self.sockets.error(raw)
        elif self.host is not None:
            translated = translate_error(message, raw[0] >> 4, self._wire_to_local)
            if translated is not None:
                self.sockets.error(translated)

    def _wire_to_local(self, wire: Flow) -> Flow | None:
        connection = self.host.by_wire(wire) if self.host else None
        return connection.agreement.local if connection else None

    def _is_virtual(self, ip: IP) -> bool:
        return not self.network.is_real(ip)

    # --- what the machine wants ---

    def perform(self, effect: Effect) -> None:
        """Do what is a host agent's business."""
        match effect:
            case SaveConnection():
                self.durable.saved[effect.cid] = effect.saved
            case ForgetConnection():
                self.durable.saved.pop(effect.cid, None)
            case DeliverData():
                self._deliver(effect)
            case ReportOpened():
                self.first_packets.opened(effect)
                self.silence.opened(effect)
                self.paths.opened(effect)
                if self.place.clock.now - self._moved_at < LOOK_AGAIN_S and not effect.refreshed:
                    self.place.clock.after(0.0, self.look_around)  # asked from the old place
                self.first_packets.release(effect)
                self._tell(effect.cid, effect)
            case ReportRefused():
                self.first_packets.refused(effect)
                self._tell(effect.cid, effect)
            case ReportClosed():
                self.first_packets.ended(effect.cid)
                self._tell(effect.cid, effect)
            case _:
                pass

    def _deliver(self, effect: DeliverData) -> None:
        """What came with a message, as if it came by the network: a datagram, or TCP's SYN."""
        build = build_syn if effect.flow.transport.is_tcp else build_udp
        raw = build(effect.flow, effect.data)
        packet = packet_of(raw) if raw is not None else None
        if packet is not None:
            self.sockets.deliver(packet)

    def _tell(self, cid: Cid, effect: ReportOpened | ReportRefused | ReportClosed) -> None:
        self.subflows.on_report(effect)
        self.registering.on_report(effect)
        if cid in self.listeners:
            self.listeners[cid](effect)


def _whatever(error: KernelError | None) -> None:
    """Rules of nobody that could not be removed: the next start tries again."""
