"""Connections that go by way of somebody: who may send them there, and whom a relay serves.

    client c ---- g1 ---- g2 ---- server s

The firewall g1 lets connections out by way of the relay g2 only.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from core.test_moves import move
from natted import both_ends_know_what_packets_show, restart, wires
from pair import (
    EPOCH_S,
    STRANGER,
    Pair,
    body_of,
    hops_of,
    make_host,
    make_open,
    message_of,
    reasons,
)
from star import ADDRESSES, Star, make_relay
from wayside.core.address import Address, Flow, Transport
from wayside.core.admission import Quota
from wayside.core.approval import create_approval
from wayside.core.codec import decode_body
from wayside.core.connection import State
from wayside.core.crypto import SigningKey
from wayside.core.effects import Effect, ReportOpened, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.host import Host
from wayside.core.identity import key_text
from wayside.core.messages import (
    Accept,
    Close,
    Code,
    Confirm,
    Hop,
    Open,
    OpenTerms,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    padded,
)
from wayside.core.passage import Crossing, Stage
from wayside.core.passages import Passages
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.rule import Action, Cid
from wayside.core.way import Box, Relaying, Role
from wayside.core.yielding import ANOTHER_ANSWERS

BY_WAY = Policy((PolicyRule("proxy", PolicyAction.REDIRECT, via="p"),), PolicyAction.REJECT)
TRANSPORTS = pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
FAMILIES = pytest.mark.parametrize("family", [4, 6])


def steered(family: int = 4, **more: object) -> Pair:
    """A firewall that knows of a relay, a relay that knows the firewall's key, and nobody up."""
    pair = Pair(2, family=family, **more)  # type: ignore[arg-type]
    firewall, relay = pair.gates["g1"].context, pair.gates["g2"].context
    firewall.policy, firewall.relays = BY_WAY, {"p": (pair.own["g2"][0],)}
    targets = ip_network("10.0.0.0/8"), ip_network("fd00::/8")
    relay.box = Box(relay=Relaying((firewall.key.public,), targets))
    pair.c.context.redirectors = (firewall.key.public,)
    return pair


@TRANSPORTS
@FAMILIES
def test_a_firewall_lets_connections_out_by_way_of_its_relay_only(
    transport: Transport, family: int
) -> None:
    """R-5.7, R-8.8: one more round trip; data goes client, relay, server, and comes back so."""
    pair = steered(family, transport=transport).open(0.5)
    assert pair.is_up
    assert pair.kinds("c") == "c:OPEN c:OPEN c:CONFIRM"
    assert pair.kinds("g1").startswith("g1:REDIRECT g1:OPEN")
    mine, theirs = wires(pair)
    relay = pair.own["g2"][0].ip
    assert (mine.destination.ip, theirs.destination.ip) == (relay, relay)
    both_ends_know_what_packets_show(pair)
    assert pair.across(replace(mine, destination=theirs.source)) is None
    assert {rule.action for rule in pair.kernel["g1"].values()} == {Action.ACCEPT}
    assert {rule.action for rule in pair.kernel["g2"].values()} == {Action.REWRITE}


def test_a_redirect_says_where_with_an_approval_for_this_connection() -> None:
    """R-5.7, R-5.7.2: the next OPEN shows it; what it asks for stays as it was."""
    pair = steered().open(0.5)
    terms = decode_body(RedirectTerms, body_of(pair.last(Redirect).data, Redirect).signed)
    assert (terms.relay, terms.locator.address) == (1, pair.own["g2"][0])
    asked = [
        decode_body(OpenTerms, body_of(one.data, Open).signed)
        for one in pair.wire
        if one.node == "c" and one.kind is Open
    ]
    assert asked[0].approval == b""
    assert asked[1].approval == terms.approval
    assert asked[0].destination == asked[1].destination
    assert [hop.role for hop in hops_of(pair.last(Open, "g2").data)] == [1, 3]
    opens = [one for one in pair.wire if one.node == "c" and one.kind is Open]
    assert [one.destination for one in opens] == [pair.own["s"][0], pair.own["g2"][0]]


