"""Forged REDIRECT: "go by way of me". Who has no say is refused, or not listened to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attacks.scene import (
    BOXES,
    ELSEWHERE,
    Scene,
    forged,
    held_back,
    signed_by,
    unharmed,
    unmoved,
)
from pair import STRANGER, body_of, message_of
from wayside.core.codec import Header, decode_body
from wayside.core.connection import State
from wayside.core.crypto import SigningKey
from wayside.core.effects import ReportRefused
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.identity import key_text
from wayside.core.messages import Accept, Code, Open, OpenTerms, Redirect, RedirectTerms
from wayside.core.rule import Cid


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


# --- by somebody who may redirect: a gate that the client trusts, or the one it asks ---

GATE = SigningKey(b"g" * 32)
MALLORY = SigningKey(b"m" * 32).public


def asking() -> Scene:
    """A client that waits for an answer, and lets one gate redirect it."""
    scene = held_back(Accept)
    scene.c.context.redirectors = (GATE.public,)
    return scene


def redirecting(by: SigningKey, opened: bytes, **more: Any) -> bytes:
    """A REDIRECT about an OPEN, by somebody; `more` replaces fields of its terms."""
    header, made = message_of(forged(Redirect, opened, key=by, hops=()))
    assert isinstance(made, Redirect)
    terms = replace(decode_body(RedirectTerms, made.signed), **more)
    return signed_by(by, header, Redirect, terms, ())


def received(scene: Scene, data: bytes) -> DatagramReceived:
    return DatagramReceived(data, scene.server, scene.client)


def asked_for(scene: Scene) -> list[OpenTerms]:
    """What the client's OPENs say."""
    opens = [sent for sent in scene.wire if sent.node == "c" and sent.kind is Open]
    return [decode_body(OpenTerms, body_of(sent.data, Open).signed) for sent in opens]


def test_a_gate_that_the_client_trusts_redirects_it() -> None:
    """R-5.7.1: the control of the tests below."""
    scene = asking()
    scene.tell("c", received(scene, redirecting(GATE, scene.heard("s", Open).data)))
    assert scene.bytes_to(ELSEWHERE) >= 1200


def test_a_redirect_of_another_open_is_not_followed() -> None:
    """R-5.7.1: of another connection, under its own cid or ours; of an earlier OPEN of ours."""
    scene = asking()
    opened = scene.heard("s", Open).data
    other = held_back(Accept)
    other.cid = Cid(b"another cid of c")
    other.open(0.05)
    foreign = redirecting(GATE, other.last(Open, "c").data)
    unmoved(scene, "c", received(scene, foreign), DropReason.UNKNOWN)
    header, _ = message_of(opened)
    relabelled = Header(Redirect.TYPE, header.seq, header.cid).signing + foreign[32:]
    unmoved(scene, "c", received(scene, relabelled), DropReason.SIGNATURE)
    signed_again = redirecting(GATE, opened, open_hash=bytes(32))
    unmoved(scene, "c", received(scene, signed_again), DropReason.STALE)
    first = redirecting(GATE, opened)
    scene.tell("c", received(scene, first))
    unmoved(scene, "c", received(scene, first), DropReason.STALE)
    assert len(asked_for(scene)) == 2


@pytest.mark.parametrize("relay", [0, 1])
def test_the_peer_puts_nobody_else_in_its_place(relay: int) -> None:
    """R-5.7.2: it may send the client elsewhere; asked for there is the same key."""
    scene = asking()
    server = scene.s.context.key
    data = redirecting(server, scene.heard("s", Open).data, key=MALLORY, relay=relay)
    scene.tell("c", received(scene, data))
    assert scene.connection("c").agreement.peer.key == server.public
    assert {terms.to_key for terms in asked_for(scene)} == {server.public}


def test_a_stranger_puts_nobody_in_the_peers_place() -> None:
    """R-5.7.1: that is a refusal, and nobody is asked."""
    scene = asking()
    data = redirecting(STRANGER, scene.heard("s", Open).data, key=MALLORY)
    scene.tell("c", received(scene, data))
    assert [report.code for report in scene.seen(ReportRefused, "c")] == [Code.NO_ROUTE]
    assert MALLORY not in {terms.to_key for terms in asked_for(scene)}
    assert scene.bytes_to(ELSEWHERE) == 0


def test_nobody_takes_the_peers_place_in_a_live_connection() -> None:
    """R-5.7.2: not even by a gate that the client trusts; a refresh asks for the same key."""
    scene = Scene().open()
    scene.c.context.redirectors = (GATE.public,)
    scene.hold.add(Accept)
    scene.run(40)
    opened = scene.last(Open, "c").data
    scene.tell("c", received(scene, redirecting(GATE, opened, key=MALLORY)))
    assert scene.connection("c").state is State.CONNECTED
    assert {terms.to_key for terms in asked_for(scene)} == {scene.s.context.key.public}
    assert scene.connection("c").agreement.peer.key == scene.s.context.key.public


def test_a_live_connection_is_redirected_by_no_stranger() -> None:
    """R-5.7.1: about its refresh that nobody has answered yet, and with the right hash."""
    scene = Scene().open()
    scene.hold.add(Accept)
    scene.run(40)
    data = redirecting(STRANGER, scene.last(Open, "c").data)
    unmoved(scene, "c", received(scene, data), DropReason.UNEXPECTED)
