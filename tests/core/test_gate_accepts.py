"""A gate believes an ACCEPT from where it asked: its token, the key, and room in the table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gated import an_open, changed, event_of, unmoved, waiting
from pair import (
    STRANGER,
    Pair,
    hops_of,
    make_gate,
    message_of,
    reasons,
    snapshot,
)
from wayside.core import constants as c
from wayside.core.address import Address
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.effects import (
    ChangeRules,
    Dropped,
    ReportRefused,
    SendDatagram,
)
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, RulesFailed, TimePassed
from wayside.core.gate import Gate
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Code,
    Confirm,
    Open,
    OpenTerms,
    encode,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.passage import Crossing, Passage, Seqs, Stage
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.route import TOKEN_VALID_S, hops_hash
from wayside.core.rule import Action, Cid

ELSEWHERE = Address.parse("192.0.2.66:4747")


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
    table = pair.gates["g1"].table
    assert (table.by_cid, table._by_flow, table._lent) == ({}, {}, {})
    assert table.deadlines.next is None
    assert table._quota._total == 0


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


@pytest.mark.parametrize("family", [4, 6])
def test_an_accept_from_another_address_than_the_open_went_to_is_dropped(family: int) -> None:
    """R-8.3: it was signed by the right key; but packets from there are not what was asked for."""
    pair = waiting(Accept, family=family)
    ((_, event),) = pair.held
    nearby = Address.parse("10.2.0.9" if family == 4 else "fd00:2::9")
    for other in (pair.own["c"][0], pair.own["g1"][1], nearby):
        unmoved(pair, replace(event, source=other.with_port(4747)), DropReason.ADDRESS)
    (change,) = pair.tell("g1", replace(event, source=event.source.with_port(53)))
    assert isinstance(change, ChangeRules)
    wire = pair.connection("s").agreement.wire
    assert [rule.match for rule in change.put] == [wire.reversed(), wire]


def test_an_accept_by_another_key_or_of_another_open_is_dropped() -> None:
    """R-8.3: the token ties it to the key and the OPEN that were asked."""
    pair = waiting(Accept)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    assert isinstance(message, Accept)
    terms = decode_body(AcceptTerms, message.signed)
    cases = [
        (STRANGER, replace(terms, from_key=STRANGER.public), DropReason.ADDRESS),
        (STRANGER, terms, DropReason.SIGNATURE),
        (pair.s.context.key, replace(terms, open_hash=bytes(32)), DropReason.ADDRESS),
        (
            pair.s.context.key,
            replace(terms, destination=terms.destination.with_port(0)),
            DropReason.ADDRESS,
        ),
    ]
    for key, changed_terms, reason in cases:
        raw = encode_body(changed_terms)
        signature = key.sign(SIGNATURE_CONTEXT, header.signing + raw)
        data = encode(header, Accept(raw, signature, message.hops))
        unmoved(pair, replace(event, data=data), reason)


@pytest.mark.parametrize(
    "addresses",
    [
        {"destination": Address.parse("10.2.0.9:8443")},
        {"destination": Address.parse("[2001:db8::1]:8443")},
    ],
)
def test_what_an_accept_says_of_addresses_is_for_the_initiator_to_check(
    addresses: dict[str, Address],
) -> None:
    """R-8.3, R-5.2.2: a gate goes by where datagrams come from, and makes no rule for these."""
    pair = waiting(Accept)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    assert isinstance(message, Accept)
    raw = encode_body(replace(decode_body(AcceptTerms, message.signed), **addresses))
    signature = pair.s.context.key.sign(SIGNATURE_CONTEXT, header.signing + raw)
    data = encode(header, Accept(raw, signature, message.hops))
    pair.held.clear()
    before = snapshot(pair.c)
    pair.hold.clear()
    pair.tell("g1", replace(event, data=data))
    wire = pair.connection("s").agreement.wire
    assert set(pair.kernel["g1"]) == {wire, wire.reversed()}
    pair.run(0.01)
    assert reasons(pair.seen(Dropped, "c")) == [DropReason.ADDRESS]
    assert snapshot(pair.c) == before
    assert "CONFIRM" not in pair.kinds()


def test_a_token_is_good_for_its_gate_its_connection_and_ten_seconds() -> None:
    """R-8.2: not for another gate, another cid, another seq, nor later, nor before it was made."""
    pair = waiting(Accept)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    for other in (Header(2, 2, header.cid), Header(2, 0, Cid(bytes(16)))):
        unmoved(pair, replace(event, data=encode(other, message)), DropReason.TOKEN)
    elsewhere = pair.own["g1"][1]
    unmoved(pair, replace(event, transit=False, destination=elsewhere), DropReason.TOKEN)
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
    assert gate.table._quota._total == 1
    assert len(gate.table.deadlines._heap) < 200
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
    header, message = message_of(forwarded.data)
    assert isinstance(message, Open)
    asked = decode_body(OpenTerms, message.signed)
    key = pair.s.context.key
    raw = encode_body(
        AcceptTerms(
            key.public,
            open_hash(header, message.signed),
            hops_hash(message.hops),
            bytes(8),
            asked.destination,
            bytes(31) + b"\x09",
            120,
        )
    )
    back = Header(Accept.TYPE, 0, pair.cid)
    accept = Accept(raw, key.sign(SIGNATURE_CONTEXT, back.signing + raw), message.hops)
    there = DatagramReceived(encode(back, accept), pair.own["s"][0], here, True, "outside")
    unmoved(pair, there, DropReason.STALE)
    assert set(pair.kernel["g1"]) == {wire, wire.reversed()}


def test_a_full_table_takes_no_more() -> None:
    """R-7.4: the ACCEPT is dropped (FULL), and what is there stays."""
    pair = Pair(1)
    pair.gates["g1"].table._quota = Quota(0, 0)
    pair.hold.add(Accept)
    pair.open(0.05)
    ((_, event),) = pair.held
    unmoved(pair, event, DropReason.FULL)


def test_refreshes_do_not_make_the_table_of_deadlines_grow() -> None:
    """R-7.4: 500 refreshes a second for a minute, by two ends that know each other."""
    gate = make_gate("g")
    flow = Pair(1).request().wire
    crossing, cid = Crossing(flow, flow), Cid(bytes(16))
    for number in range(30_000):
        until = number / 500 + 3600
        gate.table.keep(Passage(cid, Stage.LIVE, crossing, Seqs(), until, 3600.0, bytes(6)))
    assert len(gate.table.deadlines._heap) < 200
    assert gate.table._by_flow == dict.fromkeys((flow, flow.reversed()), cid)


def test_a_confirm_shows_the_gate_that_its_sender_has_the_key() -> None:
    """R-5.3.4: who saw the token and nothing else makes no rule last."""
    pair = waiting(Confirm)
    ((_, event),) = pair.held
    for proof in (bytes(16), b"\xff" * 16):
        unmoved(pair, changed(event, proof=proof), DropReason.STALE)
    assert pair.passage().stage is Stage.PENDING
    pair.release()
    pair.run(0.1)
    assert pair.passage().stage is Stage.LIVE


def test_an_accept_that_names_other_hops_than_it_brings_makes_no_rule() -> None:
    """R-8.4, R-5.2.4: the responder signed for others, or somebody added one since."""
    pair = waiting(Accept)
    ((_, event),) = pair.held
    (hop,) = hops_of(event.data)
    more = (hop, replace(hop, key=STRANGER.public))
    unmoved(pair, changed(event, hops=more), DropReason.STALE)
    assert pair.kernel["g1"] == {}


def test_a_token_from_before_a_restart_brings_nothing_new() -> None:
    """R-6.5: what was closed shortly before would come back by it."""
    pair = waiting(Accept)
    ((_, event),) = pair.held
    pair.now += 1
    old = pair.gates["g1"]
    fresh = Gate(old.context, FrontDoor(old._box, Budget()), old._box, Quota(9, 9))
    assert fresh.restore([], pair.now) == 0
    pair.restart("g1", fresh)
    unmoved(pair, event, DropReason.TOKEN)


@pytest.mark.parametrize("gate", ["g1", "g2"])
def test_who_asked_is_told_when_a_gates_kernel_refuses_the_rules(gate: str) -> None:
    """R-8.7: the REJECT takes the place of the ACCEPT, and finds its way as that would have."""
    pair = waiting(Accept, gates=2)
    sent = pair.last(Accept, "s")
    for node in ("g2", "g1"):
        assert sent.source is not None
        event = DatagramReceived(sent.data, sent.source, sent.destination, True, "outside")
        (change,) = pair.gates[node].handle(event, pair.now)
        assert isinstance(change, ChangeRules)
        (sent,) = change.then
        if node == gate:
            break
    pair.hold.clear()
    effects = pair.tell(gate, RulesFailed(pair.cid, "somebody else has it", change.then))
    assert [effect for effect in effects if isinstance(effect, SendDatagram)]
    pair.run(0.1)
    (told,) = pair.seen(ReportRefused, "c")
    assert (told.code, "somebody else has it" in told.reason) == (Code.BUSY, True)
    assert told.by.startswith(gate)


def test_a_refusal_of_a_refreshs_rules_ends_a_live_connection_without_another_word() -> None:
    """R-5.6.3: no REJECT 6 about what was agreed already."""
    pair = Pair(1).open(0.5)
    assert pair.is_up
    accept = SendDatagram(event_of(pair, Accept, "s").data, pair.own["c"][0], pair.own["s"][0])
    effects = pair.tell("g1", RulesFailed(pair.cid, "full", (accept,)))
    assert not [effect for effect in effects if isinstance(effect, SendDatagram)]
