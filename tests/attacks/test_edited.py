"""Edited in transit: a box on the path changes what passes, on either link, and lets it go on.

It could drop the datagram as well; what it must not get is another agreement than the ends made.
So each run either ends as if that datagram had been lost, or comes up exactly as it should.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, Scene, essence
from pair import Sent, body_of, message_of, reasons
from wayside.core.address import Flow
from wayside.core.effects import ChangeRules, ReportOpened
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, Close, Confirm, Message, Open, encode

STRIDE = 53
"""Every so many bytes of a message one is flipped, in a run of its own; with the offsets of the
header in full. The fields that nobody signs have tests of their own, byte by byte."""


@pytest.mark.parametrize("kind", [Open, Accept, Confirm, Close])
@pytest.mark.parametrize("link", ["c-g1", "g1-s"])
@pytest.mark.parametrize("box", BOXES)
def test_an_edited_message_is_no_more_than_a_lost_one(
    box: str, link: str, kind: type[Message]
) -> None:
    """R-4.2, R-5.2.2, R-5.3.2, R-5.9.3: the first of its kind is bent; the next one is not."""
    right = rules_of(Scene(box).open())
    length = len(sample(box, kind))
    for at in (*range(3, 32, 4), *range(32, length, STRIDE)):
        scene = Scene(box)
        scene.change = Bender(kind, link, at)
        scene.open(6).close(seconds=3)
        up = scene.seen(ReportOpened, "c")
        assert up
        assert rules_of(scene) <= right
        assert not any(scene.kernel.values())


@pytest.mark.parametrize(
    ("node", "kind"), [("c", Accept), ("s", Confirm), ("c", Close), ("s", Close)]
)
def test_an_end_takes_no_edited_answer_whichever_byte_it_is(node: str, kind: type[Message]) -> None:
    """R-7.6: all bytes, one bit each, before the right one comes; OPEN: see test_responder."""
    scene = Scene()
    if kind is Close:
        scene.open()
    scene.hold.add(kind)
    if kind is Close:
        scene.close("s" if node == "c" else "c", seconds=0.05)
    else:
        scene.open(0.05)
    header, message = message_of(scene.held[0][1].data)
    data = encode(header, message)
    if isinstance(message, Close):  # its hops are for the boxes, and nobody signs them
        data = encode(header, replace(message, hops=()))
    if isinstance(message, Confirm):  # its last field too
        data = data[: -len(message.proof)]
    at, other = (scene.client, scene.server) if node == "c" else (scene.server, scene.client)
    before = essence(scene)
    for place in range(len(data)):
        bent = data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]
        assert reasons(scene.tell(node, DatagramReceived(bent, other, at)))
        assert essence(scene) == before


class Bender:
    """Flips a bit of the first datagram of a kind on one link."""

    def __init__(self, kind: type[Message], link: str, at: int) -> None:
        self._kind, self._link, self._at, self._done = kind, link, at, False

    def __call__(self, sent: Sent, to: str) -> bytes:
        here = {sent.node, to} == set(self._link.split("-"))
        if self._done or not here or sent.kind is not self._kind or self._at >= len(sent.data):
            return sent.data
        self._done = True
        at = self._at
        return sent.data[:at] + bytes([sent.data[at] ^ 1]) + sent.data[at + 1 :]


def sample(box: str, kind: type[Message]) -> bytes:
    """A datagram of a kind."""
    return Scene(box).open().close().last(kind, "g1").data


def rules_of(scene: Scene) -> set[tuple[str, Flow, Flow | None]]:
    """Every rule that was ever put: where, its match, and what it rewrites to."""
    return {
        (node, rule.match, rule.rewrite)
        for node, effect in scene.effects
        if isinstance(effect, ChangeRules)
        for rule in effect.put
    }


def test_hops_that_are_bent_on_the_way_back_are_found_out_by_the_initiator() -> None:
    """R-8.4: a box that shows the two ends different hops; the connection comes up without it."""
    scene = Scene()
    bent = iter((True,))

    def change(sent: Sent, to: str) -> bytes:
        if to != "c" or sent.kind is not Accept or not next(bent, False):
            return sent.data
        header, _ = message_of(sent.data)
        message = body_of(sent.data, Accept)
        (hop,) = message.hops
        return encode(header, replace(message, hops=(replace(hop, lifetime_s=3600),)))

    scene.change = change
    scene.open(3)
    assert [reason.value for reason in reasons(e for n, e in scene.effects if n == "c")] == [
        "signature"
    ]
    assert scene.is_up
    assert scene.connection("c").lifetime_s == 120
