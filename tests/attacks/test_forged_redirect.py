"""Forged REDIRECT: "go by way of me". Who has no say is refused, or not listened to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, forged, held_back, unharmed, unmoved
from pair import STRANGER
from wayside.core.effects import ReportRefused
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.identity import key_text
from wayside.core.messages import Accept, Code, Open, Redirect


def test_a_redirect_leads_nobody_anywhere() -> None:
    """R-5.7.1: by a stranger, for an unanswered OPEN, it is a no; and nothing else."""
    scene = held_back(Accept)
    data = forged(Redirect, scene.heard("s", Open).data)
    said = len(scene.wire)
    scene.tell("c", DatagramReceived(data, scene.server, scene.client))
    (report,) = scene.seen(ReportRefused, "c")
    assert (report.code, report.by) == (Code.NO_ROUTE, key_text(STRANGER.public))
    scene.run(10)
    assert not [sent for sent in scene.wire[said:] if sent.node == "c"]
    assert scene.bytes_to(ELSEWHERE) == 0
    assert scene.kernel["c"] == {}


def test_a_redirect_whose_signature_does_not_hold_is_dropped() -> None:
    """R-5.7.1, R-4.2."""
    scene = held_back(Accept)
    data = forged(Redirect, scene.heard("s", Open).data, hops=())
    event = DatagramReceived(data[:-1] + b"\x00", scene.server, scene.client)
    unmoved(scene, "c", event, DropReason.SIGNATURE)


@pytest.mark.parametrize("seq", [0, 2])
def test_a_live_connection_is_not_redirected(seq: int) -> None:
    """R-5.7.1: only an unanswered OPEN is."""
    scene = Scene().open()
    data = forged(Redirect, scene.heard("s", Open).data, seq=seq)
    event = DatagramReceived(data, scene.server, scene.client)
    unmoved(scene, "c", event, DropReason.STALE)
    unmoved(scene, "s", replace(event, destination=scene.server), DropReason.STALE)


@pytest.mark.parametrize("box", BOXES)
def test_a_redirect_passes_a_box_only_with_its_token(box: str) -> None:
    """R-5.6.4."""
    scene = Scene(box).open()
    opened = scene.heard("s", Open).data
    event = DatagramReceived(
        forged(Redirect, opened, hops=()), scene.server, scene.beyond, box == "gate", "outside"
    )
    unmoved(scene, "g1", event, DropReason.TOKEN)
    unharmed(scene, "g1", replace(event, data=forged(Redirect, opened)))
