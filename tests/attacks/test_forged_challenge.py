"""Forged CHALLENGE: it is not signed, because its issuer keeps no state and needs no name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, forged, held_back, unharmed, unmoved
from pair import hops_of
from wayside.core import constants as c
from wayside.core.codec import Header
from wayside.core.effects import Dropped, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, Challenge, Open, encode
from wayside.core.rule import Cid


def test_challenges_that_nobody_issued_cost_four_repeated_opens_and_no_more() -> None:
    """R-5.5.1: and these go where the OPEN went, never to the forger. The connection comes up."""
    scene = held_back(Accept)
    opened, said = scene.heard("g1", Open), len(scene.wire)
    for number in range(50):
        proof = bytes([number]) * 32
        data = encode(Header(Challenge.TYPE, 0, scene.cid), Challenge(proof))
        scene.tell("c", DatagramReceived(data, ELSEWHERE, scene.client))
    answers = [sent for sent in scene.wire[said:] if sent.node == "c"]
    assert [sent.kind for sent in answers] == [Open] * c.CHALLENGES_MAX
    assert {sent.destination for sent in answers} == {scene.server}
    assert all(len(sent.data) <= c.DATAGRAM_BYTES_MAX for sent in answers)
    assert scene.bytes_to(ELSEWHERE) == 0
    scene.hold.clear()
    scene.run(2)
    assert scene.is_up
    assert opened.destination == scene.server


def test_a_challenge_without_the_cid_or_after_the_answer_is_dropped() -> None:
    """R-5.5.1, R-7.2: off the path nobody knows the cid."""
    scene = Scene().open()
    for cid, why in ((Cid(bytes(16)), DropReason.UNKNOWN), (scene.cid, DropReason.STALE)):
        data = encode(Header(Challenge.TYPE, 0, cid), Challenge(bytes(32)))
        unmoved(scene, "c", DatagramReceived(data, ELSEWHERE, scene.client), why)


def test_a_responder_that_asked_nothing_takes_no_challenge() -> None:
    """R-5.5.1."""
    scene = Scene().open()
    data = forged(Challenge, scene.heard("s", Open).data)
    event = DatagramReceived(data, scene.client, scene.server)
    unmoved(scene, "s", event, DropReason.STALE)


@pytest.mark.parametrize("box", BOXES)
def test_a_box_passes_a_challenge_on_only_with_its_token_and_only_to_who_asked(box: str) -> None:
    """R-5.6.4, R-8.2: it changes nothing there, and is no larger when it leaves."""
    scene = held_back(Accept, box)
    opened = scene.heard("s", Open).data
    (hop,) = hops_of(opened)
    right = DatagramReceived(
        forged(Challenge, opened), scene.server, scene.beyond, box == "gate", "outside"
    )
    (onward,) = unharmed(scene, "g1", right)
    assert isinstance(onward, SendDatagram)
    assert onward.destination == scene.client
    for hops in ((), (replace(hop, token=b"x" * 90),)):
        data = forged(Challenge, opened, hops=hops)
        unmoved(scene, "g1", replace(right, data=data), DropReason.TOKEN)
    unmoved(scene, "g1", replace(right, destination=ELSEWHERE), DropReason.TOKEN)
    assert len(scene.seen(Dropped, "g1")) == 3
