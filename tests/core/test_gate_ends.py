"""A gate after ACCEPT: what makes rules last, what takes them away, and what a restart keeps."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from dataclasses import replace

import pytest

from gated import changed, event_of, unmoved, waiting
from pair import (
    REJECT,
    Pair,
    hops_of,
    make_gate,
    message_of,
    snapshot,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import Header
from wayside.core.effects import (
    ReadRule,
    ReportClosed,
    ReportOpened,
    ReportRefused,
    SendDatagram,
)
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, DatagramReceived, RuleRead, TimePassed
from wayside.core.gate import Gate
from wayside.core.messages import (
    Accept,
    Close,
    Confirm,
    Open,
    Reject,
    Stop,
    encode,
)
from wayside.core.passage import Seqs, Stage, restored
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.rule import Action, Cid, Rule

ELSEWHERE = Address.parse("192.0.2.66:4747")


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
    assert pair.passage().seqs.last[0] == 2
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
    reject = Reject(b"", bytes(64), hops_of(event_of(pair, Accept, "s").data))
    data = encode(Header(Reject.TYPE, 0, pair.cid), reject)
    event = replace(event_of(pair, Accept, "s"), data=data)
    unmoved(
        pair,
        replace(event, data=encode(Header(5, 0, pair.cid), replace(reject, hops=()))),
        DropReason.TOKEN,
    )
    pair.tell("g1", event)
    assert pair.passage().stage is Stage.ENDED
    assert pair.kernel["g1"] == {}


def test_a_no_to_another_copy_of_the_open_ends_nothing() -> None:
    """R-5.6.4: it went to a rendezvous, too, whose REDIRECT comes after the ACCEPT."""
    pair = waiting(Confirm)
    accept = event_of(pair, Accept, "s")
    reject = Reject(b"", bytes(64), hops_of(accept.data))
    data = encode(Header(Reject.TYPE, 0, pair.cid), reject)
    before, rules = snapshot(pair.gates["g1"]), dict(pair.kernel["g1"])
    elsewhere = Address.parse("10.99.0.1:4747")
    (onward,) = pair.tell("g1", replace(accept, data=data, source=elsewhere))
    assert isinstance(onward, SendDatagram)
    assert (snapshot(pair.gates["g1"]), pair.kernel["g1"]) == (before, rules)


def test_a_no_to_an_earlier_open_does_not_end_what_a_later_one_has_got() -> None:
    """R-5.6.4: a REDIRECT may be said twice."""
    pair = waiting(Confirm)
    accept = event_of(pair, Accept, "s")
    reject = Reject(b"", bytes(64), hops_of(accept.data))
    pair.passage().seqs.accept(2, b"")
    before = snapshot(pair.gates["g1"])
    data = encode(Header(Reject.TYPE, 0, pair.cid), reject)
    pair.tell("g1", replace(accept, data=data))
    assert snapshot(pair.gates["g1"]) == before


def test_a_reject_does_not_end_what_is_confirmed() -> None:
    """R-5.6.4."""
    pair = Pair(1).open()
    reject = Reject(b"", bytes(64), hops_of(event_of(pair, Accept, "s").data))
    event = replace(event_of(pair, Accept, "s"), data=encode(Header(5, 0, pair.cid), reject))
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
    (hop,) = hops_of(other.last(Open, "g1").data)
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
    said = [
        event_of(pair, kind, node) for kind, node in ((Open, "c"), (Accept, "s"), (Confirm, "c"))
    ]
    pair.close()
    before = snapshot(pair.gates["g1"])
    for event, reason in zip(said, ("stale", "stale", "unknown"), strict=True):
        unmoved(pair, event, DropReason(reason))
    assert snapshot(pair.gates["g1"]) == before
    pair.run(11)
    assert pair.gates["g1"].passages == {}
    unmoved(pair, said[1], DropReason.TOKEN)
    unmoved(pair, said[2], DropReason.UNKNOWN)


@pytest.mark.parametrize("node", ["c", "s"])
def test_a_close_to_a_gates_own_address_is_not_passed_on_to_itself(node: str) -> None:
    """R-8.2, R-5.9.2: its token is in order, but this is not the way of the connection."""
    pair = Pair(1).open()
    pair.hold.add(Close)
    pair.close(node, seconds=0.1)
    close = event_of(pair, Close, node)
    for own in pair.own["g1"]:
        unmoved(pair, replace(close, destination=own, transit=False), DropReason.TOKEN)
    assert len(pair.kernel["g1"]) == 2
    pair.release()
    pair.run(1)
    assert pair.kernel["g1"] == {}


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


def test_a_stop_without_our_token_is_dropped() -> None:
    """R-5.8.1."""
    pair = Pair(1).open()
    data = encode(Header(Stop.TYPE, 0, pair.cid), Stop(b"", bytes(64)))
    unmoved(
        pair,
        DatagramReceived(data, ELSEWHERE, pair.own["s"][0], True, "outside"),
        DropReason.TOKEN,
    )


# --- after a restart ---


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("service", ["https", 'quo"te\\', "~!", "x" * 32])
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
    assert pair.passage().seqs.last[0] >= 2
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


@pytest.mark.parametrize(
    "note", ["", "hello", "x 1 a b", "1 x a b", "1 2 3", "1 2 3 4 5", "1 2 ab cd e"]
)
def test_a_rule_that_the_gate_did_not_write_is_passed_over(note: str) -> None:
    """R-6.5."""
    flow = Pair(1).request().wire
    rule = Rule(Cid(bytes(16)), flow, Action.ACCEPT, lifetime_s=5.0, note=note)
    assert make_gate("g").restore([(rule, 3.0)], 100.0) == 0


def test_the_notes_of_the_longest_names_still_say_what_a_restart_needs() -> None:
    """R-6.5: lifetime, seq, keys and check come first, and a note is cut at its end."""
    rule = PolicyRule("r" * 32, PolicyAction.ALLOW)
    pair = Pair(1, gate_policy=Policy((rule,)))
    pair.s.answering.services["s" * 32] = pair.s.answering.services["https"]
    pair.open(service="s" * 32)
    seqs = Seqs([-1, 2**64 - 1], checks=[b"", bytes(8)])
    for key, shown, room in ((b"", "-", 24), (b"the key!", "dGhlIGtleSE", 14)):
        passage = replace(pair.passage(), seqs=seqs, key=key, until=pair.now + 80)
        note = passage.rules(120.0)[0].note
        parties = urlsafe_b64encode(passage.parties).decode()
        words = ["120", "_" * 10 + "8", parties, "A" * 11, shown, "s" * 32, "r" * room]
        assert note.split(" ") == words
        again = restored(passage.rules(120.0)[0], 80.0, pair.now)
        assert again == replace(passage, rule="r" * room)


# --- before a gate forgets ---


def silent(pair: Pair) -> DatagramReceived:
    """Both agents die once the connection is up; a CLOSE that a restarted one could say."""
    pair.open(0.5)
    closing = pair.connection("c")._close_datagram("restarted")
    pair.lose[Open] = 10**6
    return replace(event_of(pair, Confirm, "c"), data=closing.data)


def test_what_packets_keep_alive_is_not_forgotten_and_a_close_still_removes_it() -> None:
    """R-5.9.2: for as long as the kernel says so, whatever the agents do."""
    pair = Pair(1)
    close = silent(pair)
    for _ in range(10):
        pair.run(100)
        pair.packet()
    asked = pair.seen(ReadRule, "g1")
    assert len(asked) >= 8
    assert {effect.matches for effect in asked} == {pair.passage().crossing.flows}
    assert pair.passage().stage is Stage.LIVE
    assert len(pair.kernel["g1"]) == 2
    pair.tell("g1", close)
    assert pair.kernel["g1"] == {}
    assert pair.passage().stage is Stage.ENDED


def test_a_gate_forgets_what_the_kernel_has_no_rules_for() -> None:
    """R-5.9.2: no packet came for a lifetime; nothing of it is left in any table."""
    pair = Pair(1)
    close = silent(pair)
    pair.run(130)
    assert len(pair.seen(ReadRule, "g1")) == 1
    table = pair.gates["g1"].table
    assert (table.by_cid, table._by_flow, table._lent, table._quota._total) == ({}, {}, {}, 0)
    (onward,) = pair.tell("g1", close)
    assert isinstance(onward, SendDatagram)


def test_a_kernel_that_does_not_answer_for_five_seconds_has_no_rules() -> None:
    """R-5.9.2: asked once, and forgotten when the answer would come too late."""
    pair = Pair(1).open()
    gate = pair.gates["g1"]
    at = pair.passage().until
    assert gate.deadline == at
    assert gate.handle(TimePassed(), at) == [ReadRule(pair.cid, pair.passage().crossing.flows)]
    assert gate.handle(TimePassed(), at + 4.9) == []
    assert pair.passage().asked_kernel
    assert gate.deadline == at + 5
    assert gate.handle(TimePassed(), at + 5) == []
    assert gate.passages == {}
    assert gate.handle(RuleRead(pair.cid, 60.0), at + 6) == []
    assert gate.passages == {}


def test_an_answer_of_the_kernel_that_nobody_waits_for_changes_nothing() -> None:
    """R-5.9.2: nothing was asked; or a refresh, or a CLOSE, came in between."""
    pair = Pair(1).open()
    gate = pair.gates["g1"]
    for expires_s in (None, 1.0, 1000.0):
        before = snapshot(gate)
        assert gate.handle(RuleRead(pair.cid, expires_s), pair.now) == []
        assert snapshot(gate) == before
    pair.hold.add(Confirm)
    pair.run(45)
    _, confirm = pair.held[0]
    gate.handle(TimePassed(), pair.passage().until)
    assert pair.passage().asked_kernel
    pair.tell("g1", confirm)
    before = snapshot(gate)
    gate.handle(RuleRead(pair.cid, None), pair.now)
    assert snapshot(gate) == before
    gate.handle(TimePassed(), pair.passage().until)
    pair.tell("g1", CloseRequested(pair.cid))
    before = snapshot(gate)
    gate.handle(RuleRead(pair.cid, 1000.0), pair.now)
    assert snapshot(gate) == before


def test_rules_that_packets_do_not_renew_are_forgotten_without_a_question() -> None:
    """R-6.4: a short lifetime, or a connection without packets: their end is known."""
    rule = PolicyRule("short", PolicyAction.ALLOW, lifetime_s=30)
    without = Pair(1, transport=Transport.NONE)
    ends = {"wire": without_ports(without), "local": without_ports(without)}
    for pair, more in ((Pair(1, gate_policy=Policy((rule,))), {}), (without, ends)):
        pair.open(0.5, **more)
        assert pair.is_up
        pair.lose[Open] = 10**6
        pair.run(125)
        assert pair.seen(ReadRule) == []
        assert pair.gates["g1"].passages == {}


def without_ports(pair: Pair) -> Flow:
    """The flow of a connection without packets."""
    return Flow(Transport.NONE, pair.own["c"][0].with_port(0), pair.own["s"][0].with_port(0))