@pytest.mark.parametrize("seq", [2, 4, 2**63])
def test_a_higher_seq_does_not_get_around_the_relay(seq: int) -> None:
    """R-5.1.8, R-5.7: a gate asks its policy about every OPEN, of a live connection, too."""
    for up in (False, True):
        pair = steered()
        if up:
            pair.open(0.5)
        rules = dict(pair.kernel["g1"])
        here, there = pair.own["c"][0], pair.own["s"][0]
        data = make_open(
            pair.c.context.key,
            pair.s.context.key.public,
            here.with_port(40000),
            there.with_port(443),
            cid=pair.cid,
            seq=seq,
        )
        effects = pair.tell("g1", DatagramReceived(data, here, there, True, "inside"))
        (answer,) = [one for one in effects if isinstance(one, SendDatagram)]
        assert (answer.data[4], answer.destination) == (Redirect.TYPE, here)
        assert pair.kernel["g1"] == rules


def test_who_does_not_let_the_firewall_redirect_it_is_told_where_it_would_have_to_go() -> None:
    """R-5.7.1: REJECT 8, and nothing is asked there."""
    pair = steered()
    pair.c.context.redirectors = ()
    pair.open(1)
    (report,) = pair.seen(ReportRefused, "c")
    assert report.code == Code.NO_ROUTE
    assert str(pair.own["g2"][0]) in report.reason
    assert pair.kinds() == "c:OPEN g1:REDIRECT"


@TRANSPORTS
def test_a_connection_by_way_of_a_relay_is_refreshed_and_closed(transport: Transport) -> None:
    """R-5.4.1, R-5.9.2: its OPENs go to the relay, which knows the cid; no approval is needed."""
    pair = steered(transport=transport).open(0.5)
    before = {name: set(pair.kernel[name]) for name in pair.gates}
    pair.run(200)
    assert pair.is_up
    assert pair.connection("c").keys.seq >= 8
    assert pair.last(Open, "c").destination == pair.own["g2"][0]
    assert {name: set(pair.kernel[name]) for name in pair.gates} == before
    assert sum(one.kind is Redirect for one in pair.wire) == 1
    both_ends_know_what_packets_show(pair)
    for end in ("c", "s"):
        pair = steered(transport=transport).open(0.5).close(end)
        assert pair.kinds().count("CLOSE") == 6
        assert all(pair.kernel[node] == {} for node in pair.order)


@pytest.mark.parametrize("kind", [Open, Redirect, Accept, Confirm, Close])
def test_a_lost_message_by_way_of_a_relay_is_said_again(kind: type) -> None:
    """R-5.1.7, R-5.2.3, R-5.9.1."""
    pair = steered()
    pair.lose[kind] = 1
    pair.open(3)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)
    pair.close(seconds=3)
    assert all(pair.kernel[node] == {} for node in pair.order)


def test_a_restarted_relay_refreshes_and_closes_what_its_kernel_holds() -> None:
    """R-6.5, R-8.8."""
    pair = steered().open(0.5)
    restart(pair, "g2", rules=True)
    pair.run(100)
    assert pair.is_up
    assert pair.passage("g2").stage is Stage.LIVE
    both_ends_know_what_packets_show(pair)
    pair.close()
    assert all(pair.kernel[node] == {} for node in pair.order)


def opens(pair: Pair) -> list[OpenTerms]:
    """What the client asked, in order."""
    sent = [one for one in pair.wire if (one.node, one.kind) == ("c", Open)]
    return [decode_body(OpenTerms, body_of(one.data, Open).signed) for one in sent]


