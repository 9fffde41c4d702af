"""Where hosts are, who is told, and who goes only by way of somebody."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from pair import ALLOW, REJECT, make_host
from star import ADDRESSES, Star, make_relay, make_rendezvous
from wayside.core.address import Address, Transport
from wayside.core.connection import State
from wayside.core.effects import SendDatagram
from wayside.core.messages import Code, Redirect
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.rendezvous import read_location
from wayside.core.way import Box, Relaying

STEER = Policy((PolicyRule("hide", PolicyAction.STEER, service=("https",)),), PolicyAction.ALLOW)


def star(policy: Policy = ALLOW, **more: object) -> Star:
    """A client that lets the rendezvous and a gate's relay redirect it, and a server that registers."""
    nodes = {"c": make_host("c"), "s": make_host("s"), "r": make_rendezvous(policy=policy), **more}
    world = Star(nodes)  # type: ignore[arg-type]
    world.host("c").context.redirectors = (world.key("r"),)
    world.host("s").context.redirectors = (world.key("r"),)
    world.register()
    return world


def is_up(world: Star, cid: bytes) -> bool:
    ends = [world.host(name).connections.get(cid) for name in "cs"]  # type: ignore[arg-type]
    return all(end is not None and end.state is State.CONNECTED for end in ends)


def test_who_asks_a_rendezvous_is_sent_to_where_the_host_is() -> None:
    """R-10.4: one more round trip, and the connection is direct."""
    world = star()
    cid = world.ask("c", "s", "r")
    assert is_up(world, cid)
    assert world.connection("c", cid).agreement.wire.destination.ip == world.own["s"].ip
    assert world.refusals() == []


def test_a_host_that_moved_is_found_where_it_is_now() -> None:
    """R-10.2: and what was connected goes on."""
    world = star()
    first = world.ask("c", "s", "r")
    world.move("s", "10.9.9.9")
    world.run(1)
    second = world.ask("c", "s", "r", cid=2)
    for cid in (first, second):
        assert is_up(world, cid)
        assert str(world.connection("c", cid).agreement.wire.destination.ip) == "10.9.9.9"


def test_a_host_that_left_is_not_found() -> None:
    """R-10.2: REJECT 8, at once."""
    from wayside.core.events import CloseRequested

    world = star()
    registration = next(iter(world.host("s").connections))
    world.tell("s", CloseRequested(registration))
    world.run(1)
    world.ask("c", "s", "r")
    (refusal,) = world.refusals()[-1:]
    assert refusal.code == Code.NO_ROUTE


def test_a_rendezvous_says_no_by_its_policy() -> None:
    """R-10.4."""
    deny = Policy((PolicyRule("closed", PolicyAction.REJECT, service=("https",)),), ALLOW.default)
    world = star(deny)
    world.ask("c", "s", "r")
    assert (world.refusals()[-1].code, world.refusals()[-1].rule) == (Code.POLICY, "closed")


def test_nobody_is_redirected_by_whom_it_does_not_know() -> None:
    """R-5.7.1."""
    world = star()
    world.host("c").context.redirectors = ()
    cid = world.ask("c", "s", "r")
    assert not is_up(world, cid)
    assert "does not let redirect it" in world.refusals()[-1].reason


def test_a_hidden_host_is_reached_and_never_shown() -> None:
    """R-10.5: no datagram to the client holds its address, before or after a move."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    assert is_up(world, cid)
    assert world.connection("c", cid).agreement.wire.destination.ip == world.own["r"].ip
    world.move("s", "10.9.9.9")
    world.run(120)
    assert is_up(world, cid)
    wire = world.connection("s", cid).agreement.wire
    assert str(wire.source.ip) == "10.9.9.9"
    assert wire.destination.ip == world.own["r"].ip
    hidden = [Address.parse(ADDRESSES["s"]).ip.packed, Address.parse("10.9.9.9").ip.packed]
    seen = [event.data for _, there, event in world.wire if there == "c"]
    assert seen
    assert not any(address in data for address in hidden for data in seen)


def test_the_relay_that_hides_a_host_carries_its_packets_both_ways() -> None:
    """R-10.5: by two rules, one each way."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    ours = world.connection("c", cid).agreement.wire
    theirs = world.connection("s", cid).agreement.wire
    assert world.kernel["r"][ours].rewrite == theirs.reversed()
    assert world.kernel["r"][theirs].rewrite == ours.reversed()
    world.move("s", "10.9.9.9")
    world.run(1)
    theirs = world.connection("s", cid).agreement.wire
    assert world.kernel["r"][ours].rewrite == theirs.reversed()
    assert world.kernel["r"][theirs].rewrite == ours.reversed()
    assert len(world.kernel["r"]) == 2


