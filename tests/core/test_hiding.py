"""A hidden host moves: in which order rules change, at the host and at who hides it.

A kernel answers what no rule of its own fits with a reset. So it must never see such a packet.
"""

from __future__ import annotations

from itertools import groupby

import pytest

from star import ADDRESSES, STEER, Star, carried, star
from wayside.core.address import Address, Transport
from wayside.core.connection import State
from wayside.core.constants import PENDING_S
from wayside.core.effects import ChangeRules, Effect, SendDatagram
from wayside.core.events import CloseRequested, DataAnswered
from wayside.core.host import Offered
from wayside.core.messages import MESSAGES, Accept, Confirm, Message, Open
from wayside.core.rule import Cid


def sent_then(effect: Effect) -> list[type[Message]]:
    """What is said when the kernel has taken a change of rules."""
    then = effect.then if isinstance(effect, ChangeRules) else ()
    return [MESSAGES[datagram.data[4]] for datagram in then]


def changes(world: Star, name: str, since: int) -> list[ChangeRules]:
    told = world.effects[since:]
    return [one for node, one in told if node == name and isinstance(one, ChangeRules)]


def moved_quietly(world: Star, address: str = "10.9.9.9") -> int:
    """The host moves, and its CONFIRM is lost; how many effects there were before."""
    begun = len(world.effects)
    world.lose.add(Confirm)
    world.move("s", address)
    world.run(0.1)
    return begun


def offered(world: Star) -> Cid:
    """A hidden host has agreed to a connection, but the CONFIRM was lost."""
    world.lose.add(Confirm)
    cid = world.ask("c", "s", "r")
    world.lose.clear()
    assert world.connection("s", cid).state is State.OFFERED
    return cid


def lets_in_at(world: Star) -> set[str]:
    """The addresses of the host that its kernel takes packets in at."""
    return {str(match.destination.ip) for match in world.kernel["s"]}


def test_no_kernel_meets_a_packet_of_a_hidden_host_that_none_of_its_rules_fits() -> None:
    """R-10.5: it is taken in before ACCEPT, the host changes before CONFIRM, then it is sent to."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    ours = world.connection("c", cid).agreement.wire
    old = world.connection("s", cid).agreement.wire
    begun = moved_quietly(world)
    wire = world.connection("s", cid).agreement.wire
    assert str(wire.source.ip) == "10.9.9.9"
    told = [(node, one) for node, one in world.effects[begun:] if node in "rs"]
    names = [(node, type(one), getattr(one, "cid", None)) for node, one in told]
    accepts = [
        at
        for at, (node, one) in enumerate(told)
        if node == "r" and isinstance(one, SendDatagram) and one.data[4] == Accept.TYPE
    ]
    confirms = [
        at for at, (node, one) in enumerate(told) if node == "s" and Confirm in sent_then(one)
    ]
    admitted, switched = names.index(("r", ChangeRules, cid)), names.index(("s", ChangeRules, cid))
    assert admitted < accepts[0] < switched < confirms[0]
    (admits,) = changes(world, "r", begun)
    assert {rule.match: rule.rewrite for rule in admits.put} == {wire: ours.reversed()}
    assert admits.remove == ()
    assert {(rule.lifetime_s, rule.renewed_by_packets) for rule in admits.put} == {
        (PENDING_S, False)
    }
    assert world.kernel["r"][ours].rewrite == old.reversed()  # until CONFIRM
    world.lose.clear()
    world.run(5)
    assert carried(world, cid)
    assert set(world.kernel["r"]) == {ours, wire}
    assert all(rule.renewed_by_packets for rule in world.kernel["r"].values())


def test_all_connections_of_a_hidden_host_are_changed_side_by_side() -> None:
    """R-10.5: at the host and at the rendezvous, so that each kernel takes one transaction."""
    world = star(STEER)
    cids = [world.ask("c", "s", "r", cid=number) for number in (1, 2, 3)]
    begun = len(world.effects)
    world.move("s", "10.9.9.9")
    world.run(1)
    for node, times in (("s", 1), ("r", 2)):
        told = [one for name, one in world.effects[begun:] if name == node]
        runs = [
            list(run)
            for is_change, run in groupby(told, lambda one: isinstance(one, ChangeRules))
            if is_change
        ]
        ours = [run for run in runs if run[0].cid in cids]  # type: ignore[union-attr]
        assert [[one.cid for one in run[:3]] for run in ours] == [cids] * times  # type: ignore[union-attr]
    assert all(carried(world, cid) for cid in cids)


def test_a_hidden_host_asks_nobody_but_its_rendezvous_when_it_moves() -> None:
    """R-10.5: its connections go on from where it is without an OPEN of theirs."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    begun = len(world.wire)
    world.move("s", "10.9.9.9")
    world.run(1)
    assert carried(world, cid)
    said = [event.data for name, _, event in world.wire[begun:] if name == "s"]
    assert [data[16:32] for data in said if data[4] == Open.TYPE] == [bytes([200]) * 16]