def test_who_moves_while_it_asks_by_way_of_a_relay_shows_the_same_approval() -> None:
    """R-5.4.6, R-5.7.2: it asks the relay from where it is, and has still been sent on once."""
    pair = steered()
    pair.lose[Accept] = 1
    pair.open(0.05)
    new = move(pair, "c")
    pair.run(0.1)
    assert pair.is_up
    _, before, after = opens(pair)
    assert before.approval
    assert (after.approval, after.source) == (before.approval, Address(new, before.source.port))
    asked = pair.connection("c").attempt
    assert asked is not None
    assert (asked.seq, asked.counts.redirects) == (4, 1)
    both_ends_know_what_packets_show(pair)


def again(pair: Pair) -> None:
    """The client's agent has crashed and asks anew, from the same port."""
    pair.c.connections.clear()
    pair.cid = Cid(b"after the crash!")
    pair.open(0.05)


def test_a_relay_lends_no_port_twice_over() -> None:
    """R-8.7, R-8.8: not to who has it either, or what comes back would fit both connections."""
    pair = steered()
    pair.lose[Close] = 100
    pair.open(0.5)
    first = pair.passage("g2").crossing
    again(pair)
    assert pair.is_up
    second = pair.passage("g2").crossing
    assert second.near.source == first.near.source
    assert second.far.source != first.far.source
    assert len(pair.kernel["g2"]) == 4
    both_ends_know_what_packets_show(pair)


def test_of_two_that_ask_a_relay_at_once_from_one_port_one_is_refused() -> None:
    """R-8.7, R-8.8: nothing is kept of an OPEN, so both were promised the same."""
    pair = steered()
    pair.lose[Close] = 100
    pair.hold.add(Accept)
    pair.open(0.05)
    again(pair)
    pair.release()
    pair.run(0.1)
    assert pair.is_up
    assert reasons(one for node, one in pair.effects if node == "g2") == [DropReason.FULL]
    assert set(pair.gates["g2"].passages) == {pair.cid}
    both_ends_know_what_packets_show(pair)


def test_a_relay_that_has_neither_port_wished_for_draws_two_others() -> None:
    """R-8.8: if something else in the box has one of them, it is in the way of one use only."""
    ports = range(50000, 60000)
    for number in range(20):
        table, cid = Passages(Quota(9, 9)), Cid(bytes([number]) * 16)
        near = Flow(Transport.TCP, HERE, RELAY.with_port(443))
        table.claim(CID, Crossing(near, near))
        lent = table.source(cid, HERE, Flow(Transport.TCP, RELAY.with_port(443), THERE), ports)
        ours = table.destination(cid, near, ports)
        assert lent is not None
        assert ours is not None
        assert lent.port in ports
        assert ours.port in ports
        assert lent != ours


# --- somebody who answers in the other's place ---


def proxied() -> tuple[Pair, Host]:
    """The firewall lets connections go to a proxy only, which answers for everybody."""
    pair, proxy = steered(), make_host("proxy")
    pair.nodes["g2"] = proxy
    pair.gates["g1"].context.instead = {"p": proxy.context.key.public}
    return pair, proxy


def test_a_proxy_answers_in_the_place_of_who_was_asked_and_the_user_is_told() -> None:
    """R-5.7.2: the OPEN goes to its key; the server hears nothing."""
    pair, proxy = proxied()
    pair.open(0.5)
    ours, its = pair.connection("c"), proxy.connections[pair.cid]
    assert (ours.state, its.state) == (State.CONNECTED, State.CONNECTED)
    assert ours.agreement.peer.key == proxy.context.key.public
    assert ours.agreement.wire == its.agreement.wire.reversed()
    (opened,) = pair.seen(ReportOpened, "c")
    assert (opened.peer, opened.stands) == (key_text(proxy.context.key.public), ANOTHER_ANSWERS)
    assert pair.s.connections == {}
    pair.run(100)
    assert ours.keys.seq >= 6


