"""The location store in a Redis Cluster: the checks of every store, and what a cluster survives.

One cluster for all: three masters with a replica each, on loopback, of Debian's redis-server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from runtime.location_checks import CHECKS, admitted_by_processes
from wayside.lab.daemons import within
from wayside.lab.redis_cluster import MASTERS, SLOTS, Node, RedisCluster, master_of
from wayside.runtime.locations import (
    TOMBSTONE_S,
    Location,
    LocationStore,
    LocationStoreUnavailable,
    LocationUnconfirmed,
)
from wayside.runtime.locations_redis import FORGET, PUT, RedisLocations

KEYS = 2000
WRITERS = 50
ROUNDS_BEFORE = 2
"""How often every key is written before the master dies; afterwards, until its slots are back."""

FAILOVER_S = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("redis")) as cluster:
        yield cluster


def with_store(
    urls: list[str],
    work: Callable[[RedisLocations], Awaitable[None]],
    deadline_s: float = 10.0,
) -> None:
    """Run something with a store that has patience with a busy machine."""

    async def main() -> None:
        store = RedisLocations(urls, deadline_s=deadline_s)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(main())


def key_of(master: int) -> bytes:
    """A new key whose location is at one of the masters, as they were in the beginning."""
    return _at(master, b"wayside:l:", 32)


def invitation_of(master: int) -> bytes:
    """The number of a new invitation that is at one of the masters."""
    return _at(master, b"wayside:i:", 16)


def _at(master: int, prefix: bytes, size: int) -> bytes:
    while True:
        key = os.urandom(size)
        if master_of(prefix + key) == master:
            return key


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_does_what_every_store_does(
    cluster: RedisCluster, check: Callable[[LocationStore], Awaitable[None]]
) -> None:
    with_store(cluster.urls[:1], check)


def test_every_node_may_be_the_first_that_is_asked(cluster: RedisCluster) -> None:
    key = os.urandom(32)
    for order, url in enumerate(cluster.urls):

        async def work(store: RedisLocations, order: int = order) -> None:
            assert await store.put(key, b"r", order, 60)
            assert await store.find(key) == Location(b"r", order)

        with_store([url], work)


def test_a_location_ends_with_its_lifetime(cluster: RedisCluster) -> None:
    key = os.urandom(32)

    async def work(store: RedisLocations) -> None:
        assert await store.put(key, b"r", 9, 0.2)
        async with asyncio.timeout(10):
            while await store.find(key):
                pass
        assert await store.put(key, b"other", 1, 60)

    with_store(cluster.urls, work)


def test_the_servers_own_expiry_is_that_of_a_tombstone_or_of_the_first_put(
    cluster: RedisCluster,
) -> None:
    gone, there = key_of(0), key_of(0)

    async def work(store: RedisLocations) -> None:
        await store.forget(gone, 1)
        assert await store.put(there, b"r", 1, 50)
        assert await store.put(there, b"r", 1, 5000)

    with_store(cluster.urls, work)
    master = cluster.masters[0]
    assert TOMBSTONE_S - 30 < master.ask("TTL", b"wayside:l:" + gone) <= TOMBSTONE_S
    assert 20 < master.ask("TTL", b"wayside:l:" + there) <= 50


def test_a_master_that_does_not_know_a_script_is_told_it(cluster: RedisCluster) -> None:
    key = key_of(1)

    async def work(store: RedisLocations) -> None:
        assert await store.put(key, b"r", 1, 60)
        cluster.masters[1].ask("SCRIPT", "FLUSH")
        assert await store.put(key, b"r", 2, 60)
        names = [script.name.decode() for script in (PUT, FORGET)]
        assert cluster.masters[1].ask("SCRIPT", "EXISTS", *names) == [1, 0]

    with_store(cluster.urls, work)


def test_who_is_sent_to_another_master_goes_there(cluster: RedisCluster) -> None:
    key = key_of(1)

    async def work(store: RedisLocations) -> None:
        await store.find(key)
        wrong = ("127.0.0.1", cluster.masters[0].port)
        store._masters = dict.fromkeys(range(SLOTS), wrong)
        assert await store.put(key, b"r", 1, 60)
        assert await store.find(key) == Location(b"r", 1)
        other = {master for master in store._masters.values() if master != wrong}
        assert other == {("127.0.0.1", cluster.masters[1].port)}

    with_store(cluster.urls, work)


def test_a_closed_connection_is_opened_again(cluster: RedisCluster) -> None:
    key = key_of(2)

    async def work(store: RedisLocations) -> None:
        assert await store.put(key, b"r", 1, 60)
        for kind in ("normal", "replica"):
            cluster.masters[2].ask("CLIENT", "KILL", "TYPE", kind)
        assert within(10, cluster.replicated)
        assert await store.put(key, b"r", 2, 60)
        assert await store.find(key) == Location(b"r", 2)

    with_store(cluster.urls, work)


def test_of_100_keys_in_4_processes_an_invitation_admits_one(cluster: RedisCluster) -> None:
    number = os.urandom(16)

    async def create(store: RedisLocations) -> None:
        assert await store.create_invitation(number, b"sealed", 60)

    with_store(cluster.urls, create)
    assert len(admitted_by_processes("redis", cluster.urls[0], number)) == 1


def test_what_no_replica_has_is_not_acknowledged_not_even_when_it_is_asked_again(
    cluster: RedisCluster,
) -> None:
    """A replica stands still; another connection repeats what was written and not confirmed."""
    key, other_key, number, by = key_of(0), key_of(0), invitation_of(0), os.urandom(32)
    replica = cluster.nodes[MASTERS].process

    async def ready(store: RedisLocations) -> None:
        assert await store.put(other_key, b"r", 1, 60)
        assert await store.use_invitation(invitation_of(0), by) is None
        assert await store.create_invitation(number, b"sealed", 60)

    async def attempt(store: RedisLocations) -> None:
        with pytest.raises(LocationUnconfirmed):
            await store.put(key, b"r", 1, 60)
        with pytest.raises(LocationUnconfirmed):
            await store.use_invitation(number, by)
        assert await store.use_invitation(number, os.urandom(32)) is None
        assert not await store.put(key, b"another", 1, 60)

    async def work(first: RedisLocations) -> None:
        second = RedisLocations(cluster.urls, deadline_s=2.0)
        await ready(first)
        await ready(second)
        replica.send_signal(signal.SIGSTOP)
        try:
            await attempt(first)
            await attempt(second)
        finally:
            replica.send_signal(signal.SIGCONT)
        assert within(FAILOVER_S, cluster.replicated)
        assert await second.put(key, b"r", 1, 60)
        assert await second.use_invitation(number, by) == b"sealed"
        await second.close()

    with_store(cluster.urls, work, deadline_s=2.0)


def test_a_cluster_that_is_not_there_is_an_error_and_not_a_hang() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))

        async def work(store: RedisLocations) -> None:
            for call in (store.put(bytes(32), b"r", 1, 60), store.find(bytes(32)), store.count()):
                with pytest.raises(LocationStoreUnavailable) as caught:
                    await call
                assert caught.value.hint

        with_store([f"redis://127.0.0.1:{nobody.getsockname()[1]}"], work, deadline_s=0.3)


def test_a_server_that_says_nothing_is_an_error_and_not_a_hang() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:

        async def work(store: RedisLocations) -> None:
            with pytest.raises(LocationStoreUnavailable):
                await store.find(bytes(32))

        with_store([f"redis://127.0.0.1:{mute.getsockname()[1]}"], work, deadline_s=0.3)


def test_more_calls_than_can_be_kept_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wayside.runtime.locations_redis.PENDING_MAX", 3)
    with socket.create_server(("127.0.0.1", 0)) as mute:

        async def work(store: RedisLocations) -> None:
            calls = (store.find(bytes(32)) for _ in range(5))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert ["3 calls are waiting" in str(result) for result in results] == [
                False, False, False, True, True,
            ]  # fmt: skip
            with pytest.raises(LocationStoreUnavailable, match=r"nothing came|no reply"):
                await store.find(bytes(32))

        with_store([f"redis://127.0.0.1:{mute.getsockname()[1]}"], work, deadline_s=0.3)


def test_what_is_no_address_of_redis_is_refused() -> None:
    with pytest.raises(ValueError, match="Redis URL"):
        RedisLocations(["http://localhost"])
    with pytest.raises(ValueError, match="name one"):
        RedisLocations([])


@dataclass
class Writer:
    """Bumps the orders of its keys, again and again, and keeps what was acknowledged."""

    store: RedisLocations
    keys: list[bytes]
    orders: dict[bytes, int] = field(default_factory=dict)
    acknowledged: dict[bytes, Location] = field(default_factory=dict)
    away: int = 0
    twice: list[bytes] = field(default_factory=list)

    async def bump(self) -> None:
        """Store a newer location of every key; of a key in ten another one of the same order."""
        for number, key in enumerate(self.keys):
            order = self.orders[key] = self.orders.get(key, 0) + 1
            mine, other = Location(b"mine", order), Location(b"other", order)
            records = (mine, other) if number % 10 == 0 else (mine,)
            kept = [one for one in records if await self.put(key, one)]
            self.twice += [key] * (len(kept) - 1)
            if kept:
                self.acknowledged[key] = kept[0]

    async def put(self, key: bytes, location: Location) -> bool:
        """Whether it was acknowledged."""
        try:
            return await self.store.put(key, location.record, location.order, 600)
        except LocationStoreUnavailable:
            self.away += 1
            return False


async def write_while_a_master_dies(store: RedisLocations, master: Node) -> list[Writer]:
    """Many writers; the master is killed in the midst of them, and they go on until all is well."""
    keys = [os.urandom(32) for _ in range(KEYS)]
    writers = [Writer(store, keys[n::WRITERS]) for n in range(WRITERS)]
    for _ in range(ROUNDS_BEFORE):
        await asyncio.gather(*(writer.bump() for writer in writers))
    writing = [asyncio.create_task(writer.bump()) for writer in writers]
    while not any(writer.orders[writer.keys[20]] > ROUNDS_BEFORE for writer in writers):
        await asyncio.sleep(0)
    master.process.kill()
    master.process.wait()
    await asyncio.gather(*writing)
    return writers


async def confirmed(store: RedisLocations, key: bytes) -> bool:
    """Whether a write is acknowledged, at last: a replica that is back has to catch up first."""
    for order in range(2, 22):
        with suppress(LocationUnconfirmed):
            return await store.put(key, b"r", order, 600)
    return False


def test_a_master_killed_in_the_midst_of_writes_loses_nothing_acknowledged(
    cluster: RedisCluster,
) -> None:
    """Afterwards its replica has no replica: writes there take effect, and are not acknowledged.

    When the killed one is back, they are again.
    """
    master = cluster.masters[1]
    key = key_of(1)

    async def work(store: RedisLocations) -> None:
        writers = await write_while_a_master_dies(store, master)
        assert sum(writer.away for writer in writers) > 0, "the master died unnoticed"
        found = 0
        for writer in writers:
            assert len(writer.acknowledged) == len(writer.keys)
            assert writer.twice == []
            for one, last in writer.acknowledged.items():
                kept = await store.find(one)
                assert kept is not None
                assert kept.order >= last.order
                assert kept.order > last.order or kept == last
                found += 1
        assert found == KEYS
        with pytest.raises(LocationUnconfirmed):
            await store.put(key, b"r", 1, 600)
        assert await store.find(key) == Location(b"r", 1)
        cluster.restart(master)
        assert within(FAILOVER_S, cluster.replicated)
        assert await confirmed(store, key)

    with_store(cluster.urls[:1], work, deadline_s=8.0)
