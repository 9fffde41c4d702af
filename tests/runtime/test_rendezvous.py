"""The rendezvous' daemon, with its real machine: who joins, who registers, who is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from runtime.meeting import HERE, Meeting, QuietHelper, invited, meeting
from wayside.core import answerer
from wayside.core.connection import State
from wayside.core.effects import ReportOpened, SendDatagram
from wayside.core.identity import Names
from wayside.core.messages import Code
from wayside.runtime import whereabouts
from wayside.runtime.control_types import (
    AddressRequest,
    CloseRequest,
    InviteRequest,
    StatusReply,
    StatusRequest,
)
from wayside.runtime.enrolment import Answer, Outcome
from wayside.runtime.errors import WaysideError
from wayside.runtime.locations import Location, LocationStoreUnavailable
from wayside.runtime.locations_sqlite import SqliteLocations

CLOSED = 'default = "reject"\n[[rule]]\nname = "a"\nfrom = ["a.lab"]\naction = "allow"\n'

Talk = Callable[[Meeting], Coroutine[Any, Any, None]]


class AwayStore(SqliteLocations):
    """A store that is away whenever somebody says so."""

    is_away = False
    used = 0
    slow: asyncio.Event | None = None
    """Where it is set, an invitation is looked at only after this."""

    async def find(self, key: bytes) -> Location | None:
        self._check()
        return await super().find(key)

    async def put(self, key: bytes, record: bytes, order: int, lifetime_s: float) -> bool:
        self._check()
        return await super().put(key, record, order, lifetime_s)

    async def use_invitation(self, number: bytes, by: bytes) -> bytes | None:
        self._check()
        self.used += 1
        if self.slow is not None:
            await self.slow.wait()
        return await super().use_invitation(number, by)

    def _check(self) -> None:
        if self.is_away:
            raise LocationStoreUnavailable("the store is away")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have a conversation with a rendezvous of its own."""

    def conversation(talk: Talk, policy: str = "", more: str = "") -> None:
        async def whole() -> None:
            store = AwayStore(tmp_path / "locations.sqlite")
            async with meeting(tmp_path, monkeypatch, store, policy, more) as place:
                await talk(place)

        asyncio.run(whole())

    return conversation


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ACCEPT waits for the store, however long its thread takes on a busy machine."""
    monkeypatch.setattr(answerer, "ANSWER_WAIT_S", 20.0)


def away(place: Meeting, is_away: bool = True) -> None:
    store = place.daemon.whereabouts.store
    assert isinstance(store, AwayStore)
    store.is_away = is_away


def test_of_a_hundred_who_use_one_invitation_exactly_one_gets_in(run: Callable[..., None]) -> None:
    """Each with a key and an address of its own, all at once, by OPENs to the real machine.

    An answer that is too late for its ACCEPT is lost: whoever got none asks again, as clients do.
    """

    async def talk(place: Meeting) -> None:
        invitation = await invited(place, "files.lab")
        peers = [place.peer(number) for number in range(1, 101)]
        for peer in peers:
            place.ask(peer, "join", invitation.secret)
        await place.settle()
        for cid in range(2, 30):
            for peer in [peer for peer in peers if not peer.answers]:
                place.ask(peer, "join", invitation.secret, cid=cid)
                await place.settle(10)
        answers = {peer.key: [Answer.decode(raw) for raw in peer.answers] for peer in peers}
        assert all(len(said) == 1 for said in answers.values())
        given = [key for key, (said,) in answers.items() if said.outcome == Outcome.GIVEN]
        assert len(given) == 1
        (said,) = answers[given[0]]
        names = Names({"lab": said.domain_key})
        assert said.domain_key == place.domain.public
        assert names.name_of(given[0], said.certificate, 0.0) == "files.lab"
        rest = [said for key, (said,) in answers.items() if key not in given]
        assert all((one.outcome, one.certificate) == (Outcome.NOT_GIVEN, b"") for one in rest)

    run(talk)


@pytest.mark.usefixtures("patient")
def test_who_joined_may_ask_again(run: Callable[..., None]) -> None:
    async def talk(place: Meeting) -> None:
        invitation = await invited(place, "files.lab")
        peer = place.peer(1)
        for cid in (1, 2):
            place.ask(peer, "join", invitation.secret, cid=cid)
            await place.settle()
        outcomes = [Answer.decode(raw).outcome for raw in peer.answers]
        assert outcomes == [Outcome.GIVEN, Outcome.GIVEN]

    run(talk)


@pytest.mark.usefixtures("patient")
def test_nobody_joins_while_the_store_is_away_and_the_invitation_stays_good(
    run: Callable[..., None],
) -> None:
    async def talk(place: Meeting) -> None:
        invitation = await invited(place, "files.lab")
        peer = place.peer(1)
        away(place)
        place.ask(peer, "join", invitation.secret)
        await place.settle()
        away(place, False)
        place.ask(peer, "join", invitation.secret, cid=2)
        await place.settle()
        outcomes = [Answer.decode(raw).outcome for raw in peer.answers]
        assert outcomes == [Outcome.STORE_AWAY, Outcome.GIVEN]

    run(talk)


def test_an_answer_that_came_too_late_is_there_when_the_host_asks_again(
    run: Callable[..., None],
) -> None:
    async def talk(place: Meeting) -> None:
        store = place.daemon.whereabouts.store
        assert isinstance(store, AwayStore)
        invitation = await invited(place, "files.lab")
        peer, store.slow = place.peer(1), asyncio.Event()
        place.ask(peer, "join", invitation.secret)
        while not any(isinstance(one, ReportOpened) for one in peer.told):
            await place.settle(1)
        assert peer.answers == [], "the ACCEPT did not wait for the store"
        store.slow.set()
        await place.settle()
        place.ask(peer, "join", invitation.secret, cid=2)
        await place.settle()
        assert [Answer.decode(raw).outcome for raw in peer.answers] == [Outcome.GIVEN]
        assert store.used == 1

    run(talk)


@pytest.mark.usefixtures("patient")
def test_a_host_that_registered_is_found_by_key_and_by_name(run: Callable[..., None]) -> None:
    """R-10.4: who asks is sent there, at once."""

    async def talk(place: Meeting) -> None:
        server, client = place.peer(1, "files.lab"), place.peer(2)
        place.ask(server, "location")
        await place.settle()
        place.ask(client, "name", b"files.lab")
        place.ask(client, "https", whom=server.key, cid=2)
        await place.settle()
        (raw,) = client.answers
        assert Answer.decode(raw).certificate == server.host.context.certificate
        sent = [one.destination for one in client.told if isinstance(one, SendDatagram)]
        assert sent[-1] == server.at
        assert client.refusals == []

    run(talk)


@pytest.mark.parametrize("name", ["", "k-lab"])
def test_who_may_not_register_is_refused(run: Callable[..., None], name: str) -> None:
    """A stranger has no name; and one with a name of another domain has none that counts."""

    async def talk(place: Meeting) -> None:
        peer = place.peer(1, f"{name}.other" if name else "")
        place.ask(peer, "location")
        await place.settle()
        assert [one.code for one in peer.refusals] == [Code.POLICY]
        assert await place.daemon.whereabouts.store.count() == 0

    run(talk)


def test_register_says_who_may_register(run: Callable[..., None]) -> None:
    async def talk(place: Meeting) -> None:
        good, other = place.peer(1, "good.lab"), place.peer(2, "other.lab")
        place.ask(good, "location")
        place.ask(other, "location")
        await place.settle()
        assert (len(good.refusals), len(other.refusals)) == (0, 1)

    run(talk, more='register = ["good.lab"]')


def test_a_host_that_left_is_not_found_and_a_store_that_is_away_finds_nobody(
    run: Callable[..., None],
) -> None:
    """R-10.4: REJECT 8 at once, and not a timeout."""

    async def talk(place: Meeting) -> None:
        server, client = place.peer(1, "files.lab"), place.peer(2)
        place.ask(server, "location")
        await place.settle()
        away(place)
        place.ask(client, "https", whom=server.key, cid=2)
        await place.settle()
        assert [one.code for one in client.refusals] == [Code.NO_ROUTE]
        away(place, False)
        (registration,) = server.host.connections
        await place.daemon.answer(CloseRequest(cid=registration.hex()))
        await place.settle()
        place.ask(client, "https", whom=server.key, cid=3)
        await place.settle()
        assert [one.code for one in client.refusals] == [Code.NO_ROUTE, Code.NO_ROUTE]

    run(talk)


def test_what_is_too_much_for_the_store_is_dropped_and_counted(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(place: Meeting) -> None:
        monkeypatch.setattr(whereabouts, "UNDER_WAY_MAX", 3)
        for number in range(1, 6):
            place.ask(place.peer(number), "https", whom=bytes(31) + b"\1", cid=2)
        status = await place.daemon.answer(StatusRequest())
        assert isinstance(status, StatusReply)
        assert status.dropped == {"full": 2}

    run(talk)


@pytest.mark.usefixtures("patient")
def test_a_name_is_told_to_those_who_may_find_its_host_for_anything(
    run: Callable[..., None],
) -> None:
    """R-10.6."""

    async def talk(place: Meeting) -> None:
        server, friend, stranger = place.peer(1, "files.lab"), place.peer(2, "a.lab"), place.peer(3)
        place.ask(server, "location")
        await place.settle()
        for peer, cid in ((friend, 1), (stranger, 1)):
            place.ask(peer, "name", b"files.lab", cid=cid)
        place.ask(place.peer(4), "name", b"nobody.lab")
        await place.settle()
        told = [Answer.decode(peer.answers[0]).outcome for peer in list(place.peers.values())[1:]]
        assert told == [Outcome.GIVEN, Outcome.NOT_GIVEN, Outcome.NOT_GIVEN]

    run(talk, CLOSED)


def test_status_shows_registrations_and_close_ends_one(run: Callable[..., None]) -> None:
    async def talk(place: Meeting) -> None:
        server = place.peer(1, "files.lab")
        place.ask(server, "location")
        await place.settle()
        status = await place.daemon.answer(StatusRequest())
        assert isinstance(status, StatusReply)
        (one,) = status.connections
        assert (status.role, one.peer, one.service) == ("rendezvous", "files.lab", "location")
        assert one.wire == f"{HERE.ip}:0 > {server.at.ip}:0"
        await place.daemon.answer(CloseRequest(cid=one.cid))
        await place.settle()
        (connection,) = server.host.connections.values()
        assert connection.state is State.ENDED

    run(talk)


def test_an_invitation_takes_a_name_of_the_domain(run: Callable[..., None]) -> None:
    async def talk(place: Meeting) -> None:
        for name in ("files.other", "lab", "a.b.lab"):
            with pytest.raises(WaysideError, match="is not a name under lab") as caught:
                await place.daemon.answer(InviteRequest(name=name))
            assert caught.value.exit_code == 2
        with pytest.raises(WaysideError, match="a rendezvous does not do that"):
            await place.daemon.answer(AddressRequest(name="files.lab"))

    run(talk)


def test_a_box_that_stands_between_nothing_names_no_interface_of_this_machine(
    run: Callable[..., None],
) -> None:
    async def talk(place: Meeting) -> None:
        helper = place.daemon._helper
        assert isinstance(helper, QuietHelper)
        (setup,) = helper.setups
        assert (setup.inside, setup.outside) == (("none-inside",), ("none-outside",))

    run(talk)
