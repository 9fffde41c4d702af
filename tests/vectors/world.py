"""The smallest world in which a handshake can happen: three machines, a clock, made-up randomness.

    initiator 10.1.0.2 ---- 10.1.0.1 gate 10.2.0.1 ---- 10.2.0.2 responder

Datagrams go to whom they are for at once and in order; what the two ends send to each other is
intercepted by the gate, as TPROXY would, and sent on in the name of who sent it. Everything that
was sent is kept, so that a vector can show each datagram on each link, and every random byte is
kept with the name of who drew it. Where the gate is a NAT, the responder is inside, and the
initiator asks the NAT itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.connection import HostContext
from wayside.core.constants import RETRANSMIT_FIRST_S
from wayside.core.crypto import SigningKey
from wayside.core.effects import ChangeRules, DeliverData, Dropped, Effect, SendDatagram
from wayside.core.events import (
    CloseRequested,
    DataAnswered,
    DatagramReceived,
    Event,
    OpenRequested,
    TimePassed,
)
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity, sign_certificate
from wayside.core.policy import Policy, PolicyAction
from wayside.core.route import TokenBox
from wayside.core.rule import Cid
from wayside.core.way import Box, Translation

EPOCH_S = 1_800_000_000
"""The wall clock of every machine at `now` = 0: a day in January 2027."""

NOT_AFTER_S = EPOCH_S + 86_400
ANSWER = b"pong"
SERVICE, SERVICE_PORT = "echo", 7


def seed(name: str) -> bytes:
    """32 bytes that stand for a secret."""
    return hashlib.sha256(b"wayside vectors, " + name.encode()).digest()


def key(name: str) -> SigningKey:
    """The key pair of a made-up host, gate or domain."""
    return SigningKey(seed(name))


def certificate(name: str) -> bytes:
    """A certificate of the domain `lab` for the key of `name`."""
    return sign_certificate(key("lab"), f"{name}.lab", key(name).public, NOT_AFTER_S)


class Entropy:
    """Random bytes for one machine: SHA-256 of its name and a count; remembers what it gave."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.drawn: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        made = seed(f"entropy of {self._name}, {len(self.drawn)}")[:size]
        self.drawn.append(made)
        return made


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram on one link. `sender`, `receiver`: names of machines."""

    sender: str
    receiver: str
    source: Address
    destination: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """What kind of handshake this world is for.

    `clock_s`: how far the initiator's clock is ahead; `port`: which it asks for; `late`: the first
    ACCEPT is on its way for so long that the initiator sends its OPEN again; `nat`: the gate is
    one.
    """

    transport: Transport = Transport.UDP
    gated: bool = True
    family: int = 4
    data: bytes = b"ping"
    clock_s: int = 0
    port: int = SERVICE_PORT
    late: bool = False
    nat: bool = False

    @property
    def flow(self) -> Flow:
        """The 5-tuple that the initiator asks for."""
        ends = {
            (4, True): ("10.1.0.2:40000", "10.2.0.2:7"),
            (4, False): ("10.1.0.2:40000", "10.1.0.3:7"),
            (6, True): ("[2001:db8:1::2]:40000", "[2001:db8:2::2]:7"),
            (6, False): ("[2001:db8:1::2]:40000", "[2001:db8:1::3]:7"),
        }[self.family, self.gated]
        source, destination = map(Address.parse, ends)
        destination = self.gate_address if self.nat else destination
        destination = destination.with_port(self.port)
        if self.transport is Transport.NONE:
            source, destination = source.with_port(0), destination.with_port(0)
        return Flow(self.transport, source, destination)

    @property
    def gate_address(self) -> Address:
        """The gate's own address: it sends nothing from there."""
        link = 1 if self.nat else 2  # a NAT's: the one that it is asked at
        here = f"10.{link}.0.1:4747" if self.family == 4 else f"[2001:db8:{link}::1]:4747"
        return Address.parse(here)

    @property
    def responder_address(self) -> Address:
        """Where the responder itself is asked."""
        return Address.parse("10.2.0.2:4747") if self.nat else self.flow.destination.with_port(4747)


def _host(name: str, entropy: Entropy, clock_s: int) -> Host:
    epoch_s = EPOCH_S + clock_s
    context = HostContext(key(name), entropy, f"{name}.lab", certificate(name), epoch_s=epoch_s)
    answering = Answering(
        Names({"lab": key("lab").public}),
        Policy(default=PolicyAction.ALLOW),
        {SERVICE: Offered(SERVICE_PORT)},
    )
    box = TokenBox(context.key.public, seed(f"secret of {name}"), entropy)
    return Host(context, answering, FrontDoor(box, Budget()), Quota(100, 100))


