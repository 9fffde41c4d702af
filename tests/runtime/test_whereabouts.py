"""Between the machine of a rendezvous and its store: what is kept, tried again, found by name."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from wayside.core.address import Address, Transport
from wayside.core.codec import Header, encode_body
from wayside.core.constants import LOCATION_SERVICE
from wayside.core.crypto import SigningKey
from wayside.core.effects import KeepLocation
from wayside.core.identity import Names, sign_certificate
from wayside.core.messages import Open, OpenTerms, encode
from wayside.core.opening import SIGNATURE_CONTEXT
from wayside.core.policy import Direction, Pattern, Policy, PolicyAction, PolicyRule
from wayside.core.rendezvous import read_location
from wayside.core.rule import Cid
from wayside.runtime import whereabouts
from wayside.runtime.eventlog import EventLog, read
from wayside.runtime.locations import LocationStoreUnavailable, LocationUnconfirmed
from wayside.runtime.locations_sqlite import SqliteLocations
from wayside.runtime.whereabouts import KEEP_TRIES, Known, Whereabouts, location_key, may_find

DOMAIN, HOST, OTHER = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
NAMES = Names({"lab": DOMAIN.public})
FOREVER_S = 2**33


def certificate(key: SigningKey, name: str = "files.lab", by: SigningKey = DOMAIN) -> bytes:
    return sign_certificate(by, name, key.public, FOREVER_S)


def registration(key: SigningKey, proof: bytes = b"", ip: str = "10.0.0.1") -> bytes:
    """The OPEN of a registration, as the machine keeps it."""
    source, there = Address.parse(ip), Address.parse("10.9.0.1")
    terms = OpenTerms(
        key.public,
        OTHER.public,
        LOCATION_SERVICE,
        Transport.NONE,
        source,
        there,
        bytes(32),
        1,
        120,
        from_certificate=proof,
    )
    header, signed = Header(Open.TYPE, 0, Cid(bytes(16))), encode_body(terms)
    signature = key.sign(SIGNATURE_CONTEXT, header.signing + signed)
    return encode(header, Open(signed, signature))


def kept(key: SigningKey, order: int, proof: bytes = b"", lifetime_s: float = 60.0) -> KeepLocation:
    return KeepLocation(key.public, 4, registration(key, proof), order, lifetime_s)


class Trouble(SqliteLocations):
    """A store whose next puts fail with these errors."""

    def __init__(self, path: Path, errors: list[Exception]) -> None:
        super().__init__(path)
        self.errors = errors

    async def put(self, key: bytes, record: bytes, order: int, lifetime_s: float) -> bool:
        if self.errors:
            raise self.errors.pop(0)
        return await super().put(key, record, order, lifetime_s)


async def settled(at: Whereabouts) -> None:
    while at._keeps:
        await asyncio.wait(set(at._keeps))


def keep_all(tmp_path: Path, effects: list[KeepLocation], *errors: Exception) -> Whereabouts:
    """Keep these one after the other; the store is closed, and can be looked at with `found`."""

    async def whole() -> Whereabouts:
        store = Trouble(tmp_path / "store", list(errors))
        at = Whereabouts(store, NAMES, EventLog(tmp_path / "log", "meet", "rendezvous"))
        for effect in effects:
            at.keep(effect)
            await settled(at)
        await at.close()
        return at

    return asyncio.run(whole())


def found(tmp_path: Path, key: SigningKey, name: str = "files.lab") -> tuple[bool, Known | None]:
    """Whether the host's location is there, and who has the name."""

    async def whole() -> tuple[bool, Known | None]:
        store = SqliteLocations(tmp_path / "store")
        at = Whereabouts(store, NAMES, EventLog(None, "", "rendezvous"))
        location = await store.find(location_key(key.public, 4))
        known = await at.known(name)
        await at.close()
        there = location is not None and read_location(location.record, key.public) is not None
        return there, known

    return asyncio.run(whole())


def test_a_location_is_kept_under_the_hash_of_key_and_family() -> None:
    assert location_key(HOST.public, 6) == hashlib.sha256(HOST.public + b"\6").digest()


