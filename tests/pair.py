"""Two hosts, the gates between them, and a link that does what a test tells it to.

    client c ---- g1 ---- g2 ---- server s        (as many gates as a test wants, none too)

Time is virtual and jumps from one thing to do to the next; nothing sleeps. What the machines ask
for is done at once and kept: rules in `kernel`, datagrams in `wire`, everything else in `effects`.
A datagram takes a millisecond a hop. `lose`, `copy` and `hold` decide what else happens to it. The
gates named in `nats` put their own address in the place of the hosts on the inside.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from itertools import count
from math import inf
from typing import Any, TypeVar

from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import Header, encode_body
from wayside.core.connection import Connection, HostContext, State
from wayside.core.crypto import SigningKey, ephemeral_public
from wayside.core.effects import (
    ChangeRules,
    DeliverData,
    Dropped,
    Effect,
    ReadRule,
    SaveConnection,
    SendDatagram,
)
from wayside.core.errors import DropReason
from wayside.core.events import (
    ClockSet,
    CloseRequested,
    DataAnswered,
    DatagramReceived,
    Event,
    OpenRequested,
    RuleRead,
    TimePassed,
)
from wayside.core.forwarding import GateContext
from wayside.core.gate import Gate
from wayside.core.host import Answering, Host, Offered
from wayside.core.identity import Names, PeerIdentity
from wayside.core.messages import MESSAGES, Hop, Message, Open, OpenTerms, decode, encode, padded
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.passage import Passage
from wayside.core.policy import Policy, PolicyAction
from wayside.core.rendezvous import Rendezvous
from wayside.core.route import TokenBox
from wayside.core.rule import Action, Cid, Rule
from wayside.core.virtual import VirtualAddresses
from wayside.core.way import Box, Translation

EPOCH_S = 1_800_000_000.0
HOP_S = 0.001
ALLOW = Policy(default=PolicyAction.ALLOW)
REJECT = Policy(default=PolicyAction.REJECT)
CHALLENGE = Policy(default=PolicyAction.CHALLENGE)
SERVICES = {"https": Offered(8443), "echo": Offered(7777)}

T = TypeVar("T")


class Entropy:
    """Bytes that look random and are the same in every run."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return hashlib.shake_128(f"{self._name} {self._drawn}".encode()).digest(size)


@dataclass(frozen=True)
class Sent:
    """A datagram that somebody sent."""

    at: float
    node: str
    kind: type[Message]
    data: bytes
    source: Address
    destination: Address


def make_host(name: str, *, policy: Policy = ALLOW, virtual: bool = True, **more: Any) -> Host:
    """A host that offers `https` and `echo`; `more`: names, quota, budget, lifetime_s."""
    entropy = Entropy(name)
    key = SigningKey(entropy(32))
    lifetime_s = more.pop("lifetime_s", 120.0)
    context = HostContext(key, entropy, name, lifetime_s=lifetime_s, epoch_s=EPOCH_S)
    box = TokenBox(key.public, entropy(32), entropy)
    return Host(
        context,
        Answering(more.pop("names", Names({})), policy, dict(SERVICES)),
        FrontDoor(box, more.pop("budget", Budget())),
        more.pop("quota", Quota(1000, 1000)),
        VirtualAddresses(key.public) if virtual else None,
        **more,
    )


def make_gate(name: str, *, policy: Policy = ALLOW, **more: Any) -> Gate:
    """A gate; `more`: names, quota, budget, lifetime_s."""
    entropy = Entropy(name)
    key = SigningKey(entropy(32))
    box = TokenBox(key.public, entropy(32), entropy)
    lifetime_s = more.pop("lifetime_s", 120.0)
    names = more.pop("names", Names({}))
    context = GateContext(key, name, names, policy, entropy, lifetime_s, EPOCH_S)
    door = FrontDoor(box, more.pop("budget", Budget()))
    return Gate(context, door, box, more.pop("quota", Quota(1000, 1000)), **more)


