"""When nobody answers, and behind a NAT that says nothing: what is done, and what is said.

client c ──┤NAT├── g1 ── server s      (or the NAT stands behind g1)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pair import STRANGER, Pair, body_of, hops_of, make_host
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.connection import State
from wayside.core.effects import DeliverData, ReportClosed, ReportOpened, ReportRefused
from wayside.core.events import CloseRequested, DatagramReceived, Event, SourcesChanged
from wayside.core.identity import Leave, PeerIdentity
from wayside.core.messages import (
    Accept,
    Code,
    Message,
    Open,
    OpenTerms,
    Reject,
    RejectTerms,
    encode,
)
from wayside.core.opening import SIGNATURE_CONTEXT, open_hash
from wayside.core.policy import Policy, PolicyAction
from wayside.core.rule import Cid
from wayside.core.saved import read_saved
from wayside.core.yielding import PLAIN

TRANSPORTS = pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
FAMILIES = pytest.mark.parametrize("family", [4, 6])
KINDS = tuple[type[Message], ...]


def silent(leave: Leave, **more: Any) -> Pair:
    """Everything that the client says is lost."""
    pair = Pair(0, **more)
    pair.lose[Open] = 100
    return pair.open(0.3, peer=PeerIdentity(pair.s.context.key.public, "s.lab", leave=leave))


def returned(pair: Pair, **more: Any) -> DatagramReceived:
    """The last OPEN, as an ICMP error quotes it."""
    sent = pair.last(Open, "c")
    event = DatagramReceived(sent.data[:520], sent.destination, sent.source, returned=True)
    return replace(event, **more)


# --- nobody answers ---


@TRANSPORTS
def test_silence_is_plain_where_the_user_lets_it_be(transport: Transport) -> None:
    """R-12.4: own rules for the flow that was asked for, no message, and a report that says so."""
    pair = silent(Leave(plain=True), transport=transport)
    about = pair.connection("c").agreement
    assert pair.kernel["c"] == {}
    pair.run(5)
    connection = pair.connection("c")
    assert connection.state is State.PLAIN
    assert connection.agreement.stands == PLAIN
    assert set(pair.kernel["c"]) == {about.local, about.wire.reversed()}
    assert [report.stands for report in pair.seen(ReportOpened, "c")] == [PLAIN]
    assert pair.seen(ReportRefused) == []
    said = len(pair.wire)
    pair.run(300)
    assert len(pair.wire) == said
    assert len(pair.kernel["c"]) == 2


@pytest.mark.parametrize("leave", [Leave(), Leave(gate=True)])
def test_silence_is_a_refusal_for_everybody_else(leave: Leave) -> None:
    """R-5.1.7, R-12.4."""
    pair = silent(leave).run(6)
    assert pair.ended("c")
    assert pair.kernel["c"] == {}
    assert [report.reason for report in pair.seen(ReportRefused)] == ["nobody answered"]


def test_a_closed_port_is_known_at_once() -> None:
    """R-12.4: who quotes the newest OPEN as far as the cid has seen it."""
    pair = silent(Leave(plain=True))
    pair.tell("c", returned(pair))
    assert pair.connection("c").state is State.PLAIN


@pytest.mark.parametrize(
    "change",
    [
        {"data": b""},
        {"data": b"CSP\1\1" + bytes(27)},
        {"source": Address.parse("203.0.113.9:4747")},
    ],
)
def test_what_quotes_something_else_changes_nothing(change: dict[str, Any]) -> None:
    """R-12.4, R-7.6: another cid, and another host than was asked."""
    pair = silent(Leave(plain=True))
    assert pair.tell("c", returned(pair, **change)) == []
    assert pair.connection("c").state is State.OPENING


def test_another_seq_or_message_that_is_quoted_changes_nothing() -> None:
    """R-12.4."""
    pair = silent(Leave(plain=True))
    data = returned(pair).data
    for changed in (data[:15] + b"\x02" + data[16:], data[:4] + b"\x03" + data[5:]):
        assert pair.tell("c", returned(pair, data=changed)) == []
    assert pair.connection("c").state is State.OPENING


def test_a_closed_port_says_nothing_to_who_lets_nothing_be_nor_about_what_is_up() -> None:
    """R-12.4: ICMP is no answer."""
    pair = silent(Leave())
    assert pair.tell("c", returned(pair)) == []
    assert pair.connection("c").state is State.OPENING
    pair = Pair(0)
    pair.open(peer=PeerIdentity(pair.s.context.key.public, leave=Leave(plain=True)))
    assert pair.tell("c", returned(pair)) == []
    assert pair.is_up


def test_a_no_stays_a_no() -> None:
    """R-12.4: whoever answers is somebody."""
    pair = Pair(1, gate_policy=Policy(default=PolicyAction.REJECT))
    pair.open(6, peer=PeerIdentity(pair.s.context.key.public, leave=Leave(plain=True)))
    assert pair.ended("c")
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.POLICY]
    assert pair.kernel["c"] == {}


def test_without_packets_there_is_nothing_to_let_be() -> None:
    """R-12.4: a question that nobody answers is not answered."""
    pair = Pair(0, transport=Transport.NONE)
    pair.lose[Open] = 100
    here, there = (pair.own[name][0].with_port(0) for name in "cs")
    flow = Flow(Transport.NONE, here, there)
    peer = PeerIdentity(pair.s.context.key.public, leave=Leave(plain=True))
    pair.open(6, peer=peer, wire=flow, local=flow)
    assert pair.ended("c")


def test_a_plain_connection_closes_and_hears_nobody() -> None:
    """R-12.4: a late answer changes nothing; its rules go when the application is done."""
    pair = silent(Leave(plain=True)).run(5)
    late = pair.last(Open, "c")
    pair.lose.clear()
    pair.tell("s", DatagramReceived(late.data, late.source, late.destination))
    pair.run(1)
    assert pair.connection("c").state is State.PLAIN
    pair.tell("c", SourcesChanged({pair.own["s"][0].ip: Address.parse("10.9.9.9").ip}))
    assert pair.connection("c").state is State.PLAIN
    pair.tell("c", CloseRequested(pair.cid, "done"))
    assert pair.ended("c")
    assert pair.kernel["c"] == {}
    assert [report.reason for report in pair.seen(ReportClosed, "c")] == ["done"]


def test_a_plain_connection_outlives_its_agent() -> None:
    """R-6.5, R-12.4: it is taken up again as what it was."""
    pair = silent(Leave(plain=True)).run(5)
    about = pair.connection("c").agreement
    fresh = make_host("c")
    fresh.restore(pair.cid, read_saved(pair.saved["c"][pair.cid]), pair.now)
    pair.restart("c", fresh)
    pair.run(300)
    after = pair.connection("c")
    assert (after.state, after.agreement.stands) == (State.PLAIN, PLAIN)
    assert (after.agreement.wire, after.agreement.local) == (about.wire, about.local)
    pair.tell("c", CloseRequested(pair.cid))
    assert pair.ended("c")


# --- a NAT that says nothing ---


class Natted(Pair):
    """A pair with a NAT behind its node `behind`, which gives the client another address."""

    def __init__(self, gates: int, *, port: int = 4747, behind: str = "c", **more: Any) -> None:
        super().__init__(gates, **more)
        self.behind, self.inside_at = behind, self.own["c"][0]
        inside = self.inside_at
        text = f"203.0.113.1:{port}" if inside.family == 4 else f"[2001:db8::1]:{port}"
        self.nat = Address.parse(text)
        self.own["c"] = (inside, self.nat)

    def _later(self, node: str, event: Event) -> None:
        if isinstance(event, DatagramReceived):
            beyond = self.order.index(node) > self.order.index(self.behind)
            inside = self.inside_at
            if beyond and event.source.ip == inside.ip:
                event = replace(event, source=self.nat)
            elif not beyond and event.destination.ip == self.nat.ip:
                event = replace(event, destination=inside, transit=node != "c")
        super()._later(node, event)


def asked(pair: Pair) -> list[OpenTerms]:
    """What the client asked, once for each seq."""
    opens = {sent.data[:32]: sent for sent in pair.wire if (sent.node, sent.kind) == ("c", Open)}
    return [decode_body(OpenTerms, body_of(one.data, Open).signed) for one in opens.values()]


@TRANSPORTS
@FAMILIES
@pytest.mark.parametrize(("gates", "behind"), [(0, "c"), (1, "c"), (1, "g1"), (2, "g1")])
def test_behind_a_nat_that_says_nothing_each_box_makes_rules_for_what_it_sees(
    transport: Transport, family: int, gates: int, behind: str
) -> None:
    """R-12.5, R-5.1.6: one more round trip; the NAT's address beyond it, our own before it."""
    pair = Natted(gates, behind=behind, transport=transport, family=family)
    pair.open()
    assert pair.is_up
    first, second = asked(pair)
    outside = pair.nat.with_port(40000)
    assert first.alternatives == ()
    assert second.alternatives == (outside,)
    assert first.source == second.source
    wire = pair.connection("c").agreement.wire
    assert wire.source == pair.own["c"][0].with_port(40000)
    assert pair.connection("s").agreement.wire.destination == outside
    for name in pair.gates:
        beyond = name > behind or behind == "c"
        seen = replace(wire, source=outside) if beyond else wire
        assert set(pair.kernel[name]) == {seen, seen.reversed()}
    assert len(hops_of(pair.last(Open).data)) <= gates
    assert pair.connection("c").agreement.outside == outside


