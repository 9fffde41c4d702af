"""A gate: asks its policy first, keeps nothing until ACCEPT, and admits one 5-tuple at a time."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from pair import (
    CHALLENGE,
    EPOCH_S,
    REJECT,
    STRANGER,
    Entropy,
    Pair,
    make_gate,
    make_open,
    message_of,
    snapshot,
)
from wayside.core import constants as c
from wayside.core.address import Address, Flow
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import Header, decode_body
from wayside.core.effects import (
    ChangeRules,
    Dropped,
    Effect,
    ReportClosed,
    ReportOpened,
    ReportRefused,
    SendDatagram,
)
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, DatagramReceived, TimePassed
from wayside.core.gate import Gate, Stage
from wayside.core.messages import (
    Accept,
    Close,
    Code,
    Confirm,
    Hop,
    Message,
    Open,
    OpenTerms,
    Reject,
    RejectTerms,
    Stop,
    encode,
    padded,
)
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.route import TOKEN_VALID_S
from wayside.core.rule import Action, Cid, Rule

ELSEWHERE = Address.parse("192.0.2.66:4747")


def reasons(effects: list[Effect]) -> list[DropReason]:
    return [effect.reason for effect in effects if isinstance(effect, Dropped)]


def unmoved(pair: Pair, event: DatagramReceived, reason: DropReason) -> None:
    """The gate drops this for that reason, says nothing, and is what it was."""
    before, rules = snapshot(pair.gates["g1"]), dict(pair.kernel["g1"])
    assert reasons(pair.tell("g1", event)) == [reason]
    assert snapshot(pair.gates["g1"]) == before
    assert pair.kernel["g1"] == rules


def event_of(pair: Pair, kind: type[Message], node: str) -> DatagramReceived:
    """The last such datagram of a host, as the gate received it."""
    sent = pair.last(kind, node)
    transit = sent.destination not in pair.own["g1"]
    side = "inside" if node == "c" else "outside"
    return DatagramReceived(sent.data, sent.source, sent.destination, transit, side)


def changed(event: DatagramReceived, **fields: Any) -> DatagramReceived:
    """The same datagram, other fields of its body."""
    header, message = message_of(event.data)
    return replace(event, data=encode(header, replace(message, **fields)))


def an_open(pair: Pair, **more: Any) -> DatagramReceived:
    """A stranger's OPEN on its way through the gate to the server."""
    here, there = pair.own["c"][0], pair.own["s"][0]
    source = more.pop("source", here.with_port(40001))
    destination = more.pop("destination", there.with_port(443))
    came_from = more.pop("came_from", here)
    data = make_open(
        STRANGER,
        pair.s.context.key.public,
        source,
        destination,
        cid=more.pop("cid", Cid(b"a stranger's cid")),
        **more,
    )
    return DatagramReceived(data, came_from, there, True, "inside")


def waiting(kind: type[Message], gates: int = 1, **more: Any) -> Pair:
    """A pair in which every message of a kind is held back before it arrives."""
    pair = Pair(gates, **more)
    pair.hold.add(kind)
    return pair.open(0.05)


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
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    for data in opens:
        (forwarded,) = gate.handle(replace(event, data=data), 100.0)
        assert isinstance(forwarded, SendDatagram)
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert gate.passages == {}
    assert snapshot(gate) == before
    assert grown < 20_000


def test_a_gate_adds_one_record_and_changes_nothing_that_was_signed() -> None:
    """R-8.1."""
    pair = Pair(2).open()
    opens = [message_of(pair.last(Open, node).data)[1] for node in ("c", "g1", "g2")]
    assert all(isinstance(message, Open) for message in opens)
    signed = {(m.signed, m.signature) for m in opens}  # pyright: ignore[reportAttributeAccessIssue]
    hops = [getattr(message, "hops", ()) for message in opens]
    assert len(signed) == 1
    assert [len(records) for records in hops] == [0, 1, 2]
    assert hops[2][0] == hops[1][0]
    assert [hop.key for hop in hops[2]] == [g.context.key.public for g in pair.gates.values()]
    assert all(len(sent.data) >= c.OPEN_BYTES_MIN for sent in pair.wire if sent.kind is Open)


