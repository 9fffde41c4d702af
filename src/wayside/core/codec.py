"""Bytes to values and back: a header that a kernel can read, then one canonical CBOR map.

CBOR has many spellings for one value, and a signature or a hash over "the value" is then a hole.
Here only one spelling is let in: definite lengths, no tags, no floats, no unknown keys, and what
was decoded must encode to the very same bytes. Every field says its type and its largest size in
a `Field` table beside the message, so that no body can make us allocate more than it is long.
Spec: R-2.1 to R-2.3, R-3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar, cast

import cbor2

from . import constants as c
from .address import Address
from .rule import Cid


class DecodeError(Exception):
    """These bytes are no message; the text says where it went wrong. Never leaves `handle`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How one field is written: `read` raises DecodeError or ValueError; `write` gives CBOR."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a CBOR map, the attribute it fills, and its kind; an optional one may be absent."""

    key: int
    name: str
    kind: Kind
    optional: bool = False


class Body(Protocol):
    """A dataclass with a table of its fields."""

    FIELDS: ClassVar[tuple[Field, ...]]


B = TypeVar("B", bound=Body)


def same(value: Any) -> Any:
    """Write a value as it is."""
    return value


def blob(most: int, least: int = 0) -> Kind:
    """A byte string of `least` to `most` bytes."""

    def read(value: Any) -> bytes:
        if type(value) is not bytes or not least <= len(value) <= most:
            raise DecodeError(f"not a byte string of {least} to {most} bytes")
        return value

    return Kind(read, same)


def fixed(size: int) -> Kind:
    """A byte string of exactly `size` bytes."""
    return blob(size, size)


def text(most: int) -> Kind:
    """A text for people without control characters, at most `most` bytes of UTF-8. Spec: R-3.5."""

    def read(value: Any) -> str:
        if type(value) is not str or len(value.encode()) > most:
            raise DecodeError(f"not a text of at most {most} bytes")
        if any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
            raise DecodeError("a control character")
        return value

    return Kind(read, same)


def word(most: int) -> Kind:
    """A text of 1 to `most` visible ASCII characters, as services and rules are named."""

    def read(value: Any) -> str:
        if type(value) is not str or not 1 <= len(value) <= most or not value.isascii():
            raise DecodeError(f"not a word of 1 to {most} characters")
        if not value.isprintable() or " " in value:
            raise DecodeError("a word with a blank or a control character")
        return value

    return Kind(read, same)


def uint(most: int) -> Kind:
    """A whole number from 0 to `most`."""

    def read(value: Any) -> int:
        if type(value) is not int or not 0 <= value <= most:
            raise DecodeError(f"not a whole number from 0 to {most}")
        return value

    return Kind(read, int)


def many(kind: Kind, most: int) -> Kind:
    """A list of 1 to `most` values; an empty one is left out of the map."""

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise DecodeError("not a list")
        items = cast(list[Any], value)
        if not 1 <= len(items) <= most:
            raise DecodeError(f"not a list of 1 to {most}")
        return tuple(kind.read(item) for item in items)

    return Kind(read, lambda items: [kind.write(item) for item in items])


def pairs(most: int) -> Kind:
    """A map of 1 to `most` short texts to short texts, kept as a sorted tuple of pairs."""
    short = word(c.SERVICE_BYTES_MAX)

    def read(value: Any) -> tuple[tuple[str, str], ...]:
        if type(value) is not dict:
            raise DecodeError("not a map")
        items = cast(dict[Any, Any], value)
        if not 1 <= len(items) <= most:
            raise DecodeError(f"not a map of 1 to {most}")
        found = [(short.read(key), short.read(item)) for key, item in items.items()]
        if found != sorted(found, key=_canonical):
            raise DecodeError("a map whose keys are not in order")
        return tuple(sorted(found))

    return Kind(read, lambda items: dict(sorted(items, key=_canonical)))


def _canonical(pair: tuple[str, str]) -> tuple[int, bytes]:
    """Shorter keys first, then by their bytes: the order of canonical CBOR."""
    key = pair[0].encode()
    return len(key), key


ADDRESS = Kind(lambda value: Address.unpack(blob(18).read(value)), lambda address: address.pack())


def nested(body: type[B]) -> Kind:
    """A byte string that holds a CBOR map of its own, kept decoded."""
    return Kind(
        lambda value: decode_body(body, blob(c.DATAGRAM_BYTES_MAX).read(value)), encode_body
    )


EMPTY = (None, (), b"", "")
"""What an optional field holds when it is left out of the map."""

_END: tuple[Any, Any] = (object(), None)
"""Behind the last key of a map: equal to nothing that a map can hold."""


