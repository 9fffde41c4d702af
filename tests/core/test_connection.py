"""A connection's life, whole: two ends, no gate or some, and a link that loses what it likes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest

from pair import Pair, make_host, message_of, snapshot
from wayside.core import constants as c
from wayside.core.address import Transport
from wayside.core.codec import Header
from wayside.core.connection import State
from wayside.core.effects import (
    ChangeRules,
    DeliverData,
    Dropped,
    ForgetConnection,
    ReportClosed,
    ReportOpened,
    SendDatagram,
)
from wayside.core.ends import Initiator, Responder
from wayside.core.errors import DropReason, IllegalMove
from wayside.core.events import CloseRequested, RulesFailed
from wayside.core.messages import Accept, Close, Confirm, Open, encode
from wayside.core.passage import TRANSITIONS, Stage

GATES = pytest.mark.parametrize("gates", [0, 1, 2])
FAMILIES = pytest.mark.parametrize("family", [4, 6])


@GATES
@FAMILIES
def test_three_messages_bring_a_connection_up(gates: int, family: int) -> None:
    """R-2.7, R-5.1, R-5.2, R-5.3, R-5.1.1: each goes through every gate, and that is all."""
    pair = Pair(gates, family=family).open()
    right, left = [f"g{n + 1}" for n in range(gates)], [f"g{n}" for n in range(gates, 0, -1)]
    said = [("OPEN", ["c", *right]), ("ACCEPT", ["s", *left]), ("CONFIRM", ["c", *right])]
    assert pair.kinds() == " ".join(f"{node}:{kind}" for kind, nodes in said for node in nodes)
    assert pair.is_up
    assert all(pair.passage(name).stage is Stage.LIVE for name in pair.gates)
    assert message_of(pair.wire[0].data)[0].seq == 0


@GATES
def test_both_ends_and_the_gates_speak_of_the_same_packets(gates: int) -> None:
    """R-2.5, R-6.1, R-6.2: what one host sends, gates let through, and the other rewrites back."""
    pair = Pair(gates).open()
    wire = pair.connection("c").agreement.wire
    assert pair.connection("s").agreement.wire == wire.reversed()
    for node in ("c", "s"):
        about = pair.connection(node).agreement
        rules = pair.kernel[node]
        assert rules[about.local].rewrite == about.wire
        assert rules[about.wire.reversed()].rewrite == about.local.reversed()
        assert len(rules) == 2
    for name in pair.gates:
        assert set(pair.kernel[name]) == {wire, wire.reversed()}


@pytest.mark.parametrize(
    ("gates", "kind", "times"),
    [*product([0, 1, 2], [Open, Accept, Confirm], [1]), *product([0, 1], [Open, Confirm], [2])],
)
def test_a_lost_message_is_said_again(gates: int, kind: type, times: int) -> None:
    """R-5.1.7, R-5.2.3, R-5.3.1: whichever of the three is lost, the connection comes up."""
    pair = Pair(gates)
    pair.lose[kind] = times
    pair.open(4)
    assert pair.is_up
    assert all(pair.passage(name).stage is Stage.LIVE for name in pair.gates)
    assert len(pair.seen(ReportOpened, "c")) == len(pair.seen(ReportOpened, "s")) == 1


def test_an_end_that_never_heard_confirm_is_found_by_the_next_refresh() -> None:
    """R-5.2.3, R-7.5: two ACCEPTs over two gates use up what one OPEN paid for; then it is over."""
    pair = Pair(2)
    pair.lose[Confirm] = 2
    pair.open(10)
    assert pair.ended("s")
    assert pair.connection("c").state is State.CONNECTED
    pair.run(35)
    assert pair.is_up


@GATES
@pytest.mark.parametrize("node", ["c", "s"])
def test_a_lost_close_is_said_again(gates: int, node: str) -> None:
    """R-5.9.1, R-5.9.3: up to three CLOSEs; then both ends know, and each says so once."""
    pair = Pair(gates).open()
    pair.lose[Close] = 1
    pair.close(node)
    assert pair.ended("c")
    assert pair.ended("s")
    assert len(pair.seen(ReportClosed, "c")) == len(pair.seen(ReportClosed, "s")) == 1
    assert all(rules == {} for rules in pair.kernel.values())


def test_a_close_that_nobody_echoes_is_given_up_after_three() -> None:
    """R-5.9.1: rules expire by themselves, so nobody needs to be told for ever."""
    pair = Pair().open()
    pair.lose[Close] = 100
    pair.close("c", seconds=30)
    assert pair.kinds("c").count("CLOSE") == 3
    times = [sent.at for sent in pair.wire if sent.kind is Close]
    assert [round(b - a, 3) for a, b in pairwise(times)] == [0.25, 0.5]
    assert pair.c.connections == {}


@GATES
def test_when_both_ends_close_at_once_the_echoes_end(gates: int) -> None:
    """R-5.9.3: a CLOSE is echoed, an echo is not."""
    pair = Pair(gates).open()
    pair.tell("c", CloseRequested(pair.cid, "c is done"))
    pair.tell("s", CloseRequested(pair.cid, "s is done"))
    pair.run(60)
    assert pair.kinds("c").count("CLOSE") <= 3
    assert pair.kinds("s").count("CLOSE") <= 3
    assert pair.c.connections == pair.s.connections == {}
    assert len(pair.seen(ReportClosed, "c")) == len(pair.seen(ReportClosed, "s")) == 1


def test_a_replayed_close_is_echoed_three_times_and_no_more() -> None:
    """R-5.9.3: whoever replays a CLOSE cannot keep an end talking."""
    pair = Pair().open().close("c")
    replay = pair.last(Close, "c")
    before = len(pair.wire)
    for _ in range(20):
        pair.inject("s", replay.data, replay.source)
    assert len(pair.wire) - before <= c.CLOSE_TRIES


@GATES
def test_a_close_tells_every_gate_and_the_reason_travels(gates: int) -> None:
    """R-5.9, R-5.9.2: rules go at once everywhere; the other end learns why."""
    pair = Pair(gates).open().close("s", "maintenance")
    assert all(rules == {} for rules in pair.kernel.values())
    assert all(pair.passage(name).stage is Stage.ENDED for name in pair.gates)
    assert [report.reason for report in pair.seen(ReportClosed, "c")] == ["maintenance"]
    assert len(pair.seen(ForgetConnection, "c")) == len(pair.seen(ForgetConnection, "s")) == 1


@pytest.mark.parametrize("reason", ["x" * 1000, "tab\tand\nline", "é" * 200, "\ud800"])
def test_a_reason_that_no_message_can_hold_is_cut(reason: str) -> None:
    """R-3.5, R-5.9: an odd reason must not make the CLOSE unreadable."""
    pair = Pair(1).open().close("c", reason)
    assert pair.ended("s")
    assert pair.seen(Dropped) == []


@GATES
def test_duplicates_change_nothing(gates: int) -> None:
    """R-5.2.1, R-5.3.1: every datagram twice; the connection comes up, lives, and ends, once."""
    pair = Pair(gates)
    for kind in (Open, Accept, Confirm, Close):
        pair.copy[kind] = 1
    pair.open().run(45)
    assert pair.is_up
    assert len([r for r in pair.seen(ReportOpened, "s") if not r.refreshed]) == 1
    pair.close().run(60)
    assert pair.c.connections == pair.s.connections == {}
    assert all(gate.passages == {} for gate in pair.gates.values())


@GATES
def test_an_old_accept_that_comes_late_changes_nothing(gates: int) -> None:
    """R-5.2.2, R-5.4.3: reordering across a refresh."""
    pair = Pair(gates).open()
    accept, confirm = pair.last(Accept, "s"), pair.last(Confirm, "c")
    pair.run(60)
    before = snapshot(pair.c), snapshot(pair.s)
    effects = pair.inject("c", accept.data, pair.own["s"][0])
    effects += pair.inject("s", confirm.data, pair.own["c"][0])
    assert [e.reason for e in effects if isinstance(e, Dropped)] == [DropReason.STALE] * 2
    assert (snapshot(pair.c), snapshot(pair.s)) == before


def test_confirm_that_overtakes_nothing_is_dropped_before_its_accept() -> None:
    """R-7.6: messages of another connection's life, in any order, find no state to change."""
    whole = Pair().open().close()
    datagrams = [(sent.data, sent.node, sent.source) for sent in whole.wire]
    fresh = Pair()
    for data, node, source in reversed(datagrams):
        to = "s" if node == "c" else "c"
        if message_of(data)[0].type != Open.TYPE:
            effects = fresh.inject(to, data, source)
            assert [type(effect) for effect in effects] == [Dropped]
    assert fresh.c.connections == fresh.s.connections == {}


