"""Wrong key: everything is right, and it is the wrong one who says it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import (
    BOXES,
    ELSEWHERE,
    Scene,
    a_strangers_open,
    held_back,
    signed_by,
    unharmed,
    unmoved,
)
from pair import STRANGER, body_of, make_host, message_of
from wayside.core.codec import Header, decode_body
from wayside.core.connection import State
from wayside.core.crypto import derive, digest, mac
from wayside.core.effects import ReportOpened
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, OpenRequested
from wayside.core.identity import PeerIdentity
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Close,
    Code,
    Open,
    Reject,
    RejectTerms,
    encode,
)
from wayside.core.opening import open_hash
from wayside.core.rule import Cid


@pytest.mark.parametrize("box", BOXES)
def test_who_has_the_address_but_not_the_key_answers_with_bad_identity(box: str) -> None:
    """R-5.1.8: a host asked in another's name says so, and neither box nor ends make a rule."""
    scene = Scene(box)
    scene.open(peer=PeerIdentity(make_host("another").context.key.public))
    reject = body_of(scene.last(Reject, "s").data, Reject)
    assert decode_body(RejectTerms, reject.signed).code == Code.BAD_IDENTITY
    assert not any(scene.kernel.values())
    assert not scene.seen(ReportOpened)


def test_an_initiator_believes_the_key_that_it_asked_for_alone() -> None:
    """R-5.2.2: an impostor at the right address signs a perfect ACCEPT, in either name."""
    scene = held_back(Accept)
    right = next(event for _, event in scene.held)
    header, message = message_of(right.data)
    assert isinstance(message, Accept)
    terms = decode_body(AcceptTerms, message.signed)
    for named in (STRANGER.public, terms.from_key):
        data = signed_by(STRANGER, header, Accept, replace(terms, from_key=named), message.hops)
        event = replace(right, data=data, destination=scene.client)
        unmoved(scene, "c", event, DropReason.SIGNATURE)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
@pytest.mark.parametrize("node", ["g1", "s"])
def test_a_key_that_is_no_key_signs_nothing(node: str, key: bytes) -> None:
    """R-4.2: points of small order, under which any signature might hold."""
    scene = Scene()
    data = a_strangers_open(scene, from_key=key)
    event = DatagramReceived(data, scene.client, scene.server, node == "g1", "inside")
    unmoved(scene, node, event, DropReason.SIGNATURE)


def test_a_leaked_key_of_one_host_says_nothing_for_another() -> None:
    """R-5.4.2, R-5.9.3: the client's key is stolen: what is up stays, its own and another's.

    The thief has seen all that was said, but the keys of connections are of ephemeral secrets.
    """
    scene = Scene().open()
    another = Cid(b"another one of s")
    scene.tell("c", beside(scene, another))
    scene.run(1)
    thief = scene.c.context.key
    data = a_strangers_open(scene, key=thief, seq=2, source=scene.client.with_port(40000))
    event = DatagramReceived(data, scene.client, scene.server)
    unmoved(scene, "s", event, DropReason.STALE)
    unharmed(scene, "g1", replace(event, transit=True, side="inside"))
    header, opened = message_of(scene.heard("s", Open).data)
    assert isinstance(opened, Open)
    accept = body_of(scene.heard("c", Accept).data, Accept)
    share = decode_body(AcceptTerms, accept.signed).ephemeral
    asked = open_hash(header, opened.signed)
    stolen = derive(thief.agree(share), digest(asked, share), b"wayside connection")
    for cid in (scene.cid, another):
        about = Header(Close.TYPE, 0, cid)
        for key in (stolen, thief.seed, scene.s.context.key.public):
            close = encode(about, Close(mac(key, about.signing, b"bye"), "bye", opened.hops))
            for source in (scene.client, ELSEWHERE):
                event = DatagramReceived(close, source, scene.server)
                unmoved(scene, "s", event, DropReason.SIGNATURE)
    scene.run(60)
    for end in (scene.c, scene.s):
        assert [end.connections[cid].state for cid in (scene.cid, another)] == [
            State.CONNECTED,
            State.CONNECTED,
        ]


def beside(scene: Scene, cid: Cid) -> OpenRequested:
    """What the client's application asks for as well, from another port."""
    asked = scene.request(cid=cid)
    wire, local = (
        replace(flow, source=flow.source.with_port(40002)) for flow in (asked.wire, asked.local)
    )
    return replace(asked, wire=wire, local=local)