def encode_body(body: Body) -> bytes:
    """The one encoding of a body. Spec: R-3.1."""
    values: dict[int, Any] = {}
    for field in body.FIELDS:
        value = getattr(body, field.name)
        if not field.optional or value not in EMPTY:
            values[field.key] = field.kind.write(value)
    return cbor2.dumps(values)  # the keys of FIELDS ascend, so that is the canonical order


def encode_field(body: type[Body], name: str, value: Any) -> bytes:
    """The key and value of one field, as they stand in the map."""
    field = next(field for field in body.FIELDS if field.name == name)
    return cbor2.dumps(field.key) + cbor2.dumps(field.kind.write(value))


def decode_body(body: type[B], raw: bytes) -> B:
    """Read a body. Raises DecodeError unless `raw` is its one encoding. Spec: R-3.1 to R-3.4."""
    try:
        values = cbor2.loads(
            raw,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            max_depth=c.CBOR_DEPTH_MAX,
            tag_hook=_refuse_tag,
            semantic_decoders=_NO_TAGS,
        )
        if type(values) is not dict:
            raise DecodeError("a body is a map")
        known = cast(dict[Any, Any], values)
        found = _read_fields(body, known)
        # What was read is written again as it came, in the order of FIELDS: every other spelling
        # of a number, a length or an order shows. Kinds let no second spelling of a value in.
        if cbor2.dumps(known) != raw:
            raise DecodeError("not the canonical encoding")
        return body(**found)
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise DecodeError(str(error)) from error


def _read_fields(body: type[Body], values: dict[Any, Any]) -> dict[str, Any]:
    """The attributes of a body; its keys have to come in the order of FIELDS, all and no other."""
    found: dict[str, Any] = {}
    keys = iter(values.items())
    key, value = next(keys, _END)
    for field in body.FIELDS:
        if key == field.key and type(key) is int:
            found[field.name] = read = field.kind.read(value)
            if field.optional and read in EMPTY:
                raise DecodeError(f"{body.__name__} says {field.name} and leaves it empty")
            key, value = next(keys, _END)
        elif not field.optional:
            raise DecodeError(f"{body.__name__} lacks {field.name}")
    if key is not _END[0]:
        raise DecodeError(f"{body.__name__} has a key too many")
    return found


def _refuse_tag(*_: Any) -> NoReturn:
    raise DecodeError("a tag")


_NO_TAGS: dict[int, Any] = dict.fromkeys(
    [*range(64), 100, 256, 257, 258, 260, 261, 1004, 43000, 55799], _refuse_tag
)
"""cbor2 would build dates, big numbers and regular expressions out of these."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first 32 bytes, and the proofs behind them. Spec: R-2.1, R-2.2."""

    type: int
    seq: int
    cid: Cid
    proofs: tuple[bytes, ...] = ()

    @property
    def signing(self) -> bytes:
        """What signatures and MACs cover of the header: all of it, with no proofs. Spec: R-4.2."""
        return b"%b%c%c\0\0\0%b%b" % (
            c.MAGIC,
            c.VERSION,
            self.type,
            self.seq.to_bytes(8, "big"),
            self.cid,
        )

    def encode(self) -> bytes:
        """The header with its proofs."""
        if not self.proofs:
            return self.signing
        plain = bytearray(self.signing)
        plain[5:7] = bytes((c.FLAG_PROOF, len(self.proofs)))
        return bytes(plain) + b"".join(self.proofs)

    @classmethod
    def decode(cls, raw: bytes) -> tuple[Header, int]:
        """Read a header; also returns where the body starts. Raises DecodeError. Spec: R-2.1."""
        if not c.HEADER_BYTES < len(raw) <= c.DATAGRAM_BYTES_MAX:
            raise DecodeError("not a datagram of 33 to 1,232 bytes")
        if raw[:3] != c.MAGIC:
            raise DecodeError("not the magic")
        version, kind, flags, count, zero = raw[3:8]
        if version != c.VERSION:
            raise DecodeError(f"version {version}")
        if zero or count > c.PROOFS_MAX or flags != (c.FLAG_PROOF if count else 0):
            raise DecodeError("not a valid combination of flags and proofs")
        end = c.HEADER_BYTES + count * c.PROOF_BYTES
        if end >= len(raw):
            raise DecodeError("the proofs are cut off")
        proofs = tuple(
            raw[at : at + c.PROOF_BYTES] for at in range(c.HEADER_BYTES, end, c.PROOF_BYTES)
        )
        seq = int.from_bytes(raw[8:16], "big")
        return cls(kind, seq, Cid(raw[16:32]), proofs), end
