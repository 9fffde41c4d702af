"""A gate asks its policy first, keeps nothing until ACCEPT, and admits one 5-tuple at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from sys import getallocatedblocks

import pytest

from gated import an_open, event_of, unmoved
from pair import (
    CHALLENGE,
    EPOCH_S,
    STRANGER,
    Pair,
    body_of,
    hops_of,
    make_gate,
    make_open,
    message_of,
    snapshot,
)
from wayside.core import constants as c
from wayside.core.address import Address
from wayside.core.admission import Budget
from wayside.core.codec import decode_body
from wayside.core.effects import (
    ChangeRules,
    Dropped,
    ReportClosed,
    ReportRefused,
    SendDatagram,
)
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import (
    Accept,
    Challenge,
    Close,
    Code,
    Confirm,
    Hop,
    Message,
    Open,
    Reject,
    RejectTerms,
    padded,
)
from wayside.core.policy import Direction, Policy, PolicyAction, PolicyRule
from wayside.core.rule import Cid

ELSEWHERE = Address.parse("192.0.2.66:4747")


def test_between_open_and_accept_a_gate_holds_nothing() -> None:
    """R-8.2: what it must know again travels in its token."""
    pair = Pair(1)
    before = snapshot(pair.gates["g1"])
    pair.lose[Accept] = 100
    pair.open(0.05)
    assert pair.kinds("g1") == "g1:OPEN"
    assert snapshot(pair.gates["g1"]) == before
    assert pair.gates["g1"].deadline is None


def test_ten_thousand_opens_without_accept_leave_nothing() -> None:
    """R-8.2, R-7.4: neither entries nor memory."""
    gate = make_gate("g", budget=Budget(1e9, 1e9))
    pair = Pair(1)
    here, there = pair.own["c"][0], pair.own["s"][0]
    opens = [
        make_open(
            STRANGER,
            pair.s.context.key.public,
            here.with_port(1 + number % 60_000),
            there.with_port(443),
            cid=Cid(number.to_bytes(16, "big")),
        )
        for number in range(10_000)
    ]
    event = DatagramReceived(b"", here, there, True, "inside")
    for data in opens[:500]:
        gate.handle(replace(event, data=data), 100.0)
    before = snapshot(gate)
    held = getallocatedblocks()
    for data in opens:
        (forwarded,) = gate.handle(replace(event, data=data), 100.0)
        assert isinstance(forwarded, SendDatagram)
    grown = getallocatedblocks() - held
    assert gate.passages == {}
    assert snapshot(gate) == before
    assert grown < 1_000


def test_a_gate_adds_one_record_and_changes_nothing_that_was_signed() -> None:
    """R-8.1."""
    pair = Pair(2).open()
    opens = [body_of(pair.last(Open, node).data, Open) for node in ("c", "g1", "g2")]
    signed = {(message.signed, message.signature) for message in opens}
    hops = [message.hops for message in opens]
    assert len(signed) == 1
    assert [len(records) for records in hops] == [0, 1, 2]
    assert hops[2][0] == hops[1][0]
    assert [hop.key for hop in hops[2]] == [g.context.key.public for g in pair.gates.values()]
    assert all(len(sent.data) >= c.OPEN_BYTES_MIN for sent in pair.wire if sent.kind is Open)


def refused(pair: Pair) -> RejectTerms:
    return decode_body(RejectTerms, body_of(pair.last(Reject, "g1").data, Reject).signed)


def test_a_gate_that_refuses_says_which_rule_and_why_and_the_responder_sees_nothing() -> None:
    """R-5.6, R-5.6.1: in one round trip."""
    rule = PolicyRule("no-https", PolicyAction.REJECT, service=("https",), reason="use ssh")
    policy = Policy((rule,), PolicyAction.ALLOW)
    pair = Pair(1, gate_policy=policy).open()
    (report,) = pair.seen(ReportRefused, "c")
    assert (report.code, report.rule, report.reason) == (Code.POLICY, "no-https", "use ssh")
    assert report.by.startswith("g1 (k")
    assert pair.kinds() == "c:OPEN g1:REJECT"
    assert pair.gates["g1"].passages == {}


def test_a_policy_sees_the_direction_across_the_gate() -> None:
    """R-7.1: from inside is out."""
    rule = PolicyRule("out", PolicyAction.ALLOW, direction=Direction.OUT)
    policy = Policy((rule,), PolicyAction.REJECT)
    assert Pair(1, gate_policy=policy, inside="c").open().is_up
    assert Pair(1, gate_policy=policy, inside="s").open().kinds() == "c:OPEN g1:REJECT"


def test_a_challenging_gate_lets_in_who_receives_at_its_address() -> None:
    """R-5.5, R-7.3: one more round trip, no state; two gates challenge one after the other."""
    pair = Pair(2, gate_policy=CHALLENGE).open()
    assert pair.is_up
    assert pair.kinds("c").count("OPEN") == 3
    header, _ = message_of(pair.last(Open, "c").data)
    assert [proof[:8] for proof in header.proofs] == [
        gate.context.key.public[:8] for gate in pair.gates.values()
    ]


@pytest.mark.parametrize(
    ("source", "destination", "code"),
    [
        ("10.9.9.9:40000", "10.2.0.2:443", Code.BAD_ADDRESS),
        ("127.0.0.1:40000", "127.0.0.1:443", Code.BAD_ADDRESS),
    ],
)
def test_an_open_for_another_path_is_refused(source: str, destination: str, code: Code) -> None:
    """R-5.1.6: a rule for addresses that nobody was seen at would be a hole."""
    pair = Pair(1)
    pair.tell(
        "g1", an_open(pair, source=Address.parse(source), destination=Address.parse(destination))
    )
    assert refused(pair).code == code


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("role", [1, 2, 3])
@pytest.mark.parametrize("at", ["gate", "host"])
def test_a_made_up_hop_before_an_open_lets_nobody_speak_for_another(
    family: int, role: int, at: str
) -> None:
    """R-5.1.6: the source that it claims, or that its hop does, is not where it came from."""
    pair = Pair(1, family=family)
    victim = Address.parse("10.0.0.99" if family == 4 else "fd00::99").with_port(40000)
    node = "g1" if at == "gate" else "s"
    for named in (None, victim):
        source = victim if named is None else pair.own["c"][0].with_port(40000)
        hop = Hop(bytes(32), role, 120, b"made up", source=named)
        before = snapshot(pair.nodes[node])
        effects = pair.tell(node, an_open(pair, source=source, hops=(hop,)))
        (answer,) = [effect for effect in effects if isinstance(effect, SendDatagram)]
        terms = decode_body(RejectTerms, body_of(answer.data, Reject).signed)
        assert (terms.code, answer.destination) == (Code.BAD_ADDRESS, pair.own["c"][0])
        assert terms.reason.startswith("it came from ")
        assert answer.source == pair.own["s"][0]
        assert snapshot(pair.nodes[node]) == before


UNSOUND = [
    ("224.0.0.1:1", "10.2.0.2:443"),
    ("10.0.0.2:1", "224.0.0.1:443"),
    ("0.0.0.0:1", "10.2.0.2:443"),
    ("10.0.0.2:1", "255.255.255.255:443"),
    ("169.254.1.1:1", "10.2.0.2:443"),
    ("127.0.0.1:1", "10.2.0.2:443"),
    ("10.0.0.2:0", "10.2.0.2:443"),
    ("10.2.0.2:443", "10.2.0.2:443"),
    ("[fe80::1]:1", "[2001:db8::2]:443"),
    ("[ff02::1]:1", "[2001:db8::2]:443"),
    ("[::]:1", "[2001:db8::2]:443"),
    ("[::1]:1", "[2001:db8::2]:443"),
]


@pytest.mark.parametrize(("source", "destination"), UNSOUND)
def test_no_rule_is_ever_made_for_an_address_that_is_nobodys(source: str, destination: str) -> None:
    """R-2.6: multicast, broadcast, unspecified, link-local, half loopback."""
    pair = Pair(1)
    event = an_open(pair, source=Address.parse(source), destination=Address.parse(destination))
    unmoved(pair, event, DropReason.ADDRESS)


def test_an_open_from_nowhere_or_for_the_gate_itself_is_unexpected() -> None:
    """R-7.2."""
    pair = Pair(1)
    unmoved(pair, replace(an_open(pair), side="elsewhere"), DropReason.UNEXPECTED)
    unmoved(pair, replace(an_open(pair), transit=False), DropReason.UNEXPECTED)


def test_an_open_that_is_too_old_or_badly_signed_is_dropped() -> None:
    """R-5.1.2, R-5.1.3: for its time it gets a CHALLENGE, and nothing is kept of it."""
    pair = Pair(1)
    for time_s in (0, int(EPOCH_S + 100 - 62), int(EPOCH_S + 100 + 62), 2**40):
        before = snapshot(pair.gates["g1"])
        (challenge,) = pair.tell("g1", an_open(pair, time_s=time_s))
        assert isinstance(challenge, SendDatagram)
        assert challenge.data[4] == Challenge.TYPE
        assert snapshot(pair.gates["g1"]) == before
    event = an_open(pair)
    data = bytearray(event.data)
    data[60] ^= 1
    unmoved(pair, replace(event, data=bytes(data)), DropReason.SIGNATURE)


def test_the_eighth_gate_has_room_for_a_record_the_ninth_has_not() -> None:
    """R-8.5: at most 8 hops; in practice the room in the OPEN ends it sooner."""
    small = tuple(Hop(bytes([n]) * 32, 1, 1, b"") for n in range(8))
    big = tuple(Hop(bytes([n]) * 32, 1, 1, bytes(size)) for n, size in enumerate([200] * 3 + [110]))
    for hops in (small, big):
        pair = Pair(1)
        pair.tell("g1", an_open(pair, hops=hops, mac=b"m" * 16))
        assert refused(pair).code == Code.ROUTE_TOO_LONG
    pair = Pair(1)
    pair.tell("g1", an_open(pair, hops=small[:7]))
    assert len(hops_of(pair.last(Open).data)) == 8


@pytest.mark.parametrize("tokens", [*range(600, 960, 8)])
def test_a_refusal_is_never_larger_than_what_it_answers(tokens: int) -> None:
    """R-7.5, R-5.6: hops come back with a REJECT; its words make way for them."""
    rule = PolicyRule("r" * 32, PolicyAction.REJECT, reason="x" * 160)
    pair = Pair(1, gate_policy=Policy((rule,)))
    parts = [200] * (tokens // 240)
    hops = tuple(Hop(bytes(32), 1, 1, bytes(size)) for size in parts)
    left = max(tokens - len(hops) * 245 - 45, 0)
    event = an_open(pair, hops=(*hops, Hop(bytes(32), 1, 1, bytes(min(left, 200)))))
    effects = pair.tell("g1", event)
    (answer,) = [effect for effect in effects if isinstance(effect, SendDatagram)]
    assert answer.data[4] == Reject.TYPE
    assert len(answer.data) <= len(event.data)
    assert refused(pair).code == Code.POLICY


@pytest.mark.parametrize("lifetime_s", [0, 1, 2**32, 2**40])
def test_what_is_granted_is_never_more_than_the_gate_gives(lifetime_s: int) -> None:
    """R-8.1, R-6.4."""
    pair = Pair(1)
    (sent,) = pair.tell("g1", an_open(pair, lifetime_s=lifetime_s))
    assert isinstance(sent, SendDatagram)
    (hop,) = hops_of(sent.data)
    assert 1 <= hop.lifetime_s <= 120


@pytest.mark.parametrize("seq", [0, 1, 2**63, 2**64 - 1])
def test_any_seq_is_as_good_as_another(seq: int) -> None:
    """R-2.1: 64 bits, and no arithmetic that could go over."""
    pair = Pair(1)
    (sent,) = pair.tell("g1", an_open(pair, seq=seq))
    assert isinstance(sent, SendDatagram)
    assert message_of(sent.data)[0].seq == seq


def test_hops_that_are_no_gates_of_ours_come_through_unchanged() -> None:
    """R-8.1: a gate reads its own record and nobody else's."""
    pair = Pair(1)
    foreign = tuple(Hop(bytes([n]) * 32, 15, 2**40, bytes(n)) for n in range(3))
    pair.tell("g1", an_open(pair, hops=foreign))
    hops = hops_of(pair.last(Open).data)
    assert hops[:3] == foreign
    assert len(hops) == 4


