"""A NAT that takes part finds a host inside by its key, and says what packets show outside.

    client c ---- g1 ---- server s

Here the server is inside, and registers with the client: any host outside would do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from gated import beside
from natted import (
    EVERY,
    WANTED,
    WITH_PORTS,
    both_ends_know_what_packets_show,
    restart,
    wires,
    without_ports,
)
from pair import (
    Pair,
    Sent,
    body_of,
    hops_of,
    make_host,
    message_of,
)
from wayside.core.address import Address, Flow, Transport
from wayside.core.effects import Dropped, ReportRefused
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, OpenRequested
from wayside.core.host import Offered
from wayside.core.identity import PeerIdentity
from wayside.core.messages import Accept, Code, Confirm, Open, encode
from wayside.core.passage import Stage
from wayside.core.rule import Action, Cid

REGISTRATION = Cid(b"registration cid")


def behind_nat(gates: int = 1, **more: object) -> Pair:
    """A server behind NATs, known to them by nothing yet; the client is its rendezvous, too."""
    nats = tuple(f"g{number + 1}" for number in range(gates))
    pair = Pair(gates, inside="s", nats=nats, **more)  # type: ignore[arg-type]
    pair.c.answering.services["location"] = Offered(0)
    return pair


def register(pair: Pair) -> Pair:
    """The server says where it is, out through its NATs."""
    flow = without_ports(pair.own["s"][0], pair.own["c"][0])
    peer = PeerIdentity(pair.c.context.key.public)
    there = pair.own["c"][0]
    pair.tell("s", OpenRequested(REGISTRATION, peer, "location", flow, flow, there))
    return pair.run(0.2)


def asked_at_nat(pair: Pair, seconds: float = 0.5) -> Pair:
    """The client asks for the server's key at the outermost NAT."""
    there, here = pair.outside("g1"), pair.own["c"][0]
    if pair.transport is Transport.NONE:
        flow = without_ports(here, there)
        return pair.open(seconds, wire=flow, local=flow, signaling=there)
    flow = Flow(pair.transport, here.with_port(WANTED), there.with_port(443))
    return pair.open(seconds, wire=flow, local=flow, signaling=there)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("gates", [1, 2])
@pytest.mark.parametrize("transport", EVERY)
def test_a_nat_finds_a_host_inside_by_the_key_that_registered_through_it(
    transport: Transport, gates: int, family: int
) -> None:
    """R-8.7, R-5.2.2: one NAT or two; the client sees the outermost, the server itself."""
    pair = asked_at_nat(register(behind_nat(gates, transport=transport, family=family)))
    assert pair.is_up
    mine, theirs = wires(pair)
    port = 0 if transport is Transport.NONE else 8443
    assert mine.destination == pair.outside("g1").with_port(port)
    assert theirs.source == pair.own["s"][0].with_port(port)
    assert theirs.destination == mine.source
    if port:
        both_ends_know_what_packets_show(pair)
        for name in pair.gates:
            assert {rule.action for rule in pair.kernel[name].values()} == {Action.REWRITE}


def test_each_nat_adds_the_address_that_packets_have_on_its_outside() -> None:
    """R-8.7, R-5.3: innermost first, in ACCEPT, and again in CONFIRM."""
    pair = asked_at_nat(register(behind_nat(2)).run(1))
    accept = body_of(pair.last(Accept, "g1").data, Accept)
    assert accept.returned == (
        pair.outside("g2").with_port(8443),
        pair.outside("g1").with_port(8443),
    )
    assert body_of(pair.last(Accept, "g2").data, Accept).returned == accept.returned[:1]
    assert body_of(pair.last(Confirm, "c").data, Confirm).returned == accept.returned
    first, second = hops_of(pair.last(Open, "g2").data)
    assert (first.role, first.source, first.destination) == (2, None, pair.outside("g2"))
    assert (second.role, second.source, second.destination) == (2, None, pair.own["s"][0])


def test_nobody_inside_is_found_before_it_registers_or_after_it_left() -> None:
    """R-8.7, R-5.6: REJECT 8; a registration is a connection, and ends with it."""
    pair = asked_at_nat(behind_nat())
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_ROUTE]
    pair.cid = Cid(b"the second cid 1")
    assert asked_at_nat(register(pair)).is_up
    pair.close()
    pair.tell("s", CloseRequested(REGISTRATION, "moving away"))
    pair.run(20)
    pair.cid = Cid(b"the third cid 16")
    asked_at_nat(pair)
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_ROUTE] * 2
    assert pair.gates["g1"].table._inside == {}


