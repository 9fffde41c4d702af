"""STOP: who was asked has a connection's packets dropped, at the gate nearest to their source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pair import Pair, decode, make_gate, make_host, reasons
from wayside.core.address import Flow, Transport
from wayside.core.admission import FrontDoor
from wayside.core.answerer import Offer
from wayside.core.codec import decode_body
from wayside.core.connection import State
from wayside.core.effects import ChangeRules, ReportClosed, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, RulesFailed, StopRequested
from wayside.core.filters import FILTERS_PER_NETWORK_MAX, REMEMBERED_S, Filters
from wayside.core.messages import Accept, Close, Confirm, Stop, StopTerms
from wayside.core.passage import Stage
from wayside.core.rule import Action, Cid, Rule
from wayside.core.stopping import may_stop


def stopped(gates: int = 3, seconds: float = 0.1, lifetime_s: float = 60, **more: object) -> Pair:
    """A connection through gates whose responder has just said STOP; the source does not hear."""
    pair = Pair(gates, **more)  # type: ignore[arg-type]
    pair.c.stopping.on_stop = lambda *_: DropReason.UNEXPECTED  # type: ignore[method-assign]
    pair.open()
    return say(pair, lifetime_s, seconds)


def say(pair: Pair, lifetime_s: float = 60, seconds: float = 0.1) -> Pair:
    """Let the responder say STOP."""
    pair.tell("s", StopRequested(pair.cid, lifetime_s))
    return pair.run(seconds)


def standing(pair: Pair) -> dict[str, list[Rule]]:
    """The filters in the gates' kernels, by gate."""
    return {name: list(pair.filters[name].values()) for name in pair.gates}


def where(pair: Pair) -> list[str]:
    """The gates that filter."""
    return [name for name, rules in standing(pair).items() if rules]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("gates", [1, 2, 3])
def test_the_gate_nearest_to_the_source_ends_with_the_filter(gates: int, family: int) -> None:
    """R-5.8.1, R-5.8.2, R-5.8.3: each makes one, and takes it away for one that is nearer."""
    pair = stopped(gates, family=family)
    assert where(pair) == ["g1"]
    made = [(n, r) for n, e in pair.effects if isinstance(e, ChangeRules) for r in e.put]
    assert {name for name, rule in made if rule.action is Action.DROP} == set(pair.gates)
    (rule,) = standing(pair)["g1"]
    assert rule.match == pair.passage().crossing.near
    assert rule.lifetime_s == 60
    assert pair.across(rule.match) is None
    assert pair.across(rule.match.reversed()) is not None, "what the receiver sends passes"


def test_who_said_stop_knows_who_filters() -> None:
    """R-5.8.2: the box that is nearest to the source, in the end."""
    pair = stopped(3)
    said = pair.s.stopping.said[pair.cid]
    assert said.by == pair.gates["g1"].context.key.public
    assert said.tries == 1
    pair.run(2)
    assert said.tries == 1, "it was heard, and is not said again"


def test_an_answer_is_no_larger_than_the_stop() -> None:
    """R-5.8.2, R-7.5."""
    pair = stopped(2)
    sizes = {sent.node: len(sent.data) for sent in pair.wire if sent.kind is Stop}
    asked = next(len(sent.data) for sent in pair.wire if sent.kind is Stop and sent.node == "s")
    assert max(sizes.values()) <= asked


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_a_stop_that_is_lost_is_said_again(lost: int) -> None:
    """R-5.8: as a CLOSE is; and an answer that is lost leaves a filter too many."""
    pair = Pair(2).open()
    pair.c.stopping.on_stop = lambda *_: DropReason.UNEXPECTED  # type: ignore[method-assign]
    pair.lose[Stop] = lost
    say(pair, seconds=5)
    assert where(pair)[0] == "g1"
    tries = [sent for sent in pair.wire if sent.kind is Stop and sent.node == "s"]
    assert 1 < len(tries) <= 5


