"""A NAT that takes part says what it does, so that both ends know both 5-tuples.

    client c ---- g1 ---- server s

Here the client is inside: the NAT lends it its own address. test_gate_nat_in.py is about the other
way.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from gated import beside, event_of, unmoved
from natted import (
    EVERY,
    WANTED,
    WITH_PORTS,
    both_ends_know_what_packets_show,
    opened,
    restart,
    wires,
)
from pair import (
    CHALLENGE,
    REJECT,
    Pair,
    body_of,
    hops_of,
    make_gate,
    make_host,
    message_of,
    snapshot,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import decode_body
from wayside.core.effects import ReportRefused
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, RulesFailed
from wayside.core.gate import Gate
from wayside.core.messages import Accept, Close, Code, Confirm, Open, OpenTerms
from wayside.core.passage import Stage
from wayside.core.route import TokenBox
from wayside.core.rule import Action, Cid
from wayside.core.way import Box, Translation


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("transport", EVERY)
def test_both_ends_know_both_flows_of_a_connection_out_through_a_nat(
    transport: Transport, family: int
) -> None:
    """R-8.7, R-5.2.2: the client its own address, the server the NAT's, with the same port."""
    pair = opened(Pair(1, nats=("g1",), transport=transport, family=family))
    assert pair.is_up
    mine, theirs = wires(pair)
    port = 0 if transport is Transport.NONE else WANTED
    assert mine.source == pair.own["c"][0].with_port(port)
    assert theirs.destination == pair.outside().with_port(port)
    assert mine.destination == theirs.source == pair.own["s"][0].with_port(8443 if port else 0)
    if transport is Transport.NONE:
        assert pair.kernel["g1"] == {}
    else:
        both_ends_know_what_packets_show(pair)


@pytest.mark.parametrize("stage", [Stage.PENDING, Stage.LIVE])
def test_the_rules_of_a_nat_are_one_rewrite_each_way(stage: Stage) -> None:
    """R-6.1, R-8.7: and packets as they are inside do not get out as they are."""
    pair = Pair(1, nats=("g1",))
    if stage is Stage.PENDING:
        pair.hold.add(Confirm)
    pair.open(0.1)
    assert pair.passage().stage is stage
    near, far = pair.passage().crossing.near, pair.passage().crossing.far
    rules = pair.kernel["g1"]
    assert {rule.action for rule in rules.values()} == {Action.REWRITE}
    assert {rule.match: rule.rewrite for rule in rules.values()} == {
        near: far,
        far.reversed(): near.reversed(),
    }
    live = stage is Stage.LIVE
    assert {(r.lifetime_s, r.renewed_by_packets) for r in rules.values()} == {
        (120.0 if live else 5.0, live)
    }


