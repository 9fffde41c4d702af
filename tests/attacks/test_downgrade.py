"""Downgrade: a box on the path makes it less than the ends would have it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attacks.scene import BOXES, NODES, Scene, held_back, unharmed, unmoved
from pair import CHALLENGE, Sent, body_of, make_host, message_of, reasons
from wayside.core.address import Transport
from wayside.core.codec import Header, decode_body, encode_body
from wayside.core.effects import ReportOpened, ReportRefused, SendDatagram
from wayside.core.errors import DropReason
from wayside.core.messages import (
    MESSAGES,
    Accept,
    Challenge,
    Confirm,
    Message,
    Open,
    OpenTerms,
    encode,
    padded,
)


@pytest.mark.parametrize(
    ("at", "value"), [(3, 0), (3, 2), (5, 2), (5, 1), (5, 0x80), (6, 1), (7, 1)]
)
@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("box", BOXES)
def test_there_is_one_version_and_no_flag_to_take_away(
    box: str, node: str, at: int, value: int
) -> None:
    """R-2.1, R-2.2: another version, flag, count of proofs or zero byte is no datagram of ours."""
    scene = Scene(box).open()
    for event in scene.all_heard(node):
        data = event.data[:at] + bytes([value]) + event.data[at + 1 :]
        unmoved(scene, node, replace(event, data=data), DropReason.HEADER)


@pytest.mark.parametrize("box", BOXES)
def test_an_open_without_its_proofs_is_asked_again_and_not_let_in(box: str) -> None:
    """R-5.5: whoever strips them has dropped the OPEN, no more."""
    scene = Scene(box, gate_policy=CHALLENGE)
    scene.lose[Accept] = 100
    scene.open(0.1)
    proved = next(e for e in scene.all_heard("g1") if e.data[4] == Open.TYPE and e.data[6])
    header, message = message_of(proved.data)
    assert isinstance(message, Open)
    data = padded(Header(Open.TYPE, header.seq, header.cid), message)
    (answer,) = unharmed(scene, "g1", replace(proved, data=data))
    assert isinstance(answer, SendDatagram)
    assert MESSAGES[answer.data[4]] is Challenge


@pytest.mark.parametrize("kind", [Open, Accept, Confirm])
@pytest.mark.parametrize("link", ["c-g1", "g1-s"])
@pytest.mark.parametrize("box", BOXES)
def test_hops_that_are_stripped_are_missed(box: str, link: str, kind: type[Message]) -> None:
    """R-8.3, R-8.4, R-5.3.2: a connection never comes up beside a box that was asked."""
    scene = Scene(box)
    ends = set(link.split("-"))

    def change(sent: Sent, to: str) -> bytes:
        if {sent.node, to} != ends or sent.kind is not kind:
            return sent.data
        header, message = message_of(sent.data)
        changed: Any = message
        bare = replace(changed, hops=())
        return padded(header, bare) if isinstance(bare, Open) else encode(header, bare)

    scene.change = change
    scene.open(8)
    if kind is Open and link == "c-g1":
        assert scene.is_up  # there are none yet to strip
        return
    assert scene.kernel["s"] == {}
    assert not scene.seen(ReportOpened, "s")
    assert scene.seen(ReportRefused, "c") or kind is Confirm


def test_a_refresh_without_its_mac_is_stale() -> None:
    """R-5.4.2: the signature alone is not enough to go on with a connection."""
    scene = Scene().open()
    scene.run(45)
    scene.hold.add(Open)
    scene.run(40)
    event = next(event for _, event in scene.held)
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    assert message.mac
    bare = replace(event, data=padded(header, replace(message, mac=b"")))
    unmoved(scene, "s", replace(bare, source=scene.client), DropReason.STALE)


@pytest.mark.parametrize("node", ["g1", "s"])
@pytest.mark.parametrize(
    "cheaper",
    [
        {"transport": Transport.TCP},
        {"transport": Transport.UDP},
        {"lifetime_s": 1},
        {"from_certificate": b""},
        {"service": "echo"},
    ],
)
def test_what_was_asked_for_is_signed(node: str, cheaper: dict[str, Any]) -> None:
    """R-4.2: not TCP for MPTCP, not a shorter life, not without the certificate."""
    client = make_host("c")
    client.context.certificate = b"x"
    scene = held_back(Accept, client=client, transport=Transport.MPTCP)
    event = scene.heard(node, Open)
    header, message = message_of(event.data)
    assert isinstance(message, Open)
    terms = decode_body(OpenTerms, message.signed)
    assert terms.from_certificate == b"x"
    signed = encode_body(replace(terms, **cheaper))
    data = padded(header, replace(message, signed=signed))
    unmoved(scene, node, replace(event, data=data), DropReason.SIGNATURE)


def test_an_initiator_takes_no_accept_for_another_transport_or_flow() -> None:
    """R-5.2.2: an ACCEPT says no transport; what it answers is the whole OPEN, by its hash."""
    scene = held_back(Accept)
    other = held_back(Accept, transport=Transport.UDP)
    event = next(event for _, event in other.held)
    effects = unharmed(scene, "c", replace(event, destination=scene.client))
    assert reasons(effects) == [DropReason.SIGNATURE]
    assert body_of(event.data, Accept).signed
