"""What a box shows of a connection that it rewrites: the 5-tuples on both of its sides."""

from __future__ import annotations

from wayside.core.address import Address, Flow, Transport
from wayside.core.passage import Crossing, Passage, Seqs, Stage
from wayside.core.rule import Action, Cid, Rule
from wayside.kernel.plan import InstalledRule
from wayside.runtime.box_daemon import record_of

CID = Cid(bytes(range(16)))
NEAR = Flow(Transport.TCP, Address.parse("10.1.0.2:4000"), Address.parse("10.3.0.2:443"))
FAR = Flow(Transport.TCP, Address.parse("10.2.0.2:4001"), Address.parse("10.3.0.2:443"))
PASSAGE = Passage(
    CID, Stage.LIVE, Crossing(NEAR, FAR), Seqs([2, -1]), 0.0, 120.0, b"pair..", "https", "web"
)
NOTE = PASSAGE.rules(120.0)[0].note


def installed(rule: Rule) -> InstalledRule:
    return InstalledRule(rule, 118.0, 12, 3400)


def test_a_rewritten_connection_is_shown_as_it_comes_and_as_it_leaves() -> None:
    record = record_of(installed(Rule(CID, NEAR, Action.REWRITE, FAR, 120.0, True, NOTE)), None)
    assert record.flow == "10.1.0.2:4000 > 10.3.0.2:443"
    assert record.wire == "10.2.0.2:4001 > 10.3.0.2:443"
    assert (record.service, record.state) == ("https", "kept by packets")
    assert (record.expires_s, record.packets, record.bytes) == (118.0, 12, 3400)


def test_one_that_is_let_through_looks_the_same_on_both_sides() -> None:
    record = record_of(installed(Rule(CID, NEAR, Action.ACCEPT, None, 120.0, True, NOTE)), None)
    assert record.flow == record.wire == "10.1.0.2:4000 > 10.3.0.2:443"


def test_the_other_direction_alone_says_neither_service_nor_state() -> None:
    back = Rule(CID, FAR.reversed(), Action.REWRITE, NEAR.reversed(), 120.0, True)
    record = record_of(installed(back), None)
    assert (record.service, record.state) == ("", "")
