"""`wayside join` on the side of the host: its files, and what it makes of the answer."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from wayside.core.address import Address
from wayside.core.crypto import SigningKey
from wayside.core.identity import sign_certificate
from wayside.runtime import joining
from wayside.runtime.config import load_host
from wayside.runtime.enrolment import JOIN, Answer, Invitation, Outcome
from wayside.runtime.errors import IdentityError, NameUnknown, Refused, WaysideError
from wayside.runtime.joining import Place, join
from wayside.runtime.keyfile import new_key, read_key
from wayside.runtime.locations import LocationStoreUnavailable

DOMAIN, MEET = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
WHERE = (Address.parse("203.0.113.9", 4747), Address.parse("[2001:db8::9]:4800"))
LINE = Invitation(WHERE, MEET.public, bytes(16), "files.lab")


class Rendezvous:
    """Answers as a test says; `asked`: what came in."""

    def __init__(self) -> None:
        self.outcome = Outcome.GIVEN
        self.name = "files.lab"
        self.silent = 0
        self.asked: list[tuple[bytes, str, bytes]] = []

    async def answer(
        self, key: SigningKey, peer: Any, at: Any, service: str, question: bytes
    ) -> bytes:
        assert (peer.key, tuple(at)) == (MEET.public, WHERE)
        self.asked.append((key.public, service, question))
        if len(self.asked) <= self.silent:
            return b""
        if self.outcome != Outcome.GIVEN:
            return Answer(self.outcome).encode()
        certificate = sign_certificate(DOMAIN, self.name, key.public, 2**33)
        return Answer(Outcome.GIVEN, certificate, DOMAIN.public).encode()


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Rendezvous:
    """A rendezvous that needs no network."""
    rendezvous = Rendezvous()
    monkeypatch.setattr(joining, "_asked_once", rendezvous.answer)
    monkeypatch.setattr(joining, "PAUSE_S", 0.0)
    return rendezvous


def joined(place: Place, force: bool = False) -> list[str]:
    return [path.name for path in asyncio.run(join(LINE, place, force))]


def test_a_new_host_gets_a_key_a_certificate_and_a_configuration_that_loads(
    there: Rendezvous, tmp_path: Path
) -> None:
    place = Place.of(tmp_path / "new")
    assert joined(place) == ["host.key", "host.certificate", "host.toml"]
    key = read_key(place.key)
    assert stat.S_IMODE(place.key.stat().st_mode) == 0o600
    assert there.asked == [(key.public, JOIN, LINE.secret)]
    config = load_host(place.config, {}, {})
    assert (config.name, config.paths.key) == ("files.lab", place.key)
    assert config.paths.certificate == place.certificate
    assert config.domains == {"lab": DOMAIN.public}
    (registers,) = config.steering.registers
    assert (registers.key, registers.addresses) == (MEET.public, WHERE)
    assert config.steering.names["lab"].key == MEET.public


def test_a_configuration_may_have_another_name(there: Rendezvous, tmp_path: Path) -> None:
    place = Place.of(tmp_path / "laptop.toml")
    assert joined(place) == ["host.key", "host.certificate", "laptop.toml"]
    assert load_host(tmp_path / "laptop.toml", {}, {}).name == "files.lab"


def test_a_key_that_is_there_is_used_and_never_overwritten(
    there: Rendezvous, tmp_path: Path
) -> None:
    key = new_key(tmp_path / "host.key")
    assert joined(Place.of(tmp_path)) == ["host.certificate", "host.toml"]
    assert joined(Place.of(tmp_path), force=True) == ["host.certificate", "host.toml"]
    assert read_key(tmp_path / "host.key").public == key.public
    assert [asked[0] for asked in there.asked] == [key.public, key.public]


@pytest.mark.parametrize("name", ["host.toml", "host.certificate"])
def test_what_is_there_stays_and_nobody_is_asked(
    there: Rendezvous, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(WaysideError, match=f"{name} is there already") as caught:
        joined(Place.of(tmp_path))
    assert "--force" in caught.value.hint
    assert (tmp_path / name).read_text() == "mine"
    assert (there.asked, (tmp_path / "host.key").exists()) == ([], False)


def test_an_invitation_that_is_not_accepted_is_a_refusal(there: Rendezvous, tmp_path: Path) -> None:
    there.outcome = Outcome.NOT_GIVEN
    with pytest.raises(Refused, match="the invitation is not accepted") as caught:
        joined(Place.of(tmp_path))
    assert (caught.value.code, caught.value.exit_code) == ("WS-3101", 3)
    assert caught.value.hint == "ask for another there: wayside invite files.lab"
    assert [path.name for path in tmp_path.iterdir()] == ["host.key"], "to try again with"


def test_a_store_that_is_away_is_no_refusal(there: Rendezvous, tmp_path: Path) -> None:
    there.outcome = Outcome.STORE_AWAY
    with pytest.raises(LocationStoreUnavailable) as caught:
        joined(Place.of(tmp_path))
    assert (caught.value.code, caught.value.exit_code) == ("WS-1009", 1)


def test_a_certificate_of_another_name_is_not_written(there: Rendezvous, tmp_path: Path) -> None:
    there.name = "other.lab"
    with pytest.raises(IdentityError, match="does not hold") as caught:
        joined(Place.of(tmp_path))
    assert caught.value.exit_code == 6
    assert not (tmp_path / "host.toml").exists()


def test_an_answer_that_came_too_late_is_asked_for_again(there: Rendezvous, tmp_path: Path) -> None:
    there.silent = 2
    assert "host.toml" in joined(Place.of(tmp_path))
    assert len(there.asked) == 3


def test_a_rendezvous_that_never_answers_is_given_up(there: Rendezvous, tmp_path: Path) -> None:
    there.silent = 1000
    with pytest.raises(LocationStoreUnavailable, match="never answered"):
        joined(Place.of(tmp_path))
    assert len(there.asked) == joining.TRIES


def test_a_rendezvous_without_a_way_to_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere(_: Address) -> None:
        return None

    monkeypatch.setattr(joining, "source_towards", nowhere)
    with pytest.raises(NameUnknown, match="cannot be reached") as caught:
        joined(Place.of(tmp_path))
    assert "203.0.113.9, 2001:db8::9" in caught.value.why


def test_a_place_that_cannot_be_written_is_named(there: Rendezvous, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WaysideError, match="cannot be written") as caught:
        joined(Place.of(tmp_path / "file" / "in"))
    assert caught.value.code == "WS-1006"
