"""Reflection: what somebody said comes back to them, or to somebody it was not for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, NODES, Scene, essence, unharmed, unmoved
from wayside.core.connection import State
from wayside.core.effects import SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, Close, Confirm, Open, Reject


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("box", BOXES)
def test_nobody_takes_their_own_words_for_an_answer(box: str, node: str) -> None:
    """R-7.6: all that a node sent, turned around and sent back to it."""
    scene = Scene(box).open()
    for sent in [sent for sent in scene.wire if sent.node == node]:
        for side in ("inside", "outside"):
            back = DatagramReceived(sent.data, sent.destination, sent.source, node == "g1", side)
            unharmed(scene, node, back)
    scene.run(60)
    assert scene.is_up


@pytest.mark.parametrize("box", BOXES)
def test_nobody_takes_what_was_for_another(box: str) -> None:
    """R-7.6: everything that came to one node is shown to each of the others, on each side."""
    scene = Scene(box).open()
    for _, event in list(scene.came):
        for node in NODES:
            for side in ("inside", "outside"):
                unharmed(scene, node, replace(event, side=side))
    scene.run(60)
    assert scene.is_up


def test_a_role_does_not_take_the_messages_that_it_sends() -> None:
    """R-5.1.8, R-5.2.2, R-5.3.2: an initiator's OPEN and CONFIRM, a responder's ACCEPT."""
    scene = Scene().open()
    for node, kind in (("c", Confirm), ("s", Accept)):
        sent = scene.last(kind, node)
        back = DatagramReceived(sent.data, sent.destination, sent.source)
        unmoved(scene, node, back, DropReason.STALE)
    sent = scene.last(Open, "c")
    (answer,) = unharmed(scene, "c", DatagramReceived(sent.data, sent.destination, sent.source))
    assert isinstance(answer, SendDatagram)
    assert answer.data[4] == Reject.TYPE


def test_a_close_that_comes_back_ends_only_who_said_it() -> None:
    """R-5.9.3: whoever closes takes it for the echo; the other end goes on to its own end."""
    scene = Scene()
    scene.open()
    scene.lose[Close] = 100
    scene.close("c", seconds=0.01)
    sent = scene.last(Close, "c")
    before = essence(scene)
    scene.tell("c", DatagramReceived(sent.data, sent.destination, sent.source))
    assert scene.connection("c").state is State.ENDED
    assert scene.connection("s").state is State.CONNECTED
    assert essence(scene)[2] == before[2]
    scene.run(125)
    assert scene.ended("s")
    assert scene.kernel["c"] == scene.kernel["s"] == {}
