"""Joining a domain: invitations, questions and answers, as bytes; and who decides about them.

    wayside invite files.lab                        at the rendezvous, by its operator
      -> one line: where the rendezvous is, its key, 16 random bytes, the name
    wayside join LINE                               on the new host
      -> a question to the service `join`: the 16 bytes, sealed to the rendezvous' key
      <- the certificate of that name for the host's key, and the domain's public key

The store keeps an invitation under a hash of the secret, with the name and an end that the
domain's key has signed: who reads the store cannot use an invitation, and who writes to it cannot
make one. The store also says who was first. The same host may ask again, and gets the same name.

A question to the service `name` is a name; its answer is that host's certificate, if the host is
registered and the policy lets the asker find it. Whether there is no such host or one that the
asker may not find, the answer is the same.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import structlog

from wayside.core.address import Address
from wayside.core.codec import (
    ADDRESS,
    DecodeError,
    Field,
    blob,
    decode_body,
    encode_body,
    fixed,
    many,
    text,
    uint,
)
from wayside.core.constants import NAME_BYTES_MAX
from wayside.core.crypto import BadSignature, SigningKey, digest, verify
from wayside.core.identity import domain_of, is_name, sign_certificate

from .errors import ConfigError, IdentityError, WaysideError
from .locations import LocationStore, LocationStoreUnavailable

JOIN, NAME = "join", "name"
"""The services of a rendezvous, besides `location`."""

INVITATION_TAG = "wayside-invitation-1."
INVITATION_CONTEXT = b"wayside-invitation-1"
SECRET_BYTES = 16

CERTIFICATE_S = 90 * 86_400
"""As `wayside key sign`: a lost key is no worry for years."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Invitation:
    """What the one who joins has to know: where, of whom, by what right, as whom. Spec: R-10.7."""

    FIELDS: ClassVar = (
        Field(1, "addresses", many(ADDRESS, 4)),
        Field(2, "key", fixed(32)),
        Field(3, "secret", fixed(SECRET_BYTES)),
        Field(4, "name", text(NAME_BYTES_MAX)),
    )
    addresses: tuple[Address, ...]
    key: bytes
    secret: bytes
    name: str

    def __str__(self) -> str:
        return INVITATION_TAG + base64.urlsafe_b64encode(encode_body(self)).decode().rstrip("=")

    @classmethod
    def parse(cls, line: str) -> Invitation:
        """Read the line of `wayside invite`. Raises IdentityError."""
        said = line.strip().removeprefix(INVITATION_TAG)
        try:
            raw = base64.b64decode(said + "=" * (-len(said) % 4), altchars=b"-_", validate=True)
            found = decode_body(cls, raw)
        except (binascii.Error, DecodeError, ValueError) as error:
            raise IdentityError(
                "this is not an invitation",
                why=f"one word was expected: {INVITATION_TAG}...",
                hint="copy the whole line that `wayside invite NAME` printed",
                code="WS-6004",
            ) from error
        if not is_name(found.name) or not found.addresses:
            raise IdentityError("this invitation names nobody, or no place", code="WS-6004")
        return found


class Outcome(IntEnum):
    """How a question was answered."""

    GIVEN = 0
    NOT_GIVEN = 1
    """There is no such invitation for this key, or no such host for this asker."""
    STORE_AWAY = 2
    """Nobody knows at the moment: ask again later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rendezvous answers: a certificate, and to `join` its domain's key. Spec: R-10.6."""

    FIELDS: ClassVar = (
        Field(1, "outcome", uint(255)),
        Field(2, "certificate", blob(256, 1), optional=True),
        Field(3, "domain_key", fixed(32), optional=True),
    )
    outcome: int
    certificate: bytes = b""
    domain_key: bytes = b""

    def encode(self) -> bytes:
        """As it rides on the ACCEPT."""
        return encode_body(self)

    @classmethod
    def decode(cls, raw: bytes) -> Answer:
        """Read one. Raises WaysideError for what is none."""
        try:
            return decode_body(cls, raw)
        except DecodeError as error:
            raise WaysideError(
                "the rendezvous gave an answer that makes no sense",
                why=str(error),
                hint="is it of another version?",
            ) from error


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the store holds of an invitation; the domain's key has signed it."""

    FIELDS: ClassVar = (
        Field(1, "name", text(NAME_BYTES_MAX)),
        Field(2, "until_s", uint(2**40)),
        Field(3, "signature", fixed(64)),
    )
    name: str
    until_s: int
    signature: bytes


def number_of(secret: bytes) -> bytes:
    """Under what an invitation is kept, 16 bytes; the secret cannot be told from it."""
    return digest(INVITATION_CONTEXT, secret)[:16]


def domain_of_key(key: bytes, domains: Mapping[str, bytes]) -> str:
    """The domain that a public key (32 bytes) signs for. Raises ConfigError when there is none."""
    for name, public in domains.items():
        if public == key:
            return name
    raise ConfigError(
        "`domain_key` is not the key of a domain in [domains]",
        hint="`wayside key show FILE` prints what belongs there",
    )


class Enrolment:
    """Invites and lets in, for one domain. `clock`: unix seconds; `entropy`: random bytes."""

    def __init__(
        self,
        store: LocationStore,
        key: SigningKey,
        domain: str,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.domain = domain
        self._store = store
        self._key = key
        self._entropy = entropy
        self._clock = clock

    async def invite(self, name: str, lifetime_s: float) -> bytes:
        """The secret of a new invitation, 16 bytes. Raises ConfigError and WaysideError."""
        if not is_name(name) or domain_of(name) != self.domain:
            raise ConfigError(
                f"{name!r} is not a name under {self.domain}",
                hint=f"wayside invite files.{self.domain}",
                code="WS-2001",
            )
        secret = self._entropy(SECRET_BYTES)
        number, until_s = number_of(secret), int(self._clock() + lifetime_s)
        signature = self._key.sign(INVITATION_CONTEXT, _covered(number, name, until_s))
        kept = encode_body(_Kept(name, until_s, signature))
        if not await self._store.create_invitation(number, kept, lifetime_s):
            raise WaysideError("an invitation of this number is there already", hint="ask again")
        return secret

    async def join(self, secret: bytes, key: bytes) -> Answer:
        """Let in the first key (32 bytes) that shows an invitation's secret. Spec: R-10.7."""
        if len(secret) != SECRET_BYTES:
            return Answer(Outcome.NOT_GIVEN)
        number = number_of(secret)
        try:
            raw = await self._store.use_invitation(number, key)
        except LocationStoreUnavailable as error:
            _log.warning("nobody can join", what=error.what, why=error.why)
            return Answer(Outcome.STORE_AWAY)
        kept = self._believed(number, raw) if raw is not None else None
        if kept is None:
            return Answer(Outcome.NOT_GIVEN)
        until_s = int(self._clock()) + CERTIFICATE_S
        certificate = sign_certificate(self._key, kept.name, key, until_s)
        return Answer(Outcome.GIVEN, certificate, self._key.public)

    def _believed(self, number: bytes, raw: bytes) -> _Kept | None:
        """What a store gave back, if it is ours and not over."""
        try:
            kept = decode_body(_Kept, raw)
            covered = _covered(number, kept.name, kept.until_s)
            verify(self._key.public, kept.signature, INVITATION_CONTEXT, covered)
        except (DecodeError, BadSignature):
            _log.warning("the store holds an invitation that this domain did not give out")
            return None
        return kept if self._clock() <= kept.until_s else None


def _covered(number: bytes, name: str, until_s: int) -> bytes:
    return digest(number, name.encode(), until_s.to_bytes(8, "big"))
