"""All machines in the states in which they have something to lose: what test_fuzz.py is done to.

Each comes with a stock of what is said to it in a whole life, to be spoilt: the machine itself does
not hear it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

from core.finding import HIDES, Finding, registered
from core.test_stand_in import MAY, NOBODY, Deaf, put, standing_in
from pair import (
    REJECT,
    STRANGER,
    Pair,
    Sent,
    make_gate,
    message_of,
)
from star import make_rendezvous
from wayside.core.address import Address, Transport
from wayside.core.admission import Budget
from wayside.core.codec import Header, encode_body
from wayside.core.connection import State
from wayside.core.events import CloseRequested, DatagramReceived
from wayside.core.gate import Gate
from wayside.core.host import Host
from wayside.core.identity import PeerIdentity
from wayside.core.messages import (
    Accept,
    Challenge,
    Close,
    Confirm,
    Locator,
    Open,
    Redirect,
    RedirectTerms,
    Reject,
    Stop,
    StopTerms,
    encode,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.passage import Stage
from wayside.core.rendezvous import Rendezvous
from wayside.core.route import hops_hash
from wayside.core.rule import Cid
from wayside.core.stand_in import StandIn

UNLIMITED = Budget(1e15, 1e15)
HERE, THERE = Address.parse("10.0.0.2:4747"), Address.parse("10.2.0.2:4747")


Machine = Host | Gate | Finding | StandIn


@dataclass
class Target:
    """A machine, when it is, and how a datagram of each kind gets to it."""

    name: str
    machine: Machine
    now: float
    stock: list[DatagramReceived]


def asking() -> Pair:
    """A world with a gate, whose first datagram rides on OPEN and is answered on ACCEPT."""
    return Pair(1, data=b"question", answer=b"answer", transport=Transport.UDP)


def targets() -> list[Target]:
    """All machines in the states in which they have something to lose."""
    made: list[Target] = []
    for name, lost, asked in (
        ("opening", Accept, "c"),
        ("offered", Confirm, "s"),
        ("pending", Confirm, "g1"),
        ("connected", None, "c"),
        ("connected", None, "s"),
        ("live", None, "g1"),
    ):
        pair = unlimited(asking())
        if lost is not None:
            pair.lose[lost] = 100
        pair.open(0.2)
        expect(pair, asked, name)
        made.append(target(f"{asked} {name}", pair, asked))
    for node in ("s", "g1"):
        pair = unlimited(Pair(1))
        stock = target("", unlimited(Pair(1)).open(0.2), node).stock
        machine = pair.nodes[node]
        assert isinstance(machine, Host | Gate)
        made.append(Target(f"{node} idle", machine, pair.now, stock))
    return [*made, *stand_in_targets(), *rendezvous_targets()]


def stand_in_targets() -> list[Target]:
    """A gate that answers for a host which cannot: before the CONFIRM, after it, and before all."""
    said = {(sent.kind, sent.data[6:32]): sent for sent in legacy().close().wire}
    made: list[Target] = []
    for name in ("pending", "live", "idle"):
        pair = legacy(lost=Confirm if name == "pending" else None)
        asked, message = message_of(pair.last(Open, "c").data)
        assert isinstance(message, Open)
        stock = [event(sent, pair, "g1") for sent in said.values()]
        for kind, data in unsaid(asked, message):
            sent = Sent(pair.now, "s", kind, data, THERE, HERE)
            stock.append(event(sent, pair, "g1"))
        machine = standing_in(make_gate("g1"), "10.0.0.0/8") if name == "idle" else pair.nodes["g1"]
        assert isinstance(machine, StandIn)
        if name != "idle":
            expect(pair, "g1", name)
            assert machine.answers(pair.cid)
        for part in (machine.gate, machine.served[0].host):
            part._door._budget = UNLIMITED
        made.append(Target(f"stand-in {name}", machine, pair.now, stock))
    return made


def legacy(lost: type[Confirm] | None = None) -> Pair:
    """A deaf host, a gate that stands in for it, and a client that has asked for anybody there."""
    pair = Pair(1)
    if lost is not None:
        pair.lose[lost] = 100
    put(pair, "g1", standing_in(pair.gates["g1"], "10.0.0.0/8"))
    put(pair, "s", Deaf())
    return pair.open(0.2, peer=PeerIdentity(NOBODY, "printer.lab", leave=MAY))


def rendezvous_targets() -> list[Target]:
    """A rendezvous that knows nobody, one that knows where a host is, and one that hides it."""
    world = registered()
    hiding = world.nodes["r"]
    ((_, record),) = world.store.values()
    ended = deepcopy(world)
    for node, host in (("c", ended.host("c")), ("s", ended.host("s"))):
        for cid in list(host.connections):
            ended.tell(node, CloseRequested(cid, "done"))
    ended.run(1)
    stock: dict[tuple[int, Cid], DatagramReceived] = {}
    for _, there, event in ended.wire:
        if there == "r":
            stock.setdefault((event.data[4], message_of(event.data)[0].cid), event)
    asked, message = message_of(next(iter(stock.values())).data)
    assert isinstance(message, Open)
    first = next(iter(stock.values()))
    said = [*stock.values(), *(replace(first, data=data) for _, data in unsaid(asked, message))]
    knowing = deepcopy(world).nodes["r"]
    assert isinstance(hiding, Rendezvous)
    assert isinstance(knowing, Rendezvous)
    assert {passage.stage for passage in hiding.gate.passages.values()} == {Stage.LIVE}
    for cid in list(knowing.gate.passages):
        knowing.gate.table.forget(knowing.gate.passages[cid])
    idle = make_rendezvous(policy=HIDES)
    states = (("hiding", hiding), ("knowing", knowing), ("idle", idle))
    for _, machine in states:
        for part in (machine, machine.host, machine.gate):
            part._door._budget = UNLIMITED
    return [
        Target(f"r {name}", Finding(machine, record), world.now, said) for name, machine in states
    ]


def unlimited(pair: Pair) -> Pair:
    for node in pair.nodes.values():
        node._door._budget = UNLIMITED
    return pair


def expect(pair: Pair, node: str, name: str) -> None:
    """The state is the one that the target is named for."""
    states = {
        "opening": State.OPENING,
        "offered": State.OFFERED,
        "connected": State.CONNECTED,
        "pending": Stage.PENDING,
        "live": Stage.LIVE,
    }
    found = pair.passage().stage if node == "g1" else pair.connection(node).state
    assert found is states[name]


def target(name: str, pair: Pair, node: str) -> Target:
    """A node of a world, and everything that was said in a whole life of its twin."""
    twin = unlimited(asking()).open().run(45).close()
    twin.c.answering.policy = twin.s.answering.policy = REJECT
    twin.cid = pair.cid
    twin.run(20).open()
    said = {sent.kind: sent for sent in (*twin.wire, *pair.wire)}
    refused = Pair(1)
    refused.gates["g1"].context.policy = REJECT
    refused.open()
    said[Reject] = refused.last(Reject)
    header, message = message_of(said[Open].data)
    assert isinstance(message, Open)
    asked = DatagramReceived(said[Open].data, HERE, THERE)
    proof = pair.s._door.challenge(asked, header, message.hops, pair.now)
    said[Challenge] = Sent(pair.now, "s", Challenge, proof.data, THERE, HERE)
    for kind, data in unsaid(header, message):
        said[kind] = Sent(pair.now, "s", kind, data, THERE, HERE)
    kinds = (Open, Accept, Confirm, Challenge, Reject, Redirect, Close, Stop)
    chosen = [sent for kind in kinds for sent in pair.wire if sent.kind is kind]
    chosen += [said[kind] for kind in kinds if kind not in {sent.kind for sent in chosen}]
    machine = pair.nodes[node]
    assert isinstance(machine, Host | Gate)
    return Target(name, machine, pair.now, [event(sent, pair, node) for sent in chosen])


def unsaid(asked: Header, message: Open) -> list[tuple[type[Redirect | Stop], bytes]]:
    """What was not said there, about this OPEN: well formed, and signed by somebody."""
    key, made = STRANGER.public, open_hash(asked, message.signed)
    locator = Locator(THERE, (bytes(40),))
    redirect = encode_body(RedirectTerms(key, made, locator, bytes(16), 1_800_001_000))
    stop = encode_body(StopTerms(key, made, hops_hash(message.hops), 60, 1_800_000_100))
    datagrams: list[tuple[type[Redirect | Stop], bytes]] = []
    for kind, signed in ((Redirect, redirect), (Stop, stop)):
        header = Header(kind.TYPE, asked.seq, asked.cid)
        signature = STRANGER.sign(SIGNATURE_CONTEXT, header.signing + signed)
        datagrams.append((kind, encode(header, kind(signed, signature, message.hops))))
    return datagrams


def event(sent: Sent, pair: Pair, node: str) -> DatagramReceived:
    """That datagram, coming in at a node."""
    if node != "g1":
        return DatagramReceived(sent.data, sent.source, pair.own[node][0])
    near, far = pair.own["c"][0], pair.own["s"][0]
    if sent.kind in (Open, Confirm, Close):
        return DatagramReceived(sent.data, near, far, True, "inside")
    return DatagramReceived(sent.data, far, near, True, "outside")