def test_a_nat_sends_on_in_its_own_name_and_says_so_in_its_record() -> None:
    """R-8.1, R-8.7: the effective source is the one that the datagram has."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    sent = pair.last(Open, "g1")
    (hop,) = hops_of(sent.data)
    assert sent.source == pair.outside()
    assert (hop.role, hop.source, hop.destination) == (2, pair.outside().with_port(WANTED), None)
    terms = decode_body(OpenTerms, body_of(sent.data, Open).signed)
    assert terms.source == pair.own["c"][0].with_port(WANTED)
    accept = pair.last(Accept, "g1")
    assert (accept.source, accept.destination) == (pair.own["s"][0], pair.own["c"][0])
    assert body_of(accept.data, Accept).returned == ()
    assert pair.connection("s").towards == pair.outside()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("transport", WITH_PORTS)
def test_a_port_that_is_taken_is_not_lent_twice(transport: Transport, family: int) -> None:
    """R-8.7: two hosts inside with the same source port, to the same server."""
    pair = Pair(1, nats=("g1",), transport=transport, family=family).open(0.5)
    other = beside(pair, "d").open(0.5)
    assert pair.is_up
    assert other.is_up
    first, second = (one.connection("s").agreement.wire.destination for one in (pair, other))
    assert first == pair.outside().with_port(WANTED)
    assert second.ip == first.ip
    assert second.port != WANTED
    assert other.connection("c").agreement.wire.source.port == WANTED
    both_ends_know_what_packets_show(pair)
    both_ends_know_what_packets_show(other)
    assert len(pair.kernel["g1"]) == 4


def test_a_port_is_taken_for_each_transport_and_each_host_outside_by_itself() -> None:
    """R-8.7: TCP and UDP do not clash; MPTCP is TCP."""
    pair = Pair(1, nats=("g1",), transport=Transport.TCP).open(0.5)
    for name, transport, kept in (("d", Transport.UDP, True), ("e", Transport.MPTCP, False)):
        other = beside(pair, name)
        other.transport = transport
        other.open(0.5)
        assert other.is_up
        found = other.connection("s").agreement.wire.destination.port
        assert (found == WANTED) is kept


def test_a_repeated_open_and_a_refresh_get_the_same_port_again() -> None:
    """R-8.7, R-5.4.2: also where it is not the one that was wished for."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    other = beside(pair, "d")
    other.lose[Accept] = 2
    other.open(2)
    assert other.is_up
    asked = [hops_of(sent.data)[0].source for sent in other.wire if sent.node == "g1"
             and sent.kind is Open]  # fmt: skip
    assert len(asked) == 3
    lent = other.connection("s").agreement.wire.destination
    assert set(asked) == {lent}
    before = dict(other.kernel["g1"])
    other.run(100)
    assert other.is_up
    assert other.connection("c").keys.seq >= 4
    assert hops_of(other.last(Open, "g1").data)[0].source == lent
    assert {match: rule.rewrite for match, rule in other.kernel["g1"].items()} == {
        match: rule.rewrite for match, rule in before.items()
    }
    assert other.passage().moving is None


