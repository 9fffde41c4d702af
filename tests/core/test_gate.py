"""A gate asks its policy first, keeps nothing until ACCEPT, and admits one 5-tuple at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from sys import getallocatedblocks

import pytest

from gated import an_open, changed, event_of, unmoved, waiting
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
    reasons,
    snapshot,
)
from wayside.core import constants as c
from wayside.core.address import Address
from wayside.core.admission import Budget, Quota
from wayside.core.codec import Header, decode_body
from wayside.core.effects import (
    ChangeRules,
    Dropped,
    ReportClosed,
    ReportRefused,
    SendDatagram,
)
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, TimePassed
from wayside.core.gate import Stage
from wayside.core.messages import (
    Accept,
    Challenge,
    Close,
    Code,
    Confirm,
    Hop,
    Message,
    Open,
    OpenTerms,
    Reject,
    RejectTerms,
    encode,
    padded,
)
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.route import TOKEN_VALID_S
from wayside.core.rule import Action, Cid

ELSEWHERE = Address.parse("192.0.2.66:4747")


# --- OPEN ---


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
    from wayside.core.policy import Direction

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
        ("10.0.0.2:40000", "10.9.9.9:443", Code.BAD_ADDRESS),
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


# --- ACCEPT ---


def test_pending_rules_fit_one_5_tuple_for_five_seconds() -> None:
    """R-5.2.4, R-6.1, R-6.4: packets do not renew them, and ACCEPT leaves behind them."""
    pair = waiting(Confirm)
    wire = pair.connection("c").agreement.wire
    rules = pair.kernel["g1"]
    assert set(rules) == {wire, wire.reversed()}
    assert {(rule.action, rule.lifetime_s, rule.renewed_by_packets) for rule in rules.values()} == {
        (Action.ACCEPT, c.PENDING_S, False)
    }
    assert pair.passage().stage is Stage.PENDING
    pair.gates["g1"].handle(TimePassed(), pair.now + 6)
    assert pair.gates["g1"].passages == {}
    assert pair.gates["g1"]._by_flow == {}


def test_confirmed_rules_live_as_long_as_packets_renew_them() -> None:
    """R-5.3.3, R-6.4."""
    pair = Pair(1).open()
    assert {(r.lifetime_s, r.renewed_by_packets) for r in pair.kernel["g1"].values()} == {
        (120.0, True)
    }


def test_a_shorter_lifetime_than_the_gates_is_not_renewed_by_packets() -> None:
    """R-6.4: the table would renew it to its own, longer one."""
    rule = PolicyRule("short", PolicyAction.ALLOW, lifetime_s=30)
    pair = Pair(1, gate_policy=Policy((rule,))).open()
    assert {(r.lifetime_s, r.renewed_by_packets) for r in pair.kernel["g1"].values()} == {
        (30, False)
    }
    assert pair.passage().rule == "short"


def test_an_accept_with_any_byte_changed_is_accepted_by_nobody() -> None:
    """R-8.3, R-8.4, R-4.2: neither by the gate, nor, where it is another's part, by the initiator.

    A gate reads its own token, the terms and the signature; what else a hop's record says is for
    the initiator to find out.
    """
    pair = waiting(Accept)
    ((_, event),) = pair.held
    fresh = snapshot(pair.c)
    passed = 0
    for at in range(len(event.data)):
        data = bytearray(event.data)
        data[at] ^= 1 << at % 8
        before = snapshot(pair.gates["g1"])
        effects = pair.gates["g1"].handle(replace(event, data=bytes(data)), pair.now)
        if any(isinstance(effect, Dropped) for effect in effects):
            assert len(effects) == 1
            assert snapshot(pair.gates["g1"]) == before
            continue
        (change,) = effects
        assert isinstance(change, ChangeRules)
        passed += 1
        assert len(reasons(pair.inject("c", change.then[0].data, pair.own["g1"][0]))) == 1
    assert snapshot(pair.c) == fresh
    assert passed < 8


def test_an_accept_by_another_key_or_for_other_addresses_is_dropped() -> None:
    """R-8.3: the token ties it to the key, the OPEN and the addresses that were asked for."""
    from wayside.core.codec import encode_body
    from wayside.core.messages import AcceptTerms
    from wayside.core.opening import SIGNATURE_CONTEXT

    pair = waiting(Accept)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    assert isinstance(message, Accept)
    terms = decode_body(AcceptTerms, message.signed)
    other = Address.parse("10.2.0.9:443")
    cases = [
        (STRANGER, replace(terms, from_key=STRANGER.public), DropReason.ADDRESS),
        (STRANGER, terms, DropReason.SIGNATURE),
        (pair.s.context.key, replace(terms, open_hash=bytes(32)), DropReason.ADDRESS),
        (pair.s.context.key, replace(terms, source=other), DropReason.ADDRESS),
        (pair.s.context.key, replace(terms, destination=other), DropReason.ADDRESS),
        (
            pair.s.context.key,
            replace(terms, destination=terms.destination.with_port(0)),
            DropReason.ADDRESS,
        ),
        (
            pair.s.context.key,
            replace(terms, destination=Address.parse("[2001:db8::1]:443")),
            DropReason.MALFORMED,
        ),
    ]
    for key, changed_terms, reason in cases:
        raw = encode_body(changed_terms)
        signature = key.sign(SIGNATURE_CONTEXT, header.signing + raw)
        data = encode(header, Accept(raw, signature, message.hops))
        unmoved(pair, replace(event, data=data), reason)


def test_a_token_is_good_for_its_gate_its_connection_and_ten_seconds() -> None:
    """R-8.2: not for another gate, another cid, another seq, nor later, nor before it was made."""
    pair = waiting(Accept)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    for other in (Header(2, 2, header.cid), Header(2, 0, Cid(bytes(16)))):
        unmoved(pair, replace(event, data=encode(other, message)), DropReason.TOKEN)
    unmoved(pair, replace(event, transit=True, side="outside"), DropReason.TOKEN)
    unmoved(pair, changed(event, hops=()), DropReason.TOKEN)
    for at in (pair.now + TOKEN_VALID_S + 0.1, pair.now - 50):
        now, pair.now = pair.now, at
        unmoved(pair, event, DropReason.TOKEN)
        pair.now = now
    (hop,) = hops_of(event.data)
    stranger = make_gate("another")
    effects = stranger.handle(event, pair.now)
    assert reasons(effects) == [DropReason.TOKEN]
    renamed = replace(hop, key=stranger.context.key.public)
    effects = stranger.handle(changed(event, hops=(renamed,)), pair.now)
    assert reasons(effects) == [DropReason.TOKEN]
    assert stranger.passages == {}


def test_a_repeated_accept_goes_on_again_and_makes_nothing_new() -> None:
    """R-5.2.3: the responder repeats it until CONFIRM."""
    pair = waiting(Confirm)
    again = event_of(pair, Accept, "s")
    for _ in range(1000):
        pair.tell("g1", again)
    gate = pair.gates["g1"]
    assert len(gate.passages) == 1
    assert gate._quota._total == 1
    assert len(gate._deadlines._heap) < 200
    pair.release()
    pair.run(0.1)
    assert pair.passage().stage is Stage.LIVE
    pair.tell("g1", again)
    assert pair.passage().stage is Stage.LIVE


def test_another_flow_cannot_slip_into_a_pending_connection() -> None:
    """R-5.4.4: an OPEN with somebody's cid and other addresses, answered first by its own peer."""
    pair = waiting(Confirm)
    wire = pair.connection("c").agreement.wire
    here = pair.own["c"][0]
    other = Pair(1)
    other.gates = pair.gates
    stranger = an_open(pair, cid=pair.cid, source=here.with_port(6666))
    (forwarded,) = pair.tell("g1", stranger)
    assert isinstance(forwarded, SendDatagram)
    from wayside.core.codec import encode_body
    from wayside.core.messages import AcceptTerms
    from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
    from wayside.core.route import hops_hash

    header, message = message_of(forwarded.data)
    assert isinstance(message, Open)
    asked = decode_body(OpenTerms, message.signed)
    key = pair.s.context.key
    raw = encode_body(
        AcceptTerms(
            key.public,
            open_hash(header, message.signed),
            hops_hash(message.hops),
            asked.source,
            asked.destination,
            bytes(31) + b"\x09",
            120,
        )
    )
    back = Header(Accept.TYPE, 0, pair.cid)
    accept = Accept(raw, key.sign(SIGNATURE_CONTEXT, back.signing + raw), message.hops)
    there = DatagramReceived(encode(back, accept), pair.own["s"][0], pair.own["g1"][1])
    unmoved(pair, there, DropReason.STALE)
    assert set(pair.kernel["g1"]) == {wire, wire.reversed()}


