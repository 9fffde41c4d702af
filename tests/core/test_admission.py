"""The front door: cheapest work first, a budget for each network, and no more out than in."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pair import (
    ALLOW,
    CHALLENGE,
    REJECT,
    STRANGER,
    Entropy,
    Pair,
    make_gate,
    make_host,
    make_open,
    message_of,
)
from wayside.core import admission
from wayside.core.address import Address, Transport
from wayside.core.admission import Budget, FrontDoor, Quota, Spent, prefix_of
from wayside.core.codec import Header
from wayside.core.effects import ChangeRules, Dropped, Effect, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, MessageReceived, TimePassed
from wayside.core.gate import Gate
from wayside.core.host import Host
from wayside.core.messages import Challenge, Close, Confirm, Hop, Open, encode
from wayside.core.policy import Policy
from wayside.core.route import COOKIE_VALID_S, TokenBox
from wayside.core.rule import Cid

HERE = Address.parse("10.0.0.2:4747")
THERE = Address.parse("10.2.0.2:4747")
CID = Cid(b"cid of sixteen b")


def make_door(budget: Budget | None = None) -> FrontDoor:
    return FrontDoor(TokenBox(b"k" * 32, b"s" * 32, Entropy("door")), budget or Budget())


def an_open(**more: object) -> bytes:
    defaults = {"cid": CID}
    return make_open(  # pyright: ignore[reportCallIssue]
        STRANGER,
        b"t" * 32,
        HERE.with_port(1),
        THERE.with_port(443),
        **{**defaults, **more},  # pyright: ignore[reportArgumentType]
    )


def admit(door: FrontDoor, data: bytes, source: Address = HERE, now: float = 0.0) -> object:
    return door.admit(DatagramReceived(data, source, THERE), now)


def dropped(result: object) -> DropReason:
    assert isinstance(result, Dropped)
    return result.reason


GOOD = encode(Header(Close.TYPE, 0, CID), Close(bytes(16)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"CSP",
        GOOD[:32],
        b"csp" + GOOD[3:],
        GOOD[:3] + b"\x02" + GOOD[4:],
        GOOD[:5] + b"\x01" + GOOD[6:],
        GOOD[:6] + b"\x01" + GOOD[7:],
        GOOD[:5] + b"\x01\x05" + GOOD[7:] + bytes(500),
        GOOD[:7] + b"\x01" + GOOD[8:],
        GOOD + bytes(1233 - len(GOOD)),
        GOOD[:5] + b"\x01\x02" + GOOD[7:32] + bytes(64),
    ],
)
def test_what_has_no_header_goes_first(data: bytes) -> None:
    """R-2.1, R-2.2, R-2.3, R-7.1: magic, version, flags, count, zero, size; and costs no budget."""
    door = make_door(Budget(1, 1))
    for _ in range(10):
        assert dropped(admit(door, data)) is DropReason.HEADER
    assert door._buckets == {}


def test_a_network_that_has_used_up_its_budget_is_dropped_until_time_passes() -> None:
    """R-7.4: a /24 together; another network is not disturbed."""
    door = make_door(Budget(10, 10))
    neighbours = [Address.parse(f"10.0.0.{number}:1") for number in range(1, 11)]
    assert all(isinstance(admit(door, GOOD, one), MessageReceived) for one in neighbours)
    assert dropped(admit(door, GOOD)) is DropReason.BUDGET
    assert isinstance(admit(door, GOOD, Address.parse("10.0.1.2:1")), MessageReceived)
    assert isinstance(admit(door, GOOD, now=0.11), MessageReceived)
    assert dropped(admit(door, GOOD, now=0.12)) is DropReason.BUDGET


def test_a_clock_that_goes_back_refills_nothing() -> None:
    """R-7.4."""
    door = make_door(Budget(1, 1))
    admit(door, GOOD, now=100.0)
    assert dropped(admit(door, GOOD, now=50.0)) is DropReason.BUDGET


def test_an_ipv6_network_is_a_64() -> None:
    """R-7.4."""
    ips = [Address.parse(text).ip for text in ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1")]
    assert prefix_of(ips[0]) == prefix_of(ips[1]) != prefix_of(ips[2])


@pytest.mark.parametrize("hops", [0, 1, 2])
def test_opens_above_their_budget_are_challenged_and_find_their_way_back(hops: int) -> None:
    """R-7.4, R-5.5: with the hops, or no gate on the way could pass it on; with a proof: let in."""
    door = make_door(Budget(1000, 1))
    records = tuple(Hop(bytes(32), 1, 1, b"token") for _ in range(hops))
    assert isinstance(admit(door, an_open(hops=records)), MessageReceived)
    challenge = admit(door, an_open(hops=records))
    assert isinstance(challenge, SendDatagram)
    _, message = message_of(challenge.data)
    assert isinstance(message, Challenge)
    assert message.hops == records
    again = admit(door, an_open(hops=records, proofs=(message.proof,)))
    assert isinstance(again, MessageReceived)
    assert again.proved


def test_a_flood_through_a_gate_leaves_the_others_behind_it_a_way() -> None:
    """R-7.4: the responder is over budget, two gates on the way: one more round trip."""
    pair = Pair(2)
    pair.s._door._budget = Budget(1000, 0.5)
    pair.open(2)
    assert pair.is_up
    assert pair.kinds("s").startswith("s:CHALLENGE")


def test_garbage_behind_a_good_header_is_malformed() -> None:
    """R-7.2, R-3.4."""
    door = make_door()
    assert dropped(admit(door, GOOD + b"\0")) is DropReason.MALFORMED
    assert dropped(admit(door, GOOD[:4] + b"\x09" + GOOD[5:])) is DropReason.MALFORMED


def test_only_so_many_networks_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-7.4: the one that was quiet longest is forgotten first."""
    monkeypatch.setattr(admission, "PREFIXES_MAX", 3)
    door = make_door(Budget(1, 1))
    for number in (1, 2, 3, 1, 4):
        admit(door, GOOD, Address.parse(f"10.0.{number}.1:1"))
    assert len(door._buckets) == 3
    assert dropped(admit(door, GOOD, Address.parse("10.0.1.1:1"))) is DropReason.BUDGET
    assert isinstance(admit(door, GOOD, Address.parse("10.0.2.1:1")), MessageReceived)


