"""The specification: its CDDL and the codec judge alike, its numbers are sound, its tables true.

pycddl is the oracle. It does not count the items of an array of embedded CBOR, nor know about
canonical encodings, control characters or v4-mapped addresses; test_codec.py has those.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycddl import Schema, ValidationError

from core.any_message import (
    ANSWER,
    CERTIFICATE,
    CERTIFICATE_TERMS,
    HOP,
    INVITATION,
    LOCATOR,
    MESSAGES,
    TERMS,
)
from vectors.samples import ACCEPT, FULL, NAT, REJECT, SIX
from wayside.core import constants as c
from wayside.core import messages as m
from wayside.core.codec import Body, DecodeError, Header, decode_body, encode_body
from wayside.core.errors import DropReason
from wayside.core.identity import Certificate, CertificateTerms
from wayside.core.rule import Cid
from wayside.core.virtual import DEFAULT_V6_PREFIX, V4_PREFIX
from wayside.runtime.enrolment import Answer, Invitation

DOCS = Path(__file__).resolve().parents[2] / "docs"
CDDL = (DOCS / "wayside.cddl").read_text()
WORD, WHOLE_WORD = '"[!-~]{1,32}"', '"^[!-~]{1,32}$"'
"""RFC 8610 matches a whole text against a regular expression; pycddl looks for it anywhere."""
SPEC = (DOCS / "spec.md").read_text()

WORDS_ON_A_PAGE = 480
PAGES_MAX = 20
LINE_CHARACTERS_MAX = 118

RULES: dict[type[Body], str] = {
    **{kind: kind.__name__.lower() for kind in m.MESSAGES.values()},
    **{terms: f"{kind.__name__.lower()}-terms" for kind, terms in m.TERMS.items()},
    m.Hop: "hop",
    m.Locator: "locator",
    Certificate: "certificate",
    CertificateTerms: "certificate-terms",
    Answer: "answer",
    Invitation: "invitation",
}
BODIES: dict[type[Body], st.SearchStrategy[Any]] = {
    **{m.TERMS[kind]: strategy for kind, strategy in TERMS.items()},
    m.Hop: HOP,
    m.Locator: LOCATOR,
    CertificateTerms: CERTIFICATE_TERMS,
    Answer: ANSWER,
    Invitation: INVITATION,
}
KINDS = sorted(BODIES, key=lambda kind: kind.__name__)


@cache
def schema(rule: str) -> Schema:
    assert CDDL.count(WORD) == 1
    return Schema(f"start = {rule}\n{CDDL.replace(WORD, WHOLE_WORD)}")


def is_accepted(rule: str, raw: bytes) -> bool:
    """What the CDDL says."""
    try:
        schema(rule).validate_cbor(raw)
    except ValidationError:
        return False
    return True


def is_read(kind: type[Body], raw: bytes) -> bool:
    """What the codec says."""
    try:
        decode_body(kind, raw)
    except DecodeError:
        return False
    return True


@settings(deadline=None)
@given(st.data(), st.sampled_from(KINDS))
def test_the_cddl_accepts_all_that_the_codec_writes(data: st.DataObject, kind: type[Body]) -> None:
    """R-3.1, R-3.3: terms and records, R-8.6 the locator among them."""
    assert is_accepted(RULES[kind], encode_body(data.draw(BODIES[kind])))


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(MESSAGES, key=lambda kind: kind.TYPE)))
def test_the_cddl_accepts_every_message(data: st.DataObject, kind: type[m.Message]) -> None:
    """R-3.1, R-3.3: with the terms that belong into them; under its own name and under `body`."""
    message = data.draw(MESSAGES[kind])
    if kind in TERMS:
        terms = encode_body(data.draw(TERMS[kind]))
        values = {field.name: getattr(message, field.name) for field in kind.FIELDS}
        make: Any = kind
        message = make(**values | {"signed": terms})
    raw = encode_body(message)
    assert is_accepted(RULES[kind], raw)
    assert is_accepted("body", raw)


def test_the_cddl_accepts_a_certificate() -> None:
    """R-9.2."""
    terms = encode_body(CertificateTerms("files.lab", bytes(32), 1))
    raw = encode_body(Certificate(terms, bytes(64)))
    assert is_accepted("certificate", raw)
    assert not is_accepted("certificate", encode_body(Certificate(b"", bytes(64))))
    assert CERTIFICATE is not None


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False),
    st.integers(-(2**64), 2**64 - 1),
    st.sampled_from([4, 16, 256, 2**40 + 1]),
    st.integers(0, 300),
    st.binary(max_size=40),
    st.sampled_from([0, 5, 7, 15, 17, 19, 31, 33, 63, 65, 201, 257, 577, 580]).map(bytes),
    st.text(max_size=40),
    st.sampled_from([33, 65, 161]).map("x".__mul__),
    st.lists(st.binary(max_size=20), max_size=9),
    st.lists(st.just(bytes(6)), max_size=9),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=9),
    st.dictionaries(st.integers(0, 3), st.binary(max_size=2), max_size=3),
)


@settings(max_examples=1500, deadline=None)
@given(st.data(), st.sampled_from(KINDS))
def test_what_the_cddl_rejects_the_codec_rejects(data: st.DataObject, kind: type[Body]) -> None:
    """R-3.2, R-3.3: one field changed, taken away, or too many."""
    values = cbor2.loads(encode_body(data.draw(BODIES[kind])))
    change = data.draw(st.sampled_from(["another value", "a field less", "a field too many"]))
    if change == "a field less":
        del values[data.draw(st.sampled_from(sorted(values)))]
    else:
        most = 1 + max(field.key for field in kind.FIELDS)
        known = sorted(values) if change == "another value" else [0, most, most + 20]
        values[data.draw(st.sampled_from(known))] = data.draw(ODD_VALUES)
    raw = cbor2.dumps(values, canonical=True)
    if not is_accepted(RULES[kind], raw):
        assert not is_read(kind, raw)


@settings(max_examples=500, deadline=None)
@given(st.data(), st.sampled_from(sorted(MESSAGES, key=lambda kind: kind.TYPE)))
def test_what_the_cddl_rejects_of_a_message_the_codec_rejects(
    data: st.DataObject, kind: type[m.Message]
) -> None:
    """R-3.3: the fields around the signed terms, which have their own test."""
    values = cbor2.loads(encode_body(data.draw(MESSAGES[kind])))
    key = data.draw(st.sampled_from([1, 2, 3, 4, 5, 6]))
    if kind in TERMS:
        values[1] = encode_body(data.draw(TERMS[kind]))
        key = max(key, 2)
    values[key] = data.draw(ODD_VALUES)
    raw = cbor2.dumps(values, canonical=True)
    if not is_accepted(RULES[kind], raw):
        assert not is_read(kind, raw)


LIMITS = (0, 1, 6, 8, 16, 18, 32, 64, 160, 200, 256, 576, 1232)
SIZES = sorted({max(0, limit + more) for limit in LIMITS for more in (-1, 0, 1)})
NUMBERS = (0, 1, 3, 4, 15, 16, 255, 256, 2**40, 2**40 + 1, 2**64 - 1)
FULLEST: tuple[Body, ...] = (
    FULL,
    replace(ACCEPT, alternatives=SIX, sealed=b"sealed"),
    replace(REJECT, reason="reason", rule="rule", by="by"),
    m.StopTerms(bytes(32), bytes(32), bytes(32), 1, 1),
    m.RedirectTerms(bytes(32), bytes(32), m.Locator(SIX[0]), b"approval", 1, 0, bytes(32)),
    NAT,
    CertificateTerms("files.lab", bytes(32), 1),
    m.Confirm(bytes(32), bytes(16), bytes(16), (NAT,)),
    m.Challenge(bytes(32), (NAT,)),
    m.Close(bytes(16), "reason", (NAT,)),
)


@pytest.mark.parametrize("body", FULLEST, ids=lambda body: type(body).__name__)
def test_cddl_and_codec_have_the_same_limits(body: Body) -> None:
    """R-3.3: every field of bytes, text or number, just below, at and above every limit."""
    whole = cbor2.loads(encode_body(body))
    for key, value in whole.items():
        tries: list[Any] = []
        if isinstance(value, bytes):
            tries = [bytes(size) for size in SIZES]
        elif isinstance(value, str):
            tries = ["x" * size for size in SIZES]
        elif isinstance(value, int):
            tries = list(NUMBERS)
        for changed in tries:
            raw = cbor2.dumps({**whole, key: changed}, canonical=True)
            if not (isinstance(body, m.RedirectTerms) and key == 3):
                assert is_read(type(body), raw) is is_accepted(RULES[type(body)], raw), (key, raw)


def test_the_oracle_can_say_no() -> None:
    """Or the tests above would prove nothing."""
    hop = {1: bytes(32), 2: 1, 3: 120, 4: b"token"}
    assert is_accepted("hop", cbor2.dumps(hop))
    for wrong in ({2: 16}, {3: -1}, {4: bytes(256)}, {1: bytes(31)}, {5: bytes(7)}, {9: 0}):
        assert not is_accepted("hop", cbor2.dumps({**hop, **wrong})), wrong


def test_every_field_of_a_table_is_in_the_cddl_with_the_same_name() -> None:
    """R-3.3: key by key, read from the text of the CDDL; optional in both or in neither."""
    for kind, rule in RULES.items():
        found = re.search(rf"^{rule} = {{(.*?)^}}", CDDL, re.MULTILINE | re.DOTALL)
        assert found, rule
        lines = re.findall(r"^ *(\? )?(\d+) => [^;]*; (\w+)", found[1], re.MULTILINE)
        said = {int(key): (name, bool(optional)) for optional, key, name in lines}
        assert said == {field.key: (field.name, field.optional) for field in kind.FIELDS}, rule


def test_the_text_spells_fields_as_the_cddl_does() -> None:
    """No `time` for `time_s`: what is in backquotes and almost a field would be another name."""
    fields = {field.name for kind in RULES for field in kind.FIELDS}
    short = {name.rsplit("_", 1)[0] for name in fields if "_" in name} - fields
    quoted = set(re.findall(r"`([a-z_]+)`", SPEC))
    assert quoted & short <= {DropReason.TIME.value}
    assert fields & quoted >= {"from_key", "to_key", "time_s", "lifetime_s", "sealed"}


# --- the text ---


def requirements() -> list[str]:
    return re.findall(r"^\*\*(R-[\d.]+)\*\*", SPEC, re.MULTILINE)


def test_every_requirement_has_one_number_and_they_are_in_order() -> None:
    numbers = requirements()
    assert len(numbers) == len(set(numbers))
    order = [[int(part) for part in number[2:].split(".")] for number in numbers]
    assert order == sorted(order)
    assert 60 <= len(numbers) <= 112


def test_the_text_cites_no_number_that_it_does_not_have() -> None:
    cited = set(re.findall(r"\bR-\d+(?:\.\d+)+", SPEC + CDDL))
    assert cited <= set(requirements())


def test_the_specification_fits_on_twenty_pages() -> None:
    assert len(SPEC.split()) <= PAGES_MAX * WORDS_ON_A_PAGE
    assert max(map(len, SPEC.splitlines())) <= LINE_CHARACTERS_MAX


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    """R-2.3, R-5.1.2, R-5.1.4, R-5.1.5, R-5.6.1, R-6.3, R-7.2, R-8.5."""
    for number in (c.DATAGRAM_BYTES_MAX, c.OPEN_BYTES_MIN):
        assert f"{number:,}" in SPEC
    for number in (c.DATA_BYTES_MAX, c.TOKEN_BYTES_MAX, c.HOPS_BYTES_MAX):
        assert f" {number} bytes" in SPEC
    assert f"than {c.OPEN_TIME_WINDOW_S:g} s" in SPEC
    assert f"pending** from ACCEPT: they go after {c.PENDING_S:g} s" in SPEC
    assert f"port {c.SIGNALING_PORT}" in SPEC
    assert V4_PREFIX in SPEC
    assert DEFAULT_V6_PREFIX in SPEC
    for reason in DropReason:
        assert f"`{reason.value}`" in SPEC
    for code in m.Code:
        assert re.search(rf"\| {int(code)} \| \w", SPEC), code


def test_the_header_of_the_text_is_the_header_of_the_code() -> None:
    """R-2.1: the table, row by row, against a header."""
    header = Header(7, 0x0102030405060708, Cid(bytes(range(16))), (bytes(32),)).encode()
    rows = re.findall(r"^\| (\d+) \| (\d+)[^|]*\| (\w+) \|", SPEC, re.MULTILINE)
    offsets = {name: (int(at), int(size)) for at, size, name in rows}
    cut = {name: header[at : at + size] for name, (at, size) in offsets.items()}
    assert cut["magic"] == c.MAGIC
    assert cut["version"] == bytes([c.VERSION])
    assert cut["type"] == b"\x07"
    assert cut["flags"] == bytes([c.FLAG_PROOF])
    assert cut["zero"] == b"\x00"
    assert cut["seq"] == bytes(range(1, 9))
    assert cut["cid"] == bytes(range(16))
    assert cut["proofs"] in (b"\x01", bytes(32))


@pytest.mark.parametrize("kind", m.MESSAGES.values(), ids=lambda kind: kind.__name__)
def test_the_types_of_the_text_are_those_of_the_code(kind: type[m.Message]) -> None:
    name = kind.__name__.upper()
    assert f"| {kind.TYPE} | {name} |" in SPEC
    assert re.search(rf"^{name.lower()} = {{ +; type {kind.TYPE}$", CDDL, re.MULTILINE)