def _gate(entropy: Entropy, plan: Plan) -> Gate:
    known = {key("responder").public: plan.responder_address}
    here = plan.gate_address
    context = GateContext(
        key("gate"),
        "gate.lab",
        Names({"lab": key("lab").public}),
        Policy(default=PolicyAction.ALLOW),
        entropy,
        epoch_s=EPOCH_S,
        box=Box(Translation({here.family: here.ip}, known) if plan.nat else None),
    )
    box = TokenBox(context.key.public, seed("secret of gate"), entropy)
    return Gate(context, FrontDoor(box, Budget()), box, Quota(100, 100))


@dataclass(slots=True)
class World:
    """An initiator, a responder, perhaps a gate between them; `sent` is all that was said.

    `sent_max`: after so many datagrams the wire is cut: the last of them is lost.
    """

    plan: Plan
    sent_max: int = 1000
    now: float = 1.0
    sent: list[Sent] = field(default_factory=list[Sent])
    dropped: list[Dropped] = field(default_factory=list[Dropped])
    delivered: list[bytes] = field(default_factory=list[bytes])
    entropy: dict[str, Entropy] = field(
        default_factory=lambda: {name: Entropy(name) for name in ("initiator", "gate", "responder")}
    )
    machines: dict[str, Host | Gate] = field(default_factory=dict[str, Host | Gate])
    cid: Cid = field(default_factory=lambda: Cid(seed("cid")[:16]))
    under_way: list[DatagramReceived] | None = None

    def __post_init__(self) -> None:
        for name, clock_s in (("initiator", self.plan.clock_s), ("responder", 0)):
            self.machines[name] = _host(name, self.entropy[name], clock_s)
        self.machines["gate"] = _gate(self.entropy["gate"], self.plan)

    @property
    def signaling(self) -> dict[str, Address]:
        """Where each machine listens, and the two ends send from."""
        flow = self.plan.flow
        return {
            "initiator": flow.source.with_port(4747),
            "responder": self.plan.responder_address,
            "gate": self.plan.gate_address,
        }

    def open(self) -> None:
        """Have the initiator ask, and let all that follows happen."""
        flow = self.plan.flow
        peer = PeerIdentity(key("responder").public, "responder.lab", certificate("responder"))
        signaling = flow.destination.with_port(4747)
        asked = OpenRequested(self.cid, peer, SERVICE, flow, flow, signaling, self.plan.data)
        self.under_way = [] if self.plan.late else None
        self.feed("initiator", asked)
        if self.under_way is not None:
            self.pass_time("initiator", self.now + RETRANSMIT_FIRST_S)
            arriving, self.under_way = self.under_way, None
            for event in arriving:
                self.feed("initiator", event)

    def live(self) -> None:
        """A whole life: open, refresh at a third of the lifetime, close."""
        self.open()
        if len(self.sent) < self.sent_max:
            self.pass_time("initiator", self.now + 40)
        if len(self.sent) < self.sent_max:
            self.close("initiator", "done")

    def close(self, name: str, reason: str) -> None:
        """Have one end close the connection."""
        self.feed(name, CloseRequested(self.cid, reason))

    def pass_time(self, name: str, now: float) -> None:
        """Let time pass for one machine."""
        self.now = now
        self.feed(name, TimePassed())

    def feed(self, name: str, event: Event) -> None:
        """Give a machine an event and do what it says."""
        for effect in self.machines[name].handle(event, self.now):
            self._do(name, effect)

    def _do(self, name: str, effect: Effect) -> None:
        match effect:
            case SendDatagram():
                self._carry(name, effect)
            case ChangeRules():
                for datagram in effect.then:
                    self._carry(name, datagram)
            case DeliverData():
                self.delivered.append(effect.data)
                if name == "responder":
                    self.feed(name, DataAnswered(effect.cid, ANSWER))
            case Dropped():
                self.dropped.append(effect)
            case _:
                pass

    def _carry(self, sender: str, datagram: SendDatagram) -> None:
        source = self.signaling[sender]
        if datagram.source is not None:
            source = datagram.source.with_port(source.port)
        receiver = next(
            name for name, address in self.signaling.items() if address == datagram.destination
        )
        transit = self.plan.gated and "gate" not in (sender, receiver)
        if transit:
            receiver = "gate"
        if len(self.sent) < self.sent_max:
            self.sent.append(Sent(sender, receiver, source, datagram.destination, datagram.data))
            inside = "responder" if self.plan.nat else "initiator"
            event = received(self.sent[-1], transit, inside)
            if receiver == "initiator" and self.under_way is not None:
                self.under_way.append(event)
            elif len(self.sent) < self.sent_max:
                self.feed(receiver, event)


def received(sent: Sent, transit: bool, inside: str = "initiator") -> DatagramReceived:
    """The event at the receiver of a datagram; `inside`: who is on that side of the gate."""
    side = "inside" if sent.sender == inside else "outside"
    return DatagramReceived(sent.data, sent.source, sent.destination, transit, side)