def test_a_cookie_ages() -> None:
    """R-7.3: good for 30 s."""
    door = make_door()
    box = door._box
    proof = box.create_cookie(CID, HERE, 1000.0)
    for now, good in ((1000.0, True), (1000.0 + COOKIE_VALID_S, True), (1031.1, False)):
        assert box.check_cookie(CID, HERE, (bytes(32), proof), now) is good


def test_a_quota_counts_all_and_each_network() -> None:
    """R-7.4."""
    quota = Quota(3, 2)
    one, near, far = (Address.parse(text).ip for text in ("10.0.0.1", "10.0.0.2", "10.0.1.1"))
    assert [quota.take(ip) for ip in (one, near, one, far, far)] == [True, True, False, True, False]
    quota.release(near)
    assert quota.take(far)
    for ip in (one, far, far, far, one, near):
        quota.release(ip)
    assert quota._by_prefix == {}
    assert quota._total == 0


def test_what_is_there_already_is_counted_even_when_it_is_too_much() -> None:
    """R-7.4, R-6.5: so that its end makes room for nobody else's entry."""
    quota = Quota(1, 1)
    ip = HERE.ip
    quota.count(ip)
    quota.count(ip)
    assert not quota.take(ip)
    quota.release(ip)
    assert not quota.take(ip)
    quota.release(ip)
    assert quota.take(ip)


def test_what_was_answered_is_known_for_as_long_as_its_time_is_likely() -> None:
    """R-7.7, R-5.9.4: up to its seq; a later one of the same connection is something new."""
    spent = Spent()
    spent.add(CID, 2, 100.0)
    assert [spent.has(CID, seq, 219.9) for seq in (0, 2, 3, 2**64 - 1)] == [
        True,
        True,
        False,
        False,
    ]
    assert not spent.has(CID, 2, 220.1)
    assert not spent.has(Cid(bytes(16)), 0, 100.0)


def test_only_so_many_answered_opens_are_known() -> None:
    """R-7.4: the oldest are forgotten, by age and by number; a refresh makes one young again."""
    spent = Spent()
    spent.CIDS_MAX = 3  # pyright: ignore[reportAttributeAccessIssue]
    cids = [Cid(bytes([number]) * 16) for number in range(5)]
    for number in (0, 1, 2, 0, 3):
        spent.add(cids[number], number, 100.0)
    assert [spent.has(cid, 0, 100.0) for cid in cids] == [True, False, True, True, False]
    spent.add(cids[4], 0, 300.0)
    assert list(spent._last) == [cids[4]]


# --- no more out than in ---