def test_the_refusal_says_where_the_open_came_from() -> None:
    """R-12.5: in words that are signed, and to who asked only."""
    pair = Natted(1)
    pair.open()
    terms = decode_body(RejectTerms, body_of(pair.last(Reject).data, Reject).signed)
    assert (terms.code, terms.observed) == (Code.BAD_ADDRESS, pair.nat)
    assert pair.last(Reject).destination == pair.nat


def test_behind_a_nat_a_connection_is_refreshed_and_closed() -> None:
    """R-12.5: it says the same in every OPEN, and is not refused again."""
    pair = Natted(1)
    pair.open()
    pair.run(200)
    assert pair.is_up
    assert pair.connection("c").keys.seq >= 8
    assert {terms.alternatives for terms in asked(pair)[1:]} == {(pair.nat.with_port(40000),)}
    pair.close()
    assert pair.ended("c")
    assert pair.ended("s")
    assert pair.kernel["g1"] == {}


def test_behind_a_nat_a_connection_outlives_its_agent() -> None:
    """R-6.5, R-12.5."""
    pair = Natted(1)
    pair.open()
    fresh = make_host("c")
    fresh.restore(pair.cid, read_saved(pair.saved["c"][pair.cid]), pair.now)
    pair.restart("c", fresh)
    pair.run(100)
    assert pair.is_up
    assert asked(pair)[-1].alternatives == (pair.nat.with_port(40000),)