def test_a_connection_keeps_its_port_when_the_one_it_wished_for_becomes_free() -> None:
    """R-8.7, R-5.4.2: the same again, or the responder takes its refresh for another's."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    other = beside(pair, "d").open(0.5)
    lent = other.connection("s").agreement.wire.destination
    pair.close("c", seconds=20)
    assert pair.ended("s")
    other.now = pair.now
    other.run(100)
    assert other.is_up
    assert hops_of(other.last(Open, "g1").data)[0].source == lent
    assert other.connection("c").keys.seq >= 4


def test_a_nat_without_a_free_port_says_that_it_is_busy() -> None:
    """R-8.7, R-5.6: REJECT 6, and what is there stays."""
    pair = Pair(1, nats=("g1",), ports=range(WANTED, WANTED + 1)).open(0.5)
    before = snapshot(pair.gates["g1"]), dict(pair.kernel["g1"])
    other = beside(pair, "d").open(0.5)
    (report,) = other.seen(ReportRefused, "c")
    assert (report.code, report.by[:4]) == (Code.BUSY, "g1 (")
    assert "no port is free" in report.reason
    assert (snapshot(pair.gates["g1"]), dict(pair.kernel["g1"])) == before
    pair.close(seconds=20)
    third = beside(pair, "e").open(0.5)
    assert third.is_up


def test_a_port_outside_the_nats_range_is_never_lent() -> None:
    """R-8.7: whatever the host inside wishes for."""
    for ports in (range(2000, 2010), range(WANTED + 1, WANTED + 2)):
        pair = Pair(1, nats=("g1",), ports=ports).open(0.5)
        assert pair.is_up
        assert pair.connection("s").agreement.wire.destination.port in ports
        both_ends_know_what_packets_show(pair)


def test_of_two_hosts_that_ask_at_once_with_one_port_the_second_is_told_at_once() -> None:
    """R-8.7, R-5.1.9: nothing is reserved before ACCEPT, so both ask in one name; one has it."""
    pair = Pair(1, nats=("g1",))
    other = beside(pair, "d")
    for one in (pair, other):
        one.hold.add(Accept)
        one.open(0.01)
    assert [report.code for report in other.seen(ReportRefused, "c")] == [Code.BUSY]
    pair.release()
    pair.run(0.1)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)
    assert len(pair.kernel["g1"]) == 2


def test_who_comes_to_have_anothers_flow_after_a_nat_forgot_both_is_refused() -> None:
    """R-5.1.9, R-8.7: the server has the first connection still, and its packets are for that."""
    pair = Pair(1, nats=("g1",))
    other = beside(pair, "d")
    for one in (pair, other):
        one.open(0.5)
    (_, first), (_, second) = wires(pair), wires(other)
    assert first.destination != second.destination
    rules = dict(pair.kernel["s"])
    other.restart("g1", restart(pair, rules=False))
    other.run(45)
    (told,) = other.seen(ReportRefused, "c")
    assert (told.code, told.reason) == (Code.BUSY, "these addresses are in use")
    assert pair.kernel["s"] == rules
    assert other.ended("c")


def test_two_connections_that_were_asked_for_at_once_never_share_a_flow() -> None:
    """R-8.7: two hosts inside, two servers on one address outside, one port for all."""
    pair = Pair(1, nats=("g1",))
    other = beside(pair, "d", server=make_host("t"))
    for one in (pair, other):
        one.hold.add(Accept)
        one.open(0.01)
    for one in (pair, other):
        one.release()
        one.run(0.1)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)
    (told,) = other.seen(ReportRefused, "c")
    assert (told.code, "at the same moment" in told.reason) == (Code.BUSY, True)
    assert told.by.startswith("g1")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("transport", EVERY)
def test_two_nats_in_a_row_each_lend_their_own(transport: Transport, family: int) -> None:
    """R-8.7: the second sees the first as a host inside."""
    pair = opened(Pair(2, nats=("g1", "g2"), transport=transport, family=family))
    assert pair.is_up
    theirs = wires(pair)[1]
    port = 0 if transport is Transport.NONE else WANTED
    assert theirs.destination == pair.outside("g2").with_port(port)
    if port:
        both_ends_know_what_packets_show(pair)
        assert pair.passage("g1").crossing.far == pair.passage("g2").crossing.near
    told = [hop.source for hop in hops_of(pair.last(Open, "g2").data)]
    assert told == [pair.outside(name).with_port(port) for name in ("g1", "g2")]


@pytest.mark.parametrize("nats", [("g1",), ("g2",)])
def test_a_firewall_beside_a_nat_admits_what_it_sees(nats: tuple[str, ...]) -> None:
    """R-6.1, R-5.1.6: before it the inside's flow, behind it the NAT's."""
    pair = Pair(2, nats=nats).open(0.5)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)
    (firewall,) = {"g1", "g2"} - set(nats)
    crossing = pair.passage(firewall).crossing
    assert crossing.near == crossing.far
    seen = pair.outside("g1") if firewall == "g2" else pair.own["c"][0]
    assert crossing.near.source == seen.with_port(WANTED)
    assert {rule.action for rule in pair.kernel[firewall].values()} == {Action.ACCEPT}


def test_a_refusal_finds_its_way_back_through_nats() -> None:
    """R-5.6.4, R-8.2: in one round trip, and the initiator believes it."""
    pair = Pair(2, nats=("g1", "g2"))
    pair.s.answering.policy = REJECT
    pair.open(0.5)
    assert pair.kinds() == "c:OPEN g1:OPEN g2:OPEN s:REJECT g2:REJECT g1:REJECT"
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.POLICY]


@pytest.mark.parametrize("nats", [("g1",), ("g2",), ("g1", "g2")])
def test_a_challenge_finds_its_way_back_through_nats(nats: tuple[str, ...]) -> None:
    """R-5.5, R-7.3: each box challenges the address that the OPEN comes to it from."""
    pair = Pair(2, nats=nats, gate_policy=CHALLENGE).open(0.5)
    assert pair.is_up
    assert pair.kinds("c").count("OPEN") == 3
    both_ends_know_what_packets_show(pair)


def test_a_nat_without_an_address_of_a_family_is_a_firewall_for_it() -> None:
    """R-8.7: nothing is rewritten, and its record says so."""
    pair = Pair(1, family=6)
    pair.gates["g1"].context.box = Box(Translation({4: Address.parse("192.0.2.1").ip}))
    pair.open(0.5)
    assert pair.is_up
    (hop,) = hops_of(pair.last(Open, "g1").data)
    assert (hop.role, hop.source) == (1, None)
    assert {rule.action for rule in pair.kernel["g1"].values()} == {Action.ACCEPT}


def test_an_accept_from_elsewhere_or_to_elsewhere_makes_no_binding() -> None:
    """R-8.3: it was the server's address that was asked, from the NAT's."""
    pair = Pair(1, nats=("g1",))
    pair.hold.add(Accept)
    pair.open(0.05)
    ((_, event),) = pair.held
    for source in (pair.own["c"][0], Address.parse("10.2.0.9:4747")):
        unmoved(pair, replace(event, source=source), DropReason.ADDRESS)
    unmoved(pair, replace(event, destination=pair.own["c"][0]), DropReason.TOKEN)


@pytest.mark.parametrize("end", ["c", "s"])
@pytest.mark.parametrize("nats", [("g1",), ("g1", "g2")])
def test_a_close_by_either_end_removes_both_rules_of_every_nat(
    end: str, nats: tuple[str, ...]
) -> None:
    """R-5.9.2."""
    pair = Pair(len(nats), nats=nats).open(0.5)
    assert all(len(pair.kernel[name]) == 2 for name in nats)
    pair.close(end)
    assert pair.ended("c")
    assert pair.ended("s")
    assert all(pair.kernel[name] == {} for name in nats)
    assert pair.kinds().count("CLOSE") == 2 * (len(nats) + 1)
    pair.run(30)
    for name in nats:
        table = pair.gates[name].table
        assert (table.by_cid, table._by_flow, table._lent, table._quota._total) == ({}, {}, {}, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_a_restarted_nat_reads_its_bindings_back(family: int) -> None:
    """R-6.5: it lends nobody else the port, refreshes go on, and CLOSE still works."""
    pair = Pair(1, nats=("g1",), family=family).open(0.5)
    other = beside(pair, "d").open(0.5)
    old = {cid: passage.crossing for cid, passage in pair.gates["g1"].passages.items()}
    fresh = restart(pair, rules=True)
    other.restart("g1", fresh)
    assert {cid: passage.crossing for cid, passage in fresh.passages.items()} == old
    third = beside(pair, "e").open(2)
    assert third.is_up
    pair.now = third.now
    lent = [one.connection("s").agreement.wire.destination.port for one in (pair, other, third)]
    assert len(set(lent)) == 3
    pair.run(100)
    assert pair.is_up
    assert pair.passage().seqs.last[0] >= 4
    both_ends_know_what_packets_show(pair)
    pair.close("s")
    assert pair.ended("c")
    assert len(pair.kernel["g1"]) == 4


def test_a_nat_that_lost_its_rules_makes_the_same_again_at_the_next_refresh() -> None:
    """R-8.7, R-6.5: the port is still free; what the ends agreed on holds again."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    before = set(pair.kernel["g1"])
    restart(pair, rules=False)
    assert pair.across(wires(pair)[0]) is None
    pair.run(45)
    assert pair.is_up
    assert set(pair.kernel["g1"]) == before
    both_ends_know_what_packets_show(pair)
    pair.close()
    assert pair.kernel["g1"] == {}