def everything() -> list[tuple[bytes, Address]]:
    """One of each datagram that is ever sent, by anyone in three worlds, and some made up."""
    worlds = [
        Pair(1, data=b"question", answer=b"a" * 400, transport=Transport.UDP)
        .open()
        .run(45)
        .close(),
        Pair(0).open().close("s"),
        Pair(1, gate_policy=CHALLENGE).open(),
        Pair(1, gate_policy=REJECT).open(),
        Pair(0, server=make_host("s", policy=REJECT)).open(),
    ]
    said = [(sent.data, sent.source) for pair in worlds for sent in pair.wire]
    host = make_host("s")
    full = tuple(Hop(bytes(32), 1, 1, bytes(200)) for _ in range(3))
    for hops in ((), full[:1], full[:2], full, (*full, Hop(bytes(32), 1, 1, bytes(100)))):
        for key in (host.context.key.public, b"x" * 32):
            for service in ("https", "nothing"):
                said.append(
                    (
                        make_open(
                            STRANGER,
                            key,
                            HERE.with_port(9),
                            THERE.with_port(443),
                            cid=Cid(len(said).to_bytes(16, "big")),
                            hops=hops,
                            service=service,
                        ),
                        HERE,
                    )
                )
    return said


EVERYTHING = everything()
VICTIM = Address.parse("203.0.113.7:4747")


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from([ALLOW, REJECT, CHALLENGE]),
    opens_per_s=st.sampled_from([0.5, 1000.0]),
    steps=st.lists(
        st.tuples(st.integers(0, len(EVERYTHING) - 1), st.booleans(), st.sampled_from([0, 0.3, 2])),
        max_size=25,
    ),
)
def test_a_host_sends_an_unproved_address_no_more_than_came_from_it(
    policy: Policy, opens_per_s: float, steps: list[tuple[int, bool, float]]
) -> None:
    """R-7.5: for every kind of message, in any order, from where it was sent or from a victim."""
    host = make_host("s", policy=policy, budget=Budget(1e6, opens_per_s))
    now = 100.0
    received: Counter[Address] = Counter()
    sent: Counter[Address] = Counter()
    proved: set[Address] = set()

    def note(effects: list[Effect], source: Address | None = None) -> None:
        for effect in effects:
            then = effect.then if isinstance(effect, ChangeRules) else ()
            for datagram in (effect, *then):
                if isinstance(datagram, SendDatagram):
                    sent[datagram.destination] += len(datagram.data)
        if source is not None and host_believes(host, source):
            proved.add(source)
        assert all(sent[one] <= received[one] for one in sent if one not in proved)

    for number, spoofed, wait in steps:
        data, source = EVERYTHING[number]
        source = VICTIM if spoofed else source
        received[source] += len(data)
        if is_proof(data, source, host, now):
            proved.add(source)
        note(host.handle(DatagramReceived(data, source, THERE), now), source)
        now += wait
        while (at := host.deadline) is not None and at <= now:
            note(host.handle(TimePassed(), at))


def host_believes(host: Host, source: Address) -> bool:
    """Whether a CONFIRM has shown that somebody receives there."""
    return any(one.keys.seq >= 0 and one.towards == source for one in host.connections.values())


def is_proof(data: bytes, source: Address, host: Host, now: float) -> bool:
    header, _ = Header.decode(data)
    return host._door._box.check_cookie(header.cid, source, header.proofs, now)


@settings(max_examples=150, deadline=None)
@given(
    policy=st.sampled_from([ALLOW, REJECT, CHALLENGE]),
    opens_per_s=st.sampled_from([0.5, 1000.0]),
    transit=st.booleans(),
    steps=st.lists(st.integers(0, len(EVERYTHING) - 1), max_size=25),
)
def test_a_gate_answers_with_no_more_than_it_got_and_passes_on_one_for_one(
    policy: Policy, opens_per_s: float, transit: bool, steps: list[int]
) -> None:
    """R-7.5, R-8.1: what goes on grows by one record at most, within the longest datagram."""
    gate: Gate = make_gate("g1", policy=policy, budget=Budget(1e6, opens_per_s))
    for number in steps:
        data, source = EVERYTHING[number]
        event = DatagramReceived(data, source, THERE, transit, "inside")
        out: list[SendDatagram] = []
        for effect in gate.handle(event, 100.0):
            then = effect.then if isinstance(effect, ChangeRules) else ()
            out += [one for one in (effect, *then) if isinstance(one, SendDatagram)]
        assert len(out) <= 1
        for one in out:
            grows = data[4] == Open.TYPE and one.destination == THERE
            assert len(one.data) <= (1232 if grows else len(data))


def test_a_proof_of_one_is_no_proof_of_another() -> None:
    """R-7.3: a header with four proofs, ours the last."""
    door = make_door()
    proof = door._box.create_cookie(CID, HERE, 0.0)
    others = tuple(bytes([n]) * 32 for n in range(3))
    admitted = admit(door, an_open(proofs=(*others, proof), bare=True))
    assert isinstance(admitted, MessageReceived)
    moved = replace(HERE, port=HERE.port + 1)
    assert dropped(admit(door, an_open(proofs=(*others, proof), bare=True), moved)) is (
        DropReason.SHORT
    )
    assert struct.calcsize("!8s8s16s") == len(proof)
    assert Confirm.TYPE == 3
