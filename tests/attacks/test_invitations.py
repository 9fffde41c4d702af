"""Invitations on the wire: the secret is for the rendezvous that gave it out, once, from one key.

What is done with the secret, and what its store can do, is in tests/runtime/test_enrolment.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import ELSEWHERE, Scene, unmoved
from attacks.test_unknown_key_share import under_mallorys_name
from natted import without_ports
from pair import make_host
from wayside.core.address import Transport
from wayside.core.effects import DeliverData, ReportRefused
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.host import Offered
from wayside.core.messages import Code, Open

SECRET = b"sixteen  secrets"
CERTIFICATE = b"a certificate for the client's key"


def joining(*, impostor: bool = False) -> Scene:
    """A client shows an invitation's secret to the rendezvous that is in the server's place."""
    scene = Scene(data=SECRET, answer=CERTIFICATE, transport=Transport.NONE)
    peer = scene.request().peer
    if impostor:
        scene.s = make_host("impostor")
        scene.nodes["s"] = scene.s
    scene.s.answering.services["join"] = Offered(0)
    flow = without_ports(scene.client, scene.server)
    return scene.open(service="join", wire=flow, local=flow, peer=peer)


def test_an_invitation_is_shown_to_its_rendezvous_alone() -> None:
    """R-4.5, R-5.2.5: nobody on the path reads the secret, or the answer."""
    scene = joining()
    assert [one.data for one in scene.seen(DeliverData, "s")] == [SECRET]
    assert [one.data for one in scene.seen(DeliverData, "c")] == [CERTIFICATE]
    for sent in scene.wire:
        assert SECRET not in sent.data
        assert CERTIFICATE not in sent.data


def test_who_stands_in_the_rendezvous_place_learns_no_secret() -> None:
    """R-5.1.8: its key is in the invitation; another one is asked for nothing."""
    scene = joining(impostor=True)
    assert scene.seen(DeliverData) == []
    assert [one.code for one in scene.seen(ReportRefused, "c")] == [Code.BAD_IDENTITY]


@pytest.mark.parametrize("after_s", [0, 30, 70])
def test_a_question_that_is_repeated_is_asked_once(after_s: float) -> None:
    """R-7.7, R-5.1.2: an observer's copy, from anywhere, at any time, reaches nobody."""
    scene = joining()
    question = scene.heard("s", Open)
    scene.close()
    scene.run(10 + after_s)
    unmoved(scene, "s", question, DropReason.STALE)
    unmoved(scene, "s", replace(question, source=ELSEWHERE), DropReason.STALE)
    assert len(scene.seen(DeliverData, "s")) == 1


def test_nobody_shows_the_secret_of_another_in_its_own_name() -> None:
    """R-4.5: key share and sealed question are copied; to Mallory's key they do not open."""
    scene = joining()
    opened = scene.heard("s", Open)
    fresh = Scene(transport=Transport.NONE)
    fresh.s.answering.services["join"] = Offered(0)
    stolen = under_mallorys_name(opened.data)
    fresh.tell("s", DatagramReceived(stolen, scene.client, scene.server))
    assert fresh.s.connections == {}
    assert fresh.seen(DeliverData) == []