def test_the_padding_of_an_open_is_made_up_again() -> None:
    """R-5.1.4: an OPEN stays at 1,200 bytes while records take the place of pad."""
    pair = Pair(2).open()
    sizes = [len(sent.data) for sent in pair.wire if sent.kind is Open]
    assert sizes == [1200, 1200, 1200]
    header, message = message_of(pair.wire[0].data)
    assert isinstance(message, Open)
    assert padded(header, message) == pair.wire[0].data


def test_every_kind_of_message_in_every_stage_gives_effects_or_a_drop() -> None:
    """R-7.6, R-7.2: nothing is raised, whatever comes when."""
    for kind, stage in product((Open, Accept, Confirm, Close, Reject), ("none", "live", "over")):
        pair = Pair(1).open()
        said: dict[type[Message], DatagramReceived] = {
            k: event_of(pair, k, n) for k, n in ((Open, "c"), (Accept, "s"), (Confirm, "c"))
        }
        if stage == "over":
            pair.close()
        if stage == "none":
            pair.gates["g1"].passages.clear()
        event = said.get(kind, said[Confirm])
        data = event.data[:4] + bytes([kind.TYPE]) + event.data[5:]
        effects = pair.tell("g1", replace(event, data=data))
        assert effects
        assert all(
            isinstance(e, Dropped | SendDatagram | ChangeRules | ReportClosed) for e in effects
        )
