"""The location store in a file: the checks of every store, and what a file has to survive."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from runtime.location_checks import CHECKS, admitted_by_processes
from wayside.runtime.locations import TOMBSTONE_S, Location, LocationStore, LocationStoreUnavailable
from wayside.runtime.locations_sqlite import SqliteLocations

KEY = bytes(range(32))
NUMBER = bytes(16)

BUMP = """
import asyncio, sys
from pathlib import Path
from wayside.runtime.locations_sqlite import SqliteLocations

async def main():
    store = SqliteLocations(Path(sys.argv[1]))
    order = 0
    while True:
        order += 1
        keys = [bytes([n]) * 32 for n in range(50)]
        kept = await asyncio.gather(*(store.put(key, b"%d" % order, order, 600) for key in keys))
        assert all(kept)
        print(order, flush=True)

asyncio.run(main())
"""
"""A program that stores newer and newer locations of 50 keys, and says which are acknowledged."""


class Clock:
    """The time, as the test says."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def with_store(path: Path, work: Callable[[SqliteLocations, Clock], Awaitable[None]]) -> None:
    """Run something with a store that has a clock of its own."""

    async def main() -> None:
        clock = Clock()
        store = SqliteLocations(path, clock=clock)
        await work(store, clock)
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_does_what_every_store_does(
    tmp_path: Path, check: Callable[[LocationStore], Awaitable[None]]
) -> None:
    with_store(tmp_path / "store", lambda store, _: check(store))


def test_a_location_ends_with_its_lifetime_and_then_holds_back_nobody(tmp_path: Path) -> None:
    async def work(store: SqliteLocations, clock: Clock) -> None:
        assert await store.put(KEY, b"r", 9, 10)
        clock.now += 9.9
        assert await store.find(KEY) == Location(b"r", 9)
        clock.now += 0.1
        assert await store.find(KEY) is None
        assert await store.put(KEY, b"other", 1, 10)
        assert await store.find(KEY) == Location(b"other", 1)

    with_store(tmp_path / "store", work)


def test_a_repeated_put_does_not_make_a_location_live_longer(tmp_path: Path) -> None:
    async def work(store: SqliteLocations, clock: Clock) -> None:
        assert await store.put(KEY, b"r", 9, 10)
        clock.now += 5
        assert await store.put(KEY, b"r", 9, 10)
        clock.now += 5
        assert await store.find(KEY) is None

    with_store(tmp_path / "store", work)


def test_a_forgotten_location_is_refused_for_as_long_as_it_could_be_replayed(
    tmp_path: Path,
) -> None:
    async def work(store: SqliteLocations, clock: Clock) -> None:
        await store.forget(KEY, 9)
        clock.now += TOMBSTONE_S - 0.1
        assert not await store.put(KEY, b"r", 9, 10)
        clock.now += 0.1
        assert await store.put(KEY, b"r", 9, 10)

    with_store(tmp_path / "store", work)


def test_an_invitation_ends_with_its_lifetime_and_its_number_is_free_again(tmp_path: Path) -> None:
    async def work(store: SqliteLocations, clock: Clock) -> None:
        assert await store.create_invitation(NUMBER, b"sealed", 10)
        assert await store.use_invitation(NUMBER, KEY) == b"sealed"
        clock.now += 10
        assert await store.use_invitation(NUMBER, KEY) is None
        assert await store.create_invitation(NUMBER, b"other", 10)
        assert await store.use_invitation(NUMBER, bytes(32)) == b"other"

    with_store(tmp_path / "store", work)


def test_what_expired_is_swept_while_others_write(tmp_path: Path) -> None:
    async def work(store: SqliteLocations, clock: Clock) -> None:
        for number in range(200):
            await store.put(os.urandom(32), b"r", 1, 10)
            await store.create_invitation(number.to_bytes(16, "big"), b"sealed", 10)
        clock.now += 10
        for order in range(150):
            await store.put(KEY, b"r", order, 10)
        assert await store.count() == 1

    with_store(tmp_path / "store", work)


def test_the_sweep_leaves_what_lives(tmp_path: Path) -> None:
    async def work(store: SqliteLocations, clock: Clock) -> None:
        keys = [os.urandom(32) for _ in range(100)]
        for key in keys:
            await store.put(key, b"r", 1, 100)
        clock.now += 50
        for order in range(100):
            await store.put(KEY, b"r", order, 10)
        assert [await store.find(key) for key in keys] == [Location(b"r", 1)] * 100

    with_store(tmp_path / "store", work)


def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "store"
    words = [sys.executable, "-c", BUMP, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
    acknowledged = int(said[-1])

    async def work() -> None:
        store = SqliteLocations(path)
        for number in range(50):
            found = await store.find(bytes([number]) * 32)
            assert found is not None
            assert found.order >= acknowledged
            assert found.record == b"%d" % found.order
        assert not await store.put(bytes(32), b"r", acknowledged - 1, 60)
        await store.close()

    assert acknowledged >= 20
    asyncio.run(work())


def test_of_100_keys_in_4_processes_an_invitation_admits_one(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def create() -> None:
        store = SqliteLocations(path)
        assert await store.create_invitation(NUMBER, b"sealed", 60)
        await store.close()

    asyncio.run(create())
    assert len(admitted_by_processes("sqlite", str(path), NUMBER)) == 1


@pytest.mark.parametrize("there_before", [True, False])
def test_only_its_owner_may_read_the_file_and_what_lies_beside_it(
    tmp_path: Path, there_before: bool
) -> None:
    path = tmp_path / "store"
    if there_before:
        path.touch(0o644)

    async def work(store: SqliteLocations, _: Clock) -> None:
        await store.put(KEY, b"r", 1, 10)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert modes == {"store": 0o600, "store-wal": 0o600, "store-shm": 0o600}

    with_store(path, work)


def test_a_file_that_another_one_holds_is_an_error_and_not_a_hang(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def work() -> None:
        store = SqliteLocations(path, deadline_s=0.2)
        assert await store.put(KEY, b"r", 1, 60)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LocationStoreUnavailable) as caught:
            await store.put(KEY, b"r", 2, 60)
        assert caught.value.hint
        assert await store.find(KEY) == Location(b"r", 1)
        other.execute("ROLLBACK")
        other.close()
        assert await store.put(KEY, b"r", 2, 60)
        await store.close()

    asyncio.run(work())


def test_a_call_that_fails_leaves_nothing_behind_of_those_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "store"

    async def work() -> None:
        store = SqliteLocations(path)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("DROP TABLE invitation")
        results = await asyncio.gather(
            store.put(KEY, b"r", 1, 60),
            store.use_invitation(NUMBER, KEY),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [LocationStoreUnavailable] * 2
        assert await store.find(KEY) is None
        other.close()
        await store.close()

    asyncio.run(work())


def test_a_place_that_cannot_be_used_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(LocationStoreUnavailable, match="cannot be used"):
        SqliteLocations(tmp_path / "missing" / "store")


def test_more_calls_than_can_be_kept_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wayside.runtime.locations_sqlite.PENDING_MAX", 3)
    path = tmp_path / "store"

    async def work() -> None:
        store = SqliteLocations(path, deadline_s=0.5)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        calls = (store.put(KEY, b"r", order, 60) for order in range(20))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert "3 calls are waiting" in str(results[-1])
        other.close()
        await store.close()

    asyncio.run(work())
