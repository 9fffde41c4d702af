"""Forged move: "the client is here now", or the server.

An ACCEPT for another flow of the same two keys moves a connection at a box (R-5.4.5), so what is
shown is who cannot bring one about.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, Scene, a_strangers_open, forged, signed_by, unmoved
from pair import STRANGER, body_of, make_open, message_of
from wayside.core.address import Address
from wayside.core.codec import Header, decode_body
from wayside.core.constants import CHECK_BYTES
from wayside.core.effects import SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, AcceptTerms, Open, OpenTerms
from wayside.core.opening import open_hash
from wayside.core.route import hops_hash

THERE = Address.parse("10.0.0.77:40000")


@pytest.mark.parametrize("seq", [1, 2, 100])
@pytest.mark.parametrize("known", [False, True])
def test_a_responder_moves_for_nobody_who_lacks_the_connections_key(known: bool, seq: int) -> None:
    """R-5.4.2: not for a stranger, and not for the client's own key without its `mac`."""
    scene = Scene().open()
    key = scene.c.context.key if known else STRANGER
    for mac in (b"", bytes(16)):
        data = a_strangers_open(scene, key=key, seq=seq, source=THERE, mac=mac)
        event = DatagramReceived(data, THERE.with_port(4747), scene.server)
        unmoved(scene, "s", event, DropReason.STALE)
    assert scene.bytes_to(THERE) == 0


@pytest.mark.parametrize("seq", [1, 3])
def test_an_initiator_moves_for_nobody_who_lacks_the_connections_key(seq: int) -> None:
    """R-5.4.2: an OPEN with an odd seq, as the server would send one that has moved.

    A stranger's, and one by the server's own key, which may be stolen: without its `mac`.
    """
    scene = Scene().open()
    there, here = THERE.with_port(8443), scene.client.with_port(40000)
    for key in (STRANGER, scene.s.context.key):
        to_key = scene.c.context.key.public
        data = a_strangers_open(
            scene, key=key, to_key=to_key, source=there, destination=here, seq=seq
        )
        event = DatagramReceived(data, THERE.with_port(4747), scene.client)
        unmoved(scene, "c", event, DropReason.STALE)
    assert scene.bytes_to(THERE) == 0


@pytest.mark.parametrize("stage", ["live", "pending"])
@pytest.mark.parametrize("box", BOXES)
def test_an_agreement_between_other_keys_moves_no_rule(box: str, stage: str) -> None:
    """R-5.4.4: a stranger asks an accomplice at the server's address, under the victims' cid."""
    scene = Scene(box)
    scene.open(1.0 if stage == "live" else 0.004)
    assert scene.kernel["g1"]
    opened = asked_through(scene, 8)
    accept = agreed_by_a_stranger(opened)
    back = DatagramReceived(accept, scene.server, scene.beyond, box == "gate", "outside")
    unmoved(scene, "g1", back, DropReason.STALE)


def asked_through(scene: Scene, seq: int) -> bytes:
    """An OPEN between two strangers' keys, as it goes on behind the box."""
    here, there = scene.client.with_port(6666), scene.server.with_port(443)
    data = make_open(STRANGER, STRANGER.public, here, there, cid=scene.cid, seq=seq)
    event = DatagramReceived(data, scene.client, scene.server, True, "inside")
    (sent,) = scene.tell("g1", event)
    assert isinstance(sent, SendDatagram)
    return sent.data


def agreed_by_a_stranger(opened: bytes) -> bytes:
    """The ACCEPT of an accomplice."""
    header, message = message_of(opened)
    assert isinstance(message, Open)
    asked = decode_body(OpenTerms, message.signed)
    terms = AcceptTerms(
        from_key=STRANGER.public,
        open_hash=open_hash(header, message.signed),
        hops_hash=hops_hash(message.hops),
        check=bytes(CHECK_BYTES),
        destination=asked.destination,
        ephemeral=bytes(31) + b"\x09",
        lifetime_s=120,
    )
    answer = Header(Accept.TYPE, header.seq, header.cid)
    return signed_by(STRANGER, answer, Accept, terms, message.hops)


@pytest.mark.parametrize("box", BOXES)
def test_an_accept_for_another_flow_moves_nothing_unless_the_responder_signed_it(box: str) -> None:
    """R-8.3: a stranger's ACCEPT for a refresh, with other ports in it."""
    scene = Scene(box).open()
    scene.hold.add(Accept)
    scene.run(41)
    opened = scene.last(Open, "g1").data
    accept = body_of(forged(Accept, opened), Accept)
    terms = decode_body(AcceptTerms, accept.signed)
    header = Header(Accept.TYPE, 2, scene.cid)
    for named in (STRANGER.public, scene.s.context.key.public):
        other = replace(terms, from_key=named, destination=scene.server.with_port(22))
        data = signed_by(STRANGER, header, Accept, other, accept.hops)
        event = DatagramReceived(data, scene.server, scene.beyond, box == "gate", "outside")
        right_key = named == scene.s.context.key.public
        unmoved(scene, "g1", event, DropReason.SIGNATURE if right_key else DropReason.ADDRESS)
