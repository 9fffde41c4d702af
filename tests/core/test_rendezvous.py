"""Where hosts are, who is told, and who goes only by way of somebody."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import signed_by
from pair import ALLOW, STRANGER, make_host, make_open, snapshot
from star import ADDRESSES, STEER, Star, carried, star
from wayside.core.address import Address, Transport
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.approval import check_approval, create_approval
from wayside.core.codec import Header, decode_body
from wayside.core.connection import State
from wayside.core.crypto import SigningKey
from wayside.core.effects import Dropped, DropReason, FindLocation, KeepLocation, ReportRefused
from wayside.core.events import CloseRequested, DatagramReceived, LocationFound
from wayside.core.gate import Gate
from wayside.core.host import Offered
from wayside.core.messages import Code, Confirm, Open, OpenTerms, Redirect, decode, encode, padded
from wayside.core.policy import Policy, PolicyAction, PolicyRule
from wayside.core.rendezvous import Rendezvous, read_location
from wayside.core.rule import Cid


def is_up(world: Star, cid: Cid) -> bool:
    ends = [world.host(name).connections.get(cid) for name in "cs"]
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
    world = star()
    registration = next(iter(world.host("s").connections))
    world.tell("s", CloseRequested(registration))
    world.run(1)
    world.ask("c", "s", "r")
    (refusal,) = world.refusals()[-1:]
    assert refusal.code == Code.NO_ROUTE


def test_a_host_that_leaves_in_the_midst_of_a_move_is_not_found_either() -> None:
    """R-10.2: the OPEN of its move was heard, and no CONFIRM; its CLOSE ends the location."""
    world = star()
    registration = next(iter(world.host("s").connections))
    world.lose.add(Confirm)
    world.move("s", "10.9.9.9")
    world.run(1)
    world.tell("s", CloseRequested(registration))
    world.run(1)
    assert [record for _, record in world.store.values()] == [b""]


def test_a_rendezvous_keeps_no_open_but_of_who_registers() -> None:
    """R-7.6: whoever looks up a name asks, and is gone."""
    world = star()
    rendezvous, here = world.nodes["r"], world.own["r"]
    assert isinstance(rendezvous, Rendezvous)
    rendezvous.host.answering.services["name"] = Offered(0)
    kept = dict(rendezvous._asked)
    source = world.own["c"]
    data = make_open(
        STRANGER,
        world.key("r"),
        source.with_port(0),
        here.with_port(0),
        cid=Cid(b"a question to it"),
        service="name",
        transport=Transport.NONE,
    )
    world.tell("r", DatagramReceived(data, source, here))
    assert Cid(b"a question to it") in rendezvous.host.connections
    assert dict(rendezvous._asked) == kept


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


def test_who_sends_a_hidden_hosts_rendezvous_its_own_open_is_told_nothing() -> None:
    """R-8.5, R-10.5: its no to that would name the hidden host, and be passed on to the client."""
    world = star(STEER)
    del world.host("s").answering.services["https"]
    cid = world.ask("c", "s", "r")
    assert world.refusals()[-1].reason == "no service https here"
    passed = [event for node, there, event in world.wire if (node, there) == ("r", "s")]
    asked = next(event for event in passed if event.data[4] == Open.TYPE)
    said = len(world.wire)
    world.tell("r", replace(asked, source=asked.destination, destination=asked.source))
    world.run(1.0)
    assert world.effects[-1] == ("r", Dropped(DropReason.UNEXPECTED, asked.destination))
    assert world.wire[said:] == []
    assert cid not in world.host("s").connections


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
    rendezvous = world.nodes["r"]
    assert isinstance(rendezvous, Rendezvous)
    assert rendezvous.gate.table._inside == {}  # hidden is not registered: that is for NATs


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


@pytest.mark.parametrize("knows", [False, True])
@pytest.mark.parametrize("mover", ["c", "s", "cs", "sc"])
def test_either_end_of_a_hidden_connection_moves_or_both_at_once(mover: str, knows: bool) -> None:
    """R-10.5, R-5.4.5: the client asks the rendezvous, which finds the connection by its cid.

    `knows`: the client lets this rendezvous redirect it, too.
    """
    world = star(STEER)
    if not knows:
        world.host("c").context.redirectors = ()
    cid = world.ask("c", "s", "r")
    for number in range(5):
        for node in mover:
            world.move(node, f"10.7{'cs'.index(node)}.{number}.2")
        world.run(2)
        assert is_up(world, cid)
        assert carried(world, cid)
        assert world.connection("c", cid).agreement.wire.source.ip == world.own["c"].ip
    world.run(200)
    assert carried(world, cid)
    assert len(world.kernel["r"]) == 2
    seen = [event for _, there, event in world.wire if there == "c"]
    assert seen
    for number in range(5):
        at = Address.parse(f"10.71.{number}.2").ip.packed
        assert not any(at in event.data for event in seen)


def test_a_hidden_connection_is_closed_by_either_end_with_nothing_left() -> None:
    """R-5.9.2, R-10.5: at the relay that hides, too."""
    for end in "cs":
        world = star(STEER)
        cid = world.ask("c", "s", "r")
        world.tell(end, CloseRequested(cid, "done"))
        world.run(30)
        assert [world.kernel[node] for node in "csr"] == [{}, {}, {}]
        rendezvous = world.nodes["r"]
        assert isinstance(rendezvous, Rendezvous)
        table = rendezvous.gate.table
        assert (table.by_cid, table._by_flow, table._lent, table._hidden) == ({}, {}, {}, {})


def restarted(world: Star) -> None:
    """The gate of the rendezvous is another, with the same secret, and its kernel's rules."""
    rendezvous = world.nodes["r"]
    assert isinstance(rendezvous, Rendezvous)
    old = rendezvous.gate
    fresh = Gate(old.context, FrontDoor(old._box, Budget()), old._box, Quota(100, 100))
    assert fresh.restore([(rule, 80.0) for rule in world.kernel["r"].values()], world.now) == 1
    rendezvous.gate = fresh