def test_an_old_or_foreign_record_is_no_location() -> None:
    """R-10.3: what another key signed is nothing, whoever put it into the store."""
    world = star()
    (order, record), key = next(iter(world.store.values())), world.key("s")
    located = read_location(record, key)
    assert located is not None
    assert located.order == order
    assert read_location(record, world.key("c")) is None
    for at in range(0, len(record), 7):
        changed = record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]
        assert read_location(changed, key) is None


def relayed(**relaying: object) -> Star:
    """A client whose relay is `p`: the server redirects to it, for want of a gate on the way."""
    world = star(p=make_relay("p", Box(relay=Relaying(**relaying))))  # type: ignore[arg-type]
    return world


def test_a_host_can_ask_for_the_approval_of_its_home() -> None:
    """R-5.7.4: who comes without is sent there, and back, and is let in."""
    world = star()
    server = world.host("s")
    server.answering.approvers = (world.key("r"),)
    server.answering.home = world.own["r"]
    cid = world.ask("c", "s", "s")
    assert is_up(world, cid)
    assert world.connection("c", cid).agreement.wire.destination.ip == world.own["s"].ip


def test_without_its_homes_approval_a_host_lets_nobody_in() -> None:
    """R-5.7.4."""
    world = star(
        Policy((PolicyRule("closed", PolicyAction.REJECT, service=("https",)),), ALLOW.default)
    )
    server = world.host("s")
    server.answering.approvers = (world.key("r"),)
    for at in ("s", "r"):
        cid = world.ask("c", "s", at, cid=ord(at))
        assert not is_up(world, cid)
        assert world.refusals()[-1].code == Code.POLICY


def test_an_approval_is_for_one_connection() -> None:
    """R-5.7.3: not for another cid, key, service or transport, nor later than a minute."""
    from wayside.core.approval import check_approval, create_approval
    from wayside.core.codec import decode_body
    from wayside.core.crypto import SigningKey
    from wayside.core.messages import Open, OpenTerms, decode
    from wayside.core.rule import Cid

    world = star()
    message = decode(next(iter(world.store.values()))[1])[1]
    assert isinstance(message, Open)
    terms = decode_body(OpenTerms, message.signed)
    key, cid = SigningKey(bytes(range(32))), Cid(bytes(16))
    approved = replace(terms, approval=create_approval(key, cid, terms, 1000.0))
    assert check_approval(cid, approved, (key.public,), 1059.0)
    assert not check_approval(cid, approved, (key.public,), 1061.0)
    assert not check_approval(cid, approved, (), 1000.0)
    assert not check_approval(cid, terms, (key.public,), 1000.0)
    assert not check_approval(Cid(b"x" * 16), approved, (key.public,), 1000.0)
    for other in (
        replace(approved, from_key=key.public),
        replace(approved, to_key=key.public),
        replace(approved, service="ssh"),
        replace(approved, transport=Transport.TCP),
        replace(approved, approval=approved.approval[:-1] + b"x"),
    ):
        assert not check_approval(cid, other, (key.public,), 1000.0)


def test_ends_that_move_at_once_find_each_other_again_ten_times() -> None:
    """R-5.4.6: by the rendezvous that the client found the server with."""
    world = star()
    cid = world.ask("c", "s", "r")
    for number in range(10):
        world.move("c", f"10.7.{number}.2")
        world.move("s", f"10.8.{number}.2")
        world.run(3)
        assert is_up(world, cid)
        ours = world.connection("c", cid).agreement.wire
        assert ours == world.connection("s", cid).agreement.wire.reversed()
        assert (ours.source.ip, ours.destination.ip) == (world.own["c"].ip, world.own["s"].ip)
    world.run(200)
    assert is_up(world, cid)
    assert [len(world.kernel[node]) for node in "cs"] == [2, 2]
