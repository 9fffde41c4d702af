"""What an OPEN must be before anybody thinks about it, and how a no is put."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pair import EPOCH_S, STRANGER, make_open
from wayside.core import constants as c
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import Header, decode_body
from wayside.core.crypto import SigningKey
from wayside.core.errors import DropReason
from wayside.core.events import MessageReceived
from wayside.core.identity import Names
from wayside.core.messages import (
    Code,
    Hop,
    Open,
    OpenTerms,
    Redirect,
    RedirectTerms,
    Reject,
    RejectTerms,
    decode,
)
from wayside.core.opening import (
    CheckedOpen,
    Refusal,
    check_open,
    cut,
    is_agreed,
    is_sound,
    open_hash,
    read_redirect,
    read_refusal,
    redirect,
    refuse,
)
from wayside.core.rule import Cid

HERE, THERE = Address.parse("192.0.2.1:1"), Address.parse("198.51.100.2:443")
CID = Cid(b"cid of sixteen b")


def received(data: bytes, source: Address = HERE, proved: bool = False) -> MessageReceived:
    header, message = decode(data)
    return MessageReceived(header, message, source, THERE, False, "", data, proved)


@pytest.mark.parametrize(
    ("transport", "source", "destination", "sound", "agreed"),
    [
        (Transport.TCP, "192.0.2.1:1", "198.51.100.2:443", True, True),
        (Transport.TCP, "192.0.2.1:1", "198.51.100.2:0", True, False),
        (Transport.TCP, "192.0.2.1:0", "198.51.100.2:443", False, False),
        (Transport.NONE, "192.0.2.1:0", "198.51.100.2:0", True, True),
        (Transport.NONE, "192.0.2.1:1", "198.51.100.2:0", False, False),
        (Transport.NONE, "192.0.2.1:0", "198.51.100.2:1", False, False),
        (Transport.UDP, "192.0.2.1:4747", "198.51.100.2:53", False, False),
        (Transport.UDP, "192.0.2.1:5353", "198.51.100.2:4747", False, False),
        (Transport.TCP, "192.0.2.1:4747", "198.51.100.2:4747", True, True),
        (Transport.UDP, "127.0.0.1:5", "127.0.0.1:6", True, True),
        (Transport.UDP, "127.0.0.1:5", "127.0.0.1:5", False, False),
        (Transport.UDP, "127.0.0.1:5", "192.0.2.1:5", False, False),
        (Transport.MPTCP, "[2001:db8::1]:5", "[2001:db8::2]:6", True, True),
        (Transport.TCP, "[2001:db8::1]:5", "[::1]:6", False, False),
        (Transport.TCP, "[fe80::1]:5", "[fe80::2]:6", False, False),
        (Transport.TCP, "192.0.2.1:5", "239.1.1.1:6", False, False),
        (Transport.TCP, "192.0.2.1:5", "255.255.255.255:6", False, False),
        (Transport.TCP, "169.254.0.1:5", "192.0.2.1:6", False, False),
    ],
)
def test_a_sound_flow_has_unicast_ends_and_ports_where_there_are_any(
    transport: Transport, source: str, destination: str, sound: bool, agreed: bool
) -> None:
    """R-2.6."""
    flow = Flow(transport, Address.parse(source), Address.parse(destination))
    assert (is_sound(flow), is_agreed(flow)) == (sound, agreed)


@pytest.mark.parametrize("seq", [0, 2, 2**64 - 2])
@pytest.mark.parametrize("transport", Transport)
@pytest.mark.parametrize("proved", [False, True])
def test_data_rides_on_later_opens_but_not_of_a_udp_flow(
    transport: Transport, seq: int, proved: bool
) -> None:
    """R-5.1.5: elsewhere the OPEN is no OPEN, whoever signed it and whenever; without, it is."""
    ports = (0, 0) if transport is Transport.NONE else (1, 443)
    ends = HERE.with_port(ports[0]), THERE.with_port(ports[1])

    def checked(sealed: bytes, ago_s: float = 0.0) -> CheckedOpen | DropReason:
        data = make_open(
            STRANGER, bytes(32), *ends, cid=CID, seq=seq, transport=transport, sealed=sealed
        )
        event = received(data, proved=proved)
        assert isinstance(event.message, Open)
        return check_open(event, event.message, Names({}), EPOCH_S + 100 + ago_s)

    assert isinstance(checked(b""), CheckedOpen)
    if transport is not Transport.UDP or seq == 0:
        assert isinstance(checked(bytes(17)), CheckedOpen)
    else:
        assert checked(bytes(17)) is DropReason.MALFORMED
        assert checked(bytes(17), ago_s=3600.0) is DropReason.MALFORMED


def test_an_open_is_named_by_its_header_and_terms_and_not_by_its_proofs() -> None:
    """R-4.1: so that a challenge does not make another OPEN of it."""
    one, two = Header(1, 0, CID), Header(1, 0, CID, (bytes(32),))
    assert open_hash(one, b"terms") == open_hash(two, b"terms")
    different = {open_hash(Header(1, 1, CID), b"t"), open_hash(one, b"t"), open_hash(one, b"u")}
    assert len(different) == 3


@given(st.text(), st.integers(0, 200))
def test_a_text_is_cut_to_what_a_message_takes(text: str, most: int) -> None:
    """R-3.5: printable, and no half of a character."""
    short = cut(text, most)
    assert len(short.encode()) <= most
    assert short.isprintable()
    if text.isprintable() and len(text.encode()) <= most:
        assert short == text


@given(
    reason=st.text(max_size=300),
    rule=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=60),
    name=st.text(max_size=100),
    tokens=st.lists(st.integers(0, 200), max_size=5),
    proved=st.booleans(),
)
def test_a_refusal_can_be_sent_and_read_and_is_never_the_larger(
    reason: str, rule: str, name: str, tokens: list[int], proved: bool
) -> None:
    """R-5.6, R-7.5: whatever the words are, and however full of hops the OPEN was."""
    hops = tuple(Hop(bytes(32), 1, 1, bytes(size)) for size in tokens)
    try:
        data = make_open(
            STRANGER, bytes(32), HERE, THERE, cid=CID, hops=hops, service="x", bare=proved
        )
    except ValueError:  # so many hops are in no OPEN
        return
    event = received(data, proved=proved)
    key = SigningKey(b"g" * 32)
    sent = refuse(key, name, event, b"h" * 32, Refusal(Code.POLICY, reason, rule))
    assert sent.destination == HERE
    assert len(sent.data) <= len(data)
    answer = received(sent.data)
    assert isinstance(answer.message, Reject)
    terms = read_refusal(answer, answer.message)
    assert isinstance(terms, RejectTerms)
    assert (terms.from_key, terms.code, terms.open_hash) == (key.public, 1, b"h" * 32)
    assert answer.message.hops == hops
    assert decode_body(RejectTerms, answer.message.signed) == terms


@given(
    tokens=st.lists(st.integers(0, 200), max_size=7),
    ticket=st.sampled_from((0, c.PROOF_BYTES)),
    instead=st.booleans(),
    bare=st.booleans(),
)
def test_a_redirect_can_be_sent_and_is_never_the_larger(
    tokens: list[int], ticket: int, instead: bool, bare: bool
) -> None:
    """R-5.7, R-7.5: however full of hops the OPEN was; without room it is a refusal."""
    hops = tuple(Hop(bytes(32), 1, 1, bytes(size)) for size in tokens)
    try:
        data = make_open(
            STRANGER, bytes(32), HERE, THERE, cid=CID, hops=hops, service="x", bare=bare
        )
    except ValueError:  # so many hops are in no OPEN
        return
    event = received(data, proved=bare)
    assert isinstance(event.message, Open)
    terms, key = decode_body(OpenTerms, event.message.signed), SigningKey(b"g" * 32)
    opened = CheckedOpen(
        event.header, terms, bytes(32), Flow(Transport.TCP, HERE, THERE), HERE, None, None
    )
    instead_of = bytes(32) if instead else b""
    sent = redirect(key, event, opened, THERE, 0, EPOCH_S, instead_of, bytes(ticket))
    assert len(sent.data) <= len(data)
    answer = received(sent.data)
    if isinstance(answer.message, Redirect):
        said = read_redirect(answer, answer.message)
        assert isinstance(said, RedirectTerms)
        assert said.locator.address == THERE
    else:
        assert isinstance(answer.message, Reject)
        no = read_refusal(answer, answer.message)
        assert isinstance(no, RejectTerms)
        assert no.code == Code.ROUTE_TOO_LONG


def test_the_barest_refusal_is_smaller_than_the_barest_open() -> None:
    """R-7.5: so that there is always one that may be sent."""
    hops = (Hop(bytes(32), 1, 1, b""),)
    data = make_open(
        STRANGER,
        bytes(32),
        HERE,
        THERE,
        cid=CID,
        hops=hops,
        service="",
        bare=True,
        time_s=0,
        lifetime_s=0,
    )
    event = received(data)
    assert isinstance(event.message, Open)
    sent = refuse(STRANGER, "n" * 64, event, bytes(32), Refusal(Code.BUSY, "r" * 160, "x" * 32))
    assert len(sent.data) <= len(data)