def test_a_server_that_is_asked_puts_nobody_else_in_its_place() -> None:
    """R-5.7.2: only a configured gate may; by anybody else the peer stays who it was."""
    pair, _ = proxied()
    pair.c.context.redirectors = ()
    pair.open(1)
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_ROUTE]
    assert pair.kinds("c") == "c:OPEN"


# --- whom a relay serves ---

APPROVER = SigningKey(b"a" * 32)
CID = Cid(b"cid of sixteen b")
HERE, THERE = Address.parse("10.0.0.2:40000"), Address.parse("93.184.216.34:443")
RELAY = Address.parse(ADDRESSES["p"]).with_port(4747)


def asked(
    *,
    approver: SigningKey | None = APPROVER,
    about: Cid = CID,
    there: Address = THERE,
    ago_s: float = 0,
) -> bytes:
    """A stranger's OPEN for a relay, with an approval of some kind."""
    to = SigningKey(b"t" * 32).public
    plain = make_open(STRANGER, to, HERE, there, cid=CID)
    terms = decode_body(OpenTerms, body_of(plain, Open).signed)
    if approver is None:
        return plain
    approval = create_approval(approver, about, terms, EPOCH_S + 100 - ago_s)
    return make_open(STRANGER, to, HERE, there, cid=CID, approval=approval)


def at_relay(data: bytes, *targets: str) -> list[Effect]:
    """What a relay does with it."""
    named = tuple(ip_network(text) for text in targets)
    relay = make_relay("p", Box(relay=Relaying((APPROVER.public,), named)))
    effects = relay.handle(DatagramReceived(data, HERE.with_port(4747), RELAY), 100.0)
    assert relay.passages == {}
    return effects


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (asked(approver=None), "nobody whom this relay trusts has approved it"),
        (asked(approver=STRANGER), "nobody whom this relay trusts has approved it"),
        (asked(about=Cid(bytes(16))), "nobody whom this relay trusts has approved it"),
        (asked(ago_s=62), "nobody whom this relay trusts has approved it"),
        (asked(there=Address.parse("192.168.1.1:443")), "this relay does not go to 192.168.1.1"),
        (asked(there=Address.parse("10.2.0.2:443")), "this relay does not go to 10.2.0.2"),
        (asked(there=Address.parse("100.64.0.1:443")), "this relay does not go to 100.64.0.1"),
        (asked(there=Address.parse("198.18.0.1:443")), "this relay does not go to 198.18.0.1"),
    ],
    ids=["none", "by a stranger", "of another cid", "expired", "private", "ours", "cgn", "virtual"],
)
def test_a_relay_refuses_what_it_may_not_pass_on(data: bytes, reason: str) -> None:
    """R-8.8, R-5.7.3: REJECT 1; nothing goes on, nothing is kept."""
    answers = [one for one in at_relay(data) if isinstance(one, SendDatagram)]
    assert [one.data[4] for one in answers] == [Reject.TYPE]
    terms = decode_body(RejectTerms, body_of(answers[0].data, Reject).signed)
    assert (terms.code, terms.reason) == (Code.POLICY, reason)


@pytest.mark.parametrize("there", ["[2600::1]:443", "224.0.1.1:443", "10.2.0.2:443"])
def test_a_relay_goes_nowhere_because_a_record_that_nobody_signed_says_so(there: str) -> None:
    """R-8.8, R-7.6: another family's, many hosts', and what is not configured."""
    header, message = message_of(asked())
    assert isinstance(message, Open)
    hop = Hop(bytes(32), Role.NAT, 60, b"", destination=Address.parse(there))
    effects = at_relay(padded(header, replace(message, hops=(hop,))))
    (answer,) = [one for one in effects if isinstance(one, SendDatagram)]
    assert answer.data[4] == Reject.TYPE


