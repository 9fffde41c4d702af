"""Invitations: their one line, and why neither a reader nor a writer of the store gains by them."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wayside.core.address import Address
from wayside.core.codec import encode_body
from wayside.core.crypto import SigningKey
from wayside.core.identity import Names
from wayside.runtime.enrolment import (
    CERTIFICATE_S,
    INVITATION_TAG,
    SECRET_BYTES,
    Answer,
    Enrolment,
    Invitation,
    Outcome,
    number_of,
)
from wayside.runtime.errors import IdentityError, WaysideError
from wayside.runtime.locations_sqlite import SqliteLocations

DOMAIN = SigningKey(bytes(32))
HOST, OTHER = bytes([1]) * 32, bytes([2]) * 32
NOW_S = 1_800_000_000.0
LINE = Invitation((Address.parse("203.0.113.9", 4747),), HOST, bytes(SECRET_BYTES), "files.lab")


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


Talk = Callable[[Enrolment, SqliteLocations, Clock], Coroutine[Any, Any, None]]


@pytest.fixture
def desk(tmp_path: Path) -> Callable[[Talk], None]:
    """Have a conversation with the desk of the domain `lab`."""

    def run(talk: Talk) -> None:
        async def whole() -> None:
            clock = Clock()
            store = SqliteLocations(tmp_path / "locations.sqlite", clock=clock)
            await talk(Enrolment(store, DOMAIN, "lab", os.urandom, clock), store, clock)
            await store.close()

        asyncio.run(whole())

    return run


@given(
    st.lists(st.ip_addresses(v=4), min_size=1, max_size=4),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
)
def test_an_invitation_is_one_word_and_comes_back_as_it_was(
    ips: list[Any], key: bytes, secret: bytes
) -> None:
    invitation = Invitation(tuple(Address(ip, 4747) for ip in ips), key, secret, "files.lab")
    line = str(invitation)
    assert len(line.split()) == 1
    assert Invitation.parse(f" {line}\n") == invitation


@pytest.mark.parametrize(
    "line",
    [
        "",
        "files.lab",
        INVITATION_TAG,
        str(LINE)[:-4],
        str(LINE) + "AAAA",
        INVITATION_TAG + base64.urlsafe_b64encode(b"\xa0").decode(),
        INVITATION_TAG + "\N{SNOWMAN}",
    ],
)
def test_what_is_no_invitation_is_said_to_be_none(line: str) -> None:
    with pytest.raises(IdentityError, match="this is not an invitation") as caught:
        Invitation.parse(line)
    assert (caught.value.code, caught.value.exit_code) == ("WS-6004", 6)


def test_an_invitation_for_nobody_is_refused() -> None:
    for odd in (
        Invitation((), HOST, bytes(16), "files.lab"),
        Invitation(LINE.addresses, HOST, bytes(16), "x"),
    ):
        with pytest.raises(IdentityError):
            Invitation.parse(str(odd))


@given(st.binary(max_size=512))
def test_any_bytes_are_an_answer_or_an_error_that_a_user_understands(raw: bytes) -> None:
    with suppress(WaysideError):
        assert Answer.decode(raw).encode() == raw


def test_the_first_key_gets_a_certificate_and_no_other_does(desk: Callable[[Talk], None]) -> None:
    """R-10.7."""

    async def talk(at: Enrolment, _: SqliteLocations, clock: Clock) -> None:
        secret = await at.invite("files.lab", 60.0)
        first, second = await at.join(secret, HOST), await at.join(secret, OTHER)
        assert (first.outcome, second.outcome) == (Outcome.GIVEN, Outcome.NOT_GIVEN)
        names = Names({"lab": first.domain_key})
        assert names.name_of(HOST, first.certificate, clock() + CERTIFICATE_S) == "files.lab"
        assert names.name_of(HOST, first.certificate, clock() + CERTIFICATE_S + 1) is None

    desk(talk)


@pytest.mark.parametrize("secret", [b"", bytes(15), bytes(16), bytes(17), bytes(500)])
def test_a_secret_that_was_never_given_out_is_none(
    desk: Callable[[Talk], None], secret: bytes
) -> None:
    async def talk(at: Enrolment, _: SqliteLocations, __: Clock) -> None:
        assert (await at.join(secret, HOST)).outcome == Outcome.NOT_GIVEN

    desk(talk)


def test_an_invitation_ends(desk: Callable[[Talk], None]) -> None:
    """R-10.7."""

    async def talk(at: Enrolment, _: SqliteLocations, clock: Clock) -> None:
        secret = await at.invite("files.lab", 60.0)
        clock.now_s += 61.0
        assert (await at.join(secret, HOST)).outcome == Outcome.NOT_GIVEN

    desk(talk)


def test_what_the_store_holds_does_not_show_the_secret_and_does_not_let_in(
    desk: Callable[[Talk], None], tmp_path: Path
) -> None:
    async def talk(at: Enrolment, store: SqliteLocations, _: Clock) -> None:
        secret = await at.invite("files.lab", 60.0)
        held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert number_of(secret) in held
        assert secret not in held
        assert (await at.join(number_of(secret), HOST)).outcome == Outcome.NOT_GIVEN

    desk(talk)


def test_who_writes_to_the_store_cannot_invite(desk: Callable[[Talk], None]) -> None:
    """What another key signed, another number's invitation, and what is none at all."""

    async def talk(at: Enrolment, store: SqliteLocations, clock: Clock) -> None:
        good = await at.invite("files.lab", 60.0)
        copied = await store.use_invitation(number_of(good), HOST)
        assert copied is not None
        forger = Enrolment(store, SigningKey(OTHER), "lab", os.urandom, clock)
        forged = await forger.invite("root.lab", 60.0)
        for number, sealed in enumerate((copied, b"\xa0", encode_body(LINE))):
            secret = bytes([number]) * 16
            assert await store.create_invitation(number_of(secret), sealed, 60.0)
            assert (await at.join(secret, HOST)).outcome == Outcome.NOT_GIVEN
        assert (await at.join(forged, HOST)).outcome == Outcome.NOT_GIVEN
        assert (await at.join(good, HOST)).outcome == Outcome.GIVEN

    desk(talk)
