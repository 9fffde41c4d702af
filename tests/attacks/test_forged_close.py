"""Forged CLOSE: the end of a connection in the name of one of its ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, a_strangers_open, essence, forged, unmoved
from pair import STRANGER, hops_of
from wayside.core.address import Address
from wayside.core.effects import SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Close, Hop, Open
from wayside.core.passage import Stage


@pytest.mark.parametrize("node", ["c", "s"])
def test_a_close_without_the_connections_key_ends_nothing(node: str) -> None:
    """R-5.9.3: with the right cid, seq and hops, from the right address or another."""
    scene = Scene().open()
    opened = scene.heard("s", Open).data
    at, other = (scene.client, scene.server) if node == "c" else (scene.server, scene.client)
    for source in (other, ELSEWHERE):
        data = forged(Close, opened)
        unmoved(scene, node, DatagramReceived(data, source, at), DropReason.SIGNATURE)
        data = forged(Close, opened, seq=2)
        unmoved(scene, node, DatagramReceived(data, source, at), DropReason.STALE)
    assert scene.is_up


@pytest.mark.parametrize("box", BOXES)
def test_a_close_without_the_token_takes_no_rule_away(box: str) -> None:
    """R-5.9.2: none, another's, or nonsense in the box's name; from either side."""
    scene = Scene(box).open()
    opened = scene.heard("s", Open).data
    (hop,) = hops_of(opened)
    strangers = Hop(STRANGER.public, 1, 120, hop.token)
    for hops in ((), (strangers,), (replace(hop, token=hop.token[:-1] + b"\x00"),)):
        for side in ("inside", "outside"):
            data = forged(Close, opened, hops=hops)
            event = DatagramReceived(data, ELSEWHERE, scene.server, True, side)
            unmoved(scene, "g1", event, DropReason.TOKEN)
    assert scene.is_up


@pytest.mark.parametrize("box", BOXES)
def test_who_saw_the_token_can_shut_the_box_but_ends_no_connection(box: str) -> None:
    """R-5.9.2: a box has no key of theirs. The ends drop that CLOSE, and a refresh opens it."""
    scene = Scene(box).open()
    ends = essence(scene)[0]
    data = forged(Close, scene.heard("s", Open).data)
    scene.tell("g1", DatagramReceived(data, scene.client, scene.server, True, "outside"))
    scene.run(1)
    assert scene.passage().stage is Stage.ENDED
    assert scene.kernel["g1"] == {}
    assert essence(scene)[0] == ends
    scene.run(60)
    assert scene.is_up
    assert scene.passage().stage is Stage.LIVE


@pytest.mark.parametrize("box", BOXES)
def test_a_token_that_a_stranger_was_given_for_the_same_cid_takes_no_rule_away(box: str) -> None:
    """R-5.9.2: who knows the cid asks somebody with a key of their own, and shows that token."""
    scene = Scene(box).open()
    stranger = Address.parse("10.1.0.66:4747")
    data = a_strangers_open(scene, seq=2, source=stranger.with_port(40001))
    asked = DatagramReceived(data, stranger, scene.server, True, "inside")
    (sent,) = [one for one in scene.tell("g1", asked) if isinstance(one, SendDatagram)]
    close = forged(Close, sent.data)
    event = DatagramReceived(close, stranger, scene.server, True, "inside")
    unmoved(scene, "g1", event, DropReason.TOKEN)
    assert scene.is_up


def test_a_close_for_nobodys_cid_is_unknown() -> None:
    """R-7.2: off the path nobody knows a cid."""
    scene, other = Scene().open(), Scene()
    data = forged(Close, scene.heard("s", Open).data)
    for node, at in (("c", other.client), ("s", other.server)):
        unmoved(other, node, DatagramReceived(data, ELSEWHERE, at), DropReason.UNKNOWN)