@GATES
def test_a_connection_is_refreshed_at_a_third_of_its_life(gates: int) -> None:
    """R-5.4, R-5.4.1, R-5.4.4: seq + 2, and no rule of a host or gate is ever gone."""
    pair = Pair(gates).open(300)
    opens = [sent for sent in pair.wire if sent.kind is Open and sent.node == "c"]
    assert [message_of(sent.data)[0].seq for sent in opens] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert {round(b.at - a.at) for a, b in pairwise(opens)} == {40}
    assert pair.is_up
    assert [report.refreshed for report in pair.seen(ReportOpened, "s")] == [False] + [True] * 7


@pytest.mark.parametrize("kind", [Open, Accept, Confirm])
@pytest.mark.parametrize("times", [1, 3, 8, 12])
def test_a_refresh_that_fails_is_tried_again_and_works(kind: type, times: int) -> None:
    """R-5.4.1, R-5.4.2: also when the responder heard the first one and its answers were lost."""
    pair = Pair(1).open()
    pair.lose[kind] = times
    pair.run(115)
    assert pair.is_up
    assert pair.lose[kind] == 0
    pair.run(300)
    assert pair.is_up


def test_a_refresh_proves_that_the_last_accept_arrived() -> None:
    """R-5.4.2, R-5.4.3: a lost CONFIRM leaves the ends with different newest keys; both hold."""
    pair = Pair(client=make_host("c", lifetime_s=1.0), server=make_host("s", lifetime_s=1.0))
    pair.open(0.2)
    pair.lose[Confirm] = 2
    pair.run(20)
    assert pair.is_up


