"""Forged CONFIRM: somebody says "I am here" in the initiator's place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, Scene, forged, held_back, unharmed, unmoved
from pair import STRANGER, hops_of, message_of
from wayside.core.connection import State
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, Confirm, Hop, Open, encode


@pytest.mark.parametrize("box", BOXES)
def test_a_confirm_without_the_connections_key_lets_no_packet_back(box: str) -> None:
    """R-5.3.2: the right cid, seq and hops; the responder's outbound rule stays away."""
    scene = held_back(Confirm, box)
    data = forged(Confirm, scene.heard("s", Open).data)
    event = DatagramReceived(data, scene.beyond, scene.server)
    unmoved(scene, "s", event, DropReason.SIGNATURE)
    assert len(scene.kernel["s"]) == 1
    assert scene.connection("s").state is State.OFFERED


@pytest.mark.parametrize("box", BOXES)
def test_a_confirm_with_a_made_up_token_makes_nothing_last(box: str) -> None:
    """R-5.3.3: without a token of the box, with another's, with nonsense in its name."""
    scene = held_back(Confirm, box)
    opened = scene.heard("s", Open).data
    (hop,) = hops_of(opened)
    right = next(event for node, event in scene.held if node == "g1")
    for hops in ((), (Hop(STRANGER.public, 1, 120, b"token"),), (replace(hop, token=b"x" * 90),)):
        data = forged(Confirm, opened, hops=hops)
        unmoved(scene, "g1", replace(right, data=data), DropReason.TOKEN)
    assert {rule.renewed_by_packets for rule in scene.kernel["g1"].values()} == {False}


@pytest.mark.parametrize("box", BOXES)
def test_who_saw_the_token_makes_nothing_last(box: str) -> None:
    """R-5.3.3: a box asks for what only the two ends can show; rules stay pending."""
    scene = held_back(Confirm, box)
    right = next(event for node, event in scene.held if node == "g1")
    event = replace(right, data=forged(Confirm, scene.heard("s", Open).data))
    unharmed(scene, "g1", event)
    assert {rule.lifetime_s for rule in scene.kernel["g1"].values()} == {5.0}
    assert scene.connection("s").state is State.OFFERED


def test_an_initiator_takes_no_confirm() -> None:
    """R-5.3.2: to what it offered nobody."""
    scene = Scene().open()
    event = replace(scene.heard("s", Confirm), destination=scene.client, source=scene.server)
    unmoved(scene, "c", event, DropReason.STALE)


@pytest.mark.parametrize("box", BOXES)
def test_a_confirm_says_what_was_seen_or_is_dropped(box: str) -> None:
    """R-5.3.2: a box that shows each end another ACCEPT is found out by `seen`."""
    scene = held_back(Confirm, box)
    scene.release()
    scene.run(0.001)
    event = scene.heard("g1", Confirm)
    header, message = message_of(event.data)
    assert isinstance(message, Confirm)
    data = encode(header, replace(message, hops=(*message.hops, *message.hops)))
    at_server = DatagramReceived(data, scene.beyond, scene.server)
    unmoved(scene, "s", at_server, DropReason.STALE)
    data = encode(header, replace(message, returned=(scene.server.with_port(22),)))
    unmoved(scene, "s", replace(at_server, data=data), DropReason.STALE)
    assert hops_of(scene.heard("c", Accept).data) == message.hops
    unharmed(scene, "g1", event)