def test_a_host_with_a_name_is_found_by_both_and_gone_by_both_when_it_left(tmp_path: Path) -> None:
    proof = certificate(HOST)
    keep_all(tmp_path, [kept(HOST, 5, proof)])
    assert found(tmp_path, HOST) == (True, Known(HOST.public, proof))
    keep_all(tmp_path, [kept(HOST, 5, proof, lifetime_s=0.0)])
    assert found(tmp_path, HOST) == (False, None)
    events = [(one.event, one.lifetime_s) for one in read([tmp_path / "log"])]
    assert events == [("location.kept", 60.0), ("location.left", 0.0)]


def test_a_name_takes_a_certificate_that_we_believe(tmp_path: Path) -> None:
    """Neither one that another key signed nor somebody else's."""
    for proof in (b"", certificate(HOST, by=OTHER), certificate(OTHER)):
        keep_all(tmp_path, [kept(HOST, 1, proof)])
        assert found(tmp_path, HOST) == (True, None)


def test_a_store_cannot_make_up_who_has_a_name(tmp_path: Path) -> None:
    async def write(record: bytes) -> None:
        store = SqliteLocations(tmp_path / "store")
        await store.put(whereabouts.name_key("files.lab", 4), record, 1, 60.0)
        await store.close()

    for record in (b"\xa0", certificate(HOST, by=OTHER), certificate(HOST, "other.lab")):
        (tmp_path / "store").unlink(missing_ok=True)
        asyncio.run(write(record))
        assert found(tmp_path, HOST)[1] is None


def test_a_store_that_is_away_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whereabouts, "KEEP_PAUSE_S", 0.0)
    errors = [LocationStoreUnavailable("away") for _ in range(KEEP_TRIES)]
    keep_all(tmp_path, [kept(HOST, 1)], *errors[1:])
    assert found(tmp_path, HOST)[0]


def test_at_last_it_is_left_to_the_next_refresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whereabouts, "KEEP_PAUSE_S", 0.0)
    errors = [LocationStoreUnavailable("away") for _ in range(KEEP_TRIES)]
    keep_all(tmp_path, [kept(HOST, 1)], *errors)
    assert not found(tmp_path, HOST)[0]
    assert read([tmp_path / "log"]) == []
    keep_all(tmp_path, [kept(HOST, 2)])
    assert found(tmp_path, HOST)[0]


def test_what_is_written_but_not_confirmed_is_taken_as_kept(tmp_path: Path) -> None:
    keep_all(tmp_path, [kept(HOST, 1)], LocationUnconfirmed("perhaps"))
    assert [one.event for one in read([tmp_path / "log"])] == ["location.kept"]


def rule(name: str, action: PolicyAction, **more: object) -> PolicyRule:
    return PolicyRule(name, action, **more)  # type: ignore[arg-type]


FILES, LAB = (Pattern.parse("files.lab"),), (Pattern.parse("*.lab"),)
REJECT, ALLOW = PolicyAction.REJECT, PolicyAction.ALLOW


@pytest.mark.parametrize(
    ("rules", "default", "found_"),
    [
        ((), ALLOW, True),
        ((), REJECT, False),
        ((rule("web", ALLOW, service=("https",)),), REJECT, True),
        ((rule("web", ALLOW, to=(Pattern.parse("other.lab"),)),), REJECT, False),
        ((rule("hide", PolicyAction.STEER, from_=LAB, to=FILES),), REJECT, True),
        ((rule("no", REJECT, service=("ssh",)),), ALLOW, True),
        ((rule("no", REJECT, to=FILES), rule("web", ALLOW)), ALLOW, False),
        ((rule("out", ALLOW, direction=Direction.OUT),), REJECT, False),
    ],
)
def test_a_name_is_told_unless_every_service_is_refused(
    rules: tuple[PolicyRule, ...], default: PolicyAction, found_: bool
) -> None:
    known = Known(HOST.public, b"")
    asker = (OTHER.public, "a.lab")
    assert may_find(Policy(rules, default), asker, known, "files.lab") is found_