def test_a_filter_stays_where_no_answer_comes() -> None:
    """R-5.8.3: the answer of the nearer gate is lost, so both filter until the time is over."""
    pair = Pair(2).open()
    pair.change = lambda sent, to: sent.data if (sent.node, to) != ("g1", "g2") else b"lost" * 8
    say(pair, seconds=3)
    assert where(pair) == ["g1", "g2"]


def test_without_a_gate_nobody_filters_and_the_other_end_closes() -> None:
    """R-5.8.5."""
    pair = say(Pair().open(), seconds=1)
    assert pair.ended("c")
    assert pair.ended("s")
    assert pair.seen(ReportClosed, "c")[0].reason == "the other end said STOP"


def test_a_source_that_hears_stop_closes_and_its_filter_stays() -> None:
    """R-5.8.5, R-5.8.2."""
    pair = say(Pair(2).open(), seconds=1)
    assert pair.ended("c")
    assert pair.passage().stage is Stage.ENDED
    assert where(pair) == ["g1"]


def test_a_filter_lasts_as_long_as_was_asked_and_not_longer() -> None:
    """R-5.8.2: at least a second, at most an hour; packets and refreshes do not renew it."""
    for asked, lasts in ((0.1, 1), (7, 7), (100_000, 3600)):
        pair = stopped(1, lifetime_s=asked)
        (rule,) = standing(pair)["g1"]
        assert (rule.lifetime_s, rule.renewed_by_packets) == (lasts, False)
        known = pair.gates["g1"].filters.by_cid[pair.cid]
        assert known.until <= pair.now + lasts


def test_a_gate_forgets_a_filter_when_its_stop_can_not_be_taken_again() -> None:
    """R-5.8.1: while its time is likely, its bytes make no second filter."""
    pair = stopped(1, lifetime_s=2)
    copy = next(e for _, e in came(pair) if e.data[4] == Stop.TYPE)
    pair.run(10)
    assert reasons(pair.tell("g1", copy)) == [DropReason.STALE]
    pair.run(REMEMBERED_S - 20)
    assert pair.gates["g1"].filters.by_cid
    pair.run(20)
    assert not pair.gates["g1"].filters.by_cid
    assert reasons(pair.tell("g1", copy))[0] in (DropReason.TIME, DropReason.UNKNOWN)


def came(pair: Pair) -> list[tuple[str, DatagramReceived]]:
    """What the first gate heard of the responder's STOP."""
    sent = next(s for s in pair.wire if s.kind is Stop and s.node == "s")
    event = DatagramReceived(sent.data, sent.source, sent.destination, True, "outside")
    return [("g1", event)]


def test_a_stop_that_is_said_again_leaves_the_filter_as_it_is_and_is_answered() -> None:
    """R-5.8.2."""
    pair = stopped(1, lifetime_s=30)
    before = pair.gates["g1"].filters.by_cid[pair.cid].until
    pair.run(5)
    effects = pair.tell("g1", came(pair)[0][1])
    assert not [one for one in effects if isinstance(one, ChangeRules)]
    assert len(effects) == 2, "on to the source, and an answer"
    assert pair.gates["g1"].filters.by_cid[pair.cid].until == before


def test_who_is_asked_twice_keeps_its_filter_whoever_takes_over() -> None:
    """R-5.8.3: a gate that says that it filters, and does not, is believed once."""
    pair = stopped(3)
    assert where(pair) == ["g1"]
    say(pair)
    assert where(pair) == ["g1", "g2", "g3"]
    pair.run(5)
    assert where(pair) == ["g1", "g2", "g3"]


def test_the_refresh_of_a_stopped_connection_is_refused_and_so_is_a_new_one() -> None:
    """R-5.8.5: so the source neither moves out of the way of a filter nor begins again."""
    pair = stopped(1, lifetime_s=100)
    pair.run(50)
    assert [one.reason for one in pair.seen(ReportRefused, "c")] == ["this host has said STOP"]
    again = Pair(1, client=pair.c, server=pair.s)
    again.now, again.cid = pair.now, Cid(b"the second cid 1")
    again.open()
    assert len(again.seen(ReportRefused, "c")) == 1
    later = Pair(1, client=pair.c, server=pair.s)
    later.now, later.cid = pair.now + 60, Cid(b"the third cid, 1")
    later.s.handle(StopRequested(later.cid, 1), later.now)
    later.run(1).open()
    assert later.is_up


