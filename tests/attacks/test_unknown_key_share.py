"""Unknown key share: A believes that it talks to B, while B believes that it talks to C.

Mallory is on the path and has a good key. He puts his own name on A's OPEN (the key share in it
stays A's) and hopes that B's answer to him convinces A. Or he answers A himself, with B's words.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, Scene, forged, held_back, signed_by, unmoved
from pair import STRANGER, body_of, message_of
from wayside.core.codec import decode_body, encode_body
from wayside.core.connection import connection_key
from wayside.core.crypto import ephemeral_public
from wayside.core.effects import ReportOpened, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, AcceptTerms, Open, OpenTerms, padded
from wayside.core.opening import SIGNATURE_CONTEXT


def under_mallorys_name(data: bytes) -> bytes:
    """The same OPEN, with the same key share, said and signed by somebody else."""
    header, message = message_of(data)
    assert isinstance(message, Open)
    terms = replace(decode_body(OpenTerms, message.signed), from_key=STRANGER.public)
    signed = encode_body(terms)
    signature = STRANGER.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return padded(header, Open(signed, signature, message.hops))


@pytest.mark.parametrize("box", BOXES)
def test_an_answer_to_mallory_is_none_to_the_client(box: str) -> None:
    """R-5.2.2, R-8.3: the responder agrees with Mallory: nobody else takes it for theirs."""
    scene = Scene(box)
    scene.hold.add(Open)
    scene.tell("c", scene.request())
    scene.run(0.01)
    scene.hold = {Open, Accept}
    ((_, event),) = scene.held
    scene.held.clear()
    (asked,) = scene.tell("g1", event)
    assert isinstance(asked, SendDatagram)
    at_server = DatagramReceived(under_mallorys_name(asked.data), scene.beyond, scene.server)
    scene.tell("s", at_server)
    assert scene.connection("s").agreement.peer.key == STRANGER.public
    accept = scene.last(Accept, "s").data
    back = DatagramReceived(accept, scene.server, scene.beyond, box == "gate", "outside")
    unmoved(scene, "g1", back, DropReason.ADDRESS)
    unmoved(scene, "c", replace(back, destination=scene.client), DropReason.SIGNATURE)
    scene.run(6)
    assert not scene.seen(ReportOpened)
    assert scene.kernel["s"] == scene.kernel["g1"] == {}


def test_mallory_cannot_pass_the_responders_words_off_as_his() -> None:
    """R-5.2.2: nor his words as the responder's; the client asked for one key."""
    scene = held_back(Accept)
    right = next(event for _, event in scene.held)
    header, message = message_of(right.data)
    assert isinstance(message, Accept)
    terms = decode_body(AcceptTerms, message.signed)
    stolen_share = decode_body(
        AcceptTerms, body_of(forged(Accept, scene.heard("s", Open).data), Accept).signed
    )
    for claim in (
        replace(terms, from_key=STRANGER.public),
        replace(terms, ephemeral=stolen_share.ephemeral),
    ):
        data = signed_by(STRANGER, header, Accept, claim, message.hops)
        event = replace(right, data=data, destination=scene.client)
        unmoved(scene, "c", event, DropReason.SIGNATURE)


def test_the_connections_key_is_of_both_names_and_both_shares() -> None:
    """R-4.3: it is bound to the hash of the OPEN, which names both keys, and to either share."""
    one, other = b"\x01" * 32, b"\x02" * 32
    asks, answers, mallory = (bytes(31) + bytes([number]) for number in (7, 8, 9))
    asked, answered, mallorys = map(ephemeral_public, (asks, answers, mallory))
    right = connection_key(asks, answered, one, answered)
    assert connection_key(answers, asked, one, answered) == right
    wrong = {
        connection_key(asks, answered, other, answered),
        connection_key(mallory, answered, one, answered),
        connection_key(asks, mallorys, one, mallorys),
        connection_key(asks, answered, one, mallorys),
        connection_key(asks, mallorys, one, answered),
    }
    assert len(wrong - {right}) == 5
    scene = Scene().open()
    c, s = scene.connection("c"), scene.connection("s")
    assert c.keys.by_seq == s.keys.by_seq
    assert (c.agreement.peer.key, s.agreement.peer.key) == (
        scene.s.context.key.public,
        scene.c.context.key.public,
    )