def test_a_restarted_rendezvous_keeps_carrying_what_it_hides() -> None:
    """R-6.5: and refreshes of the client keep it."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    restarted(world)
    world.run(200)
    assert is_up(world, cid)
    assert carried(world, cid)


@pytest.mark.parametrize("after_s", [1, 100])
def test_a_hidden_host_moves_after_its_rendezvous_restarted(after_s: float) -> None:
    """R-6.5, R-10.5: before the next refresh, and after it."""
    world = star(STEER)
    cid = world.ask("c", "s", "r")
    restarted(world)
    world.run(after_s)
    world.move("s", "10.9.9.9")
    world.run(2)
    assert is_up(world, cid)
    assert carried(world, cid)


def test_a_restarted_rendezvous_still_hides() -> None:
    """R-10.5: nothing that the client hears names the host."""
    world = star(STEER)
    world.ask("c", "s", "r")
    restarted(world)
    begun = len(world.wire)
    world.run(200)
    hidden = Address.parse(ADDRESSES["s"]).ip.packed
    seen = [event.data for _, there, event in world.wire[begun:] if there == "c"]
    assert seen
    assert not any(hidden in data for data in seen)


def test_a_later_registration_takes_the_place_of_an_earlier_one_and_never_the_other_way() -> None:
    """R-10.3: by the time that the host signed, then by the seq."""
    world = star()
    first = next(one for _, one in world.effects if isinstance(one, KeepLocation))
    world.move("s", "10.9.9.9")
    world.run(1)
    kept = [one for _, one in world.effects if isinstance(one, KeepLocation)]
    assert [one.order for one in kept] == sorted({one.order for one in kept})
    found = read_location(first.record, world.key("s"))
    newest = read_location(kept[-1].record, world.key("s"))
    assert found is not None
    assert newest is not None
    assert str(newest.at.ip) == "10.9.9.9"
    assert newest.order > found.order


def test_what_a_store_has_of_somebody_else_sends_nobody_anywhere() -> None:
    """R-10.3: none, a spoilt record, and one of the other family: all are REJECT 8."""
    world = star()
    (order, record) = next(iter(world.store.values()))
    key = world.key("s"), 4
    header, message = decode(record)
    assert isinstance(message, Open)
    terms = decode_body(OpenTerms, message.signed)
    six = Address.parse("[fd00:7::2]:0")
    elsewhere = replace(terms, source=six, destination=six)
    other = signed_by(world.host("s").context.key, header, Open, elsewhere, ())
    for spoilt in (b"", record[:-1], record[:40] + bytes(1) + record[41:], other):
        world.store[key] = (order, spoilt)
        cid = world.ask("c", "s", "r", cid=len(world.refusals()) + 1)
        assert not is_up(world, cid)
        assert world.refusals()[-1].code == Code.NO_ROUTE
    told = [one for name, one in world.effects if name == "c" and isinstance(one, ReportRefused)]
    assert len(told) == 4


def test_a_location_that_comes_late_changes_nothing_of_a_rendezvous() -> None:
    """R-10.4: it answers the OPEN that it was asked for, and keeps none of it."""
    world = star()
    world.ask("c", "s", "r")
    asked = next(one for _, one in world.effects if isinstance(one, FindLocation))
    rendezvous = world.nodes["r"]
    before = snapshot(rendezvous)
    for record in (b"", world.store[asked.key, asked.family][1]):
        (answer, *_) = rendezvous.handle(
            LocationFound(record, asked.asked, asked.opened), world.now
        )
        assert snapshot(rendezvous) == before
        assert answer is not None


def test_a_redirect_is_smaller_than_what_it_answers() -> None:
    """R-7.5, R-5.7."""
    world = star()
    world.ask("c", "s", "r")
    sizes = {
        event.data[4]: len(event.data)
        for name, there, event in world.wire
        if {name, there} == {"c", "r"}
    }
    assert sizes[Redirect.TYPE] <= sizes[Open.TYPE]


def test_a_registration_is_no_way_to_somebody_elses_key() -> None:
    """R-10.2: the key that signed is the key that is located."""
    world = star()
    assert {key for key, _ in world.store} == {world.key("s")}
    world.register("c", cid=201)
    assert {key for key, _ in world.store} == {world.key("s"), world.key("c")}
    world.ask("c", "s", "r")
    wire = world.connection("s", Cid(bytes([1]) * 16)).agreement.wire
    assert wire.destination.ip == world.own["c"].ip


def test_a_confirm_of_nothing_registers_nobody() -> None:
    """R-10.2, R-7.6."""
    world = star()
    kept = dict(world.store)
    header = Header(Confirm.TYPE, 0, Cid(b"nothing of the r"))
    data = encode(header, Confirm(bytes(32), bytes(16), bytes(16)))
    event = next(event for _, there, event in world.wire if there == "r")
    world.tell("r", replace(event, data=data))
    assert world.store == kept


def test_a_forged_open_of_a_registration_changes_nothing() -> None:
    """R-7.6, R-10.3: who knows its cid keeps the host neither from being found nor from going."""
    world = star()
    rendezvous = world.nodes["r"]
    (registration,) = world.host("s").connections
    event = next(event for _, there, event in world.wire if there == "r")
    header, message = decode(event.data)
    assert isinstance(message, Open)
    forged = padded(header, replace(message, signature=bytes(64), pad=b""))
    before = snapshot(rendezvous)
    world.tell("r", replace(event, data=forged))
    assert snapshot(rendezvous) == before
    world.tell("s", CloseRequested(registration, "leaving"))
    world.run(1)
    assert next(iter(world.store.values()))[1] == b""


def test_a_gate_can_send_a_client_to_who_answers_in_anothers_place() -> None:
    """R-5.7.2: the client asks for another key then, and knows it; by a stranger it does not."""
    proxy = make_host("p")
    world = star()
    world = Star({**world.nodes, "p": proxy})
    gate = world.nodes["r"]
    assert isinstance(gate, Rendezvous)
    context = gate.gate.context
    rule = PolicyRule("inspect", PolicyAction.REDIRECT, service=("https",), via="p")
    context.policy = Policy((rule,), PolicyAction.ALLOW)
    context.instead = {"p": proxy.context.key.public}
    cid = world.ask("c", "s", "r")
    assert world.connection("c", cid).state is State.CONNECTED
    assert world.connection("c", cid).agreement.peer.key == proxy.context.key.public
    assert world.connection("p", cid).agreement.peer.key == world.key("c")
    assert cid not in world.host("s").connections