def refused(pair: Pair) -> RejectTerms:
    message = message_of(pair.last(Reject, "g1").data)[1]
    assert isinstance(message, Reject)
    return decode_body(RejectTerms, message.signed)


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
    pair.tell("g1", an_open(
        pair, source=Address.parse(source), destination=Address.parse(destination)))
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
    """R-5.1.2, R-5.1.3."""
    pair = Pair(1)
    for time_s in (0, int(EPOCH_S + 100 - 62), int(EPOCH_S + 100 + 62), 2**40):
        unmoved(pair, an_open(pair, time_s=time_s), DropReason.TIME)
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
    assert len(getattr(message_of(pair.last(Open).data)[1], "hops", ())) == 8


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
    (hop,) = getattr(message_of(sent.data)[1], "hops", ())
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
    """R-8.3, R-8.4, R-4.2: a gate reads its own token, the terms and the signature; what else a
    hop's record says is for the initiator to find out, who drops it then.
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
    (hop,) = getattr(message, "hops", ())
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


# --- CONFIRM, REJECT, CLOSE ---


def test_a_confirm_without_our_token_is_dropped() -> None:
    """R-5.3.3: another seq, no token, or addressed to the gate itself."""
    pair = waiting(Confirm)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    unmoved(pair, changed(event, hops=()), DropReason.TOKEN)
    unmoved(pair, replace(event, transit=False), DropReason.TOKEN)
    unmoved(pair, replace(event, data=encode(Header(3, 2, header.cid), message)), DropReason.TOKEN)


def test_a_confirm_for_what_is_not_there_is_dropped() -> None:
    """R-5.3.3: a replay after everything was forgotten makes no rule."""
    pair = waiting(Confirm)
    ((_, event),) = pair.held
    pair.run(12)
    pair.gates["g1"].handle(TimePassed(), pair.now)
    unmoved(pair, event, DropReason.UNKNOWN)


def test_only_the_last_offers_confirm_counts() -> None:
    """R-5.3.3, R-5.4.4: a replayed CONFIRM of an earlier seq renews nothing."""
    pair = Pair(1).open()
    first = event_of(pair, Confirm, "c")
    pair.run(45)
    assert pair.passage().seq == 2
    unmoved(pair, first, DropReason.STALE)


def test_a_repeated_confirm_only_goes_on() -> None:
    """R-5.3.3."""
    pair = Pair(1).open()
    before = snapshot(pair.gates["g1"])
    (onward,) = pair.tell("g1", event_of(pair, Confirm, "c"))
    assert isinstance(onward, SendDatagram)
    assert snapshot(pair.gates["g1"]) == before
    assert len(pair.seen(ReportOpened, "g1")) == 1


def test_a_reject_from_further_on_ends_what_is_pending() -> None:
    """R-5.6.4: and finds its way back by the token."""
    pair = Pair(2)
    pair.s.answering.policy = REJECT
    pair.open()
    assert pair.kinds() == "c:OPEN g1:OPEN g2:OPEN s:REJECT g2:REJECT g1:REJECT"
    assert len(pair.seen(ReportRefused, "c")) == 1
    pair = waiting(Confirm)
    _, message = message_of(event_of(pair, Accept, "s").data)
    reject = Reject(b"", bytes(64), getattr(message, "hops", ()))
    data = encode(Header(Reject.TYPE, 0, pair.cid), reject)
    event = DatagramReceived(data, pair.own["s"][0], pair.own["g1"][1])
    unmoved(pair, replace(event, data=encode(Header(5, 0, pair.cid), replace(reject, hops=()))),
            DropReason.TOKEN)
    pair.tell("g1", event)
    assert pair.passage().stage is Stage.ENDED
    assert pair.kernel["g1"] == {}


def test_a_reject_does_not_end_what_is_confirmed() -> None:
    """R-5.6.4."""
    pair = Pair(1).open()
    _, message = message_of(event_of(pair, Accept, "s").data)
    reject = Reject(b"", bytes(64), getattr(message, "hops", ()))
    event = DatagramReceived(
        encode(Header(5, 0, pair.cid), reject), pair.own["s"][0], pair.own["g1"][1]
    )
    before = snapshot(pair.gates["g1"])
    pair.tell("g1", event)
    assert snapshot(pair.gates["g1"]) == before


def test_a_close_by_someone_off_the_path_is_dropped() -> None:
    """R-5.9.2: no token, one of another connection, or one that was made up."""
    pair = Pair(1).open()
    other = Pair(1)
    other.cid = Cid(b"another cid, 16b")
    other.gates["g1"] = pair.gates["g1"]
    other.nodes["g1"] = pair.gates["g1"]
    other.open(0.5)
    (hop,) = getattr(message_of(other.last(Open, "g1").data)[1], "hops", ())
    made_up = replace(hop, token=bytes(len(hop.token)))
    for hops in ((), (hop,), (made_up,), (replace(hop, token=b""),)):
        data = encode(Header(Close.TYPE, 0, pair.cid), Close(bytes(16), "bye", hops))
        for transit, to in ((True, pair.own["s"][0]), (False, pair.own["g1"][0])):
            event = DatagramReceived(data, ELSEWHERE, to, transit, "outside")
            unmoved(pair, event, DropReason.TOKEN)
    assert pair.is_up


def test_nothing_of_a_connection_comes_back_after_its_close() -> None:
    """R-5.9.4, R-8.2: OPEN, ACCEPT and CONFIRM replayed while their tokens still hold."""
    pair = Pair(1).open()
    said = [event_of(pair, kind, node) for kind, node in (
        (Open, "c"), (Accept, "s"), (Confirm, "c"))]
    pair.close()
    before = snapshot(pair.gates["g1"])
    for event, reason in zip(said, ("stale", "stale", "unknown"), strict=True):
        unmoved(pair, event, DropReason(reason))
    assert snapshot(pair.gates["g1"]) == before
    pair.run(11)
    assert pair.gates["g1"].passages == {}
    unmoved(pair, said[1], DropReason.TOKEN)
    unmoved(pair, said[2], DropReason.UNKNOWN)


def test_a_connection_can_be_ended_at_the_gate() -> None:
    """R-5.9.2: by a person; twice is once."""
    pair = Pair(1).open()
    pair.tell("g1", CloseRequested(pair.cid, "maintenance"))
    pair.tell("g1", CloseRequested(pair.cid, "maintenance"))
    pair.tell("g1", CloseRequested(Cid(bytes(16))))
    assert [report.reason for report in pair.seen(ReportClosed, "g1")] == ["maintenance"]
    assert pair.kernel["g1"] == {}


def test_the_end_of_an_old_connection_leaves_the_rules_of_a_newer_one_on_its_flow() -> None:
    """R-6.1: the same ports again at once, and the old CLOSE comes last."""
    pair = Pair(1).open()
    old = event_of(pair, Confirm, "c")
    close_old = pair.cid
    pair.hold.add(Close)
    pair.cid = Cid(b"the second cid 1")
    pair.open(0.1)
    assert pair.is_up
    rules = dict(pair.kernel["g1"])
    pair.release()
    pair.run(1)
    assert pair.gates["g1"].passages[close_old].stage is Stage.ENDED
    assert pair.kernel["g1"] == rules
    assert len(rules) == 2
    assert old.transit


def test_stop_is_not_taken_yet() -> None:
    """R-5.8."""
    pair = Pair(1).open()
    data = encode(Header(Stop.TYPE, 0, pair.cid), Stop(b"", bytes(64)))
    unmoved(pair, DatagramReceived(data, ELSEWHERE, pair.own["s"][0], True, "outside"),
            DropReason.UNEXPECTED)


# --- after a restart ---


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("service", ["https", "a b", 'quo"te\\', "日本", "x" * 32, ""])
def test_a_restarted_gate_reads_its_connections_back_from_the_kernel(
    family: int, service: str
) -> None:
    """R-6.5: refresh, CONFIRM and CLOSE go on as if nothing had been."""
    pair = Pair(1, family=family)
    pair.s.answering.services[service] = pair.s.answering.services["https"]
    pair.open(service=service)
    old = pair.gates["g1"]
    restart(pair, old, 80.0)
    assert pair.passage().stage is Stage.LIVE
    assert pair.passage().flow == old.passages[pair.cid].flow
    pair.run(100)
    assert pair.is_up
    assert pair.passage().seq >= 2
    restart(pair, pair.gates["g1"], 80.0)
    pair.close("s")
    assert pair.ended("c")
    assert pair.kernel["g1"] == {}


def restart(pair: Pair, old: Gate, left_s: float) -> None:
    """A new gate with the old one's key and secret; the kernel kept its rules."""
    fresh = Gate(old.context, FrontDoor(old._box, Budget()), old._box, Quota(100, 100))
    known = [(rule, left_s) for rule in pair.kernel["g1"].values()]
    assert fresh.restore(known, pair.now) == 1
    pair.restart("g1", fresh)


