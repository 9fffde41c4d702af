"""Forged move: "the client is here now", or the server.

An ACCEPT for another flow of the same two keys moves a connection at a box (R-5.4.5), so what is
shown is who cannot bring one about.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from attacks.scene import (
    BOXES,
    ELSEWHERE,
    Scene,
    a_strangers_open,
    essence,
    forged,
    signed_by,
    unmoved,
)
from core.test_moves import move
from gated import beside
from pair import STRANGER, Pair, body_of, make_open, message_of, reasons
from wayside.core.address import Address
from wayside.core.codec import Header, decode_body
from wayside.core.connection import accept_seen
from wayside.core.constants import CHECK_BYTES
from wayside.core.crypto import mac as connection_mac
from wayside.core.effects import SendDatagram
from wayside.core.errors import DropReason
from wayside.core.events import DatagramReceived
from wayside.core.messages import (
    Accept,
    AcceptTerms,
    Close,
    Confirm,
    Hop,
    Open,
    OpenTerms,
    encode,
    padded,
)
from wayside.core.opening import open_hash
from wayside.core.route import hops_hash

THERE = Address.parse("10.0.0.77:40000")


@pytest.mark.parametrize("seq", [1, 2, 100])
@pytest.mark.parametrize("known", [False, True])
def test_a_responder_moves_for_nobody_who_lacks_the_connections_key(known: bool, seq: int) -> None:
    """R-5.4.2: not for a stranger, and not for the client's own key without its `mac`."""
    scene = Scene().open()
    key = scene.c.context.key if known else STRANGER
    for mac in (b"", bytes(16)):
        data = a_strangers_open(scene, key=key, seq=seq, source=THERE, mac=mac)
        event = DatagramReceived(data, THERE.with_port(4747), scene.server)
        unmoved(scene, "s", event, DropReason.STALE)
    assert scene.bytes_to(THERE) == 0


@pytest.mark.parametrize("seq", [1, 3])
def test_an_initiator_moves_for_nobody_who_lacks_the_connections_key(seq: int) -> None:
    """R-5.4.2: an OPEN with an odd seq, as the server would send one that has moved.

    A stranger's, and one by the server's own key, which may be stolen: without its `mac`.
    """
    scene = Scene().open()
    there, here = THERE.with_port(8443), scene.client.with_port(40000)
    for key in (STRANGER, scene.s.context.key):
        to_key = scene.c.context.key.public
        data = a_strangers_open(
            scene, key=key, to_key=to_key, source=there, destination=here, seq=seq
        )
        event = DatagramReceived(data, THERE.with_port(4747), scene.client)
        unmoved(scene, "c", event, DropReason.STALE)
    assert scene.bytes_to(THERE) == 0


@pytest.mark.parametrize("stage", ["live", "pending"])
@pytest.mark.parametrize("box", BOXES)
def test_an_agreement_between_other_keys_moves_no_rule(box: str, stage: str) -> None:
    """R-5.4.4: a stranger asks an accomplice at the server's address, under the victims' cid."""
    scene = Scene(box)
    scene.open(1.0 if stage == "live" else 0.004)
    assert scene.kernel["g1"]
    opened = asked_through(scene, 8)
    accept = agreed_by_a_stranger(opened)
    back = DatagramReceived(accept, scene.server, scene.beyond, box == "gate", "outside")
    unmoved(scene, "g1", back, DropReason.STALE)


def asked_through(scene: Scene, seq: int) -> bytes:
    """An OPEN between two strangers' keys, as it goes on behind the box."""
    here, there = scene.client.with_port(6666), scene.server.with_port(443)
    data = make_open(STRANGER, STRANGER.public, here, there, cid=scene.cid, seq=seq)
    event = DatagramReceived(data, scene.client, scene.server, True, "inside")
    (sent,) = scene.tell("g1", event)
    assert isinstance(sent, SendDatagram)
    return sent.data


