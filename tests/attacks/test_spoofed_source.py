"""Spoofed source: an OPEN in a victim's name, with a made-up hop or without one.

With a hop in it an OPEN may speak of other addresses than its own, because a NAT may have been on
the way. What cannot be made up is where a datagram came from as seen by who answers it: everything
that is said goes there, and the address that rules are made for must be the same one.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from attacks.scene import BOXES, ELSEWHERE, Scene, a_strangers_open, unharmed, unmoved
from pair import STRANGER, Pair, body_of, message_of
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import Header, decode_body
from wayside.core.connection import State, accept_seen, confirm_proof, connection_key
from wayside.core.crypto import ephemeral_public, mac
from wayside.core.effects import ChangeRules, Dropped, ReportOpened, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import Accept, AcceptTerms, Confirm, Hop, Open, OpenTerms, Reject, encode
from wayside.core.opening import open_hash
from wayside.core.rule import Cid

VICTIM = Address.parse("10.0.0.2:40001")
SECRET = bytes(31) + b"\x07"
"""Whose share is in the OPENs of `make_open`."""
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


def confirmed(asked: bytes, accept: Accept, share: bytes) -> bytes:
    """The CONFIRM of who sent that OPEN, for whom the responder's share is this one."""
    header, opened = message_of(asked)
    assert isinstance(opened, Open)
    key = connection_key(SECRET, share, open_hash(header, opened.signed), share)
    about, seen = Header(Confirm.TYPE, header.seq, header.cid), accept_seen(accept)
    proof = confirm_proof(key, header.seq, header.cid)
    return encode(about, Confirm(seen, mac(key, about.signing, seen), proof, accept.hops))


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.UDP])
def test_only_who_gets_the_accept_can_confirm_it(transport: Transport) -> None:
    """R-4.3: its key needs the responder's share, which went to the victim's address.

    Who made the OPEN knows all the rest: its own secret, and what the victim could have seen.
    """
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
    accept = body_of(scene.last(Accept, "s").data, Accept)
    share = decode_body(AcceptTerms, accept.signed).ephemeral
    for guessed in (ephemeral_public(SECRET), ephemeral_public(bytes(31) + b"\x05"), share[::-1]):
        confirm = DatagramReceived(confirmed(data, accept, guessed), ATTACKER, scene.server)
        unmoved(scene, "s", confirm, DropReason.SIGNATURE)
        unmoved(scene, "s", replace(confirm, source=scene.client), DropReason.SIGNATURE)
    who_knows = deepcopy(scene)
    who_knows.tell("s", replace(confirm, data=confirmed(data, accept, share)))
    assert who_knows.connection("s").state is State.CONNECTED
    scene.run(4)
    assert scene.connection("s").keys.seq == -1
    scene.run(2)
    assert scene.s.connections == {}
