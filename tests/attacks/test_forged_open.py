"""Forged OPEN: in somebody's name, about somebody's connection, or past a policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, Scene, a_strangers_open, held_back, unharmed, unmoved
from pair import STRANGER, Pair, body_of, make_open, message_of
from wayside.core.address import Address, Transport
from wayside.core.codec import Header, decode_body
from wayside.core.effects import ReportClosed, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, Hop, Open, OpenTerms, encode, padded
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.policy import Direction, Policy, PolicyAction, PolicyRule
from wayside.core.rule import Cid


@pytest.mark.parametrize("node", ["g1", "s"])
@pytest.mark.parametrize("box", BOXES)
def test_an_open_in_anothers_name_is_dropped(box: str, node: str) -> None:
    """R-5.1.3: the client's key named, a stranger's signature."""
    scene = held_back(Accept, box)
    event = scene.heard(node, Open)
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    signature = STRANGER.sign(SIGNATURE_CONTEXT, header.signing + message.signed)
    data = padded(header, replace(message, signature=signature))
    unmoved(scene, node, replace(event, data=data), DropReason.SIGNATURE)


@pytest.mark.parametrize("seq", [0, 1, 2, 2**64 - 1])
def test_a_strangers_open_with_a_live_cid_is_stale(seq: int) -> None:
    """R-5.4.2: at the responder, whatever its seq; nothing is answered."""
    scene = Scene().open()
    data = a_strangers_open(scene, seq=seq, source=scene.client.with_port(40000))
    event = DatagramReceived(data, scene.client, scene.server)
    unmoved(scene, "s", event, DropReason.STALE)


def test_an_initiator_answers_no_open() -> None:
    """R-5.4.2: a stranger's, for the cid of a connection that it asked for itself."""
    scene = Scene().open()
    there, here = scene.server.with_port(8443), scene.client.with_port(40000)
    to_key = scene.c.context.key.public
    for seq in (0, 1, 2, 3):
        data = a_strangers_open(scene, to_key=to_key, source=there, destination=here, seq=seq)
        event = DatagramReceived(data, scene.server, scene.client)
        unmoved(scene, "c", event, DropReason.STALE)


@pytest.mark.parametrize("seq", [0, 1, 2, 2**64 - 1])
@pytest.mark.parametrize("box", BOXES)
def test_a_strangers_open_with_a_live_cid_moves_nothing_at_a_box(box: str, seq: int) -> None:
    """R-8.1: it goes on, to a responder that drops it; the connection's rules stay its own."""
    scene = Scene(box).open()
    data = a_strangers_open(scene, seq=seq)
    unharmed(scene, "g1", DatagramReceived(data, scene.client, scene.server, True, "inside"))
    scene.run(1)
    assert scene.is_up
    assert {rule.owner for rule in scene.kernel["g1"].values()} == {scene.cid}
    assert len(scene.kernel["g1"]) == 2


OUTWARD = Policy((PolicyRule("out", PolicyAction.ALLOW, direction=Direction.OUT),))
"""Whoever is inside may ask; nobody may ask who is inside."""


@pytest.mark.parametrize("seq", [0, 2])
def test_who_is_outside_is_judged_as_outside(seq: int) -> None:
    """R-7.1: an even seq says that the asker opened the connection."""
    pair = strangers_way_in(seq)
    assert pair.kinds() == "g1:REJECT"
    assert pair.kernel["g1"] == {}


@pytest.mark.parametrize("seq", [1, 3, 2**64 - 1])
def test_an_odd_seq_is_no_way_past_a_policy(seq: int) -> None:
    """R-5.4.5, R-5.1.1: nobody here opened that connection, so it is not an end of it that asks."""
    pair = strangers_way_in(seq)
    assert "s:ACCEPT" not in pair.kinds()
    assert pair.kernel["g1"] == {}


def strangers_way_in(seq: int) -> Pair:
    """A stranger outside asks the server, which is inside and would have it."""
    pair = Pair(1, gate_policy=OUTWARD, inside="s")
    here, there = pair.own["c"][0], pair.own["s"][0]
    ends = (here.with_port(40001), there.with_port(443))
    data = make_open(
        STRANGER, pair.s.context.key.public, *ends, cid=Cid(b"a stranger's cid"), seq=seq
    )
    pair.tell("g1", DatagramReceived(data, here, there, True, "outside"))
    return pair.run(0.01)


def test_an_open_takes_no_connection_of_another_peer_away() -> None:
    """R-5.1.9: the client's 5-tuple, under a new cid and a stranger's key."""
    scene = Scene().open()
    data = a_strangers_open(
        scene, cid=Cid(b"a stranger's cid"), source=scene.client.with_port(40000)
    )
    (answer,) = unharmed(scene, "s", DatagramReceived(data, scene.client, scene.server))
    assert isinstance(answer, SendDatagram)
    assert not scene.seen(ReportClosed)


@pytest.mark.parametrize("port", [0, 4747])
@pytest.mark.parametrize("box", BOXES)
def test_a_made_up_hop_opens_no_port_at_a_box_that_nobody_may_have(box: str, port: int) -> None:
    """R-2.6: the port that a hop says the packets come from is checked like any other."""
    scene = Scene(box)
    lent(scene, "g1", port)
    assert scene.kernel["g1"] == {}


@pytest.mark.parametrize("port", [0, 4747])
def test_a_made_up_hop_makes_no_rule_at_a_host_that_nobody_may_have(port: int) -> None:
    """R-2.6."""
    scene = Scene()
    lent(scene, "s", port)
    assert scene.kernel["s"] == {}


def lent(scene: Scene, node: str, port: int) -> None:
    """A stranger's OPEN for UDP comes to a node, and a hop says where its packets come from."""
    hop = Hop(STRANGER.public, 1, 120, b"token", scene.client.with_port(port))
    data = a_strangers_open(scene, transport=Transport.UDP, service="echo", hops=(hop,))
    scene.tell(node, DatagramReceived(data, scene.client, scene.server, node == "g1", "inside"))
    scene.run(0.1)


def test_an_open_that_was_signed_for_another_header_is_dropped() -> None:
    """R-4.2: the same terms and signature under another cid or seq."""
    scene = held_back(Accept)
    event = scene.heard("s", Open)
    header, message = message_of(event.data)
    for other in (Header(Open.TYPE, 2, header.cid), Header(Open.TYPE, 0, Cid(bytes(16)))):
        data = encode(other, message)
        unmoved(scene, "s", replace(event, data=data), DropReason.SIGNATURE)
        unmoved(scene, "g1", replace(scene.heard("g1", Open), data=data), DropReason.SIGNATURE)


def test_an_open_about_anothers_address_is_refused_to_who_sent_it() -> None:
    """R-5.1.6: the victim's address in the terms, the attacker's own on the datagram."""
    scene = Scene()
    victim = Address.parse("10.0.0.77:40000")
    data = a_strangers_open(scene, source=victim)
    for node, transit in (("g1", True), ("s", False)):
        event = DatagramReceived(data, scene.client, scene.server, transit, "inside")
        (answer, *_) = unharmed(scene, node, event)
        assert isinstance(answer, SendDatagram)
        assert answer.destination == scene.client
    assert scene.bytes_to(victim) == 0
    assert decode_body(OpenTerms, body_of(data, Open).signed).source == victim
