"""Two million bad datagrams: nothing is raised, nothing is answered, nothing is remembered.

Every machine gets them in the states in which it has something to lose: an initiator that opens and
one that is connected, a responder that has offered and one that is connected, a gate with a pending
and with a confirmed connection, a rendezvous that knows where a host is, one that hides it, too,
and hosts, gates and a rendezvous that know nobody. `WAYSIDE_FUZZ` sets another number of datagrams,
`WAYSIDE_FUZZ_SEED` another beginning; `-rP` shows what each part took, which nothing is judged by:
the slowest datagrams, alone and again, and the memory of the process.

    WAYSIDE_FUZZ=50000000 WAYSIDE_FUZZ_SEED=2 python -m pytest tests/core/test_fuzz.py -n 2 -rP
"""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass, replace
from heapq import heappushpop
from pathlib import Path
from resource import getpagesize
from sys import getallocatedblocks
from time import perf_counter_ns

import pytest

from core.finding import HIDES, Finding, registered
from mutate import Mutator, Original, take_apart
from pair import (
    REJECT,
    STRANGER,
    Pair,
    Sent,
    make_gate,
    make_host,
    make_open,
    message_of,
    snapshot,
)
from star import make_rendezvous
from wayside.core.address import Address, Transport
from wayside.core.admission import Budget
from wayside.core.codec import DecodeError, Header, encode_body
from wayside.core.connection import State
from wayside.core.effects import Dropped, Effect, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, DatagramReceived
from wayside.core.gate import Gate
from wayside.core.host import Host
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

DATAGRAMS = int(os.environ.get("WAYSIDE_FUZZ", "2000000"))
SEED = int(os.environ.get("WAYSIDE_FUZZ_SEED", "1"))
CHUNK = 5_000
UNLIMITED = Budget(1e15, 1e15)
HERE, THERE = Address.parse("10.0.0.2:4747"), Address.parse("10.2.0.2:4747")


Machine = Host | Gate | Finding


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
    return [*made, *rendezvous_targets()]


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


SIGNED = (Open, Accept, Redirect)


def is_untouched(spoilt: bytes, stock: list[DatagramReceived]) -> bool:
    """Whether what somebody answers for is still all there, and only loose parts were changed.

    Loose are the pad of an OPEN, its hops before an ACCEPT signs them, a REDIRECT's, and, for a
    gate, whatever is not its token: it has no key for MACs, and passes on what shows that it was on
    the path.
    """
    try:
        header, message = message_of(spoilt)
    except DecodeError:
        return False
    for one in stock:
        other, good = message_of(one.data)
        if header.signing == other.signing and type(message) is type(good):
            if isinstance(message, SIGNED) and isinstance(good, SIGNED):
                if (message.signed, message.signature) == (good.signed, good.signature):
                    return True
            elif isinstance(message, Confirm) and isinstance(good, Confirm):
                if (message.seen, message.mac) == (good.seen, good.mac):
                    return True
            elif message == good:
                return True
    return False


def is_ours_to_pass(machine: Machine, spoilt: bytes) -> bool:
    """Whether a gate's own token is still there, which is all that it asks of most messages."""
    if isinstance(machine, Finding):
        return is_ours_to_pass(machine.rendezvous.gate, spoilt)
    if not isinstance(machine, Gate):
        return False
    try:
        header, message = message_of(spoilt)
    except DecodeError:
        return False
    hops = getattr(message, "hops", ())
    return machine._box.consume_token(header.cid, header.seq, hops) is not None


def is_a_challenge(machine: Machine, spoilt: bytes) -> bool:
    """A CHALLENGE is signed by nobody: who knows cid and seq may send one; four are answered."""
    return isinstance(machine, Host) and spoilt[4:5] == bytes((Challenge.TYPE,))


PARTS = 16
SLOWEST = 8


