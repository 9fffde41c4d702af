"""STOP as a weapon: to have packets dropped that their receiver wants.

    client c ---- g1 ---- server s

The server was asked, so it alone may say STOP, about this connection, from where it is. Everybody
else has at most what can be seen on the path: cid, seq, tokens, hashes, all that is signed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attacks.scene import BOXES, ELSEWHERE, NODES, Scene, essence, forged, signed_by, unmoved
from pair import STRANGER, hops_of, make_gate, make_host, message_of, reasons
from wayside.core.address import Flow, Transport
from wayside.core.codec import Header, decode_body
from wayside.core.crypto import SigningKey
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived, StopRequested
from wayside.core.messages import Accept, Close, Open, Stop, StopTerms
from wayside.core.route import hops_hash
from wayside.core.rule import Cid


def said(scene: Scene, key: SigningKey, hops: Any = None, **more: Any) -> bytes:
    """A STOP about the connection as right as its signer can make it; `more`: other terms."""
    opened = scene.heard("s", Open).data
    header, message = message_of(forged(Stop, opened, key=key, hops=hops))
    assert isinstance(message, Stop)
    terms = replace(decode_body(StopTerms, message.signed), **more)
    return signed_by(key, header, Stop, terms, message.hops)


def at_gate(scene: Scene, data: bytes, **more: Any) -> DatagramReceived:
    """As the server's own would come to the box."""
    transit = scene.beyond == scene.client
    event = DatagramReceived(data, scene.server, scene.beyond, transit, "outside")
    return replace(event, **more)


def stopped(scene: Scene) -> Scene:
    """The server has said STOP, the client does not hear it, and the box filters."""
    scene.hold.add(Close)
    scene.c.stopping.on_stop = lambda *_: DropReason.UNEXPECTED  # type: ignore[method-assign]
    scene.tell("s", StopRequested(scene.cid, 60))
    scene.run(0.1)
    assert len(scene.filters["g1"]) == 1
    return scene


def passes(scene: Scene) -> bool:
    """Whether the client's packets get through."""
    near = scene.passage().crossing.near
    return scene.across(near) is not None


@pytest.mark.parametrize("box", BOXES)
def test_the_receivers_own_stop_is_taken(box: str) -> None:
    """R-5.8.1: the control of all that follows: the same words, in the server's name."""
    scene = Scene(box).open()
    assert passes(scene)
    assert reasons(scene.tell("g1", at_gate(scene, said(scene, scene.s.context.key)))) == []
    assert not passes(scene)


@pytest.mark.parametrize("box", BOXES)
def test_a_box_on_the_path_is_not_the_receiver(box: str) -> None:
    """R-5.8.1: it has all that is to be seen, its own key, and the server's address."""
    scene = Scene(box).open()
    for key in (STRANGER, scene.c.context.key):
        unmoved(scene, "g1", at_gate(scene, said(scene, key)), DropReason.ADDRESS)
    in_its_name = said(scene, STRANGER, from_key=scene.s.context.key.public)
    unmoved(scene, "g1", at_gate(scene, in_its_name), DropReason.SIGNATURE)
    assert passes(scene)


@pytest.mark.parametrize("box", BOXES)
def test_a_hop_that_puts_itself_in_front_is_no_gate_of_theirs(box: str) -> None:
    """R-5.8.3: a record that the receiver did not see, and its signer, lift no filter."""
    scene = stopped(Scene(box).open())
    asked = scene.gates["g1"].filters.by_cid[scene.cid]
    mine = hops_of(scene.heard("s", Open).data)
    front = (replace(mine[0], key=STRANGER.public, token=b"mine"), *mine)
    for hops, reason in ((front, DropReason.STALE), (mine, DropReason.ADDRESS)):
        data = said(scene, STRANGER, hops, time_s=asked.time_s, hops_hash=asked.hops_hash)
        event = DatagramReceived(data, scene.client, scene.server, True, "inside")
        before = essence(scene)
        assert reasons(scene.tell("g1", event)) == [reason]
        assert essence(scene) == before
    assert not passes(scene)