def test_who_left_is_not_found_from_the_moment_of_its_close() -> None:
    """R-8.7, R-5.9.2: not only when the gate has forgotten it."""
    pair = register(behind_nat())
    pair.tell("s", CloseRequested(REGISTRATION, "moving away"))
    pair.run(0.2)
    asked_at_nat(pair)
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_ROUTE]


def test_a_registration_that_is_not_confirmed_registers_nobody() -> None:
    """R-8.7, R-5.3.3: the rendezvous answered, but the host never showed that it is there."""
    pair = behind_nat()
    pair.lose[Confirm] = 100
    register(pair)
    assert pair.gates["g1"].table._inside == {}


def test_only_the_inside_registers_and_only_for_location() -> None:
    """R-8.7: neither a connection for something else, nor a host outside."""
    pair = Pair(1, nats=("g1",)).open(0.5)
    assert pair.is_up
    assert pair.gates["g1"].table._inside == {}
    outside = Pair(1, nats=("g1",), inside="s")
    outside.s.answering.services["location"] = Offered(0)
    nat = outside.gates["g1"].context.box.nat
    assert nat is not None
    nat.known[outside.s.context.key.public] = outside.own["s"][0]
    flow = without_ports(outside.own["c"][0], outside.outside())
    outside.open(0.5, service="location", wire=flow, local=flow, signaling=outside.outside())
    assert outside.is_up
    assert outside.gates["g1"].table._inside == {}


@pytest.mark.parametrize("transport", WITH_PORTS)
def test_a_connection_with_packets_registers_nobody(transport: Transport) -> None:
    """R-8.7: whatever its service is called; only one of transport 0 does."""
    pair = behind_nat()
    pair.c.answering.services["location"] = Offered(7000)
    here, there = pair.own["s"][0], pair.own["c"][0]
    flow = Flow(transport, here.with_port(WANTED), there.with_port(7000))
    peer = PeerIdentity(pair.c.context.key.public)
    pair.tell("s", OpenRequested(REGISTRATION, peer, "location", flow, flow, there))
    pair.run(0.5)
    table = pair.gates["g1"].table
    assert table.by_cid[REGISTRATION].stage is Stage.LIVE
    assert (table._inside, table._hidden) == ({}, {})
    asked_at_nat(pair)
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_ROUTE]


@pytest.mark.parametrize("transport", EVERY)
def test_a_host_can_be_known_by_configuration(transport: Transport) -> None:
    """R-8.7."""
    pair = behind_nat(transport=transport)
    nat = pair.gates["g1"].context.box.nat
    assert nat is not None
    nat.known[pair.s.context.key.public] = pair.own["s"][0]
    assert asked_at_nat(pair).is_up


def test_the_inside_does_not_ask_a_nat_itself() -> None:
    """R-8.7: REJECT 8; it finds who is outside, not who is beside it, registered or not."""
    pair = Pair(1, nats=("g1",))
    nat = pair.gates["g1"].context.box.nat
    assert nat is not None
    nat.known[pair.s.context.key.public] = pair.own["s"][0]
    asked_at_nat(pair)
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_ROUTE]
    assert pair.gates["g1"].passages == {}


@pytest.mark.parametrize("gates", [1, 2])
def test_two_hosts_inside_with_one_port_are_told_apart_by_another_port_outside(gates: int) -> None:
    """R-8.7: one client's port, two servers: the second flow would be the first's."""
    pair = behind_nat(gates)
    other = beside(pair, "d", server=make_host("t"))
    other.own["c"] = pair.own["c"]
    nearby = Address.parse(f"10.{gates + 1}.0.3:4747")
    other.own["s"] = (nearby, nearby)
    for one in (pair, other):
        key = one.s.context.key.public
        for name, inner in zip(pair.gates, [*list(pair.gates)[1:], "s"], strict=True):
            nat = pair.gates[name].context.box.nat
            assert nat is not None
            nat.known[key] = one.own["s"][0] if inner == "s" else one.outside(inner)
        assert asked_at_nat(one).is_up
    first, second = (one.connection("c").agreement.wire.destination for one in (pair, other))
    assert first == pair.outside("g1").with_port(8443)
    assert second.ip == first.ip
    assert second.port != first.port
    both_ends_know_what_packets_show(pair)
    both_ends_know_what_packets_show(other)


