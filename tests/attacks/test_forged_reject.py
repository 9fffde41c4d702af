"""Forged REJECT: a no by somebody who has no say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, forged, held_back, unharmed, unmoved
from pair import STRANGER, message_of
from wayside.core.effects import ReportRefused
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.identity import key_text
from wayside.core.messages import Accept, Open, Reject


@pytest.mark.parametrize("box", BOXES)
def test_a_live_connection_is_not_ended_by_a_strangers_no(box: str) -> None:
    """R-5.6.3: also not while a refresh is under way, with the right cid, seq and open_hash."""
    scene = Scene(box).open()
    data = forged(Reject, scene.heard("s", Open).data)
    event = DatagramReceived(data, scene.server, scene.client)
    unmoved(scene, "c", event, DropReason.UNEXPECTED)
    scene.hold.add(Accept)
    scene.run(41)
    refresh = scene.last(Open, "g1").data
    assert message_of(refresh)[0].seq == 2
    unmoved(scene, "c", replace(event, data=forged(Reject, refresh)), DropReason.UNEXPECTED)
    scene.release()
    scene.run(5)
    assert scene.is_up


def test_who_did_not_see_the_open_refuses_nothing() -> None:
    """R-5.6.2: the cid is known, the OPEN's hash is not; or another's OPEN was meant."""
    scene = held_back(Accept)
    other = Scene()
    other.open(service="echo")
    data = forged(Reject, other.heard("s", Open).data)
    event = DatagramReceived(data, scene.server, scene.client)
    unmoved(scene, "c", event, DropReason.STALE)
    data = forged(Reject, scene.heard("s", Open).data, hops=())
    spoilt = data[:-1] + bytes([data[-1] ^ 1])
    unmoved(scene, "c", replace(event, data=spoilt), DropReason.SIGNATURE)


def test_who_saw_the_open_can_refuse_it_and_is_named() -> None:
    """R-5.6.2: it could drop it as well. The user is told who says so: a key, not a claim."""
    scene = held_back(Accept)
    data = forged(Reject, scene.heard("s", Open).data)
    scene.tell("c", DatagramReceived(data, scene.server, scene.client))
    (report,) = scene.seen(ReportRefused, "c")
    assert report.by == key_text(STRANGER.public)
    assert report.reason == "because I say so"
    assert scene.ended("c")


def test_a_responder_that_asked_nothing_takes_no_reject() -> None:
    """R-5.6.2."""
    scene = Scene().open()
    data = forged(Reject, scene.heard("s", Open).data)
    event = DatagramReceived(data, scene.client, scene.server)
    unmoved(scene, "s", event, DropReason.STALE)


@pytest.mark.parametrize("box", BOXES)
def test_a_no_without_the_token_goes_nowhere_and_ends_nothing_at_a_box(box: str) -> None:
    """R-5.6.4: with the token, what is confirmed stays as well; it only goes on."""
    scene = Scene(box).open()
    opened = scene.heard("s", Open).data
    event = DatagramReceived(
        forged(Reject, opened, hops=()), scene.server, scene.beyond, box == "gate", "outside"
    )
    unmoved(scene, "g1", event, DropReason.TOKEN)
    unmoved(scene, "g1", replace(event, source=ELSEWHERE), DropReason.TOKEN)
    unharmed(scene, "g1", replace(event, data=forged(Reject, opened)))
    scene.run(60)
    assert scene.is_up