@pytest.mark.parametrize("box", BOXES)
def test_nobody_answers_for_the_box_itself(box: str) -> None:
    """R-5.8.3: its own answer, turned round, is not that of a nearer one."""
    scene = stopped(Scene(box).open())
    answered = next(s for s in scene.wire if s.kind is Stop and s.node == "g1" and s.at)
    data = [s.data for s in scene.wire if s.kind is Stop and s.node == "g1"][-1]
    event = DatagramReceived(data, scene.client, scene.server, True, "inside")
    assert reasons(scene.tell("g1", event)) == [DropReason.UNEXPECTED]
    assert answered.data
    assert not passes(scene)


@pytest.mark.parametrize("box", BOXES)
def test_a_stop_for_somebody_elses_address_is_refused(box: str) -> None:
    """R-5.8.1: good key, good token, good signature; said from another address, or to one."""
    scene = Scene(box).open()
    data = said(scene, scene.s.context.key)
    unmoved(scene, "g1", at_gate(scene, data, source=ELSEWHERE), DropReason.ADDRESS)
    there = at_gate(scene, data, destination=ELSEWHERE, transit=True)
    effects = scene.tell("g1", there)
    assert reasons(effects) in ([DropReason.ADDRESS], [DropReason.TOKEN])
    unmoved(scene, "g1", at_gate(scene, data, side="inside"), DropReason.ADDRESS)
    assert passes(scene)


@pytest.mark.parametrize("box", BOXES)
def test_who_was_asked_for_another_connection_stops_that_alone(box: str) -> None:
    """R-5.8.1, R-8.2: a server cannot stop what goes to its neighbour through the same box."""
    scene = Scene(box).open()
    first, data = scene.cid, said(scene, scene.s.context.key)
    scene.cid = Cid(b"the second cid 1")
    wire = Flow(Transport.TCP, scene.client.with_port(40_500), scene.server.with_port(443))
    scene.open(wire=wire, local=wire)
    other = next(e for n, e in scene.came if n == "s" and e.data[16:32] == scene.cid).data
    header, message = message_of(data)
    assert isinstance(message, Stop)
    terms = decode_body(StopTerms, message.signed)
    about = Header(Stop.TYPE, header.seq, scene.cid)
    forth = signed_by(scene.s.context.key, about, Stop, terms, message.hops)
    unmoved(scene, "g1", at_gate(scene, forth), DropReason.TOKEN)
    back = signed_by(scene.s.context.key, header, Stop, terms, hops_of(other))
    unmoved(scene, "g1", at_gate(scene, back), DropReason.TOKEN)
    mixed = signed_by(scene.s.context.key, about, Stop, terms, hops_of(other))
    unmoved(scene, "g1", at_gate(scene, mixed), DropReason.ADDRESS)
    assert first in scene.gates["g1"].passages


@pytest.mark.parametrize("box", BOXES)
def test_a_token_for_another_key_says_nothing_about_this_connection(box: str) -> None:
    """R-5.8.1: an OPEN with a known cid, for a key of the attacker's, leaves a token behind.

    Whoever is between box and server takes that OPEN, and says STOP with its own key.
    """
    scene = Scene(box).open()
    mallory = make_host("mallory").context.key
    opened = message_of(scene.heard("g1", Open).data)
    asked = forged_open(scene, mallory.public, seq=opened[0].seq + 2)
    came = [s.data for s in scene.wire if s.node == "g1" and s.kind is Open]
    assert came[-1][16:32] == scene.cid
    header, message = message_of(came[-1])
    assert isinstance(message, Open)
    hops = message.hops
    data = forged(Stop, came[-1], key=mallory, hops=hops)
    unmoved(scene, "g1", at_gate(scene, data), DropReason.ADDRESS)
    assert asked
    assert header.seq == 2
    assert passes(scene)


