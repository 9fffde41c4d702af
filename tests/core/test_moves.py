"""An end that moves: it says so from its new address, and both go on with the same connection.

client c ---- g1 ---- g2 ---- server s
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pair import Pair, Sent, make_host, message_of, reasons, snapshot
from wayside.core.address import IP, Address, Flow, Transport
from wayside.core.effects import ChangeRules, Dropped
from wayside.core.ends import Initiator, Responder
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, SourcesChanged
from wayside.core.messages import Accept, Confirm, Message, Open, padded

NEW = {4: {"c": "10.77.0.2", "s": "10.78.0.2"}, 6: {"c": "fd00:77::2", "s": "fd00:78::2"}}


def move(pair: Pair, node: str, to: str | None = None) -> IP:
    """Give a host another address, and let it know."""
    old = pair.own[node][0]
    new = Address.parse(to or NEW[old.family][node]).with_port(4747)
    pair.own[node] = (new, new)
    other = pair.connection(node).agreement.wire.destination.ip
    pair.tell(node, SourcesChanged({other: new.ip}))
    return new.ip


def agree(pair: Pair) -> None:
    """Both ends and all gates have one and the same view of where packets go."""
    ours, theirs = pair.connection("c").agreement, pair.connection("s").agreement
    assert ours.wire == theirs.wire.reversed()
    for name in pair.gates:
        assert pair.passage(name).crossing.near in (ours.wire, theirs.wire)
        assert set(pair.kernel[name]) == {ours.wire, theirs.wire}
    for node, about in (("c", ours), ("s", theirs)):
        assert pair.kernel[node][about.local].rewrite == about.wire
        assert pair.kernel[node][about.wire.reversed()].rewrite == about.local.reversed()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("gates", [0, 1, 2])
@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
@pytest.mark.parametrize("mover", ["c", "s"])
def test_a_connection_goes_on_from_the_new_address_of_either_end(
    mover: str, transport: Transport, gates: int, family: int
) -> None:
    """R-5.4.5, R-5.4.6: the sockets' own 5-tuples do not change."""
    pair = Pair(gates, family=family, transport=transport).open()
    locals_ = [pair.connection(node).agreement.local for node in "cs"]
    before = pair.connection(mover).agreement.wire
    new = move(pair, mover)
    pair.run(0.5)
    assert pair.is_up
    wire = pair.connection(mover).agreement.wire
    assert wire == Flow(transport, Address(new, before.source.port), before.destination)
    assert [pair.connection(node).agreement.local for node in "cs"] == locals_
    pair.run(300)
    agree(pair)
    pair.close("s")
    assert all(pair.kernel[node] == {} for node in pair.order)


@pytest.mark.parametrize("kind", [Open, Accept, Confirm])
@pytest.mark.parametrize("mover", ["c", "s"])
@pytest.mark.parametrize("gates", [0, 1])
def test_a_lost_message_of_a_move_is_said_again(
    gates: int, mover: str, kind: type[Message]
) -> None:
    """R-5.1.7, R-5.2.3."""
    pair = Pair(gates).open()
    pair.lose[kind] = 1
    move(pair, mover)
    pair.run(3)
    assert pair.is_up
    wires = [pair.connection(node).agreement.wire for node in "cs"]
    assert wires[0] == wires[1].reversed()


@pytest.mark.parametrize("mover", ["c", "s"])
def test_the_other_end_goes_on_talking_to_the_old_address_until_the_new_one_is_proved(
    mover: str,
) -> None:
    """R-5.4.6, R-7.5: an OPEN alone moves nothing."""
    pair = Pair(1).open()
    other = "s" if mover == "c" else "c"
    before = pair.connection(other).agreement
    out = pair.kernel[other][before.local]
    pair.hold.add(Confirm)
    move(pair, mover)
    pair.run(1)
    assert pair.connection(other).agreement == before
    assert pair.kernel[other][before.local] == out
    pair.release()
    pair.run(1)
    assert pair.connection(other).agreement.wire != before.wire