class Pair:
    """The world of a test. Nodes are named `c`, `g1`, `g2`, ..., `s`, from left to right."""

    def __init__(
        self,
        gates: int = 0,
        *,
        family: int = 4,
        client: Host | None = None,
        server: Host | None = None,
        gate_policy: Policy = ALLOW,
        inside: str = "c",
        data: bytes = b"",
        answer: bytes | None = None,
        transport: Transport = Transport.TCP,
        nats: tuple[str, ...] = (),
        ports: range = range(1024, 65536),
    ) -> None:
        self.now = 100.0
        self.c, self.s = client or make_host("c"), server or make_host("s")
        names = [f"g{number + 1}" for number in range(gates)]
        self.gates = {name: make_gate(name, policy=gate_policy) for name in names}
        self.nodes: dict[str, Host | Gate | Rendezvous] = {"c": self.c, **self.gates, "s": self.s}
        self.order = list(self.nodes)
        self.inside, self.data, self.answer, self.transport = inside, data, answer, transport
        self.own: dict[str, tuple[Address, ...]] = {
            name: self._addresses(at, family) for at, name in enumerate(self.order)
        }
        for name in nats:
            outside = self.outside(name).ip
            self.gates[name].context.box = Box(Translation({family: outside}), ports=ports)
        self.kernel: dict[str, dict[Flow, Rule]] = {name: {} for name in self.order}
        self.filters: dict[str, dict[Flow, Rule]] = {name: {} for name in self.order}
        self.expires: dict[tuple[str, Flow], float] = {}
        self.saved: dict[str, dict[Cid, bytes]] = {name: {} for name in self.order}
        self.effects: list[tuple[str, Effect]] = []
        self.wire: list[Sent] = []
        self.lose: Counter[type[Message]] = Counter()
        self.copy: Counter[type[Message]] = Counter()
        self.hold: set[type[Message]] = set()
        self.held: list[tuple[str, DatagramReceived]] = []
        self.change: Callable[[Sent, str], bytes] = lambda sent, _: sent.data
        self._coming: list[tuple[float, int, str, Event]] = []
        self._number = count()
        self.cid = Cid(Entropy("cid")(16))

    @staticmethod
    def _addresses(at: int, family: int) -> tuple[Address, Address]:
        """The addresses of a node to the left and to the right."""
        left, right = (f"10.{at}.0.2", f"10.{at}.0.1") if family == 4 else (f"fd00:{at}::2",) * 2
        return Address.parse(left).with_port(4747), Address.parse(right).with_port(4747)

    def outside(self, gate: str = "g1") -> Address:
        """Where a NAT is asked from outside, which is what it gives its inside to go out with."""
        return self.own[gate][1 if self.inside == "c" else 0]

    # --- what applications do ---

    def request(self, service: str = "https", **more: Any) -> OpenRequested:
        """What the client's application asks for; `more` replaces fields."""
        here, there = self.own["c"][0], self.own["s"][0]
        wire = Flow(self.transport, here.with_port(40000), there.with_port(443))
        local = wire
        peer = self.s.context.key.public
        if self.c.virtual is not None:
            own, other = self.c.virtual.own(here.family), self.c.virtual.of(peer, here.family)
            local = Flow(self.transport, Address(own, 40000), Address(other, 443))
        asked: dict[str, Any] = {
            "cid": self.cid,
            "peer": PeerIdentity(peer),
            "service": service,
            "wire": wire,
            "local": local,
            "signaling": there,
            "data": self.data,
        }
        return OpenRequested(**{**asked, **more})

    def open(self, seconds: float = 1.0, **more: Any) -> Pair:
        """Ask for a connection, and let it come up."""
        self.tell("c", self.request(**more))
        return self.run(seconds)

    def close(self, node: str = "c", reason: str = "done", seconds: float = 1.0) -> Pair:
        """Let one end close."""
        self.tell(node, CloseRequested(self.cid, reason))
        return self.run(seconds)

    # --- the world ---

    def tell(self, node: str, event: Event) -> list[Effect]:
        """Let something happen to a node now, and do what it asks for."""
        effects = self.nodes[node].handle(event, self.now)
        for effect in effects:
            self.effects.append((node, effect))
            self._perform(node, effect)
        return effects

    def inject(
        self, node: str, data: bytes, source: Address, destination: Address | None = None
    ) -> list[Effect]:
        """A datagram from nowhere on the path; to a gate, in transit when not for itself."""
        to = destination or self.own[node][0]
        transit = to not in self.own[node]
        return self.tell(node, DatagramReceived(data, source, to, transit, "outside"))

    def run(self, seconds: float) -> Pair:
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
        return self

    def release(self) -> None:
        """Let what was held go on, the latest first."""
        self.hold.clear()
        for node, event in reversed(self.held):
            self._later(node, event)
        self.held.clear()

    def _perform(self, node: str, effect: Effect) -> None:
        match effect:
            case SendDatagram():
                self._send(node, effect)
            case ChangeRules():
                for rule in effect.remove:
                    self._rules(node, rule).pop(rule.match, None)
                for rule in effect.put:
                    self._rules(node, rule)[rule.match] = rule
                    if rule.action is Action.DROP:
                        continue
                    self.expires[node, rule.match] = self.now + (rule.lifetime_s or inf)
                for datagram in effect.then:
                    self._send(node, datagram)
            case DeliverData() if node == "s" and self.answer is not None:
                self._later(node, DataAnswered(effect.cid, self.answer))
            case ReadRule():
                self._later(node, self._read(node, effect))
            case SaveConnection():
                self.saved[node][effect.cid] = effect.saved
            case _:
                pass

    def _rules(self, node: str, rule: Rule) -> dict[Flow, Rule]:
        """Where a kernel keeps a rule: one that drops stands beside one that lets in."""
        return (self.filters if rule.action is Action.DROP else self.kernel)[node]

    def _read(self, node: str, asked: ReadRule) -> RuleRead:
        """What the kernel says of these rules; what has run out goes."""
        rules = self.kernel[node]
        for flow in asked.matches:
            if flow in rules and self.expires[node, flow] <= self.now:
                del rules[flow]
        left = [self.expires[node, flow] - self.now for flow in asked.matches if flow in rules]
        return RuleRead(asked.cid, max(left, default=None))

    def packet(self, node: str = "g1") -> None:
        """A packet of every flow comes by, and renews what packets renew."""
        for flow, rule in self.kernel[node].items():
            if rule.renewed_by_packets and self.expires[node, flow] > self.now:
                self.expires[node, flow] = self.now + (rule.lifetime_s or inf)

    def _send(self, node: str, datagram: SendDatagram) -> None:
        at = self.order.index(node)
        to = datagram.destination
        there = next((n for n, own in enumerate(self.own.values()) if to in own), None)
        kind = MESSAGES[datagram.data[4]]
        step = 1 if there is None or there > at else -1
        own = self.own[node][1 if step > 0 and node.startswith("g") else 0]
        source = datagram.source.with_port(own.port) if datagram.source else own
        sent = Sent(self.now, node, kind, datagram.data, source, to)
        self.wire.append(sent)
        if there is None or there == at:
            return
        name = self.order[at + step]
        data = self.change(sent, name)
        came_from = "c" if step > 0 else "s"
        side = "inside" if came_from == self.inside else "outside"
        event = DatagramReceived(data, source, to, at + step != there, side)
        if self.lose[kind] > 0:
            self.lose[kind] -= 1
        elif kind in self.hold:
            self.held.append((name, event))
        else:
            for _ in range(1 + self.copy[kind]):
                self._later(name, event)

    def _later(self, node: str, event: Event) -> None:
        heapq.heappush(self._coming, (self.now + HOP_S, next(self._number), node, event))

    # --- what a test looks at ---

    def restart(self, node: str, fresh: Host | Gate) -> None:
        """Put another machine in a node's place, as after SIGKILL."""
        self.nodes[node] = fresh
        if isinstance(fresh, Gate):
            self.gates[node] = fresh
        elif node == "c":
            self.c = fresh
        else:
            self.s = fresh

    def kinds(self, node: str | None = None) -> str:
        """What was sent, as a line: `c:OPEN s:ACCEPT c:CONFIRM`."""
        chosen = [sent for sent in self.wire if node in (None, sent.node)]
        return " ".join(f"{sent.node}:{sent.kind.__name__.upper()}" for sent in chosen)

    def seen(self, kind: type[T], node: str | None = None) -> list[T]:
        """The effects of a kind, of one node or of all."""
        return [
            effect
            for name, effect in self.effects
            if isinstance(effect, kind) and node in (None, name)
        ]

    def last(self, kind: type[Message], node: str | None = None) -> Sent:
        """The last datagram of a kind that was sent."""
        return next(s for s in reversed(self.wire) if s.kind is kind and node in (None, s.node))

    def connection(self, node: str) -> Connection:
        """The connection at an end."""
        host = self.nodes[node]
        assert isinstance(host, Host)
        return host.connections[self.cid]

    def states(self) -> tuple[State, State]:
        """The states of the two ends."""
        return self.connection("c").state, self.connection("s").state

    @property
    def is_up(self) -> bool:
        """Whether both ends are connected."""
        return self.states() == (State.CONNECTED, State.CONNECTED)

    def across(self, flow: Flow) -> Flow | None:
        """What a packet looks like behind all gates; None when one of them lets it not through."""
        sent_by_client = flow.source.ip == self.own["c"][0].ip
        names = list(self.gates) if sent_by_client else list(self.gates)[::-1]
        for name in names:
            rule = self.kernel[name].get(flow)
            if rule is None or flow in self.filters[name]:
                return None
            flow = rule.rewrite or flow
        return flow

    def passage(self, node: str = "g1") -> Passage:
        """The connection at a gate."""
        return self.gates[node].passages[self.cid]

    def ended(self, node: str) -> bool:
        """Whether an end knows that it is over, or has forgotten it."""
        host = self.nodes[node]
        assert isinstance(host, Host)
        found = host.connections.get(self.cid)
        return found is None or found.state is State.ENDED