class Slowest:
    """The datagrams that took longest. A machine that pauses is no fault of theirs: see `again`."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, int, DatagramReceived]] = [
            (0, -number, DatagramReceived(b"", HERE, THERE)) for number in range(SLOWEST)
        ]
        self._seen = 0

    def took(self, ns: int, event: DatagramReceived) -> None:
        """One more, and how long it took, nanoseconds."""
        if ns > self._kept[0][0]:
            self._seen += 1
            heappushpop(self._kept, (ns, self._seen, event))

    def again(self, machine: Machine, now: float) -> str:
        """The slowest as it was first seen, and the slowest by the best of five repetitions."""
        best: list[int] = []
        for _, _, event in self._kept:
            takes: list[int] = []
            for _ in range(5):
                fresh = deepcopy(machine)
                began = perf_counter_ns()
                fresh.handle(event, now)
                takes.append(perf_counter_ns() - began)
            best.append(min(takes))
        first, worst = max(self._kept)[0] / 1000, max(best) / 1000
        data = self._kept[best.index(max(best))][2].data
        return f"slowest {first:,.0f} us, again {worst:,.0f} us: {data[:40].hex()}..."


def resident_mb() -> float:
    """Memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * getpagesize() / 1e6


@pytest.mark.parametrize("part", range(PARTS))
def test_bad_datagrams_are_dropped_and_leave_no_trace(part: int) -> None:
    """R-7.6, R-7.2, R-3.4: whatever bytes come."""
    chosen = targets()
    before, took = resident_mb(), list[str]()
    share = DATAGRAMS // PARTS // len(chosen)
    for number, one in enumerate(chosen):
        slowest = fuzz(one, SEED * 1_000_003 + part * 101 + number, share)
        took.append(f"{one.name}: {slowest.again(one.machine, one.now)}, {resident_mb():.1f} MB")
    more = resident_mb() - before
    took.append(f"{share * len(chosen):,} datagrams, {before:.1f} MB at first, {more:.1f} MB more")
    print("\n".join(took))  # noqa: T201 - shown by -rP only


def fuzz(one: Target, seed: int, datagrams: int) -> Slowest:
    stock: list[Original] = [take_apart(event.data) for event in one.stock]
    mutator, slowest = Mutator(seed, stock), Slowest()
    pristine, expected = one.machine, snapshot(one.machine)
    machine = deepcopy(pristine)
    done = 0
    while done < datagrams:
        size = min(CHUNK, datagrams - done)
        for at in range(size):
            number, data = mutator.next()
            received = replace(one.stock[number], data=data)
            began = perf_counter_ns()
            effects = machine.handle(received, one.now)
            slowest.took(perf_counter_ns() - began, received)
            if len(effects) == 1 and (type(effects[0]) is Dropped or asks_for_proof(effects, data)):
                continue
            where = f"{one.name}, seed {seed}, datagram {done + at}: {data.hex()} gave {effects}"
            assert is_excused(machine, data, one.stock, effects), where
            machine = deepcopy(pristine)
        done += size
        assert snapshot(machine) == expected, f"{one.name}, seed {seed}, before datagram {done}"
    return slowest


def asks_for_proof(effects: list[Effect], data: bytes) -> bool:
    """An OPEN with an unlikely time gets a CHALLENGE, before anybody looks at its signature."""
    effect = effects[0]
    return (
        isinstance(effect, SendDatagram)
        and (data[4], effect.data[4]) == (Open.TYPE, Challenge.TYPE)
        and len(effect.data) < len(data)
    )


def is_excused(
    machine: Machine, data: bytes, stock: list[DatagramReceived], effects: list[Effect]
) -> bool:
    """Whether somebody who holds a key, or was on the path, could have sent it as it is."""
    if is_untouched(data, stock) or is_ours_to_pass(machine, data):
        return True
    if is_a_challenge(machine, data):
        return all(isinstance(e, SendDatagram) and e.data[4] == Open.TYPE for e in effects)
    return False


def test_memory_does_not_grow_with_what_is_dropped() -> None:
    """R-7.4: what was dropped once costs no memory when it comes again."""
    for one in targets():
        mutator = Mutator(7, [take_apart(event.data) for event in one.stock])
        machine = one.machine
        machine._door._buckets.clear()
        spoilt = [mutator.next() for _ in range(1_500)]

        def feed(
            machine: Machine = machine,
            one: Target = one,
            spoilt: list[tuple[int, bytes]] = spoilt,
        ) -> None:
            for number, data in spoilt:
                if not is_excused(machine, data, one.stock, []):
                    machine.handle(replace(one.stock[number], data=data), one.now)

        feed()
        before = getallocatedblocks()
        feed()
        assert getallocatedblocks() - before < 200, one.name