def test_a_refresh_through_a_nat_inwards_keeps_its_rules() -> None:
    """R-5.4.4, R-8.7: nothing moves."""
    pair = asked_at_nat(register(behind_nat(2)))
    before = {name: set(pair.kernel[name]) for name in pair.gates}
    pair.run(100)
    assert pair.is_up
    assert pair.passage("g1").seqs.last[0] >= 4
    assert {name: set(pair.kernel[name]) for name in pair.gates} == before
    assert pair.passage("g1").moving is pair.passage("g2").moving is None
    both_ends_know_what_packets_show(pair)


@pytest.mark.parametrize("end", ["c", "s"])
@pytest.mark.parametrize("gates", [1, 2])
def test_a_close_by_either_end_removes_what_a_nat_let_in(end: str, gates: int) -> None:
    """R-5.9.2."""
    pair = asked_at_nat(register(behind_nat(gates)))
    assert pair.is_up
    pair.close(end)
    assert pair.ended("c")
    assert pair.ended("s")
    assert all(pair.kernel[name] == {} for name in pair.gates)


def test_a_restarted_nat_reads_back_what_it_let_in_but_not_who_is_inside() -> None:
    """R-6.5: a registration has no rule; its refresh brings it back."""
    pair = asked_at_nat(register(behind_nat()))
    crossing = pair.passage().crossing
    restart(pair, rules=True)
    assert pair.passage().crossing == crossing
    both_ends_know_what_packets_show(pair)
    established, pair.cid = pair.cid, Cid(b"the second cid 1")
    asked_at_nat(pair)
    assert [report.code for report in pair.seen(ReportRefused, "c")] == [Code.NO_ROUTE]
    pair.run(100)
    assert pair.gates["g1"].passages[established].stage is Stage.LIVE
    pair.cid = Cid(b"the third cid 16")
    flow = Flow(
        Transport.TCP, pair.own["c"][0].with_port(WANTED + 1), pair.outside().with_port(443)
    )
    pair.open(0.5, wire=flow, local=flow, signaling=pair.outside())
    assert pair.is_up


# --- a box that lies about `returned` ---


def lying(kinds: tuple[type, ...], change: Callable[[Address], Address]) -> Pair:
    """A box between the client and the NAT changes what ACCEPT, or CONFIRM, brings back."""
    pair = register(behind_nat())

    def lie(sent: Sent, to: str) -> bytes:
        header, message = message_of(sent.data)
        if sent.kind not in kinds or not isinstance(message, Accept | Confirm):
            return sent.data
        if {sent.node, to} != {"c", "g1"} or not message.returned:
            return sent.data
        new = tuple(change(address) for address in message.returned)
        return encode(header, replace(message, returned=new))

    pair.change = lie
    return asked_at_nat(pair, 4)


def other_port(address: Address) -> Address:
    """9999 for 8443, and back."""
    return address.with_port({8443: 9999, 9999: 8443}[address.port])


@pytest.mark.parametrize(("kinds", "by"), [((Confirm,), "g1"), ((Accept, Confirm), "s")])
def test_a_returned_address_that_both_ends_do_not_see_alike_is_found_out(
    kinds: tuple[type, ...], by: str
) -> None:
    """R-5.3, R-8.4: the NAT knows what it said, and `seen` covers it; nobody sends there."""
    pair = lying(kinds, other_port)
    assert DropReason.STALE in {effect.reason for effect in pair.seen(Dropped, by)}
    assert not pair.is_up
    assert pair.connection("s").state.name != "CONNECTED"


def test_a_returned_address_that_only_the_nat_can_tell_is_false_is_found_out() -> None:
    """R-5.3, R-8.7: CONFIRM brings it to the NAT, which knows what it said."""
    pair = lying((Accept,), other_port)
    assert pair.passage().stage is not Stage.LIVE
    assert not pair.is_up


def test_an_initiator_believes_no_returned_address_but_the_one_it_asks() -> None:
    """R-5.2.2: packets go where the OPEN went."""
    pair = lying((Accept,), lambda address: Address.parse("10.9.9.9:8443"))
    assert DropReason.ADDRESS in {effect.reason for effect in pair.seen(Dropped, "c")}
    assert "c:CONFIRM" not in pair.kinds()