def test_a_full_table_takes_no_more() -> None:
    """R-7.4: the ACCEPT is dropped (FULL), and what is there stays."""
    pair = Pair(1)
    pair.gates["g1"]._quota = Quota(0, 0)
    pair.hold.add(Accept)
    pair.open(0.05)
    ((_, event),) = pair.held
    unmoved(pair, event, DropReason.FULL)


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


def test_refreshes_do_not_make_the_table_of_deadlines_grow() -> None:
    """R-7.4: 500 refreshes a second for a minute, by two ends that know each other."""
    gate = make_gate("g")
    flow = Pair(1).request().wire
    from wayside.core.gate import Passage

    for number in range(30_000):
        gate._keep(Passage(Cid(bytes(16)), Stage.LIVE, flow, number, number / 500 + 3600, 3600.0))
    assert len(gate._deadlines._heap) < 200
    assert gate._by_flow == dict.fromkeys((flow, flow.reversed()), Cid(bytes(16)))


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


def test_the_padding_of_an_open_is_made_up_again() -> None:
    """R-5.1.4: an OPEN stays at 1,200 bytes while records take the place of pad."""
    pair = Pair(2).open()
    sizes = [len(sent.data) for sent in pair.wire if sent.kind is Open]
    assert sizes == [1200, 1200, 1200]
    header, message = message_of(pair.wire[0].data)
    assert isinstance(message, Open)
    assert padded(header, message) == pair.wire[0].data
