"""A datagram as JSON: its bytes, and everything that an implementer could want to compare."""

from __future__ import annotations

from typing import Any

from wayside.core.address import Address
from wayside.core.codec import Body, Header, decode_body, encode_body
from wayside.core.messages import TERMS, Hop, Locator, Message, decode

Json = dict[str, Any]


def plain(value: Any) -> Any:
    """A field's value for JSON: bytes as hex, addresses as text, records as maps."""
    match value:
        case bytes():
            return value.hex()
        case Address():
            return str(value)
        case Hop() | Locator():
            return {"encoded": encode_body(value).hex(), **fields(value)}
        case tuple():
            return [plain(item) for item in value]
        case str():
            return value
        case _:
            return int(value)


def fields(body: Body) -> Json:
    """The fields of a body by name; those that are absent are left out."""
    found: Json = {}
    for field in body.FIELDS:
        value = getattr(body, field.name)
        if not field.optional or value not in (None, (), b"", ""):
            found[field.name] = plain(value)
    return found


def header_of(header: Header) -> Json:
    """The header by its fields, and what of it is signed. R-2.1, R-4.2."""
    return {
        "type": header.type,
        "seq": header.seq,
        "cid": header.cid.hex(),
        "proofs": [proof.hex() for proof in header.proofs],
        "signing": header.signing.hex(),
    }


def described(datagram: bytes) -> Json:
    """Everything about one datagram."""
    header, message = decode(datagram)
    body = fields(message)
    terms = TERMS.get(type(message))
    if terms is not None:
        body["signed_terms"] = fields(decode_body(terms, signed_of(message)))
    return {
        "message": type(message).__name__.upper(),
        "datagram": datagram.hex(),
        "header": header_of(header),
        "body": body,
    }


def signed_of(message: Message) -> bytes:
    """The bytes that a message's signature covers, besides its header."""
    signed = getattr(message, "signed", b"")
    assert isinstance(signed, bytes)
    return signed