def test_a_gate_restarted_between_accept_and_confirm_still_confirms() -> None:
    """R-6.5."""
    pair = waiting(Confirm)
    restart(pair, pair.gates["g1"], 4.0)
    assert pair.passage().stage is Stage.PENDING
    pair.release()
    pair.run(1)
    assert pair.is_up
    assert pair.passage().stage is Stage.LIVE


@pytest.mark.parametrize("note", ["", "hello", "x 1 a b", "1 x a b", "1 2 3", "1 2 3 4 5"])
def test_a_rule_that_the_gate_did_not_write_is_passed_over(note: str) -> None:
    """R-6.5."""
    flow = Pair(1).request().wire
    rule = Rule(Cid(bytes(16)), flow, Action.ACCEPT, lifetime_s=5.0, note=note)
    assert make_gate("g").restore([(rule, 3.0)], 100.0) == 0


def test_the_notes_of_the_longest_names_still_say_what_a_restart_needs() -> None:
    """R-6.5: seq and lifetime come first, and a note is cut at its end."""
    rule = PolicyRule("r" * 32, PolicyAction.ALLOW)
    pair = Pair(1, gate_policy=Policy((rule,)))
    pair.s.answering.services["s" * 32] = pair.s.answering.services["https"]
    pair.open(service="s" * 32)
    passage = replace(pair.passage(), seq=2**64 - 1)
    note = passage.rules(120.0)[0].note
    assert note.split(" ") == [str(2**64 - 1), "120", "s" * 32, "r" * 32]


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
    hops = getattr(message_of(pair.last(Open).data)[1], "hops", ())
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
    assert isinstance(Entropy("x")(4), bytes)
    assert gate._by_flow == dict.fromkeys((flow, flow.reversed()), Cid(bytes(16)))


