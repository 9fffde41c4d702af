"""Hosts, relays and a rendezvous on one network without walls: everybody reaches everybody.

    client c        server s        relay p        rendezvous r

For what does not depend on who stands between: registering, redirecting, relaying. Time is virtual;
a datagram takes a millisecond. Rules are kept as each box's kernel would, and `through` carries a
packet by them, to see where it comes out.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from pair import ALLOW, EPOCH_S, Entropy, make_host
from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import Connection
from wayside.core.crypto import SigningKey
from wayside.core.effects import (
    ChangeRules,
    Effect,
    FindLocation,
    KeepLocation,
    ReportRefused,
    SendDatagram,
)
from wayside.core.events import (
    DatagramReceived,
    Event,
    LocationFound,
    OpenRequested,
    SourcesChanged,
    TimePassed,
)
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.host import Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.messages import MESSAGES, Message
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.rendezvous import Rendezvous
from wayside.core.route import TokenBox
from wayside.core.rule import Action, Cid, Rule
from wayside.core.way import Box, Relaying

Machine = Host | Gate | Rendezvous
STEER = Policy((PolicyRule("hide", PolicyAction.STEER, service=("https",)),), PolicyAction.ALLOW)
ADDRESSES = {"c": "10.0.0.2", "s": "10.0.1.2", "p": "10.0.2.2", "r": "10.0.3.2"}


def make_relay(name: str, box: Box, policy: Policy = ALLOW) -> Gate:
    """A box that passes on what is sent to it."""
    entropy = Entropy(name)
    key = SigningKey(entropy(32))
    tokens = TokenBox(key.public, entropy(32), entropy)
    relays = {"p": (Address.parse(ADDRESSES["p"]).with_port(4747),)}
    context = GateContext(key, name, Names({}), policy, entropy, 120.0, EPOCH_S, box, relays)
    return Gate(context, FrontDoor(tokens, Budget()), tokens, Quota(1000, 1000))


def make_rendezvous(name: str = "r", policy: Policy = ALLOW) -> Rendezvous:
    """A rendezvous; `policy` says who finds whom."""
    host = make_host(name, virtual=False)
    host.answering.services["location"] = Offered(0)
    gate = make_relay(name, Box(relay=Relaying()), policy)
    gate.context.key = host.context.key
    entropy = Entropy(name + " door")
    tokens = TokenBox(host.context.key.public, entropy(32), entropy)
    gate = Gate(gate.context, FrontDoor(tokens, Budget()), tokens, Quota(1000, 1000))
    return Rendezvous(host, gate, FrontDoor(tokens, Budget()))


@dataclass
class Star:
    """The world of a test."""

    nodes: dict[str, Machine]
    own: dict[str, Address] = field(
        default_factory=lambda: {
            name: Address.parse(text).with_port(4747) for name, text in ADDRESSES.items()
        }
    )
    now: float = 100.0
    kernel: dict[str, dict[Flow, Rule]] = field(default_factory=dict[str, dict[Flow, Rule]])
    filters: dict[str, dict[Flow, Rule]] = field(default_factory=dict[str, dict[Flow, Rule]])
    store: dict[tuple[bytes, int], tuple[int, bytes]] = field(default_factory=dict)
    wire: list[tuple[str, str, DatagramReceived]] = field(default_factory=list)
    effects: list[tuple[str, Effect]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._coming: list[tuple[float, int, str, Event]] = []
        self._number = count()
        self.kernel = {name: {} for name in self.nodes}
        self.lose: set[type[Message]] = set()
        """Messages that get lost on the way."""
        self.filters = {name: {} for name in self.nodes}

    def host(self, name: str) -> Host:
        """A host by its name."""
        machine = self.nodes[name]
        if isinstance(machine, Rendezvous):
            return machine.host
        assert isinstance(machine, Host)
        return machine

    def key(self, name: str) -> bytes:
        """The public key of a node."""
        machine = self.nodes[name]
        if isinstance(machine, Rendezvous):
            machine = machine.host
        return machine.context.key.public

    def ask(
        self,
        who: str,
        whom: str,
        at: str | Address,
        cid: int = 1,
        service: str = "https",
        transport: Transport = Transport.TCP,
        seconds: float = 1.0,
        **more: Any,
    ) -> Cid:
        """Let a host ask for another, at some address, and so much time pass."""
        here = self.own[who]
        there = at if isinstance(at, Address) else self.own[at]
        name = Cid(bytes([cid]) * 16)
        flat = transport is Transport.NONE
        wire = Flow(transport, here.with_port(0 if flat else 40000 + cid), there.with_port(0))
        local, virtual, peer = wire, self.host(who).virtual, self.key(whom)
        if virtual is not None and not flat:
            other = Address(virtual.of(peer, here.family), 443)
            local = Flow(transport, Address(virtual.own(here.family), wire.source.port), other)
        asked = OpenRequested(name, PeerIdentity(peer), service, wire, local, there)
        self.tell(who, replace(asked, **more))
        self.run(seconds)
        return name

    def register(self, who: str = "s", cid: int = 200) -> Cid:
        """Let a host say where it is."""
        return self.ask(who, "r", "r", cid, "location", Transport.NONE)

    def move(self, who: str, to: str) -> None:
        """Give a host another address."""
        self.own[who] = Address.parse(to).with_port(4747)
        peers = {one.agreement.wire.destination.ip for one in self.host(who).connections.values()}
        sources: Mapping[IP, IP] = dict.fromkeys(peers, self.own[who].ip)
        self.tell(who, SourcesChanged(sources))

    def connection(self, who: str, cid: Cid) -> Connection:
        """One end of a connection."""
        return self.host(who).connections[cid]

    def refusals(self) -> list[ReportRefused]:
        """What users were told."""
        return [one for _, one in self.effects if isinstance(one, ReportRefused)]

    def tell(self, name: str, event: Event) -> None:
        """Let something happen to a node."""
        for effect in self.nodes[name].handle(event, self.now):
            self.effects.append((name, effect))
            self._perform(name, effect)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        while True:
            due = [(at, name) for name, node in self.nodes.items() if (at := node.deadline)]
            timer = min(due, default=(end + 1, ""))
            comes = self._coming[0][0] if self._coming else end + 1
            if min(timer[0], comes) > end:
                break
            if comes <= timer[0]:
                self.now, _, node, event = heapq.heappop(self._coming)
                self.tell(node, event)
            else:
                self.now = max(self.now, timer[0])
                self.tell(timer[1], TimePassed())
        self.now = end

    def _perform(self, name: str, effect: Effect) -> None:
        match effect:
            case SendDatagram():
                self._send(name, effect)
            case ChangeRules():
                for rule in effect.remove:
                    self._rules(name, rule).pop(rule.match, None)
                for rule in effect.put:
                    self._rules(name, rule)[rule.match] = rule
                for datagram in effect.then:
                    self._send(name, datagram)
            case KeepLocation():
                kept = self.store.get((effect.key, effect.family), (-1, b""))
                if effect.order >= kept[0]:
                    record = effect.record if effect.lifetime_s else b""
                    self.store[effect.key, effect.family] = (effect.order, record)
            case FindLocation():
                _, record = self.store.get((effect.key, effect.family), (-1, b""))
                self.tell(name, LocationFound(record, effect.asked, effect.opened))
            case _:
                pass

    def _rules(self, name: str, rule: Rule) -> dict[Flow, Rule]:
        """Where a kernel keeps a rule: one that drops stands beside one that lets in."""
        return (self.filters if rule.action is Action.DROP else self.kernel)[name]

    def _send(self, name: str, datagram: SendDatagram) -> None:
        source = datagram.source.with_port(4747) if datagram.source else self.own[name]
        to = datagram.destination
        there = next((node for node, own in self.own.items() if own == to), None)
        event = DatagramReceived(datagram.data, source, to, False, "outside")
        self.wire.append((name, there or "", event))
        left = source.ip != self.own[name].ip  # an address that this host has no more
        lost = MESSAGES.get(datagram.data[4]) in self.lose
        if there is not None and there in self.nodes and not left and not lost:
            heapq.heappush(self._coming, (self.now + 0.001, next(self._number), there, event))


@dataclass
class Walled(Star):
    """A star with hosts behind NATs that keep ports, say nothing, and let in what they know.

    `nat`: their outsides, by host; `sent`: where each NAT has seen one of its host's datagrams go;
    `parted`: who cannot send to whom.
    """

    nat: dict[str, Address] = field(default_factory=dict[str, Address])
    parted: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    sent: set[tuple[str, Address]] = field(default_factory=set[tuple[str, Address]])

    def _send(self, name: str, datagram: SendDatagram) -> None:
        source, to = self.nat.get(name, self.own[name]), datagram.destination
        self.sent.add((name, to))
        at = {self.nat.get(node, own): node for node, own in self.own.items()}
        there = at.get(to, "")
        event = DatagramReceived(datagram.data, source, self.own.get(there, to), False, "outside")
        self.wire.append((name, there, event))
        shut = there in self.nat and (there, source) not in self.sent
        shut = shut or (name, there) in self.parted
        lost = shut or MESSAGES.get(datagram.data[4]) in self.lose
        if there in self.nodes and not lost:
            heapq.heappush(self._coming, (self.now + 0.001, next(self._number), there, event))


def star(policy: Policy = ALLOW) -> Star:
    """A client that lets the rendezvous redirect it, and a server that registers there."""
    world = Star({"c": make_host("c"), "s": make_host("s"), "r": make_rendezvous(policy=policy)})
    world.host("c").context.redirectors = (world.key("r"),)
    world.host("s").context.redirectors = (world.key("r"),)
    world.register()
    return world


def carried(world: Star, cid: Cid) -> bool:
    """Whether packets of both ends come through the rendezvous to where the other one is."""
    ours = world.connection("c", cid).agreement.wire
    theirs = world.connection("s", cid).agreement.wire
    rules = world.kernel["r"]
    there, back = rules.get(ours), rules.get(theirs)
    return (
        there is not None
        and back is not None
        and (there.rewrite, back.rewrite) == (theirs.reversed(), ours.reversed())
        and theirs.source.ip == world.own["s"].ip
    )
