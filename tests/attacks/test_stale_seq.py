"""Stale seq: messages of an earlier refresh, or with a seq that nobody has reached."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, NODES, Scene, unharmed, unmoved
from pair import message_of, reasons
from wayside.core.codec import Header
from wayside.core.errors import DropReason
from wayside.core.messages import MESSAGES, Accept, Confirm, Message, Open, encode, padded


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("box", BOXES)
def test_what_a_refresh_has_overtaken_changes_nothing(box: str, node: str) -> None:
    """R-5.4.2, R-5.4.4: OPEN, ACCEPT and CONFIRM with seq 0, when seq 2 is agreed."""
    scene = Scene(box).open()
    old = scene.all_heard(node)
    scene.run(45)
    assert scene.connection("c").keys.seq == 2
    for event in old:
        too_old = node == "g1" and event.data[4] == Accept.TYPE
        unmoved(scene, node, event, DropReason.TOKEN if too_old else DropReason.STALE)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("box", BOXES)
def test_another_seq_on_the_same_message_is_dropped(box: str, node: str) -> None:
    """R-4.2, R-8.2: seqs are signed, sealed into tokens and covered by MACs."""
    scene = Scene(box).open()
    for event in scene.all_heard(node):
        header, message = message_of(event.data)
        for seq in (1, 2, 2**64 - 1):
            other = Header(header.type, seq, header.cid)
            data = padded(other, message) if isinstance(message, Open) else encode(other, message)
            effects = unharmed(scene, node, replace(event, data=data))
            assert reasons(effects) == [why(node, type(message), seq)]


def why(node: str, kind: type[Message], seq: int) -> DropReason:
    """What a node says about a message with a seq that is not its own."""
    assert kind in MESSAGES.values()
    if kind is Open:
        return DropReason.SIGNATURE
    assert kind in (Accept, Confirm)
    return DropReason.TOKEN if node == "g1" else DropReason.STALE


@pytest.mark.parametrize("node", ["c", "s"])
def test_keys_of_seqs_before_the_last_two_are_gone(node: str) -> None:
    """R-5.4.3: what leaks of them later says nothing for this connection."""
    scene = Scene().open()
    scene.run(170)
    held = sorted(scene.connection(node).keys.by_seq)
    assert len(held) == 2
    assert min(held) >= 4
