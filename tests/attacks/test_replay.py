"""Replay: bytes that were good once come again, later, more often, or from somewhere else."""

from __future__ import annotations

import pytest

from attacks.scene import BOXES, ELSEWHERE, NODES, Scene, elsewhere, essence, unharmed, unmoved
from pair import CHALLENGE, reasons
from wayside.core.effects import Dropped, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.messages import MESSAGES, Accept, Challenge, Close, Confirm, Open, Reject


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("box", BOXES)
def test_what_came_once_changes_nothing_when_it_comes_again(box: str, node: str) -> None:
    """R-7.6, R-5.2.1, R-5.3.1: a live connection; answers are repeated, one for one."""
    scene = Scene(box).open()
    for event in scene.all_heard(node) * 3:
        unharmed(scene, node, event)
    scene.run(60)
    assert scene.is_up


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("box", BOXES)
def test_what_came_once_does_nothing_from_another_address(box: str, node: str) -> None:
    """R-7.5, R-7.6: and nothing is sent there beyond what came from there."""
    scene = Scene(box).open()
    replayed = scene.all_heard(node)
    for event in replayed:
        unharmed(scene, node, elsewhere(event))
    assert scene.bytes_to(ELSEWHERE) <= sum(len(event.data) for event in replayed)
    scene.run(60)
    assert scene.is_up


@pytest.mark.parametrize("seconds", [0.5, 4.0, 8.0, 30.0, 100.0])
@pytest.mark.parametrize("box", BOXES)
def test_nothing_of_a_closed_connection_comes_back(box: str, seconds: float) -> None:
    """R-5.9.4, R-7.7: whichever of its messages, whenever, at any of the three."""
    scene = Scene(box).open().close()
    scene.run(seconds)
    said = [(node, event) for node, event in scene.came if event.data[4] != Close.TYPE]
    for node, event in said:
        before = essence(scene)
        effects = scene.tell(node, event)
        assert essence(scene) == before
        if node == "g1" and event.data[4] == Open.TYPE and seconds > 10:
            continue
        assert reasons(effects)
    assert not any(scene.kernel.values())


@pytest.mark.parametrize("box", BOXES)
def test_an_old_open_is_challenged_and_the_challenge_goes_to_its_source(box: str) -> None:
    """R-5.1.2: a recording of two minutes ago opens nothing, at a box or at its responder."""
    scene = Scene(box).open().close()
    scene.run(125)
    for node in ("g1", "s"):
        event = scene.heard(node, Open)
        (answer,) = unharmed(scene, node, event)
        assert isinstance(answer, SendDatagram)
        assert MESSAGES[answer.data[4]] is Challenge
        assert answer.destination == event.source


def test_a_replayed_proof_is_good_for_its_source_only() -> None:
    """R-7.3: the OPEN with its proof, from elsewhere, is asked again or dropped, not admitted."""
    scene = Scene(gate_policy=CHALLENGE).open()
    assert scene.is_up
    proved = next(e for e in scene.all_heard("g1") if e.data[4] == Open.TYPE and e.data[6])
    scene.close().run(11)
    effects = unharmed(scene, "g1", elsewhere(proved))
    assert [MESSAGES[e.data[4]] for e in effects if isinstance(e, SendDatagram)] == [Reject]
    assert not any(scene.kernel.values())


@pytest.mark.parametrize("kind", [Accept, Confirm])
def test_a_replay_to_who_forgot_everything_is_unknown(kind: type) -> None:
    """R-7.2: hosts that know nothing of the connection say nothing about it."""
    scene = Scene().open()
    node = "c" if kind is Accept else "s"
    event = scene.heard(node, kind)
    fresh = Scene()
    unmoved(fresh, node, event, DropReason.UNKNOWN)
    (dropped,) = fresh.seen(Dropped, node)
    assert dropped.source == event.source