def test_a_connection_whose_refreshes_are_all_lost_expires_at_both_ends() -> None:
    """R-5.4: soft state."""
    pair = Pair(1).open()
    pair.lose[Open] = 10_000
    pair.run(130)
    assert pair.ended("c")
    assert pair.ended("s")
    assert {report.reason for report in pair.seen(ReportClosed)} == {"the lifetime is over"}
    pair.run(10)
    assert pair.c.connections == pair.s.connections == pair.gates["g1"].passages == {}


def test_the_shortest_lifetime_on_the_route_is_everyones() -> None:
    """R-8.1, R-5.2: a gate says in its record how long it lets rules live."""
    pair = Pair(2)
    pair.gates["g2"].context.lifetime_s = 30.0
    pair.open()
    assert pair.connection("c").lifetime_s == pair.connection("s").lifetime_s == 30.0


def test_nobody_can_make_a_connection_live_longer_than_we_asked_for() -> None:
    """R-5.4: a peer that grants 2**40 seconds does not keep us busy for ever."""
    pair = Pair(server=make_host("s", lifetime_s=2.0**40)).open()
    assert pair.connection("c").lifetime_s == 120.0
    assert pair.connection("c").deadline is not None


@GATES
def test_the_first_datagram_rides_on_open_and_its_answer_on_accept(gates: int) -> None:
    """R-5.1.5, R-5.2.5: delivered before the handshake ends, answered in one round trip."""
    pair = Pair(gates, data=b"question", answer=b"answer", transport=Transport.UDP).open()
    asked, answered = pair.seen(DeliverData, "s"), pair.seen(DeliverData, "c")
    assert [d.data for d in asked] == [b"question"]
    assert [d.data for d in answered] == [b"answer"]
    assert asked[0].flow == pair.connection("s").agreement.local.reversed()
    assert answered[0].flow == pair.connection("c").agreement.local.reversed()
    assert pair.is_up
    assert b"question" not in b"".join(sent.data for sent in pair.wire)


def test_an_application_that_says_nothing_delays_accept_by_30_ms() -> None:
    """R-5.2.5."""
    pair = Pair(data=b"question", transport=Transport.UDP).open()
    accept = pair.last(Accept)
    assert accept.at - pair.wire[0].at == pytest.approx(0.031)
    assert pair.is_up