def test_what_a_hidden_host_has_offered_moves_with_it() -> None:
    """R-10.5: packets come in where it was asked and where it is, and nowhere else it has been."""
    world = star(STEER)
    cid = offered(world)
    for place in ("10.9.9.9", "10.9.9.10"):
        world.move("s", place)
        world.run(0.1)
        assert world.connection("s", cid).state is State.OFFERED
        assert lets_in_at(world) == {ADDRESSES["s"], place}
    assert world.ask("c", "s", "r") == cid  # as who hears nothing asks again
    assert world.connection("s", cid).state is State.CONNECTED
    assert carried(world, cid)
    about = world.connection("s", cid).agreement
    assert set(world.kernel["s"]) == {about.local, about.wire.reversed()}


def test_a_hidden_host_that_moves_before_it_answers_lets_packets_in_where_it_is() -> None:
    """R-10.5, R-5.2.5: no rules as long as its application is asked, and the right ones then."""
    world = star(STEER)
    cid = world.ask("c", "s", "r", transport=Transport.UDP, data=b"?", seconds=0.005)
    world.move("s", "10.9.9.9")
    world.run(0.01)
    connection = world.connection("s", cid)
    assert (connection.state, world.kernel["s"]) == (State.ANSWERING, {})
    assert str(connection.agreement.wire.source.ip) == "10.9.9.9"
    world.tell("s", DataAnswered(cid, b"!"))
    assert lets_in_at(world) == {ADDRESSES["s"], "10.9.9.9"}


def test_a_hidden_host_answers_again_from_where_it_is() -> None:
    """R-5.2.1, R-10.5: it moved, its ACCEPT was lost, and who asked repeats the OPEN."""
    world = star(STEER)
    world.lose.add(Accept)
    cid = world.ask("c", "s", "r", seconds=0.1)
    assert world.connection("s", cid).state is State.OFFERED
    world.lose.clear()
    world.move("s", "10.9.9.9")
    world.run(3)
    assert world.connection("s", cid).state is State.CONNECTED
    assert carried(world, cid)


def test_what_is_not_confirmed_yet_goes_to_where_a_hidden_host_is() -> None:
    """R-10.5: the rendezvous' pending rules move with it, and stay pending."""
    world = star(STEER)
    cid = offered(world)
    world.move("s", "10.9.9.9")
    world.run(0.1)
    assert carried(world, cid)
    assert {(rule.lifetime_s, rule.renewed_by_packets) for rule in world.kernel["r"].values()} == {
        (PENDING_S, False)
    }
    assert len(world.kernel["r"]) == 2


def test_a_hidden_host_that_moves_on_before_its_confirm_is_taken_in_there() -> None:
    """R-10.5, R-5.4.3: its second OPEN confirms the first; one pending rule a connection."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    live = set(world.kernel["r"])
    moved_quietly(world)
    moved_quietly(world, "10.9.9.10")
    assert len(world.kernel["r"]) == 3
    there = {str(match.source.ip) for match in set(world.kernel["r"]) - live}
    assert there == {"10.9.9.9", "10.9.9.10"}
    world.lose.clear()
    world.run(5)
    assert carried(world, cid)
    assert len(world.kernel["r"]) == 2


@pytest.mark.parametrize("end", ["c", "s"])
def test_a_close_while_a_hidden_host_moves_leaves_nothing_at_its_rendezvous(end: str) -> None:
    """R-5.9.2, R-10.5: the pending rule goes, too."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    moved_quietly(world)
    assert len(world.kernel["r"]) == 3
    world.tell(end, CloseRequested(cid, "done"))
    world.run(1)
    assert world.kernel["r"] == {}


def test_who_asks_a_rendezvous_for_something_else_from_elsewhere_has_not_moved() -> None:
    """R-10.5: only a registration says where a hidden host is."""
    world = star(STEER)
    world.ask("c", "s", "r")
    rules = dict(world.kernel["r"])
    world.own["s"] = Address.parse("10.9.9.9:4747")
    world.host("r").answering.services["join"] = Offered(0)
    cid = world.ask("s", "r", "r", cid=7, service="join", transport=Transport.NONE)
    assert world.connection("s", cid).state is State.CONNECTED
    assert world.kernel["r"] == rules
