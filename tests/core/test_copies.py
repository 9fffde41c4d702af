"""An OPEN that comes again: it is the same one only by the same boxes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.test_responder import offered, unmoved
from pair import STRANGER, Pair, body_of, message_of
from wayside.core.address import Transport
from wayside.core.codec import decode_body
from wayside.core.constants import TOKEN_BYTES_MAX
from wayside.core.effects import ChangeRules, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.messages import Accept, AcceptTerms, Confirm, Hop, Open, padded
from wayside.core.stopping import may_stop

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


@pytest.mark.parametrize("confirmed", [False, True])
def test_a_copy_with_hops_that_leave_no_room_for_what_was_said_is_stale(confirmed: bool) -> None:
    """R-5.2.1, R-7.6: the same boxes, with longer tokens, and an answer that was made to fit."""
    pair = Pair(2, transport=Transport.UDP, data=b"d" * 100, answer=b"a" * 512)
    if not confirmed:
        pair.lose[Confirm] = 100
    pair.open(0.05, service="echo")
    header, message = message_of(pair.last(Open, "g2").data)
    assert isinstance(message, Open)
    hops = tuple(replace(hop, token=bytes(TOKEN_BYTES_MAX)) for hop in message.hops)
    copied = Open(message.signed, message.signature, hops)
    pair.inject("s", padded(header, message), pair.own["c"][0])  # one more is as good
    unmoved(pair, padded(header, copied), DropReason.STALE, pair.own["c"][0])
    pair.run(10)
    assert (pair.cid in pair.s.connections) is confirmed


def test_a_copy_that_comes_after_its_confirm_changes_nothing_of_what_was_confirmed() -> None:
    """R-5.8: a STOP goes to where the CONFIRM came from, by its hops, which are signed for."""
    pair = Pair(1).open(0.05)
    before = may_stop(pair.connection("s"))
    assert before is not None
    was = (before.towards, before.hops)
    header, message = message_of(pair.last(Open, "g1").data)
    assert isinstance(message, Open)
    hops = (replace(message.hops[0], token=b"another token"),)
    copied = padded(header, Open(message.signed, message.signature, hops))
    elsewhere = pair.own["c"][0].with_port(999)
    assert any(isinstance(one, SendDatagram) for one in pair.inject("s", copied, elsewhere))
    after = may_stop(pair.connection("s"))
    assert after is not None
    assert (after.towards, after.hops) == was