def test_a_question_without_packets_goes_through_any_nat() -> None:
    """R-12.5: there is no data whose port anybody would have to know."""
    pair = Natted(0, port=5555, transport=Transport.NONE)
    here, there = (pair.own[name][0].with_port(0) for name in "cs")
    flow = Flow(Transport.NONE, here, there)
    pair.s.answering.services["name"] = pair.s.answering.services["https"]
    pair.open(1.0, service="name", wire=flow, local=flow)
    assert pair.is_up


def test_what_is_asked_is_asked_again_when_the_nat_is_known() -> None:
    """R-12.5, R-5.1.5: who joins or looks for a name from behind a NAT has an answer."""
    more: dict[str, Any] = {"data": b"files.lab", "answer": b"a certificate"}
    pair = Natted(0, port=5555, transport=Transport.NONE, **more)
    here, there = (pair.own[name][0].with_port(0) for name in "cs")
    flow = Flow(Transport.NONE, here, there)
    pair.s.answering.services["name"] = pair.s.answering.services["https"]
    pair.open(1.0, service="name", wire=flow, local=flow)
    assert [one.data for one in pair.seen(DeliverData, "s")] == [b"files.lab"]
    assert [one.data for one in pair.seen(DeliverData, "c")] == [b"a certificate"]
    attempt = pair.connection("c").attempt
    assert attempt is not None
    assert not attempt.load.rides


