"""Exhaustion: more than anybody needs, of tables, of budgets, of a processor's time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, a_strangers_open, forged, unmoved, whole
from pair import STRANGER, body_of, make_host, reasons
from wayside.core import asker, gate, opening
from wayside.core.address import Address
from wayside.core.admission import Budget, FrontDoor, Quota
from wayside.core.codec import decode_body
from wayside.core.effects import SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import (
    Accept,
    Challenge,
    Close,
    Code,
    Confirm,
    Hop,
    Open,
    Reject,
    RejectTerms,
)
from wayside.core.rule import Cid


def opens(scene: Scene, count: int, source: Address) -> list[DatagramReceived]:
    """OPENs with a good key for as many connections."""
    return [
        DatagramReceived(
            a_strangers_open(
                scene, source=source.with_port(10_000 + n), cid=Cid(n.to_bytes(16, "big"))
            ),
            source.with_port(4747),
            scene.server,
        )
        for n in range(count)
    ]


def test_one_network_fills_its_share_of_a_host_and_no_more() -> None:
    """R-7.4: the rest hear "busy" in fewer bytes than they sent; another network gets in."""
    scene = Scene(server=make_host("s", quota=Quota(100, 10)))
    for event in opens(scene, 30, Address.parse("10.0.0.66:0")):
        scene.tell("s", event)
    assert len(scene.s.connections) == 10
    rejects = [body_of(sent.data, Reject) for sent in scene.wire if sent.kind is Reject]
    assert {decode_body(RejectTerms, reject.signed).code for reject in rejects} == {Code.BUSY}
    other = Address.parse("10.77.0.2:4747")
    data = a_strangers_open(scene, source=other.with_port(4000))
    scene.tell("s", DatagramReceived(data, other, scene.server))
    assert len(scene.s.connections) == 11
    scene.run(20)
    assert scene.s.connections == {}


@pytest.mark.parametrize("box", BOXES)
def test_a_box_keeps_nothing_of_what_nobody_has_agreed_to(box: str) -> None:
    """R-8.2: two thousand OPENs with good keys, and its memory is what it was."""
    scene = Scene(box)
    before = whole(scene)
    scene.hold.add(Open)
    for event in opens(scene, 2000, scene.client):
        scene.tell("g1", replace(event, transit=True, side="inside"))
    assert len(scene.held) == 2000
    assert whole(scene) == before


@pytest.mark.parametrize("box", BOXES)
def test_two_who_agree_to_everything_fill_their_share_of_a_box_and_no_more(box: str) -> None:
    """R-7.4: `full`; a connection from another network still passes."""
    scene = Scene(box, server=make_host("s", quota=Quota(1000, 1000)))
    scene.gates["g1"].table._quota = Quota(100, 10)
    for event in opens(scene, 30, scene.client):
        scene.tell("g1", replace(event, transit=True, side="inside"))
    scene.run(0.5)
    assert len(scene.gates["g1"].passages) == 10
    assert len(scene.kernel["g1"]) == 20
    assert DropReason.FULL in reasons(e for n, e in scene.effects if n == "g1")
    other = Address.parse("10.77.0.2:4747")
    data = a_strangers_open(scene, source=other.with_port(4000))
    scene.tell("g1", DatagramReceived(data, other, scene.server, True, "inside"))
    scene.run(0.5)
    sent = scene.last(Accept, "s")
    transit = box == "gate"
    back = DatagramReceived(sent.data, sent.source, sent.destination, transit, "outside")
    scene.tell("g1", back)
    assert len(scene.gates["g1"].passages) == 11


def test_a_nat_that_has_no_port_left_says_so_and_keeps_nothing() -> None:
    """R-8.7, R-5.6: "busy" for that host; the ports towards another host are others."""
    scene = Scene("nat")
    context = scene.gates["g1"].context
    context.box = replace(context.box, ports=range(10_000, 10_004))
    for event in opens(scene, 30, scene.client):
        scene.tell("g1", replace(event, transit=True, side="inside"))
        scene.run(0.01)
    assert len(scene.gates["g1"].passages) == 4
    assert body_of(scene.last(Reject, "g1").data, Reject)
    data = a_strangers_open(scene, destination=Address.parse("10.9.9.9:443"))
    event = DatagramReceived(data, scene.client, Address.parse("10.9.9.9:4747"), True, "inside")
    (sent,) = scene.tell("g1", event)
    assert isinstance(sent, SendDatagram)
    assert sent.data[4] == Open.TYPE


@pytest.mark.parametrize("node", ["c", "g1", "s"])
def test_answers_that_nobody_asked_for_leave_nothing(node: str) -> None:
    """R-7.6: of every kind, from everywhere; a thousand of them."""
    scene = Scene().open()
    seen = scene.heard("s", Open).data
    before = whole(scene)
    for number in range(250):
        for kind in (Accept, Confirm, Challenge, Close):
            data = forged(kind, seen, hops=(Hop(STRANGER.public, 1, 1, b"t"),))
            data = data[:16] + number.to_bytes(16, "big") + data[32:]
            event = DatagramReceived(data, ELSEWHERE, scene.server, node == "g1", "outside")
            assert reasons(scene.tell(node, event))
    assert whole(scene) == before


def test_no_signature_is_checked_before_the_cheaper_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-7.1: what fails at header, budget, size, body, flow or time costs none."""
    checked: list[bytes] = []

    def count(key: bytes, *_about: bytes) -> None:
        checked.append(key)

    for module in (asker, gate, opening):
        monkeypatch.setattr(module, "verify", count)
    scene = Scene()
    good = a_strangers_open(scene)
    cheap = [
        (good[:5] + b"\x04" + good[6:], DropReason.HEADER),
        (good[:1100], DropReason.SHORT),
        (good[:60] + b"\xff" + good[61:], DropReason.SIGNATURE),
        (good + b"\x00", DropReason.MALFORMED),
        (a_strangers_open(scene, source=Address.parse("224.0.0.1:5")), DropReason.ADDRESS),
        (a_strangers_open(scene, time_s=0), None),
    ]
    for data, why in cheap:
        for node in ("g1", "s"):
            before = len(checked)
            event = DatagramReceived(data, scene.client, scene.server, node == "g1", "inside")
            effects = scene.tell(node, event)
            if why is DropReason.SIGNATURE:
                assert len(checked) == before + 1
            else:
                assert len(checked) == before
                assert reasons(effects) == ([why] if why else [])
    scene.s._door = FrontDoor(scene.s._door._box, Budget(0.0, 0.0))
    event = DatagramReceived(good, scene.client, scene.server)
    checked.clear()
    unmoved(scene, "s", event, DropReason.BUDGET)
    assert checked == []