def test_another_peer_is_not_refused() -> None:
    """R-5.8.5."""
    pair = stopped(1)
    other = Pair(1, client=make_host("other"), server=pair.s)
    other.now, other.cid = pair.now, Cid(b"the second cid 1")
    other.open(wire=replace(other.request().wire, source=other.own["c"][0].with_port(40_500)))
    assert other.is_up


def test_only_who_was_asked_and_is_still_there_may_say_it() -> None:
    """R-5.8: the initiator closes instead; nor about a connection without packets or agreement."""
    pair = Pair(1).open()
    assert may_stop(pair.connection("c")) is None
    assert pair.tell("c", StopRequested(pair.cid, 60)) == []
    assert pair.tell("s", StopRequested(Cid(bytes(16)), 60)) == []
    assert isinstance(may_stop(pair.connection("s")), Offer)
    pair.close()
    assert may_stop(pair.connection("s")) is None
    plain = Pair(1)
    here, there = (plain.own[name][0].with_port(0) for name in "cs")
    asked = Flow(Transport.NONE, here, there)
    plain.open(wire=asked, local=asked)
    assert plain.connection("s").state is State.CONNECTED
    assert may_stop(plain.connection("s")) is None


def test_an_initiator_that_never_confirms_again_is_stopped_by_what_it_confirmed() -> None:
    """R-5.8: OPENs without end do not keep the receiver from its word."""
    pair = Pair(2).open()
    pair.hold.add(Confirm)
    pair.run(41)
    offer = pair.s.connections[pair.cid].offer
    assert offer is not None
    assert not offer.confirmed
    say(pair)
    assert where(pair) == ["g1"]


def test_a_filter_goes_when_another_key_agrees_to_its_flow() -> None:
    """R-5.8.4: who has the address now is not stopped by who had it before."""
    pair = stopped(1)
    pair.hold.add(Close)
    heir = Pair(1, client=make_host("c2"), server=make_host("heir"))
    share(pair, heir)
    heir.open()
    assert heir.is_up
    assert standing(heir)["g1"] == []
    assert not pair.gates["g1"].filters.by_cid[pair.cid].stands


def test_a_filter_stays_when_its_author_agrees_to_the_flow_again() -> None:
    """R-5.8.4."""
    pair = stopped(1)
    pair.close("s").run(6)
    again = Pair(1, client=make_host("c2"), server=pair.s)
    share(pair, again)
    again.open()
    assert again.is_up
    assert where(again) == ["g1"]


def share(pair: Pair, other: Pair) -> None:
    """The same gate, kernel and time for another pair of hosts at the same addresses."""
    other.nodes["g1"], other.gates = pair.nodes["g1"], pair.gates
    other.kernel["g1"], other.filters["g1"] = pair.kernel["g1"], pair.filters["g1"]
    other.now, other.cid = pair.now, Cid(b"the second cid 1")


def test_a_restarted_gate_has_its_filters_and_no_answer_takes_them_away() -> None:
    """R-5.8.4, R-6.5."""
    pair = stopped(2)
    filters = [(rule, 50.0) for rule in pair.filters["g1"].values()]
    rules = [(rule, 100.0) for rule in pair.kernel["g1"].values()]
    fresh = make_gate("g1")
    assert fresh.restore([*filters, *rules], pair.now) == 1
    (known,) = fresh.filters.by_cid.values()
    asked = pair.gates["g1"].filters.by_cid[pair.cid]
    assert (known.by, known.time_s, known.rule) == (asked.by, asked.time_s, asked.rule)
    assert known.stays
    pair.restart("g1", fresh)
    say(pair, lifetime_s=20)
    (rule,) = standing(pair)["g1"]
    assert rule.lifetime_s == 20


