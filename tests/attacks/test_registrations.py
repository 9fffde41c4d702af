"""Registrations in wrong hands: old ones, others', and what a store that lies can do with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.test_rendezvous import answers, heard, known, registered
from pair import STRANGER, body_of, make_host, make_open, message_of, reasons
from star import Star
from wayside.core.address import Address, Transport
from wayside.core.codec import decode_body
from wayside.core.connection import State
from wayside.core.effects import KeepLocation
from wayside.core.errors import DropReason
from wayside.core.events import CloseRequested, DatagramReceived
from wayside.core.messages import Close, Code, Confirm, Hop, Open, OpenTerms, encode
from wayside.core.rendezvous import read_location
from wayside.core.rule import Cid


def located(world: Star, who: str = "s") -> Address | None:
    """Where the store has it that a host is."""
    record = known(world).get((world.key(who), 4), (0, b""))[1]
    found = read_location(record, world.key(who))
    return found.at if found else None


def test_a_registration_does_not_come_back_after_a_newer_one() -> None:
    """R-10.3, R-5.4.2: what was said from the old address, said again from there."""
    world = registered()
    old = heard(world)
    world.move("s", "10.9.9.9")
    world.run(1)
    there = located(world)
    assert there == Address.parse("10.9.9.9:4747")
    for event in old:
        answers(world, event)
    world.run(10)
    assert located(world) == there


def test_the_end_of_an_older_registration_leaves_the_newer_one() -> None:
    """R-10.3: a host registered twice; the CLOSE of the first, said or replayed, is too old."""
    world = registered()
    (first,) = world.host("s").connections
    world.now += 5
    world.register(cid=201)
    there = located(world)
    world.tell("s", CloseRequested(first, "old"))
    world.run(1)
    assert located(world) == there is not None
    closing = heard(world, Close)[0]
    answers(world, closing)
    assert located(world) == there


def test_a_host_registers_from_no_address_that_is_not_its_own() -> None:
    """R-5.1.6: it claims a victim's, and sends from another: REJECT, to where that came from."""
    world = registered()
    victim = world.own["c"]
    data = make_open(
        *(STRANGER, world.key("r"), victim.with_port(0), world.own["r"].with_port(0)),
        cid=Cid(b"a stranger's cid"),
        service="location",
        transport=Transport.NONE,
    )
    elsewhere = Address.parse("10.0.0.66:4747")
    event = DatagramReceived(data, elsewhere, world.own["r"], side="outside")
    (refusal,) = answers(world, event)
    assert refusal.destination == elsewhere
    world.run(10)
    assert {key for key, _ in known(world)} == {world.key("s")}


@pytest.mark.parametrize("victim", ["10.0.0.2:4747", "203.0.113.9:4747"])
def test_a_registered_host_names_nobody_elses_address(victim: str) -> None:
    """R-10.2: as behind a NAT that is not its own; confirmed, in order in all else, and kept not.

    The host's own machine lies, as its owner can make it.
    """
    world = registered()
    (cid,) = world.host("s").connections
    lie = Hop(STRANGER.public, 2, 120, b"x", source=Address.parse(victim))
    world.connection("s", cid).hops = (lie,)
    world.run(41)
    asked = [decode_body(OpenTerms, body_of(one.data, Open).signed) for one in heard(world, Open)]
    assert (Address.parse(victim),) in [terms.alternatives for terms in asked]
    assert world.connection("s", cid).state is State.CONNECTED
    kept = [effect for _, effect in world.effects if isinstance(effect, KeepLocation)]
    where = [read_location(effect.record, effect.key) for effect in kept]
    assert {found.at for found in where if found} == {world.own["s"]}


def test_nobody_withdraws_the_registration_of_another() -> None:
    """R-5.9.3: with a registration and a key of its own, under the other's cid, or its own."""
    world = registered()
    (theirs,) = world.host("s").connections
    mine = world.register("c", cid=201)
    there = located(world)
    closing = world.connection("c", mine)._close_datagram("mine")
    header, message = message_of(closing.data)
    event = replace(heard(world, Confirm)[-1], data=closing.data)
    data = encode(replace(header, cid=theirs), message)
    assert reasons(world.nodes["r"].handle(replace(event, data=data), world.now)) == [
        DropReason.SIGNATURE
    ]
    answers(world, event)
    assert located(world, "c") is None
    assert located(world) == there is not None


def test_a_store_that_gives_an_older_record_brings_nobody_to_another_host() -> None:
    """R-10.3, R-5.1.8: it can send an asker to where the host was; who is there now has no key."""
    world = registered()
    ((_, (_, old)),) = known(world).items()
    world.own["d"], where = world.own["s"], world.own["s"]
    world.move("s", "10.9.9.9")
    world.run(1)
    assert located(world) == Address.parse("10.9.9.9:4747")
    world.nodes["d"], world.kernel["d"] = make_host("d"), {}
    world.store[world.key("s"), 4] = (2**70, old)
    assert located(world) == where
    world.host("c").context.redirectors = (world.key("r"),)
    cid = world.ask("c", "s", "r")
    assert world.refusals()[-1].code == Code.BAD_IDENTITY
    assert cid not in world.host("d").connections
    assert cid not in world.host("c").connections