@pytest.mark.parametrize("family", [4, 6])
def test_who_asks_again_after_a_crash_gets_the_port_that_it_had(family: int) -> None:
    """R-8.7: the NAT still has the connection from before, with the same addresses inside."""
    pair = Pair(1, nats=("g1",), family=family).open(0.5)
    first, before = pair.passage(), wires(pair)
    pair.c.connections.clear()
    pair.cid = Cid(b"after the crash!")
    pair.lose[Close] = 100
    pair.open(0.5)
    assert pair.is_up
    assert wires(pair) == before
    both_ends_know_what_packets_show(pair)
    pair.tell("g1", CloseRequested(first.cid))
    assert {rule.owner for rule in pair.kernel["g1"].values()} == {pair.cid}
    assert len(pair.kernel["g1"]) == 2
    pair.lose.clear()
    pair.close()
    assert pair.kernel["g1"] == {}


def test_a_port_that_the_kernel_refused_is_not_given_to_who_asks_again() -> None:
    """R-8.7: something else in this box has it; the next one is another."""
    pair = Pair(1, nats=("g1",))
    pair.hold.add(Confirm)
    pair.open(0.2)
    refused = pair.passage().crossing.far.source
    pair.tell("g1", RulesFailed(pair.cid, "somebody else's packets leave this box as that"))
    pair.c.connections.clear()
    pair.hold.clear()
    pair.cid = Cid(b"asks once again.")
    pair.open(0.5)
    assert pair.passage().crossing.near.source.port == refused.port
    assert pair.passage().crossing.far.source != refused