def test_every_kind_of_message_in_every_stage_gives_effects_or_a_drop() -> None:
    """R-7.6, R-7.2: nothing is raised, whatever comes when."""
    for kind, stage in product((Open, Accept, Confirm, Close, Reject), ("none", "live", "over")):
        pair = Pair(1).open()
        said = {k: event_of(pair, k, n) for k, n in (
            (Open, "c"), (Accept, "s"), (Confirm, "c"))}
        if stage == "over":
            pair.close()
        if stage == "none":
            pair.gates["g1"].passages.clear()
        event = said.get(kind, said[Confirm])
        data = event.data[:4] + bytes([kind.TYPE]) + event.data[5:]
        effects = pair.tell("g1", replace(event, data=data))
        assert effects
        assert all(isinstance(e, Dropped | SendDatagram | ChangeRules | ReportClosed)
                   for e in effects)


def test_the_padding_of_an_open_is_made_up_again() -> None:
    """R-5.1.4: an OPEN stays at 1,200 bytes while records take the place of pad."""
    pair = Pair(2).open()
    sizes = [len(sent.data) for sent in pair.wire if sent.kind is Open]
    assert sizes == [1200, 1200, 1200]
    header, message = message_of(pair.wire[0].data)
    assert isinstance(message, Open)
    assert padded(header, message) == pair.wire[0].data
    assert isinstance(pair.request().wire, Flow)