def test_a_relay_goes_to_no_private_address_by_way_of_a_translator() -> None:
    """R-8.8, R-2.6: NAT64 and 6to4 lead to the IPv4 address inside."""
    for text, goes in (
        ("64:ff9b::5db8:d822", True),
        ("64:ff9b::a02:2", False),
        ("2002:a02:2::1", False),
        ("2600::1", True),
        ("ff0e::1", False),
    ):
        assert Relaying().serves(ip_address(text)) is goes


@pytest.mark.parametrize(
    ("there", "targets"),
    [
        ("93.184.216.34:443", ()),
        ("192.168.1.1:443", ("192.168.0.0/16",)),
        ("10.2.0.2:443", ("10.2.0.2/32",)),
    ],
)
def test_a_relay_passes_on_what_was_approved(there: str, targets: tuple[str, ...]) -> None:
    """R-8.8: in its own name, to a global address or one that is configured."""
    target = Address.parse(there)
    (onward,) = at_relay(asked(there=target), *targets)
    assert isinstance(onward, SendDatagram)
    assert onward.destination == target.with_port(4747)
    assert onward.source == RELAY
    (hop,) = hops_of(onward.data)
    assert (hop.role, hop.source) == (3, RELAY.with_port(40000))
    assert hop.destination == target.with_port(4747)


def test_an_approval_holds_for_a_minute_and_no_longer() -> None:
    """R-5.7.3: the clock of the relay counts."""
    for ago_s, kind in ((59, Open.TYPE), (60, Open.TYPE), (61, Reject.TYPE)):
        first = at_relay(asked(ago_s=ago_s))[0]
        assert isinstance(first, SendDatagram)
        assert first.data[4] == kind


# --- circles ---


def test_a_relay_drops_what_it_has_sent_itself() -> None:
    """R-8.5: shown to it again, from anywhere; what only crosses it on its way goes on."""
    relay = make_relay("p", Box(relay=Relaying((APPROVER.public,))))
    (sent,) = relay.handle(DatagramReceived(asked(), HERE.with_port(4747), RELAY), 100.0)
    assert isinstance(sent, SendDatagram)
    for source in (RELAY, HERE.with_port(4747), THERE.with_port(4747)):
        replayed = DatagramReceived(sent.data, source, RELAY)
        assert reasons(relay.handle(replayed, 100.0)) == [DropReason.UNEXPECTED]
    crossing = DatagramReceived(sent.data, RELAY, sent.destination, True, "inside")
    (onward,) = relay.handle(crossing, 100.0)
    assert isinstance(onward, SendDatagram)
    assert [hop.role for hop in hops_of(onward.data)] == [3, 1]


def test_who_is_sent_on_for_ever_gives_up_after_four_times() -> None:
    """R-5.7.1: the fifth REDIRECT is a refusal."""
    world = Star({"c": make_host("c"), "s": make_host("s")})
    server = world.host("s")
    server.answering.approvers, server.answering.home = (STRANGER.public,), world.own["s"]
    cid = world.ask("c", "s", "s")
    opens = [event for name, _, event in world.wire if name == "c"]
    assert len(opens) == 5
    (report,) = world.refusals()
    assert report.code == Code.NO_ROUTE
    assert "goes in circles" in report.reason
    assert world.host("s").connections == {}
    assert cid not in {
        known for known, one in world.host("c").connections.items() if one.state is not State.ENDED
    }


def test_two_firewalls_that_send_to_each_others_relays_end_in_a_refusal() -> None:
    """R-5.7.1: each wants its own; nobody keeps anything."""
    pair = steered()
    second = pair.gates["g2"].context
    second.policy, second.relays = BY_WAY, {"p": (pair.own["s"][0],)}
    pair.c.context.redirectors += (second.key.public,)
    pair.open(3)
    (report,) = pair.seen(ReportRefused, "c")
    assert report.code == Code.NO_ROUTE
    assert pair.kinds("c").count("OPEN") == 5
    assert all(gate.passages == {} for gate in pair.gates.values())