@pytest.mark.parametrize("size", [0, 1, 400, 512, 513, 2000, 60_000])
def test_data_that_does_not_fit_is_left_to_go_the_usual_way(size: int) -> None:
    """R-5.1.5: at most 512 bytes, and `carried` says whether it went."""
    pair = Pair(2, data=bytes(size), answer=bytes(size), transport=Transport.UDP).open()
    assert pair.is_up
    carried = [report.carried for report in pair.seen(ReportOpened, "c")]
    assert carried == [bool(pair.seen(DeliverData, "s"))]
    assert all(len(sent.data) <= c.DATAGRAM_BYTES_MAX for sent in pair.wire)


def test_data_that_rides_is_delivered_once_when_open_comes_twice() -> None:
    """R-5.1.5, R-5.2.1."""
    pair = Pair(data=b"question", answer=b"answer", transport=Transport.UDP)
    pair.copy[Open] = 3
    pair.open()
    assert len(pair.seen(DeliverData, "s")) == 1
    assert len(pair.seen(DeliverData, "c")) == 1


@pytest.mark.parametrize("node", ["c", "s", "g1"])
def test_rules_that_the_kernel_refuses_end_the_connection(node: str) -> None:
    """R-6.1: a driver says so with RulesFailed; what was put is taken away, once."""
    pair = Pair(1).open()
    pair.tell(node, RulesFailed(pair.cid, "no space"))
    pair.tell(node, RulesFailed(pair.cid, "no space"))
    assert pair.kernel[node] == {}
    assert len(pair.seen(ReportClosed, node)) == 1


def test_hosts_without_virtual_addresses_rewrite_nothing() -> None:
    """R-6.2: where local and wire are equal there is no rule; the responder says its own port."""
    pair = Pair(1, client=make_host("c", virtual=False), server=make_host("s", virtual=False))
    pair.open()
    assert pair.is_up
    assert pair.kernel["c"] == pair.kernel["s"] == {}
    assert pair.connection("c").agreement.wire.destination.port == 8443
    assert {flow.destination.port for flow in pair.kernel["g1"]} == {8443, 40000}
    pair.close().run(30)
    assert pair.c._by_wire == pair.c._by_local == pair.s._by_wire == {}  # nothing is left behind


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize("wished", [0, 22, 443, 8443, 65535])
def test_packets_go_to_the_port_of_the_application_whatever_was_wished(
    wished: int, virtual: bool
) -> None:
    """R-5.1.10, R-6.2: on the wire and in the gate's rules; the asking socket keeps its wish."""
    pair = Pair(1, server=make_host("s", virtual=virtual))
    asked = pair.request()
    wish = asked.wire.destination.with_port(wished)
    local = replace(asked.local, destination=asked.local.destination.with_port(wished or 443))
    pair.open(wire=replace(asked.wire, destination=wish), local=local)
    assert pair.is_up
    wire = replace(asked.wire, destination=wish.with_port(8443))
    client, server = pair.connection("c").agreement, pair.connection("s").agreement
    assert client.wire == server.wire.reversed() == wire
    assert client.local == local
    assert server.local.source.port == 8443
    assert set(pair.kernel["g1"]) == {wire, wire.reversed()}
    assert pair.kernel["c"][local].rewrite == wire
    assert pair.kernel["c"][wire.reversed()].rewrite == local.reversed()
    pair.run(45)
    assert pair.is_up
    assert pair.connection("c").agreement == client


def test_a_connection_of_no_transport_makes_no_rules() -> None:
    """R-2.6, R-6.1: transport 0 has no ports and no packets."""
    pair = Pair(1, transport=Transport.NONE)
    asked = pair.request()
    flow = type(asked.wire)
    wire = flow(Transport.NONE, asked.wire.source.with_port(0), asked.wire.destination.with_port(0))
    local = flow(
        Transport.NONE, asked.local.source.with_port(0), asked.local.destination.with_port(0)
    )
    pair.s.virtual = pair.c.virtual
    pair.open(wire=wire, local=local)
    assert all(rules == {} for rules in pair.kernel.values())


@pytest.mark.parametrize("machine", [Initiator, Responder])
def test_an_illegal_move_raises_and_changes_nothing(machine: type) -> None:
    """R-7.6: the table of transitions is the law; breaking it is our own bug and says so."""
    pair = Pair().open()
    node = "c" if machine is Initiator else "s"
    connection = pair.connection(node)
    assert isinstance(connection, machine)
    for old, new in product(connection.TRANSITIONS, State):
        connection.state = old
        before = snapshot(connection)
        if new in connection.TRANSITIONS[old]:
            connection._enter(new)
            assert connection.state is new
        else:
            with pytest.raises(IllegalMove):
                connection._enter(new)
            assert snapshot(connection) == before


