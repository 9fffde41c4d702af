"""Names: a raw key always is one, any other needs somebody who vouches for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.codec import encode_body
from wayside.core.crypto import SigningKey
from wayside.core.identity import (
    CERTIFICATE_CONTEXT,
    Certificate,
    CertificateTerms,
    Names,
    PeerIdentity,
    domain_of,
    is_name,
    key_from_text,
    key_text,
    sign_certificate,
)

DOMAIN, OTHER = SigningKey(b"d" * 32), SigningKey(b"o" * 32)
HOST = SigningKey(b"h" * 32).public
NAMES = Names({"lab": DOMAIN.public, "b.lab": OTHER.public})


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_a_name_and_the_name_is_the_key(key: bytes) -> None:
    """R-9.1: `k` and 52 characters."""
    assert len(key_text(key)) == 53
    assert key_from_text(key_text(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "k",
        key_text(HOST)[:-1],
        key_text(HOST) + "a",
        key_text(HOST).upper(),
        "x" * 53,
        "k" + "1" * 52,
        "k" + "é" * 52,
        "k" + "z" * 52,
    ],
)
def test_what_spells_no_key_is_none(text: str) -> None:
    """R-9.1: wrong length, case, alphabet, or bits behind the end."""
    assert key_from_text(text) is None


@given(st.text("kabcdefghijklmnopqrstuvwxyz234567", min_size=53, max_size=53))
def test_one_key_has_one_spelling(text: str) -> None:
    """R-9.1."""
    key = key_from_text(text)
    assert key is None or key_text(key) == text


@pytest.mark.parametrize("name", ["files.lab", "a.b.c", "x-1.y", "1.2", "a" * 60 + ".lab"])
def test_a_name_is_labels_under_a_domain(name: str) -> None:
    """R-9.2."""
    assert is_name(name)
    assert domain_of(name) == name.split(".", 1)[1]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lab",
        ".lab",
        "files.",
        "a..b",
        "Files.lab",
        "é.lab",
        "a b.lab",
        "a_b.lab",
        "a" * 61 + ".lab",
        "*.lab",
        "a\n.lab",
    ],
)
def test_anything_else_is_no_name_and_cannot_be_signed(name: str) -> None:
    """R-9.2."""
    assert not is_name(name)
    with pytest.raises(ValueError, match="is not a name"):
        sign_certificate(DOMAIN, name, HOST, 1000)


def test_a_name_holds_for_its_key_until_its_last_second() -> None:
    """R-9.3."""
    certificate = sign_certificate(DOMAIN, "files.lab", HOST, 1000)
    assert len(certificate) <= 256
    for _ in range(2):  # checked, and remembered
        assert NAMES.name_of(HOST, certificate, 1000.0) == "files.lab"
        assert NAMES.name_of(HOST, certificate, 1000.1) is None
        assert NAMES.name_of(OTHER.public, certificate, 0.0) is None
        assert NAMES.name_of(HOST, b"", 0.0) is None
        assert Names({}).name_of(HOST, certificate, 0.0) is None


@pytest.mark.parametrize(
    ("signer", "name"),
    [(OTHER, "files.lab"), (DOMAIN, "a.b.lab"), (DOMAIN, "files.other"), (DOMAIN, "lab.lab.x")],
)
def test_a_domain_vouches_for_the_names_right_under_it(signer: SigningKey, name: str) -> None:
    """R-9.2, R-9.3: not for another's, and not for those of a domain below."""
    certificate = sign_certificate(signer, name, HOST, 1000)
    assert NAMES.name_of(HOST, certificate, 0.0) is None


def test_no_spoilt_certificate_gives_a_name() -> None:
    """R-9.3: every byte of it."""
    good = sign_certificate(DOMAIN, "files.lab", HOST, 1000)
    for at in range(len(good)):
        spoilt = bytearray(good)
        spoilt[at] ^= 0x01
        assert NAMES.name_of(HOST, bytes(spoilt), 0.0) is None
        assert NAMES.name_of(HOST, good[:at], 0.0) is None


@pytest.mark.parametrize("name", ["files", "Files.lab", "a\u200b.lab", "lab"])
def test_a_domain_cannot_sign_what_is_no_name(name: str) -> None:
    """R-9.2: not even the domain's own key."""
    signed = encode_body(CertificateTerms(name, HOST, 1000))
    certificate = Certificate(signed, DOMAIN.sign(CERTIFICATE_CONTEXT, signed))
    assert NAMES.name_of(HOST, encode_body(certificate), 0.0) is None


def test_only_so_many_certificates_are_remembered() -> None:
    """R-7.4."""
    names = Names({"lab": DOMAIN.public})
    names.CHECKED_MAX = 4  # pyright: ignore[reportAttributeAccessIssue]
    for number in range(20):
        certificate = sign_certificate(DOMAIN, f"h{number}.lab", HOST, 1000)
        assert names.name_of(HOST, certificate, 0.0) == f"h{number}.lab"
        assert len(names._checked) <= 4


def test_a_peer_is_shown_by_its_name_or_its_key() -> None:
    """R-9.1."""
    assert str(PeerIdentity(HOST, "files.lab")) == "files.lab"
    assert str(PeerIdentity(HOST)) == key_text(HOST)
