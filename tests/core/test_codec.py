"""The codec: one spelling for each message, and no other bytes are a message. Spec: R-2, R-3."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.any_message import ADDRESSES, HEADERS, MESSAGES, TERMS
from wayside.core import constants as c
from wayside.core import messages as m
from wayside.core.address import Address, Flow, Transport
from wayside.core.codec import DecodeError, Header, decode_body, encode_body
from wayside.core.rule import Cid

CID = Cid(bytes(range(16)))
CONFIRM = m.Confirm(bytes(32), bytes(16), bytes(16))
HEADER = Header(m.Confirm.TYPE, 2, CID)
HOP = m.Hop(bytes(32), 1, 120, b"token")
ENDS = (Address.parse("192.0.2.1:40000"), Address.parse("192.0.2.2:443"))


def is_refused(raw: bytes, body: type = m.Confirm) -> bool:
    try:
        decode_body(body, raw)
    except DecodeError:
        return True
    return False


@given(st.data(), HEADERS, st.sampled_from(sorted(MESSAGES, key=lambda kind: kind.TYPE)))
def test_every_message_survives_the_wire(
    data: st.DataObject, header: Header, kind: type[m.Message]
) -> None:
    """R-2.1, R-2.2, R-3.1: decode(encode(m)) == m, and the bytes are those that came."""
    header = Header(kind.TYPE, header.seq, header.cid, header.proofs)
    message = data.draw(MESSAGES[kind])
    try:
        datagram = m.encode(header, message)
    except ValueError:
        size = len(header.encode()) + len(encode_body(message))
        assert size > c.DATAGRAM_BYTES_MAX
        return
    assert m.decode(datagram) == (header, message)
    assert m.encode(*m.decode(datagram)) == datagram


@given(st.data(), st.sampled_from(sorted(TERMS, key=lambda kind: kind.TYPE)))
def test_all_signed_terms_survive_the_wire(data: st.DataObject, kind: type[m.Message]) -> None:
    """R-3.1, R-3.3."""
    terms = data.draw(TERMS[kind])
    assert decode_body(m.TERMS[kind], encode_body(terms)) == terms


@given(st.binary(max_size=1300))
def test_any_bytes_are_a_message_or_a_decode_error(raw: bytes) -> None:
    """R-7.6: nothing else is ever raised."""
    for datagram in (raw, HEADER.signing + raw):
        try:
            header, message = m.decode(datagram)
        except DecodeError:
            continue
        assert m.encode(header, message) == datagram


@given(st.data(), st.sampled_from(sorted(MESSAGES, key=lambda kind: kind.TYPE)))
def test_a_changed_byte_gives_another_message_or_none(
    data: st.DataObject, kind: type[m.Message]
) -> None:
    """R-3.4: what is let in is always the one encoding of what it says."""
    raw = bytearray(encode_body(data.draw(MESSAGES[kind])))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    try:
        made = decode_body(kind, bytes(raw))
    except DecodeError:
        return
    assert encode_body(made) == raw


def test_every_tag_is_refused() -> None:
    """R-3.2: wherever it stands, and before anything is built out of it."""
    seen, mac = cbor2.dumps(bytes(32)), cbor2.dumps(bytes(16))
    rest = b"\x02" + mac + b"\x05" + mac
    assert not is_refused(b"\xa3\x01" + seen + rest)
    for number in range(70_001):
        tag = cbor2.dumps(cbor2.CBORTag(number, 0))[:-1]
        assert is_refused(b"\xa3\x01" + tag + seen + rest), number
    for number in (0, 1, 2, 4, 5, 24, 30, 35, 36, 55799, 2**32, 2**64 - 1):
        tag = cbor2.dumps(cbor2.CBORTag(number, 0))[:-1]
        assert is_refused(tag + encode_body(CONFIRM)), number
        assert is_refused(b"\xa3" + tag + b"\x01" + seen + rest), number


def spelt(items: list[tuple[bytes, bytes]], head: bytes | None = None, tail: bytes = b"") -> bytes:
    """A map written by hand, its keys and values already encoded."""
    start = bytes([0xA0 + len(items)]) if head is None else head
    return start + b"".join(key + value for key, value in items) + tail


SEEN, MAC = (b"\x01", cbor2.dumps(bytes(32))), (b"\x02", cbor2.dumps(bytes(16)))
PROOF = (b"\x05", cbor2.dumps(bytes(16)))


def test_the_spelling_that_the_next_test_bends_is_right() -> None:
    assert spelt([SEEN, MAC, PROOF]) == encode_body(CONFIRM)
    assert not is_refused(spelt([SEEN, MAC, PROOF]))


SPELLINGS: dict[str, bytes] = {
    "an indefinite map": spelt([SEEN, MAC, PROOF], b"\xbf", b"\xff"),
    "keys out of order": spelt([MAC, SEEN, PROOF]),
    "a key twice": spelt([SEEN, SEEN, MAC, PROOF]),
    "a key too many": spelt([SEEN, MAC, PROOF, (b"\x06", b"\x00")]),
    "a key missing": spelt([SEEN, MAC]),
    "a long key": spelt([(b"\x18\x01", SEEN[1]), MAC, PROOF]),
    "a key that is a float": spelt([(b"\xf9\x3c\x00", SEEN[1]), MAC, PROOF]),
    "a key that is true": spelt([(b"\xf5", SEEN[1]), MAC, PROOF]),
    "a key that is text": spelt([(b"\x61\x31", SEEN[1]), MAC, PROOF]),
    "a long length of the map": spelt([SEEN, MAC, PROOF], b"\xb8\x03"),
    "a long length of a string": spelt([(b"\x01", b"\x59\x00\x20" + bytes(32)), MAC, PROOF]),
    "a string in pieces": spelt([(b"\x01", b"\x5f\x58\x20" + bytes(32) + b"\xff"), MAC, PROOF]),
    "text for bytes": spelt([(b"\x01", b"\x78\x20" + b"a" * 32), MAC, PROOF]),
    "too short a string": spelt([(b"\x01", b"\x58\x1f" + bytes(31)), MAC, PROOF]),
    "null": spelt([(b"\x01", b"\xf6"), MAC, PROOF]),
    "undefined": spelt([(b"\x01", b"\xf7"), MAC, PROOF]),
    "an empty list of hops": spelt([SEEN, MAC, (b"\x03", b"\x80"), PROOF]),
    "nine hops": spelt([SEEN, MAC, (b"\x03", cbor2.dumps([encode_body(HOP)] * 9)), PROOF]),
    "a list of half a hop": spelt([SEEN, MAC, (b"\x03", cbor2.dumps([b"\xa1"])), PROOF]),
    "bytes behind the end": spelt([SEEN, MAC, PROOF], tail=b"\x00"),
    "the end cut off": spelt([SEEN, MAC, PROOF])[:-1],
    "a list": b"\x83" + SEEN[1] + MAC[1] + PROOF[1],
    "a number": b"\x00",
    "nothing": b"",
    "a thousand lists": b"\x81" * 1000 + b"\x00",
    "deep inside a field": spelt([(b"\x01", b"\x81" * 1000 + b"\x00"), MAC, PROOF]),
    "a length beyond all memory": b"\xbb" + b"\xff" * 8,
    "a string beyond all memory": spelt([(b"\x01", b"\x5b" + b"\xff" * 8), MAC, PROOF]),
}


@pytest.mark.parametrize("what", sorted(SPELLINGS))
def test_another_spelling_is_refused(what: str) -> None:
    """R-3.1 to R-3.4: R-3.2 for what CBOR may hold at all, R-3.3 for the fields."""
    assert is_refused(SPELLINGS[what])


@pytest.mark.parametrize("value", [1.0, True, -1, 16, "1", b"1", None, 2**64], ids=repr)
def test_a_role_is_a_whole_number_from_0_to_15(value: object) -> None:
    """R-3.3: a number is a number of its range, and not what Python thinks equal to it."""
    fields = {1: bytes(32), 2: value, 3: 120, 4: b""}
    assert is_refused(cbor2.dumps(fields, canonical=True), m.Hop)
    assert not is_refused(cbor2.dumps({**fields, 2: 15}, canonical=True), m.Hop)


@pytest.mark.parametrize(
    "text", ["a\nb", "\x00", "\x1b[31m", "\x1f", "\x7f", "\x80", "\x9b31m", "e" * 161, "é" * 81]
)
def test_text_with_a_control_character_or_too_much_of_it_is_refused(text: str) -> None:
    """R-3.5: a terminal must not obey it; and it is counted in bytes of UTF-8."""
    assert is_refused(cbor2.dumps({1: bytes(16), 2: text}), m.Close)
    for plain in ("plain é", "~ \u00a0", "\U0010ffff"):
        assert not is_refused(cbor2.dumps({1: bytes(16), 2: plain}), m.Close)
    assert is_refused(b"\xa2\x01\x50" + bytes(16) + b"\x02\x61\xff", m.Close), "not UTF-8"


@pytest.mark.parametrize("text", ["", "x" * 33, "a b", " ", "a\n", "\x7f", "é", "\u00a0"])
def test_a_word_is_visible_ascii(text: str) -> None:
    """R-3.5: a service, the name of a rule, keys and values of an intent."""
    refusal = m.RejectTerms(bytes(32), bytes(32), 1, "", "rule")
    for word in ("a", "!~", "x" * 32):
        assert decode_body(m.RejectTerms, encode_body(replace(refusal, rule=word))).rule == word
    whole = cbor2.loads(encode_body(refusal))
    assert is_refused(cbor2.dumps({**whole, 5: text}), m.RejectTerms)
    asked = m.OpenTerms(
        bytes(32), bytes(32), "echo", Transport.TCP, *ENDS, bytes(32), 1, 1, intent=(("k", "v"),)
    )
    whole = cbor2.loads(encode_body(asked))
    assert not is_refused(cbor2.dumps(whole), m.OpenTerms)
    for key, value in ((3, text), (13, {text: "v"}), (13, {"k": text})):
        assert is_refused(cbor2.dumps({**whole, key: value}), m.OpenTerms)


def test_an_empty_optional_field_is_left_out() -> None:
    """R-3.3."""
    assert is_refused(cbor2.dumps({1: bytes(16), 2: ""}), m.Close)
    assert encode_body(m.Close(bytes(16))) == cbor2.dumps({1: bytes(16)})
    open_ = {1: b"", 2: bytes(64)}
    assert not is_refused(cbor2.dumps(open_), m.Open)
    for key in (4, 5):
        assert is_refused(cbor2.dumps({**open_, key: b""}), m.Open)


def test_the_header_has_its_fields_where_the_specification_says() -> None:
    """R-2.1, R-2.2."""
    proof = bytes(range(32))
    raw = Header(1, 0x0102030405060708, CID, (proof, proof[::-1])).encode()
    assert raw.hex(" ", 8) == (
        "4353500101010200 0102030405060708 0001020304050607 08090a0b0c0d0e0f "
        + (proof + proof[::-1]).hex(" ", 8)
    )
    assert Header.decode(raw + b"\xa0") == (
        Header(1, 2**56 + 0x02030405060708, CID, (proof, proof[::-1])),
        96,
    )


@pytest.mark.parametrize(
    ("what", "at", "value"),
    [
        ("magic", 0, 0x44),
        ("magic", 2, 0x52),
        ("version", 3, 0),
        ("version", 3, 2),
        ("an unknown flag", 5, 0x02),
        ("the flag without a proof", 5, 0x01),
        ("a proof without the flag", 6, 1),
        ("the zero byte", 7, 1),
    ],
)
def test_a_header_with_something_else_in_it_is_refused(what: str, at: int, value: int) -> None:
    """R-2.1."""
    raw = bytearray(m.encode(HEADER, CONFIRM))
    raw[at] = value
    with pytest.raises(DecodeError):
        m.decode(bytes(raw))


def test_at_most_four_proofs_and_all_of_each() -> None:
    """R-2.2."""
    body = encode_body(CONFIRM)
    proof = bytes(32)
    for count in range(1, 7):
        raw = bytearray(HEADER.signing) + proof * count + body
        raw[5:7] = 1, count
        if count <= c.PROOFS_MAX:
            assert m.decode(bytes(raw))[0].proofs == (proof,) * count
        else:
            with pytest.raises(DecodeError):
                m.decode(bytes(raw))
    cut = bytearray(HEADER.signing + proof)
    cut[5:7] = 1, 1
    for short in (cut, cut[:-1], cut[:33]):
        with pytest.raises(DecodeError):
            m.decode(bytes(short))


def test_a_datagram_has_33_to_1232_bytes() -> None:
    """R-2.3: in both directions; and there is no ninth type."""
    largest = m.Open(b"", bytes(64), pad=bytes(1124))
    header = Header(m.Open.TYPE, 0, CID)
    while len(header.encode() + encode_body(largest)) < c.DATAGRAM_BYTES_MAX:
        largest = m.Open(b"", bytes(64), pad=largest.pad + b"\x00")
    assert m.decode(m.encode(header, largest))[1] == largest
    longer = m.Open(b"", bytes(64), pad=largest.pad + b"\x00")
    with pytest.raises(ValueError, match="too long"):
        m.encode(header, longer)
    for raw in (header.encode() + encode_body(longer), b"", HEADER.signing, HEADER.signing[:31]):
        with pytest.raises(DecodeError):
            m.decode(raw)
    for number in (0, 9, 255):
        with pytest.raises(DecodeError):
            m.decode(Header(number, 0, CID).encode() + encode_body(CONFIRM))


@given(ADDRESSES)
def test_an_address_has_one_spelling(address: Address) -> None:
    """R-2.4: 6 or 18 bytes, the port last."""
    raw = address.pack()
    assert Address.unpack(raw) == address
    assert raw == address.ip.packed + address.port.to_bytes(2, "big")
    if address.family == 4:
        with pytest.raises(ValueError, match="canonical"):
            Address.unpack(bytes(10) + b"\xff\xff" + raw)
    for wrong in (raw[:-1], raw + b"\x00", b""):
        with pytest.raises(ValueError, match="bytes"):
            Address.unpack(wrong)


def test_a_v4_mapped_spelling_and_a_zone_do_not_pass() -> None:
    """R-2.4: spellings end at the edge."""
    assert Address.parse("[::ffff:192.0.2.1]:443") == Address.parse("192.0.2.1:443")
    with pytest.raises(ValueError, match="zone"):
        Address.parse("[fe80::1%eth0]:443")


def test_a_flow_is_of_one_family() -> None:
    """R-2.5."""
    four, six = Address.parse("192.0.2.1:1"), Address.parse("[2001:db8::1]:2")
    with pytest.raises(ValueError, match="families"):
        Flow(Transport.TCP, four, six)
    flow = Flow(Transport.UDP, four, four.with_port(2))
    assert flow.reversed() == Flow(Transport.UDP, four.with_port(2), four)
    assert [int(transport) for transport in Transport] == [0, 1, 2, 3]
    assert [transport.protocol for transport in Transport] == [0, 6, 6, 17]


@settings(max_examples=200)
@given(st.data(), HEADERS)
def test_an_open_is_padded_to_1200_bytes_and_no_more_than_needed(
    data: st.DataObject, header: Header
) -> None:
    """R-5.1.4: whatever it carries; zeros, at most three bytes more than needed."""
    message = data.draw(MESSAGES[m.Open])
    assert isinstance(message, m.Open)
    header = Header(m.Open.TYPE, header.seq, header.cid, header.proofs)
    bare = m.Open(message.signed, message.signature, message.hops, message.mac)
    size = len(header.encode()) + len(encode_body(bare))
    if size > c.DATAGRAM_BYTES_MAX:
        with pytest.raises(ValueError, match="too long"):
            m.padded(header, message)
        return
    datagram = m.padded(header, message)
    assert max(size, c.OPEN_BYTES_MIN) <= len(datagram) <= max(size, c.OPEN_BYTES_MIN + 3)
    found = m.decode(datagram)[1]
    assert isinstance(found, m.Open)
    assert not any(found.pad)
    assert m.Open(found.signed, found.signature, found.hops, found.mac) == bare
