"""Tickets: who shows one that is stolen, replayed, forged, stale, or of another gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attacks.scene import (
    BOXES,
    ELSEWHERE,
    Scene,
    a_strangers_open,
    elsewhere,
    reasons,
    unharmed,
    unmoved,
)
from pair import STRANGER, make_host
from star import Star, make_rendezvous
from wayside.core.admission import Budget, FrontDoor
from wayside.core.constants import PROOF_BYTES, TICKET_S
from wayside.core.effects import Dropped, Effect, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import MESSAGES, Challenge, Open
from wayside.core.rule import Cid
from wayside.core.ticket import TicketBox

PER_S = 3.0


def known(box: str = "gate", **more: Any) -> Scene:
    """A scene in which the client was there before, and opens for the second time."""
    scene = Scene(box, **more).open().close()
    scene.run(15)
    scene.came.clear()
    scene.cid = Cid(b"second time here")
    return scene.open()


def shown(scene: Scene) -> DatagramReceived:
    """The OPEN with the ticket, as it came to the box."""
    return next(e for e in scene.all_heard("g1") if e.data[4] == Open.TYPE)


def ticket_of(scene: Scene) -> bytes:
    """What it shows."""
    event = shown(scene)
    assert event.data[5:7] == b"\1\1"
    return event.data[32 : 32 + PROOF_BYTES]


def forgets(scene: Scene) -> Scene:
    """The connection is over, and so is all that remembers its cid; the ticket still holds."""
    scene.close()
    scene.run(200)
    return scene


def stranger(scene: Scene, *proofs: bytes, **more: Any) -> DatagramReceived:
    """A stranger's OPEN, with what it shows."""
    data = a_strangers_open(scene, cid=Cid(b"c" * 16), proofs=proofs, **more)
    return replace(shown(scene), data=data)


def meeting() -> Star:
    """A client, a server, and a rendezvous that knows the one and may redirect the other."""
    rendezvous = make_rendezvous()
    star = Star({"c": make_host("c"), "s": make_host("s"), "r": rendezvous})
    star.host("c").context.redirectors = (star.key("r"),)
    star.register()
    return star


def is_challenged(effects: list[Effect]) -> bool:
    """Whether the only answer is a CHALLENGE."""
    (effect,) = effects
    return isinstance(effect, SendDatagram) and MESSAGES[effect.data[4]] is Challenge


def in_a_flood(scene: Scene) -> FrontDoor:
    """The box has no time for OPENs that show nothing, and little for each ticket."""
    door = FrontDoor(scene.gates["g1"]._box, Budget(opens_per_s=0.0, ticket_per_s=PER_S))
    scene.gates["g1"]._door = door
    return door


@pytest.mark.parametrize("box", BOXES)
def test_who_was_here_before_shows_a_ticket_and_is_let_in(box: str) -> None:
    """R-7.8: control, in a flood as without; on a refresh, too."""
    scene = known(box)
    assert scene.is_up
    assert scene.gates["g1"].ticketed == 1
    ticket_of(scene)
    in_a_flood(scene)
    scene.run(45)
    assert scene.gates["g1"].ticketed == 1
    assert not any(sent.kind is Challenge for sent in scene.wire)


@pytest.mark.parametrize("box", BOXES)
def test_a_stolen_ticket_lets_no_other_key_in(box: str) -> None:
    """R-7.8: dropped before the signature is looked at, and nothing is said."""
    scene = known(box)
    unmoved(scene, "g1", stranger(scene, ticket_of(scene)), DropReason.TOKEN)
    unmoved(scene, "g1", elsewhere(stranger(scene, ticket_of(scene))), DropReason.TOKEN)


@pytest.mark.parametrize("box", BOXES)
def test_a_thief_who_speaks_as_the_holder_lacks_its_signature(box: str) -> None:
    """R-5.1.3, R-7.8."""
    scene = known(box)
    holder = scene.c.context.key.public
    event = stranger(scene, ticket_of(scene), from_key=holder)
    unmoved(scene, "g1", event, DropReason.SIGNATURE)


@pytest.mark.parametrize("box", BOXES)
def test_a_thief_uses_up_one_ticket_and_no_more(box: str) -> None:
    """R-7.8: from wherever he says that he is; then it is as good as none, others as before."""
    scene = known(box)
    in_a_flood(scene)
    holder = scene.c.context.key.public
    event = stranger(scene, ticket_of(scene), from_key=holder)
    found = [scene.tell("g1", event) for _ in range(int(PER_S))]
    assert all(reasons(effects) == [DropReason.SIGNATURE] for effects in found)
    assert is_challenged(scene.tell("g1", replace(event, source=ELSEWHERE)))
    assert is_challenged(scene.tell("g1", event))
    other = scene.gates["g1"]._box.tickets.for_redirect(STRANGER.public, scene.now)
    effects = scene.tell("g1", stranger(scene, other))
    assert not any(isinstance(effect, Dropped) for effect in effects)
    assert not is_challenged(effects)