@pytest.mark.parametrize("mover", ["c", "s"])
def test_who_does_not_have_the_key_moves_nobody(mover: str) -> None:
    """R-5.4.2: the OPEN of a move without its mac, or with another, is dropped."""
    pair = Pair().open()
    other = "s" if mover == "c" else "c"
    pair.hold.add(Open)
    new = move(pair, mover)
    ((_, event),) = pair.held
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    before = pair.connection(other).agreement
    for mac in (b"", bytes(16)):
        forged = padded(header, replace(message, mac=mac))
        dropped = reasons(pair.inject(other, forged, Address(new, 4747)))
        assert dropped == [DropReason.STALE]
    assert pair.connection(other).agreement == before


def test_ten_moves_of_both_ends_in_turn_leave_what_one_connection_needs() -> None:
    """R-5.4.6: nothing heaps up."""
    pair = Pair(1).open()
    for number in range(10):
        move(pair, "c", f"10.77.{number}.2")
        pair.run(1)
        move(pair, "s", f"10.78.{number}.2")
        pair.run(1)
        assert pair.is_up
    pair.run(300)
    agree(pair)


@pytest.mark.parametrize("gates", [0, 1, 2])
@pytest.mark.parametrize("first", ["c", "s"])
@pytest.mark.parametrize("kind", [Open, Accept, Confirm])
def test_a_move_while_a_refresh_is_under_way_counts(
    gates: int, first: str, kind: type[Message]
) -> None:
    """R-5.4.6, R-5.4.1: whichever message of the refresh comes only after the move."""
    pair = Pair(gates).open()
    pair.hold.add(kind)
    pair.run(39.05)
    assert pair.held
    move(pair, first)
    pair.run(0.5)
    pair.release()
    pair.run(2)
    assert pair.is_up
    ours, theirs = (pair.connection(node).agreement.wire for node in "cs")
    assert ours == theirs.reversed()
    assert pair.connection(first).agreement.wire.source.ip == pair.own[first][0].ip
    pair.run(300)
    assert pair.is_up
    agree(pair)


@pytest.mark.parametrize("mover", ["c", "s"])
def test_rules_that_stay_are_not_made_anew(mover: str) -> None:
    """R-6.2: the refresh after a move takes the old ways away; the others go on counting."""
    pair = Pair().open()
    move(pair, mover)
    pair.run(1)
    before = len(pair.effects)
    pair.run(45)
    changes = [one for _, one in pair.effects[before:] if isinstance(one, ChangeRules)]
    assert [bool(one.remove) for one in changes] == [True, True]
    assert [one.put for one in changes] == [(), ()]
    agree(pair)


@pytest.mark.parametrize("gates", [0, 1, 2])
def test_a_refresh_of_the_one_and_a_move_of_the_other_cross_each_other(gates: int) -> None:
    """R-5.4.5: seqs of the one do not make those of the other old."""
    pair = Pair(gates).open()
    pair.hold.add(Open)
    pair.run(39.05)
    move(pair, "s")
    assert [message_of(event.data)[0].seq % 2 for _, event in pair.held] == [0, 1]
    pair.release()
    pair.run(5)
    assert pair.is_up
    pair.run(300)
    assert pair.is_up
    agree(pair)


def questions(gates: int) -> tuple[Pair, list[int]]:
    """Both ends have asked at once, for the third time; the seqs that they chose."""
    pair = Pair(gates).open()
    for node in "cs":
        ask_again(pair, node)
        pair.run(0.5)
    pair.hold.add(Open)
    for node in "cs":
        ask_again(pair, node)
    seqs = [message_of(event.data)[0].seq for _, event in pair.held]
    pair.release()
    pair.run(0.5)
    return pair, seqs


@pytest.mark.parametrize("gates", [0, 1, 2])
def test_two_questions_are_answered_at_once(gates: int) -> None:
    """R-5.4.5, R-5.4.3: 4 of the initiator and 5 of the responder, both about where they are."""
    pair, asked = questions(gates)
    assert asked == [4, 5]
    assert pair.is_up
    for node in "cs":
        assert sorted(pair.connection(node).keys.by_seq) == asked
    for name in pair.gates:
        assert pair.passage(name).seqs.confirmed == asked
    pair.run(300)
    assert pair.is_up
    agree(pair)


@pytest.mark.parametrize("gates", [0, 1, 2])
@pytest.mark.parametrize("end", ["c", "s"])
def test_after_two_questions_at_once_a_close_shows_its_tokens(end: str, gates: int) -> None:
    """R-5.9, R-8.2: hops are those of the ACCEPT with its seq, or gates drop it."""
    pair, _ = questions(gates)
    pair.close(end)
    assert pair.kinds().count("CLOSE") == 2 * (gates + 1)
    assert all(pair.kernel[node] == {} for node in pair.order)
    assert not pair.seen(Dropped)