def agreed_by_a_stranger(opened: bytes) -> bytes:
    """The ACCEPT of an accomplice."""
    header, message = message_of(opened)
    assert isinstance(message, Open)
    asked = decode_body(OpenTerms, message.signed)
    terms = AcceptTerms(
        from_key=STRANGER.public,
        open_hash=open_hash(header, message.signed),
        hops_hash=hops_hash(message.hops),
        check=bytes(CHECK_BYTES),
        destination=asked.destination,
        ephemeral=bytes(31) + b"\x09",
        lifetime_s=120,
    )
    answer = Header(Accept.TYPE, header.seq, header.cid)
    return signed_by(STRANGER, answer, Accept, terms, message.hops)


@pytest.mark.parametrize("box", BOXES)
def test_an_accept_for_another_flow_moves_nothing_unless_the_responder_signed_it(box: str) -> None:
    """R-8.3: a stranger's ACCEPT for a refresh, with other ports in it."""
    scene = Scene(box).open()
    scene.hold.add(Accept)
    scene.run(41)
    opened = scene.last(Open, "g1").data
    accept = body_of(forged(Accept, opened), Accept)
    terms = decode_body(AcceptTerms, accept.signed)
    header = Header(Accept.TYPE, 2, scene.cid)
    for named in (STRANGER.public, scene.s.context.key.public):
        other = replace(terms, from_key=named, destination=scene.server.with_port(22))
        data = signed_by(STRANGER, header, Accept, other, accept.hops)
        event = DatagramReceived(data, scene.server, scene.beyond, box == "gate", "outside")
        right_key = named == scene.s.context.key.public
        unmoved(scene, "g1", event, DropReason.SIGNATURE if right_key else DropReason.ADDRESS)


# --- moves that the ends really say, in wrong hands ---

VICTIM = Address.parse("10.0.0.88:4747")


def moving(scene: Scene) -> DatagramReceived:
    """The OPEN of a client that moves, with all its keys, as it comes to the server."""
    scene.hold.add(Open)
    move(scene, "c", str(THERE.ip))
    ((_, event),) = scene.held
    scene.hold.clear()
    return event


def test_an_end_moves_to_no_address_that_it_does_not_send_from() -> None:
    """R-5.1.6: the client has the key, and claims a victim's address: `address`."""
    scene = Scene().open()
    event = moving(scene)
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    claim = Hop(STRANGER.public, 2, 120, b"x", source=VICTIM.with_port(40000))
    claimed = padded(header, replace(message, hops=(claim,), pad=b""))
    direct = replace(event, destination=scene.server, transit=False)
    for data in (event.data, claimed):
        for source in (scene.client, ELSEWHERE):
            unmoved(scene, "s", replace(direct, data=data, source=source), DropReason.ADDRESS)


def test_an_end_moves_to_no_address_where_it_does_not_receive() -> None:
    """R-5.4.6, R-7.5: it spoofs the victim's; that gets no more than was sent, and no packets."""
    scene = Scene().open()
    event = replace(moving(scene), destination=scene.server, transit=False)
    victim = event.source
    scene.lose.update({Open: 10**6, Accept: 10**6})  # what goes to the victim is not the client's
    before, out = scene.connection("s").agreement, scene.connection("s").agreement.outbound
    scene.tell("s", event)
    (accept,) = [sent for sent in scene.wire if sent.kind is Accept and sent.destination == victim]
    header, answer = message_of(accept.data)
    assert isinstance(answer, Accept)
    for mac in (bytes(16), b"a guess of 16 b."):
        confirm = Confirm(accept_seen(answer), mac, bytes(16), answer.hops)
        data = encode(Header(Confirm.TYPE, header.seq, header.cid), confirm)
        assert reasons(scene.tell("s", replace(event, data=data))) == [DropReason.SIGNATURE]
    scene.run(20)
    assert scene.connection("s").agreement == before
    assert all(scene.kernel["s"][rule.match] == rule for rule in out)
    assert scene.bytes_to(victim) <= len(event.data)


