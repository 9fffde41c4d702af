"""Forged ACCEPT: an agreement that its owner never gave, or not to this."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, forged, held_back, signed_by, unmoved
from pair import STRANGER, message_of
from wayside.core.address import Flow
from wayside.core.codec import decode_body
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, AcceptTerms, Open, encode


@pytest.mark.parametrize("box", BOXES)
def test_a_strangers_accept_convinces_no_initiator(box: str) -> None:
    """R-5.2.2: with the OPEN's hash and the right hops, but for the key that was asked for."""
    scene = held_back(Accept, box)
    data = forged(Accept, scene.heard("s", Open).data)
    event = DatagramReceived(data, scene.server, scene.client)
    unmoved(scene, "c", event, DropReason.SIGNATURE)


@pytest.mark.parametrize("box", BOXES)
def test_a_strangers_accept_makes_no_rule(box: str) -> None:
    """R-8.3: named by its own key, `address`; in the responder's name, `signature`."""
    scene = held_back(Accept, box)
    right = held_accept(scene)
    data = forged(Accept, scene.heard("s", Open).data)
    unmoved(scene, "g1", replace(right, data=data), DropReason.ADDRESS)
    header, message = message_of(right.data)
    assert isinstance(message, Accept)
    terms = decode_body(AcceptTerms, message.signed)
    data = signed_by(STRANGER, header, Accept, terms, message.hops)
    unmoved(scene, "g1", replace(right, data=data), DropReason.SIGNATURE)
    assert scene.kernel["g1"] == {}


@pytest.mark.parametrize("box", BOXES)
def test_the_right_accept_from_another_place_makes_no_rule(box: str) -> None:
    """R-8.2, R-8.3: from an address that was not asked, or to one that did not ask."""
    scene = held_back(Accept, box)
    right = held_accept(scene)
    unmoved(scene, "g1", replace(right, source=ELSEWHERE), DropReason.ADDRESS)
    unmoved(scene, "g1", replace(right, destination=ELSEWHERE), DropReason.TOKEN)


def test_a_responder_and_a_stranger_take_no_accept() -> None:
    """R-7.2: whoever asked for nothing."""
    scene = Scene().open()
    accept = scene.heard("c", Accept)
    unmoved(scene, "s", replace(accept, destination=scene.server), DropReason.STALE)
    unmoved(Scene(), "s", replace(accept, destination=scene.server), DropReason.UNKNOWN)


@pytest.mark.parametrize("side", ["inside", "outside"])
@pytest.mark.parametrize("box", BOXES)
def test_an_accept_opens_no_port_that_the_responder_did_not_name(box: str, side: str) -> None:
    """R-5.1.10: the responder's own ACCEPT with another port in `returned`, which nobody signs.

    From inside: an initiator gives it to its own gate; from outside: somebody behind the gate does.
    """
    scene = held_back(Accept, box)
    right = held_accept(scene)
    header, message = message_of(right.data)
    assert isinstance(message, Accept)
    other = replace(message, returned=(scene.server.with_port(22),))
    scene.hold.clear()
    scene.tell("g1", replace(right, data=encode(header, other), side=side))
    scene.run(1)
    assert ports_of(scene) <= {8443}


def ports_of(scene: Scene) -> set[int]:
    """The server's ports that the box lets packets go to."""
    flows: list[Flow] = list(scene.kernel["g1"])
    return {flow.destination.port for flow in flows if flow.destination.ip == scene.server.ip}


def test_the_right_accept_opens_the_port_that_the_responder_named() -> None:
    """R-5.1.10: the control of the test above."""
    for box in BOXES:
        assert ports_of(Scene(box).open()) == {8443}


def held_accept(scene: Scene) -> DatagramReceived:
    """The responder's ACCEPT as it is about to come to the box."""
    return next(event for node, event in scene.held if node == "g1")
