"""An end that moves while a NAT stands between: both ends still know what packets show.

client c ---- g1 ---- server s        (the NAT's inside is the client's side, or the server's)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.test_moves import move
from gated import beside
from natted import WANTED, both_ends_know_what_packets_show, restart, wires
from pair import STRANGER, Pair, body_of, hops_of, make_open, snapshot
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import decode_body
from wayside.core.effects import SendDatagram
from wayside.core.messages import Accept, Code, Confirm, Message, Open, Reject, RejectTerms

World = Callable[..., Pair]
TRANSPORTS = pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
FAMILIES = pytest.mark.parametrize("family", [4, 6])
MOVERS = pytest.mark.parametrize("mover", ["c", "s"])


def outwards(**more: object) -> Pair:
    """The client is inside."""
    return Pair(1, nats=("g1",), **more).open(0.5)  # type: ignore[arg-type]


def inwards(**more: object) -> Pair:
    """The server is inside, and asked for at the NAT's own address."""
    pair = Pair(1, nats=("g1",), inside="s", **more)  # type: ignore[arg-type]
    nat = pair.gates["g1"].context.box.nat
    assert nat is not None
    nat.known[pair.s.context.key.public] = pair.own["s"][0]
    there = pair.outside()
    wire = Flow(pair.transport, pair.own["c"][0].with_port(WANTED), there.with_port(443))
    local = pair.request().local
    return pair.open(0.5, wire=wire, local=local, signaling=there)


WORLDS = pytest.mark.parametrize("world", [outwards, inwards])


@WORLDS
@TRANSPORTS
@FAMILIES
@MOVERS
def test_either_end_moves_and_the_nat_rewrites_for_where_it_is_now(
    world: World, mover: str, family: int, transport: Transport
) -> None:
    """R-5.4.5, R-8.7: the end behind the NAT, or the one outside that asks the NAT itself."""
    pair = world(family=family, transport=transport)
    both_ends_know_what_packets_show(pair)
    locals_ = [pair.connection(node).agreement.local for node in "cs"]
    old = set(pair.kernel["g1"])
    new = move(pair, mover)
    pair.run(1)
    assert pair.is_up
    assert pair.connection(mover).agreement.wire.source.ip == new
    both_ends_know_what_packets_show(pair)
    assert [pair.connection(node).agreement.local for node in "cs"] == locals_
    assert len(pair.kernel["g1"]) == 2
    assert len(old & set(pair.kernel["g1"])) <= 1
    pair.run(300)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)
    pair.close("s")
    assert all(pair.kernel[node] == {} for node in pair.order)
    pair.run(30)
    table = pair.gates["g1"].table
    assert (table.by_cid, table._by_flow, table._lent, table._quota._total) == ({}, {}, {}, 0)


@pytest.mark.parametrize(("world", "mover"), [(outwards, "s"), (inwards, "c")])
def test_an_open_to_the_nats_own_address_finds_its_connection_by_the_cid(
    world: World, mover: str
) -> None:
    """R-5.4.5: the NAT is asked itself, and sends it on to the end behind it."""
    pair = world()
    inner = "c" if mover == "s" else "s"
    move(pair, mover)
    pair.run(1)
    asked, onward = pair.last(Open, mover), pair.last(Open, "g1")
    assert asked.destination == pair.outside()
    assert onward.destination == pair.own[inner][0]
    assert [hop.role for hop in hops_of(onward.data)] == [2]
    assert pair.is_up


@pytest.mark.parametrize(("world", "mover"), [(outwards, "s"), (inwards, "c")])
def test_a_nat_sends_nobody_on_by_a_cid_alone(world: World, mover: str) -> None:
    """R-5.4.5: the OPEN is that of the two keys, signed, from where it says; else it is no move."""
    pair = world()
    before, rules = pair.passage().crossing, dict(pair.kernel["g1"])
    source = pair.own[mover][0].with_port(4000)
    inner = pair.c if mover == "s" else pair.s
    seq = 1 if mover == "s" else 2
    data = make_open(
        STRANGER,
        inner.context.key.public,
        source,
        pair.outside().with_port(443),
        cid=pair.cid,
        seq=seq,
    )
    pair.inject("g1", data, source.with_port(4747), pair.outside())
    pair.run(1)
    assert (pair.passage().crossing, pair.kernel["g1"]) == (before, rules)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)


@WORLDS
@MOVERS
@pytest.mark.parametrize("kind", [Open, Accept, Confirm])
def test_a_lost_message_of_a_move_through_a_nat_is_said_again(
    world: World, mover: str, kind: type[Message]
) -> None:
    """R-5.1.7, R-5.2.3."""
    pair = world()
    pair.lose[kind] = 1
    move(pair, mover)
    pair.run(3)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)


@WORLDS
def test_ends_on_both_sides_of_a_nat_move_in_turn_ten_times(world: World) -> None:
    """R-5.4.6, R-8.7: nothing heaps up, at the NAT neither."""
    pair = world()
    for number in range(10):
        for node, net in (("c", 77), ("s", 78)):
            move(pair, node, f"10.{net}.{number}.2")
            pair.run(1)
            assert pair.is_up
            both_ends_know_what_packets_show(pair)
    table = pair.gates["g1"].table
    lent = 1 if world is outwards else 0  # only what rewrites the source takes one
    assert (len(table._by_flow), len(table._lent), table._quota._total) == (2, lent, 1)
    assert set(pair.kernel["g1"]) == set(table._by_flow)


@WORLDS
@MOVERS
def test_a_restarted_nat_lets_an_end_move(world: World, mover: str) -> None:
    """R-6.5, R-5.4.5: it reads the connection back from its kernel's rules."""
    pair = world()
    restart(pair, rules=True)
    pair.run(1)
    move(pair, mover)
    pair.run(1)
    assert pair.is_up
    both_ends_know_what_packets_show(pair)
    assert len(pair.kernel["g1"]) == 2


def test_a_host_inside_that_moves_to_where_another_had_its_port_gets_another_outside() -> None:
    """R-8.7: what is lent to a live connection is not lent again by a move."""
    pair = outwards()
    other = beside(pair, "d").open(0.5)
    assert other.is_up
    first = wires(pair)[1].destination
    move(pair, "c")
    pair.run(1)
    assert pair.is_up
    assert wires(pair)[1].destination != wires(other)[1].destination
    assert wires(pair)[1].destination.ip == first.ip
    both_ends_know_what_packets_show(pair)
    both_ends_know_what_packets_show(other)


def test_an_open_to_a_nat_from_where_it_does_not_say_is_refused() -> None:
    """R-5.1.6: also with the cid and keys of a connection through it; nothing moves."""
    pair = outwards()
    pair.hold.add(Open)
    move(pair, "s")
    ((_, event),) = pair.held
    before, rules = snapshot(pair.gates["g1"]), dict(pair.kernel["g1"])
    elsewhere = Address.parse("10.99.0.2:4747")
    answer, _ = pair.inject("g1", event.data, elsewhere, pair.outside())
    assert isinstance(answer, SendDatagram)
    assert answer.destination == elsewhere
    terms = decode_body(RejectTerms, body_of(answer.data, Reject).signed)
    assert terms.code == Code.BAD_ADDRESS
    assert (snapshot(pair.gates["g1"]), pair.kernel["g1"]) == (before, rules)