def test_an_illegal_move_of_a_gate_raises_and_changes_nothing() -> None:
    """R-7.6."""
    pair = Pair(1).open()
    passage = pair.passage()
    for old, new in product(Stage, Stage):
        passage.stage = old
        if new in TRANSITIONS[old]:
            passage.enter(new)
            assert passage.stage is new
        else:
            with pytest.raises(IllegalMove):
                passage.enter(new)
            assert passage.stage is old


def test_a_connection_is_opened_once() -> None:
    """R-7.6: asking again is a bug of who was asked; the other goes by a path (R-5.4.7)."""
    pair = Pair()
    pair.hold.add(Accept)
    pair.open()
    before = snapshot(pair.c)
    assert pair.connection("c").handle(pair.request(), pair.now) == []
    with pytest.raises(IllegalMove):
        pair.connection("s").handle(pair.request(), pair.now)
    assert snapshot(pair.c) == before


def test_a_forged_close_is_dropped_and_changes_nothing() -> None:
    """R-5.9.3, R-7.6: whoever lacks the key cannot end a connection, cid known or not."""
    pair = Pair().open()
    for node, seq in product(("c", "s"), (0, 2, 2**64 - 1)):
        before = snapshot(pair.nodes[node])
        forged = encode(Header(Close.TYPE, seq, pair.cid), Close(bytes(16), "bye"))
        effects = pair.inject(node, forged, pair.own["c" if node == "s" else "s"][0])
        reason = DropReason.SIGNATURE if seq == 0 else DropReason.STALE
        assert [e.reason for e in effects if isinstance(e, Dropped)] == [reason]
        assert snapshot(pair.nodes[node]) == before


def test_a_close_before_confirm_is_believed() -> None:
    """R-5.9.3: the initiator closes at once, its CONFIRM is lost: its CLOSE proves the key."""
    pair = Pair(1)
    pair.lose[Confirm] = 100
    pair.open(0.05).close("c")
    assert pair.ended("s")
    assert [report.reason for report in pair.seen(ReportClosed, "s")] == ["done"]
    assert all(rules == {} for rules in pair.kernel.values())


def test_a_connection_that_ends_before_it_is_open_just_ends() -> None:
    """R-5.9.1: nobody has a key to say CLOSE with; pending rules go by themselves."""
    pair = Pair(1)
    pair.lose[Accept] = 100
    pair.open(0.1).close("c", "never mind")
    assert [report.reason for report in pair.seen(ReportClosed, "c")] == ["never mind"]
    pair.run(30)
    assert pair.c.connections == pair.s.connections == pair.gates["g1"].passages == {}
    assert Close not in {sent.kind for sent in pair.wire}


def test_no_rule_goes_in_before_the_datagram_that_depends_on_it() -> None:
    """R-5.2.4, R-5.3.1: ACCEPT, and an end's CONFIRM, leave in `then`, behind the rules."""
    pair = Pair(1).open()
    for node, kind in (("s", Accept), ("g1", Accept), ("c", Confirm)):
        sent = [effect for effect in pair.seen(SendDatagram, node) if effect.data[4] == kind.TYPE]
        behind = [
            datagram
            for change in pair.seen(ChangeRules, node)
            for datagram in change.then
            if datagram.data[4] == kind.TYPE
        ]
        assert sent == []
        assert len(behind) == 1


def test_a_gate_sends_a_confirm_on_before_it_touches_the_rules() -> None:
    """R-5.3.3: pending rules admit already, so nobody waits for the kernel."""
    pair = Pair(1)
    pair.hold.add(Confirm)
    pair.open(0.05)
    ((_, event),) = pair.held
    effects = pair.tell("g1", event)
    assert [type(effect) for effect in effects] == [SendDatagram, ChangeRules, ReportOpened]
    assert effects[0] == SendDatagram(event.data, event.destination, event.source)
    change = effects[1]
    assert isinstance(change, ChangeRules)
    assert change.then == change.remove == ()
    assert all(rule.renewed_by_packets for rule in change.put)