def test_nobody_moves_a_connection_with_the_key_of_another() -> None:
    """R-5.4.2: a peer of the same server, with its own live connection, under the victim's cid."""
    scene = Scene().open()
    other = beside(scene, "d").open()
    assert other.is_up
    mine = other.connection("c")
    header, message = message_of(mine._close_datagram("").data)
    assert isinstance(message, Close)
    key = mine.keys.by_seq[header.seq]
    plain = a_strangers_open(scene, key=other.c.context.key, seq=2, source=THERE)
    about, asked = message_of(plain)
    assert isinstance(asked, Open)
    data = a_strangers_open(
        scene,
        key=other.c.context.key,
        seq=2,
        source=THERE,
        mac=connection_mac(key, about.signing, asked.signed),
    )
    event = DatagramReceived(data, THERE.with_port(4747), scene.server)
    unmoved(scene, "s", event, DropReason.STALE)


@pytest.mark.parametrize("box", BOXES)
def test_a_box_on_the_old_path_takes_nobody_back(box: str) -> None:
    """R-5.4.2, R-5.3.2, R-7.6: it repeats all that it ever saw, and signs a move of its own."""
    scene = Scene(box).open()
    seen = [(name, event) for name, event in scene.came if name != "g1"]
    begun, old = len(scene.wire), scene.connection("s").agreement.wire.destination
    move(scene, "c", str(THERE.ip))
    scene.run(1)
    assert scene.is_up
    assert len(scene.wire) > begun
    before = essence(scene)
    for name, event in seen:
        scene.tell(name, event)
    assert essence(scene) == before
    box_key = scene.gates["g1"].context.key
    hops = scene.connection("s").hops
    data = a_strangers_open(scene, key=box_key, seq=6, source=old, hops=hops, mac=bytes(16))
    scene.tell("s", DatagramReceived(data, old.with_port(4747), scene.server))
    assert essence(scene) == before


@pytest.mark.parametrize("box", BOXES)
def test_a_made_up_nat_in_a_copy_of_a_move_comes_too_late(box: str) -> None:
    """R-5.2.1: an observer adds a record with its own address; the copy by other boxes is stale."""
    scene = Scene(box).open()
    move(scene, "c", str(THERE.ip))
    scene.hold.add(Confirm)
    scene.run(0.1)
    copied = with_a_nat(scene.last(Open, "g1").data)
    unmoved(scene, "s", DatagramReceived(copied, ELSEWHERE, scene.server), DropReason.STALE)
    scene.release()
    scene.run(1)
    assert scene.is_up
    assert scene.connection("s").agreement.wire.destination.ip != ELSEWHERE.ip


def test_who_outruns_the_path_is_a_nat_on_it_that_both_ends_know() -> None:
    """R-8.1: the limit. It has to see all, and be first each way; its key is among the hops."""
    pair = Pair().open()
    pair.hold.update((Open, Accept))
    move(pair, "c", str(THERE.ip))
    ((_, event),) = pair.held
    pair.held.clear()
    pair.inject("s", with_a_nat(event.data), ELSEWHERE)
    accept = pair.last(Accept, "s")
    assert accept.destination == ELSEWHERE
    pair.hold.clear()
    pair.inject("c", accept.data, pair.own["s"][0])
    pair.run(1)
    assert pair.connection("s").agreement.wire.destination.ip == ELSEWHERE.ip
    for node in "cs":
        assert [hop.key for hop in pair.connection(node).hops] == [STRANGER.public]


def with_a_nat(opened: bytes) -> bytes:
    """The same OPEN, by way of a NAT of somebody's own."""
    header, message = message_of(opened)
    assert isinstance(message, Open)
    nat = Hop(STRANGER.public, 2, 120, b"x", source=ELSEWHERE.with_port(40000))
    return padded(header, replace(message, hops=(*message.hops, nat), pad=b""))