def message_of(data: bytes) -> tuple[Header, Message]:
    """Header and message of a datagram."""
    return decode(data)


def body_of(data: bytes, kind: type[T]) -> T:
    """The message in a datagram, which is of this kind."""
    message = decode(data)[1]
    assert isinstance(message, kind)
    return message


def hops_of(data: bytes) -> tuple[Hop, ...]:
    """The hop records in a datagram."""
    hops: tuple[Hop, ...] = getattr(decode(data)[1], "hops", ())
    return hops


def reasons(effects: Iterable[Effect]) -> list[DropReason]:
    """Why datagrams were dropped."""
    return [effect.reason for effect in effects if isinstance(effect, Dropped)]


def at_clock(machine: Host | Gate, epoch_s: float) -> None:
    """Set the wall clock of a machine."""
    machine.handle(ClockSet(epoch_s), 0.0)


def make_open(  # what a stranger with a key of their own can send
    key: SigningKey,
    to_key: bytes,
    source: Address,
    destination: Address,
    *,
    cid: Cid,
    seq: int = 0,
    hops: tuple[Hop, ...] = (),
    mac: bytes = b"",
    proofs: tuple[bytes, ...] = (),
    bare: bool = False,
    **terms: Any,
) -> bytes:
    """An OPEN, well signed by `key`; `terms` replaces fields of its terms, `bare`: without pad."""
    asked: dict[str, Any] = {
        "from_key": key.public,
        "to_key": to_key,
        "service": "https",
        "transport": Transport.TCP,
        "source": source,
        "destination": destination,
        "ephemeral": ephemeral_public(bytes(31) + b"\x07"),
        "time_s": int(EPOCH_S + 100),
        "lifetime_s": 120,
    }
    signed = encode_body(OpenTerms(**{**asked, **terms}))
    header = Header(Open.TYPE, seq, cid, proofs)
    message = Open(signed, key.sign(SIGNATURE_CONTEXT, header.signing + signed), hops, mac)
    return encode(header, message) if bare else padded(header, message)


STRANGER = SigningKey(b"s" * 32)
"""Has a key, and is known to nobody."""

PASSING = (
    "_door",
    "_box",
    "names",
    "entropy",
    "policy",
    "_heap",
    "_used",
    "_free",
    "_spent",
    "tickets",
)
"""What may change or cannot be compared: budgets, caches, functions, whose turn it is, replays."""


def snapshot(thing: Any) -> Any:
    """Everything that a machine remembers, as plain values that can be compared."""
    if thing is None or isinstance(thing, bool | int | float | str | bytes | Enum):
        return thing
    if isinstance(thing, dict):
        return sorted(((repr(snapshot(k)), snapshot(v)) for k, v in thing.items()), key=repr)
    if isinstance(thing, list | tuple):
        return [snapshot(item) for item in thing]
    if is_dataclass(thing):
        names = [field.name for field in fields(thing)]
    else:
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        held = {name for name in slots if hasattr(thing, name)} - {"__weakref__"}
        names = sorted({*getattr(thing, "__dict__", ()), *held})
    if not names:
        return repr(thing)
    return type(thing).__name__, [
        (name, snapshot(getattr(thing, name))) for name in names if name not in PASSING
    ]
