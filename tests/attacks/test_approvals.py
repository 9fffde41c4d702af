"""Approvals in wrong hands: each is for one connection, one minute, and one approver's friends.

At a relay, which serves nobody without one, and at a host whose home decides for it.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from pair import EPOCH_S, STRANGER, body_of, make_host, make_open, snapshot
from star import make_relay
from wayside.core.address import Address, Transport
from wayside.core.approval import create_approval
from wayside.core.codec import decode_body, encode_body
from wayside.core.crypto import SigningKey
from wayside.core.effects import ChangeRules, Effect, SendDatagram
from wayside.core.events import DatagramReceived
from wayside.core.gate import Gate
from wayside.core.host import Host
from wayside.core.messages import MESSAGES, Code, Open, OpenTerms, Reject, RejectTerms
from wayside.core.rule import Cid
from wayside.core.way import Box, Relaying

APPROVER, OTHER = SigningKey(b"a" * 32), SigningKey(b"o" * 32)
CID = Cid(b"cid of sixteen b")
CLIENT, TARGET = Address.parse("10.0.0.2:40000"), Address.parse("10.1.0.2:443")
HERE = {"relay": Address.parse("10.0.2.2:4747"), "host": TARGET.with_port(4747)}


def machine(kind: str) -> Gate | Host:
    """Who asks for an approval."""
    if kind == "relay":
        relaying = Relaying((APPROVER.public,), (ip_network("10.0.0.0/8"),))
        return make_relay("p", Box(relay=relaying))
    host = make_host("s")
    host.answering.approvers = (APPROVER.public,)
    return host


def opened(approval: bytes = b"", key: SigningKey = STRANGER, **more: Any) -> bytes:
    """An OPEN for a host, by way of whoever asks for the approval."""
    to_key = more.pop("to_key", make_host("s").context.key.public)
    cid = more.pop("cid", CID)
    return make_open(key, to_key, CLIENT, TARGET, cid=cid, approval=approval, **more)


def approved(approver: SigningKey = APPROVER, ago_s: float = 0) -> bytes:
    """The approval of what a stranger asks for."""
    terms = decode_body(OpenTerms, body_of(opened(), Open).signed)
    return create_approval(approver, CID, terms, EPOCH_S + 100 - ago_s)


def answered(kind: str, data: bytes) -> tuple[list[Effect], bool]:
    """What it does with an OPEN, and whether it remembers anything of it."""
    asked = machine(kind)
    before = snapshot(asked)
    event = DatagramReceived(data, CLIENT.with_port(4747), HERE[kind])
    return asked.handle(event, 100.0), snapshot(asked) != before


def refused(kind: str, data: bytes) -> None:
    """REJECT 1, and nothing is kept."""
    effects, kept = answered(kind, data)
    (sent,) = [one for one in effects if isinstance(one, SendDatagram)]
    terms = decode_body(RejectTerms, body_of(sent.data, Reject).signed)
    assert (terms.code, kept) == (Code.POLICY, False)


KINDS = pytest.mark.parametrize("kind", ["relay", "host"])


@KINDS
def test_who_is_approved_is_let_in(kind: str) -> None:
    """R-5.7.4, R-8.8: the control of all tests here."""
    effects, _ = answered(kind, opened(approved()))
    sent = [one for one in effects if isinstance(one, SendDatagram)]
    sent += [two for one in effects if isinstance(one, ChangeRules) for two in one.then]
    assert [MESSAGES[one.data[4]].__name__ for one in sent] == [
        "Open" if kind == "relay" else "Accept"
    ]


@KINDS
@pytest.mark.parametrize(
    "other",
    [
        {"cid": Cid(b"another cid of s")},
        {"key": OTHER},
        {"service": "echo"},
        {"transport": Transport.UDP},
        {"transport": Transport.MPTCP},
    ],
    ids=["cid", "from_key", "service", "udp", "mptcp"],
)
def test_an_approval_is_reused_for_nothing_else(kind: str, other: dict[str, Any]) -> None:
    """R-5.7.3: not for another cid, service or transport; nor by who stole it, for itself."""
    refused(kind, opened(approved(), **other))


def test_an_approval_leads_to_no_other_host() -> None:
    """R-5.7.3: at a relay; a host that is asked for another refuses anyway (R-5.1.8)."""
    refused("relay", opened(approved(), to_key=OTHER.public))


@KINDS
def test_an_approval_that_was_stripped_is_missed(kind: str) -> None:
    """R-5.7.4, R-8.8: it is in the signed terms: taken out, nobody has signed them."""
    refused(kind, opened())
    with_one = body_of(opened(approved()), Open)
    terms = decode_body(OpenTerms, with_one.signed)
    without = encode_body(replace(terms, approval=b""))
    assert without == body_of(opened(), Open).signed
    assert with_one.signature != body_of(opened(), Open).signature


@KINDS
@pytest.mark.parametrize("ago_s", [61, 62, 3600])
def test_an_approval_that_is_over_lets_nobody_in(kind: str, ago_s: float) -> None:
    """R-5.7.3: by the clock of who checks it."""
    refused(kind, opened(approved(ago_s=ago_s)))


@KINDS
def test_an_approval_by_a_stranger_lets_nobody_in(kind: str) -> None:
    """R-5.7.3: nor one that names the approver, and is signed by who wants it."""
    refused(kind, opened(approved(STRANGER)))
    forged = approved(STRANGER).replace(STRANGER.public, APPROVER.public)
    refused(kind, opened(forged))


@KINDS
@pytest.mark.parametrize("at", range(len(approved())))
def test_an_approval_with_any_byte_changed_lets_nobody_in(kind: str, at: int) -> None:
    """R-5.7.3: its end, its signer, its signature."""
    approval = approved()
    spoilt = approval[:at] + bytes([approval[at] ^ 1]) + approval[at + 1 :]
    refused(kind, opened(spoilt))
