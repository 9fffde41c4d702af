"""What `status` shows of a connection: its way, by whom, and how the other end sees it."""

from __future__ import annotations

from dataclasses import replace

from natted import opened
from pair import ALLOW, Pair, make_host
from star import Star, make_rendezvous
from wayside.core.address import Address
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.rule import Cid
from wayside.runtime.moves import Journey
from wayside.runtime.portrait import record_of, registration_of, there
from wayside.runtime.registering import Registration

STEER = Policy((PolicyRule("hide", PolicyAction.STEER, service=("https",)),), PolicyAction.ALLOW)


def meeting(policy: Policy) -> tuple[Star, Cid]:
    """A client that has found a server by a rendezvous."""
    nodes = {"c": make_host("c"), "s": make_host("s"), "r": make_rendezvous(policy=policy)}
    world = Star(nodes)  # type: ignore[arg-type]
    for name in "cs":
        world.host(name).context.redirectors = (world.key("r"),)
    world.register()
    return world, world.ask("c", "s", "r")


def turned(flow: str) -> str:
    source, _, destination = flow.partition(" > ")
    return f"{destination} > {source}"


def test_without_boxes_both_ends_see_the_same() -> None:
    pair = Pair(1).open()
    ours, theirs = (record_of(pair.connection(node), {}, None) for node in "cs")
    assert ours.there == ours.wire
    assert theirs.there == theirs.wire
    assert [hop.role for hop in ours.via] == ["gate"]
    assert (ours.hidden, ours.moves, ours.redirected_by) == (False, 0, [])


def test_a_box_whose_role_nobody_knows_is_shown_by_its_key() -> None:
    """R-3.3: a hop record may have any role up to 15."""
    connection = Pair(1).open().connection("c")
    connection.hops = tuple(replace(hop, role=9) for hop in connection.hops)
    shown = record_of(connection, {}, None)
    assert [(hop.key != "", hop.role) for hop in shown.via] == [(True, "role 9")]


def test_both_ends_know_what_a_nat_has_made_of_their_packets() -> None:
    """R-5.3, R-8.7."""
    pair = opened(Pair(1, nats=("g1",)))
    ours, theirs = (record_of(pair.connection(node), {}, None) for node in "cs")
    assert [hop.role for hop in ours.via] == ["nat"]
    assert ours.there != ours.wire
    assert ours.there == turned(theirs.wire)
    assert theirs.there == turned(ours.wire)


def test_a_hidden_end_is_not_shown_to_the_other_one() -> None:
    """R-10.5."""
    world, cid = meeting(STEER)
    ours = record_of(world.connection("c", cid), {}, None)
    assert ours.hidden
    assert [hop.role for hop in ours.via] == ["hiding"]
    assert str(world.own["s"].ip) not in f"{ours.there} {ours.wire}"


def test_who_redirected_it_and_its_moves_are_shown() -> None:
    world, cid = meeting(ALLOW)
    connection = world.connection("c", cid)
    journey = Journey(connection.agreement.wire, moves=2, gap_ms=9.5, by=("kr",))
    record = record_of(connection, {}, journey)
    assert (record.moves, record.gap_ms, record.redirected_by) == (2, 9.5, ["kr"])
    assert str(world.own["s"].ip) in record.wire


def test_a_connection_that_is_not_agreed_has_no_other_side() -> None:
    pair = Pair(0)
    pair.tell("c", pair.request())
    assert there(pair.connection("c")) == ""


def test_a_registration_says_since_when_or_why_not() -> None:
    one = Registration(bytes(32), Address.parse("10.9.0.1:4747"), up_since=90.0)
    assert registration_of(one, 100.0).since_s == 10.0
    one.up_since, one.why = None, "nobody answered"
    shown = registration_of(one, 100.0)
    assert (shown.since_s, shown.why, shown.address) == (None, "nobody answered", "10.9.0.1:4747")