@pytest.mark.parametrize("box", BOXES)
def test_an_open_that_is_replayed_with_its_ticket_changes_nothing(box: str) -> None:
    """R-7.8, R-5.1.6: as without; and from elsewhere it is not where it says."""
    scene = known(box)
    unharmed(scene, "g1", shown(scene))
    unharmed(scene, "g1", elsewhere(shown(scene)))
    unharmed(forgets(scene), "g1", shown(scene))
    assert not any(scene.kernel.values())


@pytest.mark.parametrize("box", BOXES)
def test_a_forged_ticket_is_none_whichever_byte_it_is(box: str) -> None:
    """R-7.8: it costs a keyed hash, and in a flood it is met as bare OPENs are."""
    scene = known(box)
    door, ticket = in_a_flood(scene), ticket_of(scene)
    for at in range(PROOF_BYTES):
        spoilt = bytearray(ticket)
        spoilt[at] ^= 0x10
        assert is_challenged(unharmed(scene, "g1", stranger(scene, bytes(spoilt))))
    assert door.ticketed == 0


@pytest.mark.parametrize("box", BOXES)
def test_a_stale_ticket_is_none_and_a_new_one_is_given(box: str) -> None:
    """R-7.8."""
    scene = known(box)
    old = ticket_of(scene)
    forgets(scene)
    scene.run(TICKET_S)
    scene.came.clear()
    scene.cid = Cid(b"the day after it")
    scene.open()
    assert scene.is_up
    assert ticket_of(scene) == old
    assert scene.gates["g1"].ticketed == 1
    (new,) = scene.c.context.tickets.towards(scene.server.ip)
    assert new != old


@pytest.mark.parametrize("box", BOXES)
def test_a_ticket_of_another_gate_is_none(box: str) -> None:
    """R-7.8: even one with our name on it."""
    scene = known(box)
    in_a_flood(scene)
    gate = scene.gates["g1"].context.key.public
    for name in (gate, b"another gate, that has its own ke"[:32]):
        other = TicketBox(name, b"o" * 32, b"")
        ticket = other.for_redirect(STRANGER.public, scene.now)
        assert is_challenged(unharmed(scene, "g1", stranger(scene, ticket)))


def test_a_responder_takes_no_ticket_of_a_gate() -> None:
    """R-7.8: to all but the box that gave it, it is nothing."""
    scene = known()
    scene.s._door = FrontDoor(scene.s._door._box, Budget(opens_per_s=0.0))
    assert is_challenged(unharmed(scene, "s", stranger(scene, ticket_of(scene))))
    assert scene.s._door.ticketed == 0


def test_a_box_that_plants_a_bad_ticket_gets_nobody_refused() -> None:
    """R-7.8: the initiator shows it, the gate sees that it is none, and gives another."""
    scene = known()
    good = ticket_of(scene)
    scene.c.context.tickets.add(scene.server.ip, good[:8] + bytes(24))
    forgets(scene)
    scene.cid = Cid(b"with a bad ticke")
    scene.came.clear()
    scene.open()
    assert scene.is_up
    assert ticket_of(scene) != good
    (kept,) = scene.c.context.tickets.towards(scene.server.ip)
    assert scene.gates["g1"]._box.tickets.find((kept,), scene.now) is not None


def test_a_ticket_comes_with_a_redirect_and_holds_where_it_was_given() -> None:
    """R-5.7, R-7.8: for the next question, to the rendezvous and to who shares its secret."""
    star = meeting()
    star.ask("c", "s", "r")
    tickets = star.host("c").context.tickets
    (ticket,) = tickets.towards(star.own["r"].ip)
    star.ask("c", "s", "r", 2)
    asked = [e.data for who, to, e in star.wire if (who, to) == ("c", "r") and e.data[4] == 1]
    assert [data[5] for data in asked] == [0, 1]
    assert asked[1][32:64] == ticket


def test_a_stolen_ticket_is_none_at_a_rendezvous() -> None:
    """R-7.8."""
    star = meeting()
    star.ask("c", "s", "r")
    (ticket,) = star.host("c").context.tickets.towards(star.own["r"].ip)
    where = star.own["r"]
    scene_open = a_strangers_open(
        Scene(),
        cid=Cid(b"c" * 16),
        proofs=(ticket,),
        source=star.own["c"].with_port(40001),
        destination=where.with_port(443),
        to_key=star.key("s"),
    )
    found = star.nodes["r"].handle(DatagramReceived(scene_open, star.own["c"], where), star.now)
    assert reasons(found) == [DropReason.TOKEN]