def forged_open(scene: Scene, to_key: bytes, seq: int) -> bytes:
    """An accomplice's OPEN through the box, for the same cid and addresses and another key."""
    from attacks.scene import a_strangers_open

    scene.hold.add(Open)
    source = scene.client.with_port(40_000)
    data = a_strangers_open(scene, to_key=to_key, seq=seq, source=source)
    scene.tell("g1", DatagramReceived(data, scene.client, scene.server, True, "inside"))
    return data


@pytest.mark.parametrize("box", BOXES)
def test_the_token_of_another_gate_is_none(box: str) -> None:
    """R-8.2: as it is, and with our own name on it; nor is one without any."""
    scene = Scene(box).open()
    other = make_gate("another")
    event = at_gate(scene, said(scene, scene.s.context.key))
    assert reasons(other.handle(event, scene.now)) == [DropReason.TOKEN]
    (hop,) = hops_of(event.data)
    for hops in ((), (replace(hop, token=hop.token[:-1] + b"\x00"),), (replace(hop, token=b""),)):
        data = said(scene, scene.s.context.key, hops)
        unmoved(scene, "g1", at_gate(scene, data), DropReason.TOKEN)


@pytest.mark.parametrize("box", BOXES)
def test_a_stop_is_taken_once(box: str) -> None:
    """R-5.8.1: neither while its filter stands, nor when that is over, nor much later."""
    scene = stopped(Scene(box).open())
    copies = [e for n, e in scene.came if n == "g1" and e.data[4] == Stop.TYPE]
    until = scene.gates["g1"].filters.by_cid[scene.cid].until
    before = essence(scene)
    for copy in copies * 3:
        scene.tell("g1", copy)
    assert essence(scene) == before
    assert scene.gates["g1"].filters.by_cid[scene.cid].until == until
    scene.run(61)
    scene.filters["g1"].clear()
    for seconds in (0, 30, 100, 300):
        scene.run(seconds)
        for copy in copies:
            assert reasons(scene.tell("g1", copy))
        assert not scene.filters["g1"]


@pytest.mark.parametrize("box", BOXES)
def test_a_stop_of_yesterday_or_of_tomorrow_is_not_taken(box: str) -> None:
    """R-5.8.1: nor one that is older than another."""
    scene = Scene(box).open()
    now = int(scene.gates["g1"].context.epoch_s + scene.now)
    for wrong in (-3600, -62, 62, 3600):
        data = said(scene, scene.s.context.key, time_s=now + wrong)
        unmoved(scene, "g1", at_gate(scene, data), DropReason.TIME)
    assert not reasons(scene.tell("g1", at_gate(scene, said(scene, scene.s.context.key))))
    older = said(scene, scene.s.context.key, time_s=now - 30)
    unmoved(scene, "g1", at_gate(scene, older), DropReason.STALE)


@pytest.mark.parametrize("box", BOXES)
def test_what_the_receiver_signed_holds_as_it_is_only(box: str) -> None:
    """R-5.8.1: other hops, another OPEN, other bytes of signature; nonsense in its place."""
    scene = Scene(box).open()
    key = scene.s.context.key
    mine = hops_of(scene.heard("s", Open).data)
    more = (*mine, replace(mine[0], key=STRANGER.public))
    for data, reason in (
        (said(scene, key, open_hash=bytes(32)), DropReason.ADDRESS),
        (said(scene, key, hops_hash=bytes(32)), DropReason.STALE),
        (said(scene, key, more, hops_hash=hops_hash(mine)), DropReason.STALE),
        (said(scene, STRANGER, from_key=key.public), DropReason.SIGNATURE),
        (forged(Stop, scene.heard("s", Open).data)[:-3], DropReason.MALFORMED),
    ):
        unmoved(scene, "g1", at_gate(scene, data), reason)
    header = Header(Stop.TYPE, 0, scene.cid)
    terms = message_of(scene.heard("g1", Accept).data)[1]
    assert isinstance(terms, Accept)
    wrong = signed_by(key, header, Stop, StopTerms(key.public, bytes(32), bytes(32), 1, 1), mine)
    unmoved(scene, "g1", at_gate(scene, wrong), DropReason.ADDRESS)