@pytest.mark.parametrize("part", range(4))
def test_well_signed_nonsense_is_refused_and_leaves_no_trace(part: int) -> None:
    """R-7.6, R-7.5: a stranger signs whatever terms they like; no answer is larger than that."""
    from random import Random

    random = Random(SEED * 7 + part)
    host, gate = make_host("s", policy=REJECT), make_gate("g")
    host._door._budget = gate._door._budget = UNLIMITED
    before = snapshot(host), snapshot(gate)
    for number in range(DATAGRAMS // 1000):
        data = nonsense(random, host.context.key.public, number)
        for machine, event in (
            (host, DatagramReceived(data, HERE, THERE)),
            (gate, DatagramReceived(data, HERE, THERE, True, "outside")),
        ):
            effects = machine.handle(event, 100.0)
            back = [e for e in effects if isinstance(e, SendDatagram) and e.destination == HERE]
            assert sum(len(effect.data) for effect in back) <= len(data)
            assert all(isinstance(e, SendDatagram | Dropped | ReportRefused) for e in effects)
    assert (snapshot(host), snapshot(gate)) == before


def nonsense(random: object, to_key: bytes, number: int) -> bytes:
    """An OPEN whose terms are well formed, signed, and mean nothing good."""
    from random import Random

    from wayside.core.messages import Hop

    assert isinstance(random, Random)
    pick = random.choice
    ips = ("10.0.0.2", "10.2.0.2", "0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1")
    more = ("[::1]", "[fe80::1]", "[ff02::1]", "[::]", "[2001:db8::1]", "10.0.0.2", "10.2.0.2")
    ends = [Address.parse(f"{pick(ips + more)}:{pick((0, 1, 443, 4747, 65535))}") for _ in "12"]
    hops = tuple(
        Hop(
            random.randbytes(32),
            random.randrange(16),
            pick((0, 1, 2**40)),
            random.randbytes(pick((0, 12, 40, 200))),
            pick((None, *ends)),
            pick((None, *ends)),
        )
        for _ in range(pick((0, 0, 0, 1, 2, 3, 8)))
    )
    try:
        return make_open(
            STRANGER,
            pick((to_key, bytes(32), STRANGER.public)),
            ends[0],
            pick((ends[1], THERE.with_port(443), THERE.with_port(0))),
            cid=Cid(number.to_bytes(16, "big")),
            seq=pick((0, 1, 2**63, 2**64 - 1)),
            hops=hops,
            mac=pick((b"", bytes(16))),
            service=pick(("https", "", "é", 'a "b\\', "x" * 32, "日本", " ")),
            transport=pick(tuple(Transport)),
            ephemeral=pick((bytes(32), random.randbytes(32))),
            time_s=pick((1_800_000_100, 1_800_000_100, 1_800_000_100, 0, 2**40)),
            lifetime_s=pick((0, 1, 120, 2**40)),
            from_certificate=pick((b"", random.randbytes(100))),
            sealed=pick((b"", bytes(17))),
            intent=pick(((), (("a", "b"),))),
        )
    except ValueError:  # it would be longer than a datagram
        return bytes(1200)


def test_a_reason_is_named_for_every_kind_of_bad_datagram() -> None:
    """R-7.2: the fuzzer reaches every stage of the work, not just the first."""
    seen: set[DropReason] = set()
    for one in targets():
        mutator = Mutator(3, [take_apart(event.data) for event in one.stock])
        for _ in range(3_000):
            number, data = mutator.next()
            effects = one.machine.handle(replace(one.stock[number], data=data), one.now)
            seen |= {effect.reason for effect in effects if isinstance(effect, Dropped)}
    assert seen >= {
        DropReason.HEADER,
        DropReason.MALFORMED,
        DropReason.SHORT,
        DropReason.UNEXPECTED,
        DropReason.UNKNOWN,
        DropReason.STALE,
        DropReason.SIGNATURE,
        DropReason.TOKEN,
    }