def ask_again(pair: Pair, node: str) -> None:
    """An end refreshes now: its own question, about where it is."""
    connection = pair.connection(node)
    assert isinstance(connection, Initiator | Responder)
    for effect in connection.refresh(pair.now):
        pair._perform(node, effect)


@pytest.mark.parametrize("mover", ["c", "s"])
def test_who_asks_under_the_key_of_an_accept_has_confirmed_it(mover: str) -> None:
    """R-5.4.3: its CONFIRM was lost, so the other end would go on talking to the old address."""
    pair = Pair().open()
    other = "s" if mover == "c" else "c"
    pair.lose[Confirm] = 100
    new = move(pair, mover)
    pair.run(0.1)
    before = pair.connection(other).agreement.wire
    assert before.destination.ip != new
    ask_again(pair, mover)
    pair.run(0.05)
    about = pair.connection(other).agreement
    assert about.wire.destination == Address(new, before.destination.port)
    assert pair.kernel[other][about.local].rewrite == about.wire
    pair.lose[Confirm] = 0
    pair.run(300)
    assert pair.is_up
    agree(pair)


@pytest.mark.parametrize("mover", ["c", "s"])
@pytest.mark.parametrize("gates", [0, 1])
def test_a_replay_of_an_old_move_moves_nobody_back(gates: int, mover: str) -> None:
    """R-5.4.2, R-5.3.2, R-7.6: its OPEN and its CONFIRM, after the next move."""
    pair = Pair(gates).open()
    said: list[Sent] = []
    for number in range(3):
        old, begun = pair.own[mover][0], len(pair.wire)
        move(pair, mover, f"10.77.{number}.2")
        pair.run(1)
        said += [one for one in pair.wire[begun:] if one.kind in (Open, Confirm)]
        assert pair.own[mover][0] != old
    other = "s" if mover == "c" else "c"
    late = [one for one in said if one.source.ip != pair.own[mover][0].ip]
    assert len({one.source.ip for one in late}) == 2
    for one in late:
        name = other if one.node.startswith("g") or not gates else "g1"
        before = {node: snapshot(pair.nodes[node]) for node in pair.order}
        rules = {node: dict(pair.kernel[node]) for node in pair.order}
        to = one.destination
        effects = pair.tell(
            name,
            DatagramReceived(
                one.data,
                one.source,
                to,
                to not in pair.own[name],
                "inside" if mover == "c" else "outside",
            ),
        )
        assert len(effects) == 1
        assert reasons(effects)[:1] in ([DropReason.STALE], [])
        assert {node: snapshot(pair.nodes[node]) for node in pair.order} == before
        assert pair.kernel == rules
    pair.run(1)
    assert pair.is_up
    agree(pair)


def test_a_move_is_not_taken_for_a_new_connection_by_who_has_forgotten_the_old() -> None:
    """R-5.1.1: of a responder's kind of seq, an OPEN for an unknown cid is dropped."""
    pair = Pair().open()
    pair.hold.add(Open)
    new = move(pair, "s")
    ((_, event),) = pair.held
    pair.hold.clear()
    pair.c.connections.clear()
    assert reasons(pair.inject("c", event.data, Address(new, 4747))) == [DropReason.UNKNOWN]


def test_a_gate_that_forgets_a_connection_takes_the_rules_of_its_move_away() -> None:
    """R-6.4: its own have run out; the pending ones of a move that nobody confirmed have not."""
    pair = Pair(1, client=make_host("c", lifetime_s=20.0)).open()
    pair.hold.add(Open)
    pair.run(13)
    pair.hold.clear()
    pair.lose[Confirm] = 100
    new = move(pair, "c")
    pair.run(4)
    table = pair.gates["g1"].table
    assert any(flow.source.ip == new for flow in pair.kernel["g1"])
    pair.hold.add(Open)
    pair.run(4)
    assert (table.by_cid, table._by_flow) == ({}, {})
    assert not any(flow.source.ip == new for flow in pair.kernel["g1"])


