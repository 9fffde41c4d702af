"""Spoofed source: an OPEN in a victim's name, with a made-up hop or without one.

With a hop in it an OPEN may speak of other addresses than its own, because a NAT may have been on
the way. What cannot be made up is where a datagram came from as seen by who answers it: everything
that is said goes there, and the address that rules are made for must be the same one.
"""

from __future__ import annotations

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, a_strangers_open, unharmed
from pair import STRANGER, Pair, body_of
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import decode_body
from wayside.core.effects import ChangeRules, Dropped, ReportOpened, SendDatagram
from wayside.core.events import DatagramReceived
from wayside.core.messages import Hop, Open, OpenTerms, Reject
from wayside.core.rule import Cid

VICTIM = Address.parse("10.0.0.2:40001")
ATTACKER = Address.parse("10.0.0.66:4747")

HOPS = {
    "none": (),
    "plain": (Hop(STRANGER.public, 1, 120, b"token"),),
    "in the victim's name": (Hop(STRANGER.public, 2, 120, b"token", VICTIM),),
    "several": tuple(Hop(bytes([n]) * 32, 2, 120, b"token", VICTIM) for n in range(5)),
}


@pytest.mark.parametrize("hops", list(HOPS))
@pytest.mark.parametrize("node", ["g1", "s"])
@pytest.mark.parametrize("box", BOXES)
def test_who_sends_from_another_address_speaks_for_nobody(box: str, node: str, hops: str) -> None:
    """R-5.1.6: sent from the attacker's own address: refused to the attacker, no rule, no word."""
    scene = Scene(box)
    data = a_strangers_open(scene, source=VICTIM, hops=HOPS[hops])
    event = DatagramReceived(data, ATTACKER, scene.server, node == "g1", "inside")
    (answer, *_) = unharmed(scene, node, event)
    assert isinstance(answer, SendDatagram)
    assert (answer.data[4], answer.destination) == (Reject.TYPE, ATTACKER)
    scene.run(10)
    assert scene.bytes_to(VICTIM) == 0
    assert not any(scene.kernel.values())


@pytest.mark.parametrize("hops", list(HOPS))
@pytest.mark.parametrize("node", ["g1", "s"])
@pytest.mark.parametrize("box", BOXES)
def test_a_victim_hears_no_more_than_was_sent_in_its_name(box: str, node: str, hops: str) -> None:
    """R-7.5: the datagram's source is spoofed as well, again and again."""
    scene = Scene(box)
    scene.c.connections.clear()
    spent = 0
    for number in range(20):
        cid = Cid(bytes([number]) * 16)
        data = a_strangers_open(scene, source=VICTIM, hops=HOPS[hops], cid=cid)
        spent += len(data)
        victim = VICTIM.with_port(4747)
        scene.tell(node, DatagramReceived(data, victim, scene.server, node == "g1", "inside"))
        scene.run(0.4)
    scene.run(20)
    answers = [sent for sent in scene.wire if sent.node == node]
    heard = sum(len(sent.data) for sent in answers if sent.destination.ip == VICTIM.ip)
    assert 0 < heard <= spent
    assert not scene.seen(ReportOpened)
    assert outbound(scene) == []


def outbound(scene: Pair) -> list[Flow]:
    """The rules by which the server's own packets would leave for anybody."""
    changes = [e for n, e in scene.effects if n == "s" and isinstance(e, ChangeRules)]
    assert scene.s.virtual is not None
    own = scene.s.virtual.own(4)
    flows = [rule.match for change in changes for rule in change.put]
    return [flow for flow in flows if flow.source.ip == own]


@pytest.mark.parametrize("box", BOXES)
def test_a_victim_is_told_nothing_that_it_must_act_on(box: str) -> None:
    """R-5.2.2, R-7.2: ACCEPTs for what it never asked are unknown to it, and it stays silent."""
    scene = Scene(box)
    data = a_strangers_open(scene, source=VICTIM)
    scene.tell("g1", DatagramReceived(data, scene.client, scene.server, True, "inside"))
    scene.run(10)
    assert [sent.kind for sent in scene.wire if sent.node == "c"] == []
    assert scene.c.connections == {}
    assert scene.kernel["c"] == {}
    assert len(scene.all_heard("c")) == len(scene.seen(Dropped, "c")) > 0


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
def test_only_who_gets_the_accept_can_confirm_it(transport: Transport) -> None:
    """R-4.3: its key needs the responder's share, which went to the victim's address."""
    scene = Scene(transport=transport)
    service = "https" if transport is Transport.TCP else "echo"
    data = a_strangers_open(scene, source=VICTIM, transport=transport, service=service)
    event = DatagramReceived(data, scene.client, scene.server)
    scene.tell("s", event)
    answers = [sent for sent in scene.wire if sent.node == "s"]
    assert {sent.destination for sent in answers} == {scene.client}
    asked = decode_body(OpenTerms, body_of(data, Open).signed)
    assert asked.source == VICTIM
    assert scene.bytes_to(ELSEWHERE) == 0
    scene.run(4)
    assert scene.connection("s").keys.seq == -1
    scene.run(2)
    assert scene.s.connections == {}
