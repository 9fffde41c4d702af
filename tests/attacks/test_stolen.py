"""Stolen token, stolen cookie: sealed state in the hands of who was not meant to have it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, elsewhere, forged, unharmed, unmoved
from pair import CHALLENGE, decode, hops_of, make_host, make_open, message_of
from wayside.core.codec import Header
from wayside.core.connection import State
from wayside.core.effects import SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import MESSAGES, Accept, Challenge, Close, Confirm, Open, encode
from wayside.core.rule import Cid


def test_a_stolen_cookie_proves_nothing_elsewhere_or_for_another_connection() -> None:
    """R-7.3: it is for one cid and one source address and port."""
    scene = Scene(server=make_host("s", policy=CHALLENGE)).open()
    proved = next(e for e in scene.all_heard("s") if e.data[4] == Open.TYPE and e.data[6])
    (proof,) = decode(proved.data)[0].proofs
    for source, cid in (
        (ELSEWHERE, scene.cid),
        (scene.client.with_port(4748), scene.cid),
        (scene.client, Cid(b"the second cid 1")),
    ):
        fresh = Scene(server=scene.s)
        fresh.s.connections.clear()
        data = make_open(
            scene.c.context.key,
            scene.s.context.key.public,
            source.with_port(40_000),
            scene.server.with_port(443),
            cid=cid,
            seq=2,
            proofs=(proof,),
        )
        (answer,) = fresh.tell("s", DatagramReceived(data, source, scene.server))
        assert isinstance(answer, SendDatagram)
        assert MESSAGES[answer.data[4]] is Challenge
        assert answer.destination == source


@pytest.mark.parametrize("box", BOXES)
def test_a_stolen_token_opens_nothing(box: str) -> None:
    """R-8.3, R-5.3.3: rules come from a signed ACCEPT alone; with the token, whoever sends it."""
    scene = Scene(box)
    scene.hold.add(Accept)
    scene.open(0.05)
    opened = scene.heard("s", Open).data
    for kind, why in ((Accept, DropReason.ADDRESS), (Confirm, DropReason.UNKNOWN)):
        data = forged(kind, opened)
        transit = kind is Confirm or box == "gate"
        event = DatagramReceived(data, scene.server, scene.beyond, transit, "outside")
        unmoved(scene, "g1", event, why)
    assert scene.kernel["g1"] == {}


@pytest.mark.parametrize("seconds", [11.0, 60.0])
@pytest.mark.parametrize("box", BOXES)
def test_a_token_that_was_kept_answers_nothing_later(box: str, seconds: float) -> None:
    """R-8.2: for ACCEPT, CHALLENGE, REJECT and REDIRECT it is good for ten seconds."""
    scene = Scene(box).open()
    opened, accept = scene.heard("s", Open).data, scene.heard("g1", Accept)
    scene.close().run(seconds)
    unmoved(scene, "g1", accept, DropReason.TOKEN)
    unmoved(scene, "g1", replace(accept, data=forged(Challenge, opened)), DropReason.TOKEN)


@pytest.mark.parametrize("box", BOXES)
def test_who_shows_a_stolen_token_gets_nothing_and_sends_no_more_than_it_brings(box: str) -> None:
    """R-5.9.2, R-7.5: a CLOSE goes on, one for one, and what comes of it is not for the thief."""
    scene = Scene(box).open()
    data = forged(Close, scene.heard("s", Open).data)
    said = len(scene.wire)
    for _ in range(10):
        event = DatagramReceived(data, ELSEWHERE, scene.server, True, "outside")
        scene.tell("g1", event)
    passed = [sent for sent in scene.wire[said:] if sent.node == "g1"]
    assert [sent.data for sent in passed] == [data] * 10
    assert scene.bytes_to(ELSEWHERE) == 0
    scene.run(1)
    assert scene.connection("s").state is State.CONNECTED


@pytest.mark.parametrize("box", BOXES)
def test_a_stolen_confirm_is_good_for_nothing_from_elsewhere(box: str) -> None:
    """R-5.3.1: it says again what is known; nothing turns towards who sent it."""
    scene = Scene(box).open()
    towards = scene.connection("s").towards
    unharmed(scene, "s", elsewhere(scene.heard("s", Confirm)))
    unharmed(scene, "g1", elsewhere(scene.heard("g1", Confirm)))
    assert scene.connection("s").towards == towards
    assert scene.bytes_to(ELSEWHERE) == 0


def test_a_host_has_no_secret_that_a_token_could_open() -> None:
    """R-8.1: tokens with the host's own key on them are bytes; an OPEN with such a hop is one."""
    scene = Scene().open()
    confirm = scene.heard("s", Confirm)
    header, message = message_of(confirm.data)
    assert isinstance(message, Confirm)
    (hop,) = hops_of(confirm.data)
    named = replace(hop, key=scene.s.context.key.public)
    data = encode(Header(header.type, header.seq, header.cid), replace(message, hops=(named,)))
    unmoved(scene, "s", replace(confirm, data=data), DropReason.STALE)