@pytest.mark.parametrize("gates", [0, 1, 2])
@pytest.mark.parametrize("lost", [Open, Accept, Confirm])
def test_who_moves_while_it_asks_is_answered_where_it_is(lost: type[Message], gates: int) -> None:
    """R-5.4.6: its first OPEN went unanswered, and the answer would come to where it was."""
    pair = Pair(gates)
    pair.lose[lost] = 1
    pair.tell("c", pair.request())
    pair.run(0.1)
    new = move(pair, "c")
    pair.run(3)
    assert pair.is_up
    wire = pair.connection("c").agreement.wire
    assert wire.source.ip == new
    agree(pair)
    pair.close("s")
    assert all(pair.kernel[node] == {} for node in pair.order)


@pytest.mark.parametrize("gates", [0, 1])
def test_a_move_to_where_lifetimes_are_shorter_is_refreshed_in_time(gates: int) -> None:
    """R-5.4, R-5.4.1: the initiator refreshes by what was agreed last, whoever asked."""
    pair = Pair(gates).open()
    pair.s.context.lifetime_s = 12.0
    move(pair, "s")
    pair.run(1)
    assert pair.connection("c").lifetime_s == 12
    pair.run(100)
    assert pair.is_up
    agree(pair)


def test_who_moves_while_it_asks_waits_no_longer_for_that() -> None:
    """R-5.1.7: 5 s in all, wherever it is."""
    pair = Pair()
    pair.hold.add(Open)
    pair.tell("c", pair.request())
    pair.run(4)
    move(pair, "c")
    pair.run(1.1)
    assert pair.ended("c")


@pytest.mark.parametrize("mover", ["c", "s"])
def test_an_end_whose_sockets_see_the_wires_own_addresses_stays(mover: str) -> None:
    """R-5.4.6, R-6.2: it cannot rewrite, so nothing is said."""
    pair = Pair(client=make_host("c", virtual=False), server=make_host("s", virtual=False)).open()
    said = len(pair.wire)
    move(pair, mover)
    assert len(pair.wire) == said


@pytest.mark.parametrize("mover", ["c", "s"])
def test_an_end_that_comes_back_before_anybody_answered_is_where_it_was(mover: str) -> None:
    """R-5.4.6: away and back; the other end has not moved, nor does it later."""
    pair = Pair(1).open()
    old = str(pair.own[mover][0].ip)
    before = pair.connection(mover).agreement.wire
    pair.lose[Open] = 1
    move(pair, mover)
    pair.run(0.1)
    move(pair, mover, old)
    pair.run(200)
    assert pair.is_up
    assert pair.connection(mover).agreement.wire == before
    agree(pair)


@pytest.mark.parametrize("gates", [0, 1])
@pytest.mark.parametrize("mover", ["c", "s"])
def test_a_mover_whom_nobody_hears_asks_again_until_somebody_does(mover: str, gates: int) -> None:
    """R-5.4.6: after 5 s with a higher seq of its own kind."""
    pair = Pair(gates).open()
    pair.hold.add(Open)
    move(pair, mover)
    pair.run(12)
    seqs = {message_of(one.data)[0].seq for one in pair.wire if one.kind is Open} - {0}
    assert len(seqs) == 3
    assert {seq % 2 for seq in seqs} == {0 if mover == "c" else 1}
    pair.held.clear()
    pair.release()
    pair.run(6)
    assert pair.is_up
    assert pair.connection("s").agreement.wire == pair.connection("c").agreement.wire.reversed()


def test_a_subflow_of_mptcp_stays_on_its_path_while_its_end_has_that_address() -> None:
    """R-2.5: it moves when the address is gone, as anything else does at once."""
    pair = Pair(1, transport=Transport.MPTCP).open()
    here, new = pair.own["c"][0], Address.parse(NEW[4]["c"]).with_port(4747)
    wire = pair.connection("c").agreement.wire
    elsewhere = {wire.destination.ip: new.ip}
    assert pair.tell("c", SourcesChanged(elsewhere, (new, here))) == []
    assert pair.connection("c").agreement.wire == wire
    pair.own["c"] = (new, new)
    assert pair.tell("c", SourcesChanged(elsewhere, (new,))) != []
    pair.run(0.5)
    assert pair.is_up
    assert pair.connection("c").agreement.wire.source.ip == new.ip
