"""Who an end is: an Ed25519 key, perhaps with a name that somebody vouches for.

A raw key always works as a name. A name under a domain holds only with a certificate signed by
that domain's key, which a gate can check without asking anybody. Spec: R-9.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from . import constants as c
from .codec import DecodeError, Field, blob, decode_body, encode_body, fixed, text, uint
from .crypto import BadSignature, SigningKey, verify

KEY_TEXT_CHARACTERS = 53
CERTIFICATE_CONTEXT = b"wayside-certificate-1"


def key_text(key: bytes) -> str:
    """A public key (32 bytes) as a name: `k` and 52 characters of base32. Spec: R-9.1."""
    return "k" + base64.b32encode(key).decode().rstrip("=").lower()


def key_from_text(name: str) -> bytes | None:
    """The public key that a name spells, 32 bytes; None when the name is not a raw key. R-9.1."""
    if len(name) != KEY_TEXT_CHARACTERS or not name.startswith("k") or not name.islower():
        return None
    try:
        key = base64.b32decode(name[1:].upper() + "====")
    except ValueError:
        return None
    return key if key_text(key) == name else None


@dataclass(frozen=True, slots=True)
class Leave:
    """What a user lets a connection be whose peer does not answer itself. Spec: R-12.3, R-12.4.

    `gate`: a gate may answer in its place; `plain`: nobody needs to answer.
    """

    gate: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """A key (32 bytes), and the certificate (encoded) of its name where it has one."""

    key: bytes
    name: str = ""
    certificate: bytes = b""
    leave: Leave = Leave()

    def __str__(self) -> str:
        return self.name or key_text(self.key)


@dataclass(frozen=True, slots=True)
class CertificateTerms:
    """What a domain signs: this name is this key's until then (unix seconds)."""

    FIELDS: ClassVar = (
        Field(1, "name", text(c.NAME_BYTES_MAX)),
        Field(2, "key", fixed(32)),
        Field(3, "not_after_s", uint(2**40)),
    )
    name: str
    key: bytes
    not_after_s: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """The terms, as signed, and the domain's signature. Spec: R-9.2."""

    FIELDS: ClassVar = (Field(1, "signed", blob(160)), Field(2, "signature", fixed(64)))
    signed: bytes
    signature: bytes


def is_name(name: str) -> bool:
    """Whether this is a name under a domain: lower-case labels of letters, digits, `-`. R-9.2."""
    labels = name.split(".")
    return (
        len(name) <= c.NAME_BYTES_MAX
        and len(labels) >= 2
        and all(
            label.isascii() and label.replace("-", "x").isalnum() and label == label.lower()
            for label in labels
        )
    )


def domain_of(name: str) -> str:
    """The domain of a name: all but its first label. Spec: R-9.2."""
    return name.partition(".")[2]


def sign_certificate(domain_key: SigningKey, name: str, key: bytes, not_after_s: int) -> bytes:
    """A certificate, encoded. Raises ValueError for a name that is none. Spec: R-9.2."""
    if not is_name(name):
        raise ValueError(f"{name!r} is not a name such as files.alice")
    signed = encode_body(CertificateTerms(name, key, not_after_s))
    return encode_body(Certificate(signed, domain_key.sign(CERTIFICATE_CONTEXT, signed)))


class Names:
    """Whose certificates we believe; remembers what it has checked, so a known host costs nothing.

    `domains`: the public key (32 bytes) of every domain that we believe, by its name.
    """

    CHECKED_MAX = 4096

    def __init__(self, domains: Mapping[str, bytes]) -> None:
        self._domains = dict(domains)
        self._checked: dict[bytes, CertificateTerms] = {}

    def name_of(self, key: bytes, certificate: bytes, unix_s: float) -> str | None:
        """The name that this certificate gives this key now, or None. Spec: R-9.3."""
        if not certificate:
            return None
        terms = self._checked.get(certificate)
        if terms is None:
            try:
                terms = self._check(certificate)
            except (DecodeError, BadSignature):
                return None
            if len(self._checked) >= self.CHECKED_MAX:
                self._checked.clear()
            self._checked[certificate] = terms
        return terms.name if terms.key == key and unix_s <= terms.not_after_s else None

    def _check(self, raw: bytes) -> CertificateTerms:
        certificate = decode_body(Certificate, raw)
        terms = decode_body(CertificateTerms, certificate.signed)
        domain_key = self._domains.get(domain_of(terms.name))
        if domain_key is None or not is_name(terms.name):
            raise BadSignature("nobody that we believe")
        verify(domain_key, certificate.signature, CERTIFICATE_CONTEXT, certificate.signed)
        return terms