@pytest.mark.parametrize("box", BOXES)
def test_a_flood_of_stops_makes_no_filter_and_is_not_answered(box: str) -> None:
    """R-7.4, R-7.5, R-7.6: beyond the budget they are not even looked at."""
    scene = Scene(box).open()
    scene.gates["g1"]._door._budget = replace(scene.gates["g1"]._door._budget, opens_per_s=100)
    scene.gates["g1"]._door._buckets.clear()
    data = said(scene, STRANGER, from_key=scene.s.context.key.public)
    before, wire = essence(scene), len(scene.wire)
    found = [reasons(scene.tell("g1", at_gate(scene, data)))[0] for _ in range(500)]
    assert found.count(DropReason.SIGNATURE) == 100
    assert found.count(DropReason.BUDGET) == 400
    assert essence(scene) == before
    assert len(scene.wire) == wire
    assert not scene.filters["g1"]


@pytest.mark.parametrize("node", ["c", "s"])
def test_hosts_take_a_stop_of_their_peer_alone(node: str) -> None:
    """R-5.8.5: a stranger's, a box's that was not asked to filter, and the client's own."""
    scene = Scene().open()
    at, other = (scene.client, scene.server) if node == "c" else (scene.server, scene.client)
    peer = (scene.s if node == "c" else scene.c).context.key
    own = (scene.c if node == "c" else scene.s).context.key
    for key in (STRANGER, scene.gates["g1"].context.key, own):
        for source in (other, ELSEWHERE):
            event = DatagramReceived(said(scene, key), source, at)
            unmoved(scene, node, event, DropReason.UNEXPECTED)
    in_its_name = said(scene, STRANGER, from_key=peer.public)
    unmoved(scene, node, DatagramReceived(in_its_name, other, at), DropReason.SIGNATURE)
    old = said(scene, peer, time_s=1)
    unmoved(scene, node, DatagramReceived(old, other, at), DropReason.TIME)
    header, message = message_of(said(scene, peer))
    assert isinstance(message, Stop)
    terms = decode_body(StopTerms, message.signed)
    later = signed_by(peer, Header(Stop.TYPE, header.seq + 40, scene.cid), Stop, terms, ())
    unmoved(scene, node, DatagramReceived(later, other, at), DropReason.STALE)
    assert scene.is_up


def test_who_said_stop_believes_the_boxes_that_it_named_alone() -> None:
    """R-5.8.5: and only about what it said last."""
    scene = stopped(Scene().open())
    box = scene.gates["g1"].context.key
    asked = scene.s.stopping.said[scene.cid].terms
    for key, more, reason in (
        (STRANGER, {}, DropReason.UNEXPECTED),
        (box, {"time_s": asked.time_s - 1}, DropReason.STALE),
        (STRANGER, {"from_key": box.public, "time_s": asked.time_s}, DropReason.SIGNATURE),
    ):
        event = DatagramReceived(said(scene, key, **more), scene.client, scene.server)
        unmoved(scene, "s", event, reason)


@pytest.mark.parametrize("node", NODES)
def test_a_stop_for_nobodys_cid_changes_nothing(node: str) -> None:
    """R-7.2."""
    scene = Scene().open()
    data = forged(Stop, scene.heard("s", Open).data)
    event = DatagramReceived(data, ELSEWHERE, scene.client, node == "g1")
    unmoved(Scene(), node, event, DropReason.UNKNOWN)


@pytest.mark.parametrize("box", BOXES)
def test_a_stop_before_the_confirm_is_not_taken(box: str) -> None:
    """R-5.8.1: a made-up source could have asked; nothing passes that could be stopped."""
    from attacks.scene import held_back
    from wayside.core.messages import Confirm

    scene = held_back(Confirm, box)
    data = said(scene, scene.s.context.key)
    unmoved(scene, "g1", at_gate(scene, data), DropReason.UNKNOWN)
