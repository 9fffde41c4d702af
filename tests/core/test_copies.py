"""An OPEN that comes again: it is the same one only by the same boxes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.test_responder import offered, unmoved
from pair import STRANGER, Pair, body_of, message_of
from wayside.core.codec import decode_body
from wayside.core.effects import ChangeRules, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.messages import Accept, AcceptTerms, Hop, Open, padded

BY_OTHER_BOXES = {
    "none": (),
    "another": (Hop(STRANGER.public, 1, 120, b"x"),),
    "one more": None,
    "another role": 3,
}


@pytest.mark.parametrize("how", BY_OTHER_BOXES)
def test_a_copy_of_an_open_that_came_by_other_boxes_is_stale(how: str) -> None:
    """R-5.2.1: keys and roles of its hops; before CONFIRM and after."""
    for pair in (offered(1), Pair(1).open(0.05)):
        header, message = message_of(pair.last(Open, "g1").data)
        assert isinstance(message, Open)
        (gate,) = message.hops
        hops = BY_OTHER_BOXES[how]
        if hops is None:
            hops = (gate, Hop(STRANGER.public, 1, 120, b"x"))
        elif isinstance(hops, int):
            hops = (replace(gate, role=hops),)
        copied = Open(message.signed, message.signature, hops)
        unmoved(pair, padded(header, copied), DropReason.STALE, pair.own["c"][0])


def test_a_copy_of_an_open_that_came_by_the_same_boxes_is_answered_by_its_new_tokens() -> None:
    """R-5.2.1: with the hops that it has this time, and the same ephemeral key."""
    pair = offered(1)
    header, message = message_of(pair.last(Open, "g1").data)
    first = body_of(pair.last(Accept, "s").data, Accept)
    assert isinstance(message, Open)
    hops = (replace(message.hops[0], token=b"another token"),)
    copied = Open(message.signed, message.signature, hops)
    (answer,) = pair.inject("s", padded(header, copied), pair.own["c"][0])[-1:]
    if isinstance(answer, ChangeRules):
        (answer,) = answer.then
    assert isinstance(answer, SendDatagram)
    again = body_of(answer.data, Accept)
    assert again.hops == hops
    ephemerals = {decode_body(AcceptTerms, one.signed).ephemeral for one in (first, again)}
    assert len(ephemerals) == 1