@TRANSPORTS
def test_a_nat_that_changes_ports_is_refused(transport: Transport) -> None:
    """R-12.5: nobody knows what it makes of data; the user is told of the NAT."""
    pair = Natted(1, port=5555, transport=transport)
    pair.open()
    assert pair.ended("c")
    (report,) = pair.seen(ReportRefused, "c")
    assert report.code == Code.BAD_ADDRESS
    assert "NAT" in report.reason
    assert len(asked(pair)) == 1


def liar(pair: Pair, observed: Address, code: int = Code.BAD_ADDRESS) -> None:
    """Somebody on the path says where the newest OPEN came from."""
    sent = pair.last(Open, "c")
    header = Header(Reject.TYPE, int.from_bytes(sent.data[8:16]), pair.cid)
    about = open_hash(Header(Open.TYPE, header.seq, Cid(pair.cid)), body_of(sent.data, Open).signed)
    signed = encode_body(RejectTerms(STRANGER.public, about, code, "", observed=observed))
    signature = STRANGER.sign(SIGNATURE_CONTEXT, header.signing + signed)
    pair.inject("c", encode(header, Reject(signed, signature)), pair.own["s"][0])


def test_who_lies_about_a_nat_is_believed_four_times_and_opens_nothing() -> None:
    """R-12.5, R-5.1.6: an address counts only in a datagram that comes from there."""
    pair = Pair(0)
    pair.hold.add(Open)
    pair.open(0.0)
    for number in range(6):
        if not pair.ended("c"):
            liar(pair, Address.parse(f"192.0.2.{number}:4747"))
    assert len(asked(pair)) == 5
    assert pair.ended("c")
    pair.release()
    pair.run(1)
    victims = {f"192.0.2.{number}" for number in range(6)}
    assert [one for one in pair.wire if str(one.destination.ip) in victims] == []
    held = pair.s.connections.values()
    assert {one.agreement.wire.destination.ip for one in held} <= {pair.own["c"][0].ip}


@pytest.mark.parametrize(
    ("observed", "code"),
    [("10.0.0.2:4747", 3), ("203.0.113.1:4747", 1), ("[2001:db8::1]:4747", 3)],
)
def test_only_another_address_of_the_family_is_news(observed: str, code: int) -> None:
    """R-12.5: our own, another no, and another family are a refusal like any."""
    pair = Pair(0)
    pair.hold.add(Open)
    pair.open(0.0)
    liar(pair, Address.parse(observed), code)
    assert len(asked(pair)) == 1
    assert pair.ended("c")


def move_out(pair: Pair) -> Address:
    """The client goes to where no NAT is."""
    there = Address.parse("198.51.100.7:4747")
    pair.own["c"] = (there, there)
    pair.tell("c", SourcesChanged({pair.own["s"][0].ip: there.ip}))
    return there.with_port(40000)


def test_who_moves_out_from_behind_a_nat_while_it_asks_forgets_it() -> None:
    """R-12.5, R-5.4.6: the NAT was before the old address."""
    pair = Natted(0)
    pair.lose[Accept] = 1
    pair.open(0.05)
    assert asked(pair)[-1].alternatives == (pair.nat.with_port(40000),)
    there = move_out(pair)
    pair.run(0.1)
    assert pair.is_up
    assert (asked(pair)[-1].source, asked(pair)[-1].alternatives) == (there, ())
    assert pair.connection("c").agreement.outside is None
    assert pair.connection("s").agreement.wire.destination == there


def test_who_moves_out_from_behind_a_nat_forgets_it() -> None:
    """R-12.5: until it moves."""
    pair = Natted(0)
    pair.open()
    there = move_out(pair)
    pair.run(1)
    assert asked(pair)[-1].alternatives == ()
    assert pair.connection("c").agreement.outside is None
    assert pair.connection("s").agreement.wire.destination == there