def test_one_host_inside_talks_to_two_ports_of_another_from_one_port() -> None:
    """R-8.7: what it shows is told apart by the port that it goes to."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    mine = wires(pair)[0]
    flow = Flow(mine.transport, mine.source, mine.destination.with_port(9))
    table = pair.gates["g1"].table
    other = Cid(b"another of it 16")
    lent = table.source(
        other, mine.source, replace(flow, source=pair.outside()), range(1024, 65536)
    )
    assert lent is not None
    towards = replace(flow, source=pair.outside().with_port(mine.source.port))
    same = table.source(other, mine.source, towards, range(1024, 65536))
    assert same == pair.passage().crossing.far.source
    elsewhere = mine.source.with_port(mine.source.port + 1)
    assert table.source(other, elsewhere, towards, range(1024, 65536)) != same


def test_a_newer_connection_whose_rules_were_refused_leaves_the_older_one_its_own() -> None:
    """R-5.9.2: a CLOSE of the older one removes both of its rules."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    first, mine = pair.passage(), wires(pair)[0]
    pair.c.connections.clear()
    pair.cid = Cid(b"after the crash!")
    pair.lose[Close] = 100
    pair.hold.add(Confirm)
    pair.open(0.2)
    rules = {rule.match: rule for rule in first.rules(120.0)}
    pair.tell("g1", RulesFailed(pair.cid, "somebody else leaves as that"))
    pair.kernel["g1"] = dict(rules)  # the kernel has never taken the newer ones
    pair.tell("g1", CloseRequested(first.cid))
    assert mine in rules
    assert pair.kernel["g1"] == {}


def test_a_nat_that_no_longer_has_the_secret_knows_nothing_of_its_tokens() -> None:
    """R-8.2."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    confirm, close = event_of(pair, Confirm, "c"), pair.connection("c")._close_datagram("x")
    old = pair.gates["g1"]
    box = TokenBox(old.context.key.public, bytes(32), old.context.entropy)
    pair.restart("g1", Gate(old.context, FrontDoor(box, Budget()), box, Quota(9, 9)))
    unmoved(pair, confirm, DropReason.TOKEN)
    unmoved(pair, replace(confirm, data=close.data), DropReason.TOKEN)
    assert message_of(close.data)[0].type == Close.TYPE
    assert make_gate("g1").context.key.public == old.context.key.public