def test_a_rule_that_drops_and_says_nothing_is_left_alone() -> None:
    """R-6.5: somebody's, but no filter of ours."""
    fresh = make_gate("g1")
    flow = Flow(Transport.UDP, *(one.with_port(9) for one in Pair().own["c"]))
    assert fresh.restore([(Rule(Cid(bytes(16)), flow, Action.DROP, lifetime_s=9), 9)], 0) == 0
    assert not fresh.filters.by_cid


@pytest.mark.parametrize("family", [4, 6])
def test_a_nat_filters_what_comes_to_it(family: int) -> None:
    """R-5.8.2: by the 5-tuple on the side of the source, whatever the receiver sees."""
    pair = stopped(2, family=family, nats=("g1",))
    assert where(pair) == ["g1"]
    (rule,) = standing(pair)["g1"]
    assert rule.match.source.ip == pair.own["c"][0].ip
    inbound = stopped(2, family=family, nats=("g2",), inside="c")
    assert where(inbound) == ["g1"]


def test_a_kernel_that_refuses_a_filter_ends_the_connection() -> None:
    """R-5.8.2, R-6.1: without its rules nothing passes, and nothing is left to filter."""
    pair = stopped(1)
    pair.tell("g1", RulesFailed(pair.cid, "no room"))
    assert pair.passage().stage is Stage.ENDED
    assert not pair.gates["g1"].filters.by_cid


def test_filters_are_bounded_for_a_network() -> None:
    """R-7.4: `full`, and nothing else happens."""
    pair = Pair(1).open()
    filters = pair.gates["g1"].filters
    for number in range(FILTERS_PER_NETWORK_MAX):
        flow = Flow(Transport.UDP, pair.own["c"][0].with_port(number + 1), pair.own["s"][0])
        note = "1800000000 AAAAAAAAAAA="
        cid = Cid(number.to_bytes(16, "big"))
        filters.restore(Rule(cid, flow, Action.DROP, lifetime_s=600, note=note), 600, pair.now)
    say(pair, seconds=1)
    assert DropReason.FULL in reasons(effect for _, effect in pair.effects)
    assert pair.cid not in filters.by_cid
    pair.run(700)
    assert not filters.by_cid
    assert isinstance(filters, Filters)


def test_a_stop_costs_what_an_open_costs() -> None:
    """R-7.4: beyond the budget it is dropped, and nobody is asked anything."""
    pair = stopped(1)
    gate = pair.gates["g1"]
    gate._door = FrontDoor(gate._box, replace(gate._door._budget, opens_per_s=0.5))
    assert reasons(pair.tell("g1", came(pair)[0][1])) == [DropReason.BUDGET]


def test_its_terms_say_what_an_accept_says() -> None:
    """R-5.8: open_hash and hops_hash are those of the agreement."""
    pair = stopped(2)
    header, message = decode(came(pair)[0][1].data)
    accept = decode(pair.last(Accept, "s").data)[1]
    assert isinstance(message, Stop)
    assert isinstance(accept, Accept)
    said = decode_body(StopTerms, message.signed)
    assert message.hops == accept.hops
    assert (said.from_key, header.seq) == (pair.s.context.key.public, 0)


def test_what_has_no_packets_cannot_be_stopped_at_a_gate() -> None:
    """R-5.8.1: however well it is said."""
    pair = Pair(1)
    here, there = (pair.own[name][0].with_port(0) for name in "cs")
    asked = Flow(Transport.NONE, here, there)
    pair.open(wire=asked, local=asked)
    connection = pair.connection("s")
    connection.agreement = replace(
        connection.agreement, wire=replace(asked.reversed(), transport=Transport.UDP)
    )
    (said,) = pair.s.stopping.say(connection, 60, pair.now)
    assert isinstance(said, SendDatagram)
    server, client = pair.own["s"][0], pair.own["c"][0]
    event = DatagramReceived(said.data, server, client, True, "outside")
    assert reasons(pair.tell("g1", event)) == [DropReason.UNEXPECTED]
